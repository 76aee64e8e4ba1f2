// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

// One direction of an LSTM, GRU or RNN node.
struct Lowering::Cell {
  enum Kind { kLstm, kGru, kRnn } kind = kLstm;
  std::string name;
  size_t gates = 4;
  int64_t hidden = 0, width = 0;
  bool batch_first = false;
  bool coupled = false;        // f = 1 - i
  bool reset_after = false;
  bool usual = true;           // the activations of the model's own cells, and no clip
  float clip = 0;
  std::vector<ActivationOp> activations;
  std::vector<std::pair<float, float>> scaled;  // of each activation: what its result is multiplied by, and 1 where it is Affine
  ConstantPtr weight, recurrent;                // gates i f g o; z r n
  ConstantPtr input_bias, recurrent_bias;       // [gates * H]
  ConstantPtr peephole;                         // i f o, or null
  bool reversed = false;                        // it reads the sequence from its end
  bool steps = false;                           // time flows through it; else the graph is of one step
};

// The gates `order` of weights [gates * hidden, width], or of biases where width is 0.
ConstantPtr Blocks(const std::vector<float>& from, size_t offset, const std::vector<size_t>& order, int64_t hidden, int64_t width);
ConstantPtr Sum(const ConstantPtr& a, const ConstantPtr& b);

}  // namespace lstm::core::onnx
