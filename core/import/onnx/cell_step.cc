// SPDX-License-Identifier: MIT
// One step of a cell: as a cell of the model, or in plain ops where that has none.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {

absl::StatusOr<ValPtr> Lowering::Native(const Cell& cell, const Val& x, StateId h, StateId c) {
  Op op;
  if (cell.kind == Cell::kLstm) {
    op = LstmOp{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .peephole = cell.peephole, .projection = nullptr, .hidden = h, .cell = c};
  } else if (cell.kind == Cell::kGru) {
    GruOp gru{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .reset_after = cell.reset_after, .hidden = h};
    if (cell.reset_after) {  // z and r summed, n apart
      auto bias = NewConstant({4 * cell.hidden});
      const auto n = static_cast<size_t>(cell.hidden);
      std::copy_n(gru.bias->values.data(), 2 * n, bias->values.data());
      std::copy_n(cell.input_bias->values.data() + 2 * n, n, bias->values.data() + 2 * n);
      std::copy_n(cell.recurrent_bias->values.data() + 2 * n, n, bias->values.data() + 3 * n);
      gru.bias = std::move(bias);
    }
    op = std::move(gru);
  } else {
    op = RnnOp{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .relu = cell.activations[0].kind == ActivationKind::kRelu, .hidden = h};
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(x, {cell.width}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", std::move(op), {in}));
  return Computed(y, {cell.hidden}, Val{});
}

absl::StatusOr<ValPtr> Lowering::Activate(const Val& val, const Cell& cell, size_t which) {
  ValPtr x = std::make_shared<const Val>(val);
  if (cell.clip > 0) {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kClip, -cell.clip, cell.clip}));
  }
  const ActivationOp& op = cell.activations[which];
  const auto [factor, beta] = cell.scaled[which];
  if (factor == std::numeric_limits<float>::infinity()) return Scaled(*x, static_cast<double>(op.alpha), static_cast<double>(beta));
  if (op.kind == ActivationKind::kTanh && op.alpha != 0) {  // ScaledTanh: alpha tanh(beta x)
    LSTM_ASSIGN_OR_RETURN(x, Scaled(*x, static_cast<double>(beta), 0));
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kTanh}));
    return Scaled(*x, static_cast<double>(factor), 0);
  }
  return Activated(*x, op);
}

// Gates [first, first + count) before their activation: the product with x, with h, or with both as one.
absl::StatusOr<ValPtr> Lowering::Gates(const Val& x, const Val& h, const Cell& cell, size_t first, size_t count, bool inputs, bool recurrent, const ConstantPtr& bias) {
  const int64_t in = inputs ? cell.width : 0, back = recurrent ? cell.hidden : 0;
  auto& [weight, own_bias] = (*cell.gates_made)[{first, inputs, recurrent}];  // once, however many steps have it
  if (weight == nullptr) {
    const int64_t rows = static_cast<int64_t>(count) * cell.hidden, offset = static_cast<int64_t>(first) * cell.hidden;
    auto made = NewConstant({rows, in + back}), made_bias = NewConstant({rows});
    for (int64_t r = 0; r < rows; ++r) {
      float* row = made->values.data() + r * (in + back);
      std::copy_n(cell.weight->values.data() + (offset + r) * cell.width, in, row);
      std::copy_n(cell.recurrent->values.data() + (offset + r) * cell.hidden, back, row + in);
      made_bias->values[static_cast<size_t>(r)] = bias->values[static_cast<size_t>(offset + r)];
    }
    weight = std::move(made);
    own_bias = std::move(made_bias);
  }
  Val both;
  both.shape = cell.items == 1 ? Shape{in + back} : Shape{cell.items, in + back};
  both.labels.assign(both.shape.size(), -1);
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t b = 0; b < cell.items; ++b) {
    for (int64_t i = 0; i < in; ++i) elements->push_back(x.at(b * cell.width + i));
    for (int64_t i = 0; i < back; ++i) elements->push_back(h.at(b * cell.hidden + i));
  }
  both.elements = std::move(elements);
  return Linear(both, weight, own_bias);
}

absl::Status Lowering::PlainStep(const Cell& cell, const Val& x, ValPtr& h, ValPtr& c) {
  using E = ElementwiseKind;
  const int64_t n = cell.hidden;
  const size_t last = cell.items == 1 ? 0 : 1;
  const ConstantPtr both = Sum(cell.input_bias, cell.recurrent_bias);
  if (cell.kind == Cell::kRnn) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr pre, Gates(x, *h, cell, 0, 1, true, true, both));
    LSTM_ASSIGN_OR_RETURN(h, Activate(*pre, cell, 0));
    return absl::OkStatus();
  }
  if (cell.kind == Cell::kGru) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr zr, Gates(x, *h, cell, 0, 2, true, true, both));
    LSTM_ASSIGN_OR_RETURN(const ValPtr gates, Activate(*zr, cell, 0));
    LSTM_ASSIGN_OR_RETURN(const ValPtr z, Cut(*gates, last, 0, n, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr r, Cut(*gates, last, n, n, 1));
    ValPtr pre;
    if (cell.reset_after) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr of_x, Gates(x, *h, cell, 2, 1, true, false, cell.input_bias));
      LSTM_ASSIGN_OR_RETURN(const ValPtr of_h, Gates(x, *h, cell, 2, 1, false, true, cell.recurrent_bias));
      LSTM_ASSIGN_OR_RETURN(const ValPtr reset, Combine(E::kMultiply, *r, *of_h));
      LSTM_ASSIGN_OR_RETURN(pre, Combine(E::kAdd, *of_x, *reset));
    } else {
      LSTM_ASSIGN_OR_RETURN(const ValPtr reset, Combine(E::kMultiply, *r, *h));
      LSTM_ASSIGN_OR_RETURN(pre, Gates(x, *reset, cell, 2, 1, true, true, both));
    }
    LSTM_ASSIGN_OR_RETURN(const ValPtr candidate, Activate(*pre, cell, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr keep, Combine(E::kMultiply, *z, *h));
    LSTM_ASSIGN_OR_RETURN(const ValPtr open, Scaled(*z, -1, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr fresh, Combine(E::kMultiply, *open, *candidate));
    LSTM_ASSIGN_OR_RETURN(h, Combine(E::kAdd, *fresh, *keep));
    return absl::OkStatus();
  }
  ValPtr back = h;
  if (cell.by_range) {
    LSTM_ASSIGN_OR_RETURN(back, AsQuantized(h));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr pre, Gates(x, *back, cell, 0, 4, true, true, both));
  ValPtr part[4];
  for (int64_t g = 0; g < 4; ++g) {
    LSTM_ASSIGN_OR_RETURN(part[g], Cut(*pre, last, g * n, n, 1));
  }
  const auto peep = [&](ValPtr& gate, int64_t block, const Val& state) -> absl::Status {
    if (!cell.peephole) return absl::OkStatus();
    Tensor p{true, {n}, {}, {}};
    p.floats.assign(cell.peephole->values.data() + block * n, cell.peephole->values.data() + (block + 1) * n);
    LSTM_ASSIGN_OR_RETURN(const ValPtr looked, Combine(E::kMultiply, state, *MakeConstantVal(std::move(p))));
    LSTM_ASSIGN_OR_RETURN(gate, Combine(E::kAdd, *gate, *looked));
    return absl::OkStatus();
  };
  LSTM_RETURN_IF_ERROR(peep(part[0], 0, *c));
  LSTM_RETURN_IF_ERROR(peep(part[1], 1, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr i, Activate(*part[0], cell, 0));
  ValPtr f;
  if (cell.coupled) {
    LSTM_ASSIGN_OR_RETURN(f, Scaled(*i, -1, 1));
  } else {
    LSTM_ASSIGN_OR_RETURN(f, Activate(*part[1], cell, 0));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr g, Activate(*part[2], cell, 1));
  LSTM_ASSIGN_OR_RETURN(const ValPtr kept, Combine(E::kMultiply, *f, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr fresh, Combine(E::kMultiply, *i, *g));
  LSTM_ASSIGN_OR_RETURN(c, Combine(E::kAdd, *kept, *fresh));
  LSTM_RETURN_IF_ERROR(peep(part[3], 2, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr o, Activate(*part[3], cell, 0));
  LSTM_ASSIGN_OR_RETURN(const ValPtr shown, Activate(*c, cell, 2));
  LSTM_ASSIGN_OR_RETURN(h, Combine(E::kMultiply, *o, *shown));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
