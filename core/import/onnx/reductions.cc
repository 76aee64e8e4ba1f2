// SPDX-License-Identifier: MIT
// Reductions, softmax and norms over axes of a step.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::StatusOr<ValPtr> Lowering::Reduced(const Val& val, ReduceKind kind, std::vector<int64_t> axes, bool keep) {
  const auto rank = static_cast<int64_t>(val.shape.size());
  std::vector<bool> gone(val.shape.size(), axes.empty());
  for (int64_t a : axes) {
    if (a < -rank || a >= rank) return absl::InvalidArgumentError(absl::StrCat("reduces axis ", a, " of ", rank));
    gone[static_cast<size_t>(a < 0 ? a + rank : a)] = true;
  }
  std::vector<int64_t> perm, kept_last;
  Shape shape, compact;
  std::vector<int> labels;
  int time = -1;
  int64_t n = 1;
  bool all_steps = false;
  for (size_t a = 0; a < val.shape.size(); ++a) {
    const bool over_time = gone[a] && val.time == static_cast<int>(a);
    if (over_time && !whole_) return LooksAhead("reduces over time: it needs the whole sequence");
    if (over_time && (val.head != 0 || val.tail != 0)) return LooksAhead("reduces over time that was padded");
    all_steps = all_steps || over_time;
    if (gone[a] && val.time < 0 && IsOpen(val.labels[a]) && MakeTime(val.labels[a])) return absl::AbortedError("time was found");
    if (gone[a]) {
      n *= val.shape[a];
      kept_last.push_back(static_cast<int64_t>(a));
      if (!keep) continue;
    } else {
      perm.push_back(static_cast<int64_t>(a));
      compact.push_back(val.shape[a]);
    }
    if (val.time == static_cast<int>(a) && !gone[a]) time = static_cast<int>(shape.size());
    shape.push_back(gone[a] ? 1 : val.shape[a]);
    labels.push_back(gone[a] ? -1 : val.labels[a]);
  }
  perm.insert(perm.end(), kept_last.begin(), kept_last.end());
  if (val.constant()) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr moved, Arranged(val, Transposed(val.shape, perm), val.shape));
    LSTM_ASSIGN_OR_RETURN(const TensorPtr x, Constant(*moved));
    Tensor out{x->is_float, shape, {}, {}};
    for (size_t r = 0; n > 0 && r < x->size() / static_cast<size_t>(n); ++r) {
      double y = x->At(r * static_cast<size_t>(n));
      for (size_t i = 1; i < static_cast<size_t>(n); ++i) {
        const double v = x->At(r * static_cast<size_t>(n) + i);
        y = kind == ReduceKind::kMaximum ? std::max(y, v) : kind == ReduceKind::kMinimum ? std::min(y, v) : kind == ReduceKind::kProduct ? y * v : y + v;
      }
      if (kind == ReduceKind::kMean) y /= static_cast<double>(n);
      if (out.is_float) out.floats.push_back(static_cast<float>(y));
      if (!out.is_float) out.ints.push_back(std::fabs(y) < 9e18 ? static_cast<int64_t>(y) : 0);
    }
    if (static_cast<int64_t>(out.size()) != CheckedElementCount(shape)) return absl::InvalidArgumentError("reduces nothing");
    return MakeConstantVal(std::move(out));
  }
  ValPtr out;
  if (n == 1) {
    out = Reshaped(val, shape);
  } else {
    LSTM_ASSIGN_OR_RETURN(const ValPtr moved, Arranged(val, Transposed(val.shape, perm), val.shape));
    LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(*moved, {val.count() / n, n}));
    LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", ReduceOp{kind}, {x}));
    out = Computed(y, shape, val);
  }
  if (all_steps) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr end, Accumulated(*out, kind));
    out = Reshaped(*end, shape);
  }
  auto named = std::make_shared<Val>(*out);
  named->labels = labels;
  named->time = time;
  return ValPtr(named);
}

absl::Status Lowering::LowerReduce(Call& call, ReduceKind kind) {
  std::vector<int64_t> axes;
  if (const Attribute* a = call.node.Find("axes")) {
    axes = a->ints;
  } else if (call.has(1)) {
    LSTM_ASSIGN_OR_RETURN(axes, IntsOf(call, 1, "axes"));
  }
  if (axes.empty() && call.node.Int("noop_with_empty_axes", 0) != 0) {
    call.out[0] = call.in[0];
    return absl::OkStatus();
  }
  ValPtr x = call.in[0];
  const std::string_view op = call.node.op;
  if (op == "ReduceLogSumExp") {  // less its largest, so that no power is too large
    for (int64_t a : axes) {
      LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(a, x->shape.size()));
      if (x->time == static_cast<int>(axis)) return LooksAhead("reduces over time: it needs the whole sequence");
    }
    if (axes.empty() && x->time >= 0) return LooksAhead("reduces over time: it needs the whole sequence");
    const bool keep = call.node.Int("keepdims", 1) != 0;
    LSTM_ASSIGN_OR_RETURN(const ValPtr most, Reduced(*x, ReduceKind::kMaximum, axes, true));
    LSTM_ASSIGN_OR_RETURN(const ValPtr below, Combine(ElementwiseKind::kSubtract, *x, *most));
    LSTM_ASSIGN_OR_RETURN(const ValPtr powers, Activated(*below, {ActivationKind::kExp}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr sum, Reduced(*powers, kind, axes, true));
    LSTM_ASSIGN_OR_RETURN(const ValPtr log, Activated(*sum, {ActivationKind::kLog}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr all, Combine(ElementwiseKind::kAdd, *log, *most));
    // The axes are of one item now: that they go changes no element.
    LSTM_ASSIGN_OR_RETURN(call.out[0], Reduced(*all, kind, axes, keep));
    return absl::OkStatus();
  }
  if (op == "ReduceL2" || op == "ReduceSumSquare") {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kSquare}));
  } else if (op == "ReduceL1") {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kAbs}));
  }
  LSTM_ASSIGN_OR_RETURN(call.out[0], Reduced(*x, kind, axes, call.node.Int("keepdims", 1) != 0));
  if (op == "ReduceL2" || op == "ReduceLogSum") {
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(*call.out[0], {op == "ReduceL2" ? ActivationKind::kSqrt : ActivationKind::kLog}));
  }
  return absl::OkStatus();
}

absl::Status Lowering::LowerSoftmax(Call& call, bool log) {
  const Val& x = call[0];
  const auto rank = static_cast<int64_t>(x.shape.size());
  int64_t axis = call.node.Int("axis", file_.opset < 13 ? 1 : -1);
  if (axis < -rank || axis >= rank) return Refuse(absl::StrCat("axis is ", axis, " of ", rank));
  if (axis < 0) axis += rank;
  // Before opset 13 it runs over all axes from this one.
  int64_t n = file_.opset < 13 ? 1 : x.shape[static_cast<size_t>(axis)];
  for (int64_t a = axis; file_.opset < 13 && a < rank; ++a) n *= x.shape[static_cast<size_t>(a)];
  if (x.constant()) return Refuse("its input is a constant");
  if (x.time == axis || (file_.opset < 13 && x.time >= axis)) {
    // Before opset 13 other axes that run along with time must be of one item.
    if (!whole_ || n != x.shape[static_cast<size_t>(axis)] || n != 1) return LooksAhead("runs over time: it needs the whole sequence");
    return SoftmaxOverTime(call, log);
  }
  LSTM_RETURN_IF_ERROR(Spend(x.count()));
  std::vector<int64_t> perm;
  for (int64_t a = 0; a < rank; ++a) perm.push_back(a);
  const bool move = file_.opset >= 13 && axis != rank - 1;
  if (move) std::swap(perm[static_cast<size_t>(axis)], perm.back());
  Shape moved_shape = x.shape;
  if (move) std::swap(moved_shape[static_cast<size_t>(axis)], moved_shape.back());
  ValPtr moved = call.in[0];
  if (move) {
    LSTM_ASSIGN_OR_RETURN(moved, Arranged(x, Transposed(x.shape, perm), moved_shape));
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(*moved, {x.count() / n, n}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", SoftmaxOp{log}, {in}));
  ValPtr out = Computed(y, moved_shape, x);
  if (move) {
    LSTM_ASSIGN_OR_RETURN(out, Arranged(*out, Transposed(moved_shape, perm), x.shape));
    auto labelled = std::make_shared<Val>(*out);
    labelled->labels = x.labels;
    out = labelled;
  }
  call.out[0] = out;
  return absl::OkStatus();
}

// The largest of all steps in one pass, the sum of their powers in the next, the share of each in the last.
absl::Status Lowering::SoftmaxOverTime(Call& call, bool log) {
  const std::vector<int64_t> axis = {call[0].time};
  const Origin each{-1, SequenceRead::kEach}, after{-1, SequenceRead::kAfter};
  LSTM_ASSIGN_OR_RETURN(const ValPtr most, Reduced(call[0], ReduceKind::kMaximum, axis, true));
  NewStage(-1);
  LSTM_ASSIGN_OR_RETURN(const ValPtr below, Combine(ElementwiseKind::kSubtract, *Bring(call[0], each), *Bring(*most, after)));
  LSTM_ASSIGN_OR_RETURN(const ValPtr power, Activated(*below, {ActivationKind::kExp}));
  LSTM_ASSIGN_OR_RETURN(const ValPtr sum, Reduced(*power, ReduceKind::kSum, axis, true));
  NewStage(-1);
  ValPtr all = Bring(*sum, after);
  if (log) {
    LSTM_ASSIGN_OR_RETURN(all, Activated(*all, {ActivationKind::kLog}));
  }
  LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(log ? ElementwiseKind::kSubtract : ElementwiseKind::kDivide, *Bring(log ? *below : *power, each), *all));
  return absl::OkStatus();
}

absl::Status Lowering::LowerNorm(Call& call) {  // LayerNormalization
  const Val& x = call[0];
  const auto rank = static_cast<int64_t>(x.shape.size());
  int64_t axis = call.node.Int("axis", -1);
  if (axis < -rank || axis >= rank) return Refuse(absl::StrCat("axis is ", axis, " of ", rank));
  if (axis < 0) axis += rank;
  if (x.time >= axis) return LooksAhead("runs over time: it needs the whole sequence");
  int64_t n = 1;
  for (int64_t a = axis; a < rank; ++a) n *= x.shape[static_cast<size_t>(a)];
  LayerNormOp op;
  op.epsilon = call.node.Float("epsilon", 1e-5f);
  for (size_t i : {size_t{1}, size_t{2}}) {
    if (!call.has(i)) continue;
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, i, i == 1 ? "scale" : "bias"));
    if (!t->is_float || static_cast<int64_t>(t->size()) != n) return Refuse(absl::StrCat("its scale or bias has ", t->size(), " elements, expected ", n));
    auto constant = NewConstant({n});
    std::copy(t->floats.begin(), t->floats.end(), constant->values.data());
    (i == 1 ? op.scale : op.bias) = std::move(constant);
  }
  LSTM_RETURN_IF_ERROR(Spend(x.count()));
  LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(x, {x.count() / n, n}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", std::move(op), {in}));
  call.out[0] = Computed(y, x.shape, x);
  return absl::OkStatus();
}

absl::Status Lowering::LowerBatchNorm(Call& call) {
  const Val& x = call[0];
  if (call.node.Int("training_mode", 0) != 0) return Refuse("is in training mode");
  if (x.shape.size() < 2) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), ", expected [N, C, ...]"));
  if (x.time == 1) return Refuse("time is its axis of channels");
  std::vector<TensorPtr> t;
  const int64_t channels = x.shape[1];
  for (size_t i = 1; i <= 4; ++i) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, ConstantOf(call, i, "scale, bias, mean or variance"));
    if (!tensor->is_float || static_cast<int64_t>(tensor->size()) != channels) return Refuse(absl::StrCat("has ", tensor->size(), " numbers for ", channels, " channels"));
    t.push_back(tensor);
  }
  Shape shape(x.shape.size() - 1, 1);
  shape[0] = channels;
  Tensor scale{true, shape, {}, {}}, offset{true, shape, {}, {}};
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    const double variance = static_cast<double>(t[3]->floats[c]) + static_cast<double>(call.node.Float("epsilon", 1e-5f));
    if (!(variance > 0)) return Refuse("its variance and epsilon are not above 0");
    const double s = static_cast<double>(t[0]->floats[c]) / std::sqrt(variance);
    scale.floats.push_back(static_cast<float>(s));
    offset.floats.push_back(static_cast<float>(static_cast<double>(t[1]->floats[c]) - s * static_cast<double>(t[2]->floats[c])));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr y, Combine(ElementwiseKind::kMultiply, x, *MakeConstantVal(std::move(scale))));
  LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(ElementwiseKind::kAdd, *y, *MakeConstantVal(std::move(offset))));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
