// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
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
  bool by_range = false;       // h is quantised by its range before it is multiplied: DynamicQuantizeLSTM
  bool usual = true;           // the activations of the model's own cells, and no clip
  float clip = 0;
  std::vector<ActivationOp> activations;
  std::vector<std::pair<float, float>> scaled;  // of each activation: what its result is multiplied by, and 1 where it is Affine
  ConstantPtr weight, recurrent;                // gates i f g o; z r n
  ConstantPtr input_bias, recurrent_bias;       // [gates * H]
  ConstantPtr peephole;                         // i f o, or null
  bool reversed = false;                        // it reads the sequence from its end
  int64_t items = 1;                            // of a batch within a step, bands of a spectrum say: each has a state of its own
  // What Lowering::Gates made of the weights, by the first gate and what it multiplies.
  using Made = std::map<std::tuple<size_t, bool, bool>, std::pair<ConstantPtr, ConstantPtr>>;
  std::shared_ptr<Made> gates_made = std::make_shared<Made>();
  bool steps = false;                           // time flows through it; else the graph is of one step
};

// The gates `order` of weights [gates * hidden, width], or of biases where width is 0.
ConstantPtr Blocks(const std::vector<float>& from, size_t offset, const std::vector<size_t>& order, int64_t hidden, int64_t width);
ConstantPtr Sum(const ConstantPtr& a, const ConstantPtr& b);
// What is read at one place of a sequence, x [T, N, I] or [N, T, I]: [N, I], [I] of one item.
ValPtr ItemsAt(const Val& x, size_t seq, int64_t t);
// Values [N, H] of each direction and step as ONNX lays out Y, [T, D, N, H] or [N, T, D, H]; else Y_h and Y_c, which have no T.
ValPtr JoinedSteps(const std::vector<std::vector<ValPtr>>& parts, int64_t items, int64_t hidden, bool batch_first, bool sequence);

}  // namespace lstm::core::onnx
