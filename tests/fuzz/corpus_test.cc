// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/import/manifest_import.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/fuzz/seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Every file of a fuzzer's corpus, and every input that it once failed on, through the fuzzer's own function.
namespace {

TEST(FuzzCorpusTest, EveryFileIsTaken) {
  size_t files = 0;
  for (const std::string directory : {"tests/fuzz/corpus/" LSTM_FUZZ_KIND, "tests/fuzz/found/" LSTM_FUZZ_KIND}) {
    if (!std::filesystem::exists(directory)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      std::ifstream in(entry.path(), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
      SCOPED_TRACE(entry.path().string());
      EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), 0);
      ++files;
    }
  }
  EXPECT_GE(files, 4u);
}

}  // namespace
