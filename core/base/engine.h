// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string_view>

namespace lstm::core {

// Who computes what is made of matrix products: cells, Linear and Conv1d.
enum class Engine {
  kAuto,    // what the machine is best at (core/kernels/kernel.h)
  kOneDnn,  // oneDNN's primitives, held to the batch sizes that keep a row's bits
  kFused,   // core/kernels/fused: any batch
};

// "auto", "onednn" and "fused", as options have them.
inline std::optional<Engine> EngineFromName(std::string_view name) {
  if (name == "auto") return Engine::kAuto;
  if (name == "onednn") return Engine::kOneDnn;
  if (name == "fused") return Engine::kFused;
  return std::nullopt;
}

}  // namespace lstm::core
