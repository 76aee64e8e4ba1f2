// SPDX-License-Identifier: MIT
// Norms that are made of reductions, and where the largest element is. Over time they take a whole sequence, pass by pass.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

// x with what was made of all of it: beside each other in a pass of their own where that is known after the last step alone.
absl::StatusOr<ValPtr> Lowering::WithReduced(ElementwiseKind kind, ValPtr& x, ValPtr reduced) {
  if (reduced->last && x->time >= 0) {
    NewStage(-1);
    x = Bring(*x, {-1, SequenceRead::kEach});
    reduced = Bring(*reduced, {-1, SequenceRead::kAfter});
  }
  return Combine(kind, *x, *reduced);
}

// (x - mean) / sqrt(mean of squares + epsilon) over `axes`; without `centred` the mean stays.
absl::StatusOr<ValPtr> Lowering::Normalized(ValPtr x, const std::vector<int64_t>& axes, double epsilon, bool centred) {
  if (centred) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr mean, Reduced(*x, ReduceKind::kMean, axes, true));
    LSTM_ASSIGN_OR_RETURN(x, WithReduced(ElementwiseKind::kSubtract, x, mean));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr squares, Activated(*x, {ActivationKind::kSquare}));
  LSTM_ASSIGN_OR_RETURN(const ValPtr variance, Reduced(*squares, ReduceKind::kMean, axes, true));
  LSTM_ASSIGN_OR_RETURN(const ValPtr more, Scaled(*variance, 1, epsilon));
  LSTM_ASSIGN_OR_RETURN(const ValPtr size, Activated(*more, {ActivationKind::kSqrt}));
  return WithReduced(ElementwiseKind::kDivide, x, size);
}

absl::Status Lowering::LowerNorms(Call& call) {
  const std::string_view op = call.node.op;
  const Val& x = call[0];
  const auto rank = static_cast<int64_t>(x.shape.size());
  if (x.constant() || !x.is_float) return Refuse("reads a constant, or integers");
  const auto from = [&](int64_t first) {
    std::vector<int64_t> axes;
    for (int64_t a = first; a < rank; ++a) axes.push_back(a);
    return axes;
  };
  const double epsilon = static_cast<double>(call.node.Float("epsilon", 1e-5f));
  if (op == "MeanVarianceNormalization") {
    std::vector<int64_t> axes = {0, 2, 3};
    if (const Attribute* a = call.node.Find("axes")) axes = a->ints;
    LSTM_ASSIGN_OR_RETURN(call.out[0], Normalized(call.in[0], axes, 1e-9, true));
    return absl::OkStatus();
  }
  if (op == "LpNormalization") {
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", -1), x.shape.size()));
    const int64_t p = call.node.Int("p", 2);
    if (p != 1 && p != 2) return Refuse(absl::StrCat("its p is ", p, ", expected 1 or 2"));
    LSTM_ASSIGN_OR_RETURN(const ValPtr parts, Activated(x, {p == 1 ? ActivationKind::kAbs : ActivationKind::kSquare}));
    LSTM_ASSIGN_OR_RETURN(ValPtr size, Reduced(*parts, ReduceKind::kSum, {static_cast<int64_t>(axis)}, true));
    if (p == 2) {
      LSTM_ASSIGN_OR_RETURN(size, Activated(*size, {ActivationKind::kSqrt}));
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], WithReduced(ElementwiseKind::kDivide, call.in[0], size));
    return absl::OkStatus();
  }
  if (op == "RMSNormalization") {
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", -1), x.shape.size()));
    LSTM_ASSIGN_OR_RETURN(const ValPtr y, Normalized(call.in[0], from(static_cast<int64_t>(axis)), epsilon, false));
    if (!call.has(1)) return Refuse("its scale is missing");
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(ElementwiseKind::kMultiply, *y, call[1]));
    return absl::OkStatus();
  }
  // InstanceNormalization, GroupNormalization: channels apart, or in groups; one scale and one bias a channel.
  if (rank < 3 || x.time == 1) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), ", expected [N, C, ...], time not being the second"));
  const int64_t channels = x.shape[1], groups = op == "GroupNormalization" ? call.node.Int("num_groups", 0) : channels;
  if (groups < 1 || channels % groups != 0) return Refuse(absl::StrCat("has ", groups, " groups of ", channels, " channels"));
  Shape grouped = {x.shape[0], groups, channels / groups};
  grouped.insert(grouped.end(), x.shape.begin() + 2, x.shape.end());
  auto apart = std::make_shared<Val>(*Reshaped(x, grouped));
  apart->time = x.time < 2 ? x.time : x.time + 1;
  for (size_t a = 2; a < x.shape.size(); ++a) apart->labels[a + 1] = x.labels[a];
  std::vector<int64_t> axes;
  for (int64_t a = 2; a <= rank; ++a) axes.push_back(a);
  LSTM_ASSIGN_OR_RETURN(const ValPtr normal, Normalized(apart, axes, epsilon, true));
  auto y = std::make_shared<Val>(*Reshaped(*normal, x.shape));
  y->time = x.time;
  y->labels = x.labels;
  ValPtr out = y;
  for (size_t i : {size_t{1}, size_t{2}}) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, i, i == 1 ? "scale" : "bias"));
    const auto count = static_cast<int64_t>(t->size());
    if (!t->is_float || (count != channels && count != groups)) return Refuse(absl::StrCat("its scale or bias has ", count, " numbers for ", channels, " channels"));
    Tensor each{true, Shape(x.shape.size() - 1, 1), {}, {}};  // before opset 21 one for a group
    each.shape[0] = channels;
    for (int64_t c = 0; c < channels; ++c) each.floats.push_back(t->floats[static_cast<size_t>(c * count / channels)]);
    LSTM_ASSIGN_OR_RETURN(out, Combine(i == 1 ? ElementwiseKind::kMultiply : ElementwiseKind::kAdd, *out, *MakeConstantVal(std::move(each))));
  }
  call.out[0] = out;
  return absl::OkStatus();
}

// Which element is the largest: the smallest, or the largest, place of all that are as large. A whole number, as a float.
absl::Status Lowering::LowerArg(Call& call) {
  using A = ActivationKind;
  ValPtr x = call.in[0];
  if (x->constant() || !x->is_float) return Refuse("reads a constant, or integers");
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), x->shape.size()));
  const std::vector<int64_t> axes = {static_cast<int64_t>(axis)};
  if (x->time == static_cast<int>(axis)) return LooksAhead("compares all steps: it needs the whole sequence");
  const int64_t n = x->shape[axis];
  LSTM_RETURN_IF_ERROR(Spend(4 * n));
  if (call.node.op == "ArgMin") {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {A::kNegate}));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr most, Reduced(*x, ReduceKind::kMaximum, axes, true));
  LSTM_ASSIGN_OR_RETURN(const ValPtr below, Combine(ElementwiseKind::kSubtract, *most, *x));
  LSTM_ASSIGN_OR_RETURN(const ValPtr less, Activated(*below, {A::kSign}));  // 0 where it is the largest
  const bool last = call.node.Int("select_last_index", 0) != 0;
  Tensor place{true, Shape(x->shape.size() - axis, 1), {}, {}}, far = place;
  place.shape[0] = far.shape[0] = n;
  for (int64_t i = 0; i < n; ++i) {
    place.floats.push_back(static_cast<float>(i));
    far.floats.push_back(static_cast<float>(last ? -n : n));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr away, Combine(ElementwiseKind::kMultiply, *less, *MakeConstantVal(std::move(far))));
  LSTM_ASSIGN_OR_RETURN(const ValPtr places, Combine(ElementwiseKind::kAdd, *away, *MakeConstantVal(std::move(place))));
  LSTM_ASSIGN_OR_RETURN(call.out[0], Reduced(*places, last ? ReduceKind::kMaximum : ReduceKind::kMinimum, axes, call.node.Int("keepdims", 1) != 0));
  return absl::OkStatus();
}

// Over time: a sum that the session keeps.
absl::Status Lowering::LowerCumSum(Call& call) {
  const Val& x = call[0];
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> axes, IntsOf(call, 1, "axis"));
  if (axes.size() != 1) return Refuse("its axis is not one number");
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(axes[0], x.shape.size()));
  const bool exclusive = call.node.Int("exclusive", 0) != 0, back = call.node.Int("reverse", 0) != 0;
  if (x.constant() || !x.is_float) return Refuse("reads a constant, or integers");
  if (x.time < 0 && IsOpen(x.labels[axis]) && MakeTime(x.labels[axis])) return absl::AbortedError("time was found");
  if (x.time == static_cast<int>(axis)) {
    if (back) return LooksAhead("sums from the end of the sequence");
    if (x.head != 0 || x.tail != 0) return Refuse("sums over time that is padded");
    stages_[static_cast<size_t>(stage_)]->timed = true;
    LSTM_RETURN_IF_ERROR(Spend(2 * x.count()));
    LSTM_ASSIGN_OR_RETURN(const StateId state, AddState(absl::StrCat(node_name_, ".sum"), x.shape, {}));
    LSTM_ASSIGN_OR_RETURN(const ValueId before, Add("before", StateReadOp{state}, {}));
    const ValPtr so_far = Computed(before, x.shape, x);
    LSTM_ASSIGN_OR_RETURN(const ValPtr now, Combine(ElementwiseKind::kAdd, *so_far, x));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*now, x.shape));
    LSTM_RETURN_IF_ERROR(Add("after", StateWriteOp{state}, {id}).status());
    call.out[0] = exclusive ? so_far : now;
    return absl::OkStatus();
  }
  // Along an axis of the step: a product with ones and zeros.
  const int64_t n = x.shape[axis];
  LSTM_RETURN_IF_ERROR(Spend(n * n));
  auto ones = NewConstant({n, n});
  for (int64_t o = 0; o < n; ++o) {
    for (int64_t i = 0; i < n; ++i) ones->values.data()[o * n + i] = (back ? i > o : i < o) || (i == o && !exclusive) ? 1 : 0;
  }
  std::vector<int64_t> perm;
  for (size_t a = 0; a < x.shape.size(); ++a) perm.push_back(static_cast<int64_t>(a));
  std::swap(perm[axis], perm.back());
  Shape moved = x.shape;
  std::swap(moved[axis], moved.back());
  LSTM_ASSIGN_OR_RETURN(const ValPtr in, Arranged(x, Transposed(x.shape, perm), moved));
  Val plain = *in;
  plain.time = -1;
  LSTM_ASSIGN_OR_RETURN(const ValPtr sums, Linear(plain, ones, nullptr));
  LSTM_ASSIGN_OR_RETURN(const ValPtr out, Arranged(*sums, Transposed(moved, perm), x.shape));
  auto labelled = std::make_shared<Val>(*out);
  labelled->labels = x.labels;
  labelled->time = x.time;
  labelled->head = x.head;
  labelled->tail = x.tail;
  labelled->last = x.last;
  call.out[0] = std::move(labelled);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
