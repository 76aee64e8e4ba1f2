// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <tuple>
#include <nlohmann/json.hpp>

#include "core/base/npy.h"
#include "core/model/model_builder.h"
#include "core/program/step_program.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"

// Guitar amplifiers of the Neural Amp Modeler community: LSTMs that somebody else trained, one step a sample of sound,
// with a trained initial state, against outputs that somebody else's code computed. The files are no part of the project.
namespace lstm::core {
namespace {

namespace fs = std::filesystem;

fs::path Cases() {
  const char* set = std::getenv("LSTM_CASES_DIR");
  return fs::path(set != nullptr ? set : "../shared/cases") / "nam";
}

// The numbers lie layer after layer: [4H, I + H] rows over x and h, bias, h0, c0; then the linear head. Gates i f g o.
absl::StatusOr<Model> ReadNam(const fs::path& path) {
  const nlohmann::json file = nlohmann::json::parse(std::ifstream(path));
  const auto weights = file.at("weights").get<std::vector<float>>();
  const int64_t hidden = file.at("config").at("hidden_size"), layers = file.at("config").at("num_layers");
  size_t at = 0;
  const auto take = [&](Shape shape) {
    auto constant = std::make_shared<Constant>();
    constant->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(shape)));
    constant->shape = std::move(shape);
    for (float& v : constant->values.span()) v = weights.at(at++);
    return constant;
  };
  const auto vector = [&](int64_t n) {
    const auto constant = take({n});
    return std::vector<float>(constant->values.span().begin(), constant->values.span().end());
  };
  ModelBuilder b;
  int64_t in = file.at("config").at("input_size");
  ValueId value = *b.AddInput({.name = "x"}, DType::kF32, {in});
  for (int64_t k = 0; k < layers; ++k) {
    const std::string name = "lstm" + std::to_string(k);
    const auto both = take({4 * hidden, in + hidden});
    auto weight = std::make_shared<Constant>(), recurrent = std::make_shared<Constant>();
    for (auto& [part, begin, width] : {std::tuple{weight, int64_t{0}, in}, {recurrent, in, hidden}}) {
      part->shape = {4 * hidden, width};
      part->values = AlignedBuffer<float>(static_cast<size_t>(4 * hidden * width));
      for (int64_t r = 0; r < 4 * hidden; ++r) {
        std::copy_n(both->values.data() + r * (in + hidden) + begin, width, part->values.data() + r * width);
      }
    }
    LstmOp op{.weight = weight, .recurrent = recurrent, .bias = take({4 * hidden})};
    op.hidden = *b.AddState(name + ".h", {hidden}, vector(hidden));
    op.cell = *b.AddState(name + ".c", {hidden}, vector(hidden));
    value = *b.AddNode(name, std::move(op), {value});
    in = hidden;
  }
  const auto head = take({1, hidden}), bias = take({1});
  value = *b.AddNode("head", LinearOp{head, bias}, {value});
  if (at != weights.size()) return absl::InvalidArgumentError("numbers are left over");
  if (auto status = b.AddOutput({.name = "y", .value = value}); !status.ok()) return status;
  return std::move(b).Build();
}

class NamTest : public ::testing::TestWithParam<std::string> {};

TEST_P(NamTest, TheWholeSoundIsThatOfTheReference) {
  if (!fs::exists(Cases())) GTEST_SKIP() << "no cases at " << Cases() << "; LSTM_CASES_DIR says where they are";
  auto model = ReadNam(Cases() / (GetParam() + ".nam"));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto x = ReadNpy((Cases() / "ref/x.npy").string()), y = ReadNpy((Cases() / "ref" / (GetParam() + ".y.npy")).string());
  ASSERT_TRUE(x.ok() && y.ok()) << x.status() << y.status();
  const std::vector<float> in = x->ToFloats(), expected = y->ToFloats();
  ASSERT_EQ(in.size(), 8192u);
  ASSERT_EQ(in.size(), expected.size());
  testing::Oracle oracle(*model);
  const auto program = testing::MustCompile(*model);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  double worst = 0, worst_of_oracle = 0;
  for (size_t t = 0; t < in.size(); ++t) {
    row.input[0][0] = in[t];
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    worst = std::max(worst, std::fabs(static_cast<double>(row.output[0][0]) - static_cast<double>(expected[t])));
    worst_of_oracle = std::max(worst_of_oracle, std::fabs(oracle.Step({{in[t]}})[0][0] - static_cast<double>(expected[t])));
  }
  EXPECT_LT(worst, 1e-4);
  EXPECT_LT(worst_of_oracle, 1e-6) << "the judge itself, against another's double precision";
  RecordProperty("worst", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(Amplifiers, NamTest, ::testing::Values("lstm", "BossLSTM-1x16"),
                         [](const auto& i) { return i.index == 0 ? "Microtubes" : "Boss"; });

}  // namespace
}  // namespace lstm::core
