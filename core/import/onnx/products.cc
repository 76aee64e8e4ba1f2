// SPDX-License-Identifier: MIT
// Products: Linear, MatMul, Gemm.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::StatusOr<ValPtr> Lowering::Linear(const Val& val, ConstantPtr weight, ConstantPtr bias) {
  const int64_t in = weight->shape[1], out = weight->shape[0];
  if (val.shape.empty() || val.shape.back() != in) {
    return absl::InvalidArgumentError(absl::StrCat("its weights expect ", in, " in the last axis of shape ", ShapeString(val.shape)));
  }
  if (val.time == static_cast<int>(val.shape.size()) - 1) return LooksAhead("multiplies along time: it needs the whole sequence");
  if (!val.is_float) return absl::InvalidArgumentError("multiplies integers");
  Shape shape = val.shape;
  shape.back() = out;
  LSTM_RETURN_IF_ERROR(Spend(CheckedElementCount(shape)));
  const int64_t rows = val.count() / in;
  LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(val, rows == 1 ? Shape{in} : Shape{rows, in}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", LinearOp{std::move(weight), std::move(bias)}, {x}));
  Val like = val;
  like.labels.back() = -1;
  return Computed(y, shape, like);
}

absl::Status Lowering::LowerMatMul(Call& call) {
  if (!call.has(0) || !call.has(1)) return Refuse("expected two inputs");
  const Val &a = call[0], &b = call[1];
  const auto ones = [](const Shape& s) { return std::all_of(s.begin(), s.end() - 2, [](int64_t n) { return n == 1; }); };
  if (a.constant() && b.constant()) return Refuse("multiplies two constants, expected one value of the step");
  if (b.constant() && (b.shape.size() == 1 || (b.shape.size() >= 2 && ones(b.shape)))) {
    if (!b.is_float || b.count() == 0) return Refuse("its matrix is empty, or has integers");
    const size_t rank = b.shape.size();
    const int64_t in = rank == 1 ? b.shape[0] : b.shape[rank - 2], out = rank == 1 ? 1 : b.shape[rank - 1];
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr weight, Shared(call.in[1], absl::StrCat("MatMul ", in), {out, in}, [&](const Tensor& w) {
      auto turned = NewConstant({out, in});
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t o = 0; o < out; ++o) turned->values.data()[o * in + i] = w.floats[static_cast<size_t>(i * out + o)];
      }
      return turned;
    }));
    LSTM_ASSIGN_OR_RETURN(ValPtr y, Linear(a, weight, nullptr));
    if (rank == 1 || (rank > a.shape.size() && rank > 2)) {
      auto out_val = std::make_shared<Val>(*y);
      if (rank == 1) {
        out_val->shape.pop_back();
        out_val->labels.pop_back();
      } else {
        const size_t more = rank - a.shape.size();
        out_val->shape.insert(out_val->shape.begin(), more, 1);
        out_val->labels.insert(out_val->labels.begin(), more, -1);
        if (out_val->time >= 0) out_val->time += static_cast<int>(more);
      }
      y = out_val;
    }
    call.out[0] = y;
    return absl::OkStatus();
  }
  // [.., A, K] x [.., K, B], both of the step; axes before them spread as in element-wise ops.
  if (a.shape.size() < 2 || b.shape.size() < 2) return Refuse("multiplies vectors of the step, expected matrices");
  for (const Val* v : {&a, &b}) {
    if (!v->is_float) return Refuse("multiplies integers");
  }
  // [.., A, T] x [.., T, B]: a sum over all steps.
  const bool along = a.time == static_cast<int>(a.shape.size()) - 1 && b.time == static_cast<int>(b.shape.size()) - 2;
  // Rows of steps by a matrix that is none, or such a matrix by columns of steps: each step by itself.
  const bool rows = a.time == static_cast<int>(a.shape.size()) - 2 && b.time < 0, columns = b.time == static_cast<int>(b.shape.size()) - 1 && a.time < 0;
  for (const Val* v : {&a, &b}) {
    if (v->time >= static_cast<int>(v->shape.size()) - 2 && !(along && whole_) && !rows && !columns) {
      return LooksAhead(a.time >= 0 && b.time >= 0 && !along ? "multiplies every step with every other, as attention does: it needs the whole sequence, and as many numbers a step as it is long" : "multiplies along time: it needs the whole sequence");
    }
  }
  const Shape lead_a(a.shape.begin(), a.shape.end() - 2), lead_b(b.shape.begin(), b.shape.end() - 2);
  LSTM_ASSIGN_OR_RETURN(Shape lead, BroadcastShape(lead_a, lead_b));
  Shape shape_a = lead, shape_b = lead;
  shape_a.insert(shape_a.end(), a.shape.end() - 2, a.shape.end());
  shape_b.insert(shape_b.end(), b.shape.end() - 2, b.shape.end());
  LSTM_RETURN_IF_ERROR(ElementCount(shape_a).status());
  LSTM_RETURN_IF_ERROR(ElementCount(shape_b).status());
  LSTM_RETURN_IF_ERROR(Spend(CheckedElementCount(shape_a) + CheckedElementCount(shape_b)));
  LSTM_ASSIGN_OR_RETURN(const Arrangement spread_a, Broadcast(a.shape, shape_a));
  LSTM_ASSIGN_OR_RETURN(const Arrangement spread_b, Broadcast(b.shape, shape_b));
  LSTM_ASSIGN_OR_RETURN(const ValPtr wide_a, Arranged(a, spread_a, shape_a));
  LSTM_ASSIGN_OR_RETURN(const ValPtr wide_b, Arranged(b, spread_b, shape_b));
  if (along) {
    LSTM_ASSIGN_OR_RETURN(const ValueId left, Use(*wide_a, shape_a));
    LSTM_ASSIGN_OR_RETURN(const ValueId right, Use(*wide_b, shape_b));
    LSTM_ASSIGN_OR_RETURN(const ValueId product, Add("", MatMulOp{}, {left, right}));
    const Shape shape = builder().value(product).shape;
    LSTM_ASSIGN_OR_RETURN(const ValPtr all, Accumulated(*Computed(product, shape, Val{}), ReduceKind::kSum));
    call.out[0] = Reshaped(*all, shape);
    return absl::OkStatus();
  }
  const int ta = a.time < 0 ? -1 : a.time + static_cast<int>(shape_a.size() - a.shape.size()), tb = b.time < 0 ? -1 : b.time + static_cast<int>(shape_b.size() - b.shape.size());
  if ((ta >= 0 && tb >= 0 && ta != tb) || ((ta >= 0 || tb >= 0) && (a.last || b.last))) return LooksAhead("multiplies values whose time does not run side by side");
  LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(*wide_a, shape_a));
  LSTM_ASSIGN_OR_RETURN(const ValueId w, Use(*wide_b, shape_b));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", MatMulOp{}, {x, w}));
  Val like;
  like.time = std::max(ta, tb);
  like.last = a.last || b.last;
  call.out[0] = Computed(y, builder().value(y).shape, like);
  return absl::OkStatus();
}

absl::Status Lowering::LowerGemm(Call& call) {
  if (!call.has(0) || !call.has(1)) return Refuse("expected two inputs and a bias");
  ValPtr a = call.in[0];
  if (a->shape.size() != 2) return Refuse(absl::StrCat("multiplies shape ", ShapeString(a->shape), ", expected two dimensions"));
  if (call.node.Int("transA", 0) != 0) {
    if (a->time >= 0) return LooksAhead("multiplies along time: it needs the whole sequence");
    LSTM_ASSIGN_OR_RETURN(a, Arranged(*a, Transposed(a->shape, {1, 0}), {a->shape[1], a->shape[0]}));
  }
  const Val& b = call[1];
  if (!b.constant()) return ConstantOf(call, 1, "matrix").status();
  if (!b.is_float || b.shape.size() != 2 || b.count() == 0) return Refuse(absl::StrCat("its matrix has shape ", ShapeString(b.shape), ", expected two dimensions"));
  const float alpha = call.node.Float("alpha", 1), beta = call.node.Float("beta", 1);
  const bool turned = call.node.Int("transB", 0) != 0;
  const int64_t out = b.shape[turned ? 0 : 1], in = b.shape[turned ? 1 : 0];
  LSTM_ASSIGN_OR_RETURN(const ConstantPtr weight, Shared(call.in[1], absl::StrCat("Gemm ", in, turned, " ", alpha), {out, in}, [&](const Tensor& w) {
    auto made = NewConstant({out, in});
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) made->values.data()[o * in + i] = alpha * w.floats[static_cast<size_t>(turned ? o * in + i : i * out + o)];
    }
    return made;
  }));
  std::shared_ptr<core::Constant> bias;
  const bool folds = call.has(2) && call[2].constant() && (call[2].count() == 1 || (call[2].count() == out && call[2].shape.back() == out));
  if (folds) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr c, ConstantOf(call, 2, "bias"));
    if (!c->is_float) return Refuse("its bias has integers");
    bias = NewConstant({out});
    for (size_t o = 0; o < static_cast<size_t>(out); ++o) bias->values[o] = beta * c->floats[c->size() == 1 ? 0 : o];
  }
  LSTM_ASSIGN_OR_RETURN(call.out[0], Linear(*a, weight, bias));
  if (call.has(2) && !folds) {
    ValPtr c = call.in[2];
    if (beta != 1) {
      LSTM_ASSIGN_OR_RETURN(c, Combine(ElementwiseKind::kMultiply, *c, *MakeConstantVal({true, {}, {beta}, {}})));
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(ElementwiseKind::kAdd, *call.out[0], *c));
  }
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
