// SPDX-License-Identifier: MIT
#include "core/import/onnx/onnx_import.h"
#include "tests/fuzz/run_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto model = lstm::core::ImportOnnx({reinterpret_cast<const std::byte*>(data), size}, {});
  if (model.ok()) lstm::testing::RunAccepted(*model);
  return 0;
}
