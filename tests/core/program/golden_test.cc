// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/base/npy.h"
#include "core/import/manifest_import.h"
#include "core/program/step_program.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"

// Models in their committed form against what PyTorch computed with the same weights.
namespace lstm::core {
namespace {

namespace fs = std::filesystem;

void Check(const fs::path& model_directory, const fs::path& golden, double tolerance, Engine engine) {
  SCOPED_TRACE(model_directory.string());
  auto model = LoadModelDirectory(model_directory.string(), "golden", "1");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto program = testing::MustCompile(*std::move(model), 64, engine);
  const auto scratch = program->MakeScratch();
  testing::Oracle oracle(program->model());
  testing::Row row(*program);
  const auto& in = program->inputs()[0];
  const auto input = ReadNpy((golden / (in.name + ".npy")).string());
  ASSERT_TRUE(input.ok()) << input.status();
  std::vector<std::pair<size_t, std::vector<float>>> expected;
  for (size_t o = 0; o < program->declared_outputs(); ++o) {
    const auto output = ReadNpy((golden / (program->outputs()[o].name + ".npy")).string());
    ASSERT_TRUE(output.ok()) << output.status();
    expected.emplace_back(o, output->ToFloats());
  }
  const auto steps = static_cast<size_t>(input->shape[0]);
  const std::vector<float> floats = input->ToFloats();
  // Every `stride`-th answer is kept where a run is long.
  const size_t stride = steps * row.output[0].size() / expected[0].second.size();
  double worst = 0, worst_of_oracle = 0;
  for (size_t t = 0; t < steps; ++t) {
    const size_t width = floats.size() / steps;
    const std::vector<testing::Vector> judged = oracle.Step({{floats.begin() + static_cast<long>(t * width), floats.begin() + static_cast<long>((t + 1) * width)}});
    if (in.dtype == DType::kI32) {
      row.SetId(0, static_cast<int32_t>(floats[t]));
    } else {
      std::copy_n(floats.begin() + static_cast<long>(t * row.input[0].size()), row.input[0].size(), row.input[0].begin());
    }
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    if ((t + 1) % stride != 0) continue;
    for (const auto& [o, values] : expected) {
      for (size_t i = 0; i < row.output[o].size(); ++i) {
        const double right = values[t / stride * row.output[o].size() + i];  // units may be large: a pump's speed
        const double unit = std::max(1.0, std::fabs(right));
        worst = std::max(worst, std::fabs(static_cast<double>(row.output[o][i]) - right) / unit);
        worst_of_oracle = std::max(worst_of_oracle, std::fabs(judged[o][i] - right) / unit);
      }
    }
  }
  EXPECT_LT(worst, tolerance);
  EXPECT_LT(worst_of_oracle, tolerance) << "the judge of all other tests";
}

class GoldenTest : public ::testing::TestWithParam<Engine> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenTest, ::testing::ValuesIn(testing::Engines()),
                         [](const auto& i) { return testing::EngineName(i.param); });

TEST_P(GoldenTest, BundledModelsAgreeWithPyTorch) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator("models/repository")) {
    const std::string name = entry.path().filename().string();
    names.insert(name);
    Check(entry.path() / "1", fs::path("models/golden") / name, 1e-4, GetParam());
  }
  EXPECT_GE(names.size(), 3u);
}

TEST_P(GoldenTest, EveryLayerKindAgreesWithPyTorch) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator("tests/data/golden")) {
    if (!entry.is_directory()) continue;
    names.insert(entry.path().filename().string());
    Check(entry.path(), entry.path(), 1e-5, GetParam());
  }
  EXPECT_GE(names.size(), 45u);
}

}  // namespace
}  // namespace lstm::core
