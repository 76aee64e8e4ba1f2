// SPDX-License-Identifier: MIT
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/fuzz/seeds.h"

// Writes the seeds to DIR/onnx, DIR/safetensors and DIR/manifest.
int main(int argc, char** argv) {
  if (argc != 2) return std::cerr << "usage: fuzz_corpus DIR\n", 2;
  using namespace lstm::testing;
  for (const auto& [kind, seeds] : {std::pair<const char*, Seeds>{"onnx", OnnxSeeds()}, {"safetensors", SafetensorsSeeds()}, {"manifest", ManifestSeeds()}}) {
    const std::filesystem::path directory = std::filesystem::path(argv[1]) / kind;
    std::filesystem::create_directories(directory);
    for (const auto& [name, bytes] : seeds) std::ofstream(directory / name, std::ios::binary) << bytes;
  }
}
