// SPDX-License-Identifier: MIT
#pragma once

#include <random>
#include <string>
#include <vector>

#include "core/model/model_builder.h"

namespace lstm::testing {

// Reproducible numbers in (-scale, scale).
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float Uniform(float scale = 1) { return std::uniform_real_distribution<float>(-scale, scale)(engine_); }
  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(engine_); }
  core::ConstantPtr Constant(core::Shape shape, float scale);

 private:
  std::mt19937_64 engine_;
};

// A model of one layer on an input "x" of `in` numbers, with an output "y": "lstm", "lstm_peephole", "lstm_projection",
// "lstm_peephole_projection", "gru_after", "gru_before", "rnn_tanh", "rnn_relu", "linear", "conv1d", "conv1d_groups",
// "layernorm", "softmax". `in` is raised to what the layer needs. Trained initial states where `initial`.
core::Model OneLayer(const std::string& kind, int64_t in, int64_t hidden, uint64_t seed, bool initial = false);

// The kinds above.
std::vector<std::string> LayerKinds();

// `layers` LSTM layers of `hidden` units on an input "x" of `in` numbers; output "y".
core::Model LstmStack(int64_t in, int64_t hidden, int layers, uint64_t seed);

// Embedding, two LSTM layers of unequal size, a residual linear layer, layer norm, concat and softmax.
core::Model SmallStack(uint64_t seed);

}  // namespace lstm::testing
