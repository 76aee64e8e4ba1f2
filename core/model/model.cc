// SPDX-License-Identifier: MIT
#include "core/model/model.h"

namespace lstm::core {

const char* OpName(const Op& op) {
  static constexpr const char* kNames[] = {"Embedding", "Linear",  "LSTM",        "GRU",    "RNN",   "LayerNorm", "Conv1d",
                                           "Activation", "Softmax", "Elementwise", "Concat", "Slice", "Affine",    "Reshape",
                                           "StateRead", "StateWrite", "Constant", "Select", "Reduce", "MatMul"};
  static_assert(std::size(kNames) == std::variant_size_v<Op>);
  return kNames[op.index()];
}

}  // namespace lstm::core
