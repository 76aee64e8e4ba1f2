// SPDX-License-Identifier: MIT
#include "core/import/manifest_import.h"
#include "core/import/safetensors.h"
#include "tests/fuzz/run_model.h"
#include "tests/fuzz/seeds.h"

// The container by itself, under a manifest that asks for what the seeds hold, and as scales beside such weights.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lstm;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = core::Safetensors::Parse(bytes);
  if (file.ok()) {
    for (const auto& [name, entry] : file->entries()) (void)file->Load(name);
  }
  static const std::string manifest = "input { name: 'x' shape: 2 } layer { name: 'lstm' lstm {} } layer { name: 'head' linear {} } output { name: 'y' }";
  auto model = core::ImportManifest(manifest, bytes);
  if (model.ok()) testing::RunAccepted(*model);
  static const std::string weights = testing::SeedWeights();
  auto scaled = core::ImportManifest(manifest + " round_weights: INT8 round_scales: 's'", std::as_bytes(std::span(weights)), nullptr, bytes);
  if (scaled.ok()) testing::RunAccepted(*scaled);
  return 0;
}
