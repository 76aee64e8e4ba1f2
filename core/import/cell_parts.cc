// SPDX-License-Identifier: MIT
#include "core/import/cell_parts.h"

#include <algorithm>

// LSTM, GRU and RNN with what the cells of core/model/model.h do not have.
namespace lstm::core {
namespace {

ConstantPtr One(float value) {
  auto one = MakeConstant({1});
  one->values[0] = value;
  return one;
}

}  // namespace

ValueId CellParts::Scale(ConstantPtr scale, ValueId x) { return Do(AffineOp{std::move(scale), One(0)}, {x}); }
ValueId CellParts::OneMinus(ValueId x) { return Do(AffineOp{One(-1), One(1)}, {x}); }

ConstantPtr Rows(const Constant& from, int64_t first, int64_t count) {
  Shape shape = from.shape;
  shape[0] = count;
  auto out = MakeConstant(shape);
  const int64_t columns = shape.size() > 1 ? shape[1] : 1;
  std::copy_n(from.values.data() + first * columns, count * columns, out->values.data());
  return out;
}

ConstantPtr SideBySide(const Constant& a, const Constant& b) {
  const int64_t rows = a.shape[0], left = a.shape[1], right = b.shape[1];
  auto out = MakeConstant({rows, left + right});
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(a.values.data() + r * left, left, out->values.data() + r * (left + right));
    std::copy_n(b.values.data() + r * right, right, out->values.data() + r * (left + right) + left);
  }
  return out;
}

absl::StatusOr<ValueId> LstmInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const LstmOp& op,
                                    const LstmVariant& variant, ValueId x, ValueId* cell) {
  CellParts p(builder, name);
  const int64_t n = op.bias->shape[0] / 4;
  const ValueId h = p.Before(op.hidden), c = p.Before(op.cell);
  ValueId pre = -1;
  if (variant.norm[0]) {
    const ValueId of_x = p.Do(LayerNormOp{variant.norm[0], variant.norm[1]}, {p.Linear(op.weight, nullptr, x)});
    const ValueId of_h = p.Do(LayerNormOp{variant.norm[2], variant.norm[3]}, {p.Linear(op.recurrent, nullptr, h)});
    pre = p.Do(AffineOp{One(1), op.bias}, {p.Add(of_x, of_h)});
  } else {
    pre = p.Linear(SideBySide(*op.weight, *op.recurrent), op.bias, p.Concat({x, h}));
  }
  // Gate g of i f g o, which looks at `seen` by the block `look` of the peepholes.
  const auto gate = [&](int64_t g, int64_t look, ValueId seen) {
    const ValueId own = p.Cut(pre, g * n, n);
    return p.Act(variant.gate, op.peephole ? p.Add(own, p.Scale(Rows(*op.peephole, look * n, n), seen)) : own);
  };
  const ValueId f = gate(1, 1, c);
  const ValueId i = variant.coupled ? p.OneMinus(f) : gate(0, 0, c);
  const ValueId g = p.Act(variant.candidate, p.Cut(pre, 2 * n, n));
  ValueId next = p.Add(p.Multiply(f, c), p.Multiply(i, g));
  if (variant.depth[0] && variant.below >= 0) {
    const ValueId looks = p.Add(p.Scale(variant.depth[2], c), p.Scale(variant.depth[3], variant.below));
    const ValueId d = p.Sigmoid(p.Add(p.Linear(variant.depth[0], variant.depth[1], x), looks));
    next = p.Add(next, p.Multiply(d, variant.below));
  }
  if (variant.norm[4]) next = p.Do(LayerNormOp{variant.norm[4], variant.norm[5]}, {next});
  next = *cell = p.After(op.cell, p.Clip(variant.cell_clip, next));
  ValueId out = p.Multiply(gate(3, 2, next), p.Act(variant.candidate, next));
  if (op.projection) out = p.Clip(variant.projection_clip, p.Linear(op.projection, nullptr, out));
  out = p.Result(op.hidden, out, layer);
  if (!p.status().ok()) return p.status();
  return out;
}

absl::StatusOr<ValueId> GruInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const GruOp& op,
                                   const ActivationOp& gate, const ActivationOp& candidate, ValueId x) {
  CellParts p(builder, name);
  const int64_t n = op.recurrent->shape[0] / 3;
  const ValueId h = p.Before(op.hidden);
  const auto both = [&](int64_t first, int64_t count) { return SideBySide(*Rows(*op.weight, first, count), *Rows(*op.recurrent, first, count)); };
  const ValueId zr = p.Act(gate, p.Linear(both(0, 2 * n), Rows(*op.bias, 0, 2 * n), p.Concat({x, h})));
  const ValueId z = p.Cut(zr, 0, n), r = p.Cut(zr, n, n);
  ValueId pre = -1;
  if (op.reset_after) {
    const ValueId of_h = p.Linear(Rows(*op.recurrent, 2 * n, n), Rows(*op.bias, 3 * n, n), h);
    pre = p.Add(p.Linear(Rows(*op.weight, 2 * n, n), Rows(*op.bias, 2 * n, n), x), p.Multiply(r, of_h));
  } else {
    pre = p.Linear(both(2 * n, n), Rows(*op.bias, 2 * n, n), p.Concat({x, p.Multiply(r, h)}));
  }
  const ValueId out = p.Result(op.hidden, p.Mix(z, p.Act(candidate, pre), h), layer);
  if (!p.status().ok()) return p.status();
  return out;
}

absl::StatusOr<ValueId> RnnInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const RnnOp& op,
                                   const ActivationOp& activation, float clip, ValueId x) {
  CellParts p(builder, name);
  const ValueId sum = p.Linear(SideBySide(*op.weight, *op.recurrent), op.bias, p.Concat({x, p.Before(op.hidden)}));
  const ValueId out = p.Result(op.hidden, p.Act(activation, p.Clip(clip, sum)), layer);
  if (!p.status().ok()) return p.status();
  return out;
}

}  // namespace lstm::core
