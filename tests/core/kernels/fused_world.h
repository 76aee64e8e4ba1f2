// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernels/fused/fused.h"
#include "core/model/round_weights.h"
#include "tests/core/kernels/guarded.h"
#include "tests/support/random_model.h"

namespace lstm::testing {

using Set = core::FusedOp::InstructionSet;

// Those that end so have weights that bfloat16 holds, or whole numbers times one of their row.
constexpr std::string_view kBfloat16 = "_bfloat16", kInt8 = "_int8";
inline bool IsNarrow(const std::string& kind) { return kind.ends_with(kBfloat16) || kind.ends_with(kInt8); }

inline std::vector<std::string> FusedKinds() {
  return {"lstm", "lstm_peephole", "lstm_projection", "lstm_peephole_projection", "gru_after", "gru_before", "rnn_tanh", "rnn_relu", "linear",
          "lstm_projection_bfloat16", "gru_after_bfloat16", "gru_before_bfloat16", "rnn_tanh_bfloat16", "linear_bfloat16",
          "lstm_projection_int8", "gru_after_int8", "gru_before_int8", "rnn_relu_int8", "linear_int8"};
}

// A model of one fused layer.
struct FusedLayer {
  FusedLayer(const std::string& kind, int64_t in_width, int64_t hidden_width, uint64_t seed)
      : model(OneLayer(kind.substr(0, std::min(kind.find(kBfloat16), kind.find(kInt8))), in_width, hidden_width, seed, true)) {
    if (kind.ends_with(kBfloat16)) core::RoundWeightsToBfloat16(model);
    if (kind.ends_with(kInt8)) core::RoundWeightsToInt8(model);
    const core::Op& op = model.nodes[0].op;
    in = static_cast<size_t>(core::CheckedElementCount(model.values[static_cast<size_t>(model.nodes[0].inputs[0])].shape));
    out = static_cast<size_t>(core::CheckedElementCount(model.values[static_cast<size_t>(model.nodes[0].output)].shape));
    back = std::holds_alternative<core::LinearOp>(op) ? 0 : out;
    if (const auto* lstm = std::get_if<core::LstmOp>(&op)) cell = static_cast<size_t>(lstm->weight->shape[0] / 4);
  }

  std::unique_ptr<const core::FusedOp> Make(Set set, core::FusedOp::Large large = core::FusedOp::Large::kAlways) const {
    const core::Op& op = model.nodes[0].op;
    if (const auto* lstm = std::get_if<core::LstmOp>(&op)) return core::FusedOp::Lstm(*lstm, set, large);
    if (const auto* gru = std::get_if<core::GruOp>(&op)) return core::FusedOp::Gru(*gru, set, large);
    if (const auto* rnn = std::get_if<core::RnnOp>(&op)) return core::FusedOp::Rnn(*rnn, set, large);
    const auto& linear = std::get<core::LinearOp>(op);
    return core::FusedOp::Linear(linear.weight->values.data(), linear.bias ? linear.bias->values.data() : nullptr, out, in, set, large);
  }

  core::Model model;
  size_t in = 0, out = 0, back = 0, cell = 0;
};

// The buffers of one row, each with a guard page behind it.
struct FusedRow {
  explicit FusedRow(const FusedLayer& layer) : x(layer.in), h(layer.back), c(layer.cell), out(layer.out), copy(layer.out), c_new(layer.cell) {}
  void Fill(uint64_t seed) {
    Random random(seed);
    for (Guarded* part : {&x, &h, &c}) {
      for (float& v : *part) v = random.Uniform();
    }
  }
  bool SameResults(const FusedRow& other) const {
    return Same(out, other.out) && Same(copy, other.copy) && Same(c_new, other.c_new) && Same(out, copy);
  }
  static bool Same(const Guarded& a, const Guarded& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

  Guarded x, h, c, out, copy, c_new;
};

// Runs rows together.
inline void RunRows(const core::FusedOp& op, const std::vector<FusedRow*>& rows, core::FusedOp::Scratch& scratch) {
  std::vector<const float*> x, h, c;
  std::vector<float*> out, copy, c_new;
  for (FusedRow* row : rows) {
    x.push_back(row->x.data());
    h.push_back(row->h.data());
    c.push_back(row->c.data());
    out.push_back(row->out.data());
    copy.push_back(row->copy.data());
    c_new.push_back(row->c_new.data());
  }
  op.Run(rows.size(), {x.data(), h.data(), c.data(), out.data(), copy.data(), c_new.data()}, scratch);
}

}  // namespace lstm::testing
