// SPDX-License-Identifier: MIT
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "core/base/npy.h"
#include "core/import/manifest_import.h"
#include "tests/support/program_runner.h"

// Networks that others trained and exported, against outputs that ONNX Runtime computed. The files are no part of the project.
namespace lstm::core {
namespace {

namespace fs = std::filesystem;

fs::path Cases() {
  const char* set = std::getenv("LSTM_CASES_DIR");
  return fs::path(set != nullptr ? set : "../shared/cases");
}

// Streams `in`, so many numbers a step, and returns the largest difference of the first output.
void ExpectStreams(const fs::path& file, const std::string& manifest, const std::vector<float>& in, const fs::path& reference, uint64_t steps) {
  manifest::v1::Manifest parsed;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(manifest, &parsed));
  auto model = LoadOnnxFile(file.string(), manifest, parsed, {}, nullptr);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto y = ReadNpy(reference.string());
  ASSERT_TRUE(y.ok()) << y.status();
  const std::vector<float> expected = y->ToFloats();
  const auto program = testing::MustCompile(*std::move(model), 4);
  ASSERT_EQ(program->inputs().size(), 1u);
  ASSERT_EQ(program->declared_outputs(), 1u);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  const size_t width = row.input[0].size(), out = row.output[0].size();
  ASSERT_EQ(expected.size(), out * steps);
  double worst = 0;
  for (size_t t = 0; t < steps; ++t) {
    for (size_t i = 0; i < width; ++i) row.input[0][i] = t * width + i < in.size() ? in[t * width + i] : 0;
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    for (size_t i = 0; i < out; ++i) worst = std::max(worst, std::fabs(static_cast<double>(row.output[0][i]) - static_cast<double>(expected[t * out + i])));
  }
  EXPECT_LT(worst, 1e-4);
}

TEST(OnnxCasesTest, SileroAsItIsPublished) {
  const fs::path at = Cases() / "silero";
  if (!fs::exists(at)) GTEST_SKIP() << "no cases at " << at << "; LSTM_CASES_DIR says where they are";
  std::ifstream wave(at / "test.wav", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(wave)), std::istreambuf_iterator<char>());
  std::vector<float> sound;
  for (size_t i = 44; i + 1 < bytes.size(); i += 2) {  // PCM of 16 bits behind the plain header
    sound.push_back(static_cast<float>(static_cast<int16_t>(static_cast<unsigned char>(bytes[i]) | static_cast<unsigned char>(bytes[i + 1]) << 8)) / 32768.0f);
  }
  ExpectStreams(at / "silero_vad_v6.2.onnx", "onnx { input { name: 'input' shape: [1, 576] look_back: 64 } input { name: 'sr' constant: 16000 } }", sound,
                at / "ref/prob_v6.2.npy", 1875);
}

TEST(OnnxCasesTest, DtlnAsItIsPublished) {
  const fs::path at = Cases() / "dtln";
  if (!fs::exists(at)) GTEST_SKIP() << "no cases at " << at << "; LSTM_CASES_DIR says where they are";
  for (const auto& [model, in, out] : {std::tuple{"model_1.onnx", "m1_mag.npy", "m1_mask.npy"}, {"model_2.onnx", "m2_block.npy", "m2_out.npy"}}) {
    const auto x = ReadNpy((at / "ref" / in).string());
    ASSERT_TRUE(x.ok()) << x.status();
    ExpectStreams(at / model, "", x->ToFloats(), at / "ref" / out, 400);
  }
}

}  // namespace
}  // namespace lstm::core
