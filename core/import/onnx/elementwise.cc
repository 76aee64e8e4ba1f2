// SPDX-License-Identifier: MIT
// Element by element: functions of one value, of two, and by constants. What is constant is folded.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

double Evaluate(ElementwiseKind kind, double a, double b) {
  switch (kind) {
    case ElementwiseKind::kAdd: return a + b;
    case ElementwiseKind::kSubtract: return a - b;
    case ElementwiseKind::kMultiply: return a * b;
    case ElementwiseKind::kDivide: return a / b;
    case ElementwiseKind::kMinimum: return std::min(a, b);
    case ElementwiseKind::kMaximum: return std::max(a, b);
  }
  return 0;
}

// Integers wrap round as they do everywhere, without undefined behaviour.
bool Evaluate(ElementwiseKind kind, int64_t a, int64_t b, int64_t& out) {
  const auto ua = static_cast<uint64_t>(a), ub = static_cast<uint64_t>(b);
  switch (kind) {
    case ElementwiseKind::kAdd: out = static_cast<int64_t>(ua + ub); return true;
    case ElementwiseKind::kSubtract: out = static_cast<int64_t>(ua - ub); return true;
    case ElementwiseKind::kMultiply: out = static_cast<int64_t>(ua * ub); return true;
    case ElementwiseKind::kDivide:
      if (b == 0 || b == -1) {
        out = static_cast<int64_t>(uint64_t{0} - ua);
        return b != 0;
      }
      out = a / b;
      return true;
    case ElementwiseKind::kMinimum: out = std::min(a, b); return true;
    case ElementwiseKind::kMaximum: out = std::max(a, b); return true;
  }
  return false;
}

double Evaluate(const ActivationOp& op, double x) {
  const double a = static_cast<double>(op.alpha), b = static_cast<double>(op.beta);
  switch (op.kind) {
    case ActivationKind::kRelu: return std::max(x, 0.0);
    case ActivationKind::kSigmoid: return 1 / (1 + std::exp(-x));
    case ActivationKind::kTanh: return std::tanh(x);
    case ActivationKind::kSoftplus: return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
    case ActivationKind::kLeakyRelu: return x >= 0 ? x : a * x;
    case ActivationKind::kElu: return x >= 0 ? x : a * std::expm1(x);
    case ActivationKind::kHardSigmoid: return std::clamp(a * x + b, 0.0, 1.0);
    case ActivationKind::kGelu: return 0.5 * x * (1 + std::erf(x * 0.70710678118654752));
    case ActivationKind::kSilu: return x / (1 + std::exp(-x));
    case ActivationKind::kClip: return std::clamp(x, a, b);
    case ActivationKind::kExp: return std::exp(x);
    case ActivationKind::kLog: return std::log(x);
    case ActivationKind::kAbs: return std::fabs(x);
    case ActivationKind::kNegate: return -x;
    case ActivationKind::kSqrt: return std::sqrt(x);
    case ActivationKind::kSquare: return x * x;
    case ActivationKind::kPower: return std::pow(x, a);
    case ActivationKind::kReciprocal: return 1 / x;
    case ActivationKind::kErf: return std::erf(x);
    case ActivationKind::kSoftsign: return x / (1 + std::fabs(x));
    case ActivationKind::kThresholdedRelu: return x > a ? x : 0;
    case ActivationKind::kFloor: return std::floor(x);
    case ActivationKind::kSign: return x > 0 ? 1 : x < 0 ? -1 : 0;
    case ActivationKind::kSin: return std::sin(x);
    case ActivationKind::kCos: return std::cos(x);
    case ActivationKind::kAtan: return std::atan(x);
    case ActivationKind::kRound: return std::nearbyint(x);
  }
  return 0;
}

// What goes on beyond the walk over a call: the two operands side by side.
struct Aligned {
  Shape shape;
  int time = -1;
  int64_t head = 0, tail = 0;
  bool last = false;
  std::vector<int> labels;
};

}  // namespace

absl::StatusOr<ValPtr> Lowering::Activated(const Val& val, ActivationOp op) {
  if (val.constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, Constant(val));
    Tensor out{from->is_float, from->shape, {}, {}};
    for (size_t i = 0; i < from->size(); ++i) {
      const double y = Evaluate(op, from->At(i));
      if (!std::isfinite(y)) return absl::InvalidArgumentError("gives a constant that is not finite");
      if (out.is_float) out.floats.push_back(static_cast<float>(y));
      if (!out.is_float) out.ints.push_back(std::fabs(y) < 9e18 ? static_cast<int64_t>(y) : 0);
    }
    return MakeConstantVal(std::move(out));
  }
  LSTM_RETURN_IF_ERROR(Spend(val.count()));
  LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(val, {val.count()}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", op, {x}));
  return Computed(y, val.shape, val);
}

absl::StatusOr<ValPtr> Lowering::Scaled(const Val& val, double scale, double offset) {
  auto s = NewConstant({1}), o = NewConstant({1});
  s->values[0] = static_cast<float>(scale);
  o->values[0] = static_cast<float>(offset);
  LSTM_RETURN_IF_ERROR(Spend(val.count()));
  LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(val, {val.count()}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", AffineOp{s, o}, {x}));
  return Computed(y, val.shape, val);
}

absl::StatusOr<ValPtr> Lowering::Combine(ElementwiseKind kind, const Val& a, const Val& b) {
  const bool constants = a.constant() && b.constant();
  LSTM_ASSIGN_OR_RETURN(const Shape shape, BroadcastShape(a.shape, b.shape));
  LSTM_RETURN_IF_ERROR(ElementCount(shape).status());
  LSTM_RETURN_IF_ERROR(Spend(CheckedElementCount(shape)));
  LSTM_ASSIGN_OR_RETURN(const Arrangement spread_a, Broadcast(a.shape, shape));
  LSTM_ASSIGN_OR_RETURN(const Arrangement spread_b, Broadcast(b.shape, shape));
  if (constants) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr ta, Constant(a));
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tb, Constant(b));
    if (ta->is_float != tb->is_float) return absl::InvalidArgumentError("combines floats and integers");
    Tensor out{ta->is_float, shape, {}, {}};
    std::vector<int64_t> left;
    if (!out.is_float && CheckedElementCount(shape) > kMaxInts) return absl::InvalidArgumentError("gives too many integers");
    spread_a.ForEach([&](int64_t i) { left.push_back(i); });
    size_t k = 0;
    bool good = true;
    spread_b.ForEach([&](int64_t j) {
      const auto i = static_cast<size_t>(left[k++]), jj = static_cast<size_t>(j);
      if (out.is_float) {
        const double y = Evaluate(kind, static_cast<double>(ta->floats[i]), static_cast<double>(tb->floats[jj]));
        good = good && std::isfinite(static_cast<float>(y));
        out.floats.push_back(static_cast<float>(y));
      } else {
        int64_t y = 0;
        good = good && Evaluate(kind, ta->ints[i], tb->ints[jj], y);
        out.ints.push_back(y);
      }
    });
    if (!good) return absl::InvalidArgumentError("gives a constant that is not finite");
    return MakeConstantVal(std::move(out));
  }
  if (!a.is_float || !b.is_float) return absl::InvalidArgumentError("computes with integers of every step, which are ids alone");
  Aligned to;
  to.shape = shape;
  to.labels.assign(shape.size(), -1);
  const Val* timed = nullptr;
  for (const Val* v : {&a, &b}) {
    const size_t shift = shape.size() - v->shape.size();
    const int time = v->time < 0 ? -1 : v->time + static_cast<int>(shift);
    for (size_t i = 0; i < v->labels.size(); ++i) {
      int& label = to.labels[i + shift];
      if (label >= 0 && v->labels[i] >= 0 && a.shape.size() == b.shape.size() && (a.shape[i] == b.shape[i])) Unite(label, v->labels[i]);
      if (label < 0 || v->shape[i] > 1) label = v->labels[i] >= 0 ? v->labels[i] : label;
    }
    to.last = to.last || v->last;
    if (time < 0) {
      continue;
    }
    if (timed != nullptr && (to.time != time || timed->head != v->head || timed->tail != v->tail)) return absl::InvalidArgumentError("combines values whose time does not run side by side");
    timed = v;
    to.time = time;
    to.head = v->head;
    to.tail = v->tail;
  }
  if (timed != nullptr && to.last) return LooksAhead("brings the end of the sequence to every step of it: it looks ahead");
  if (to.time >= 0 && shape[static_cast<size_t>(to.time)] != 1) return absl::InvalidArgumentError("combines time with another axis, or with a constant for each step");
  Val like;
  like.time = to.time;
  like.head = to.head;
  like.tail = to.tail;
  like.last = to.last;
  like.labels = to.labels;
  const int64_t n = CheckedElementCount(shape);
  // A constant for each element of the last axis, or one for all, is an affine op.
  for (const bool second : {true, false}) {
    const Val &c = second ? b : a, &x = second ? a : b;
    const bool product = kind == ElementwiseKind::kMultiply || (kind == ElementwiseKind::kDivide && second);
    const bool sum = kind == ElementwiseKind::kAdd || kind == ElementwiseKind::kSubtract;
    if (!c.constant() || x.count() != n || (!product && !sum)) continue;
    const int64_t m = c.count(), width = shape.empty() ? 1 : shape.back();
    if (m != 1 && (m != width || c.shape.back() != width)) continue;
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(c));
    if (!tensor->is_float) return absl::InvalidArgumentError("combines floats and integers");
    auto scale = NewConstant({m}), offset = NewConstant({m});
    bool good = true;
    for (size_t i = 0; i < static_cast<size_t>(m); ++i) {
      const float v = tensor->floats[i];
      scale->values[i] = product ? (kind == ElementwiseKind::kDivide ? 1 / v : v) : kind == ElementwiseKind::kSubtract && !second ? -1 : 1;
      offset->values[i] = product ? 0 : kind == ElementwiseKind::kSubtract && second ? -v : v;
      good = good && std::isfinite(scale->values[i]);
    }
    if (!good) return absl::InvalidArgumentError("divides by zero");
    LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(x, m == 1 ? Shape{n} : Shape{n / m, m}));
    LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", AffineOp{scale, offset}, {in}));
    return Computed(y, shape, like);
  }
  std::vector<ValueId> operands;
  for (const auto& [v, spread] : {std::pair<const Val*, const Arrangement*>{&a, &spread_a}, {&b, &spread_b}}) {
    if (v->count() == n || v->count() == 1) {
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*v, {v->count()}));
      operands.push_back(id);
      continue;
    }
    LSTM_ASSIGN_OR_RETURN(const ValPtr wide, Arranged(*v, *spread, shape));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*wide, {n}));
    operands.push_back(id);
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", ElementwiseOp{kind}, std::move(operands)));
  ValPtr out = Computed(y, shape, like);
  return out;
}

}  // namespace lstm::core::onnx
