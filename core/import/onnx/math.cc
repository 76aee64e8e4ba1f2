// SPDX-License-Identifier: MIT
// Ops that compute: element by element, products, reductions, norms. What is constant is folded.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
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
  if (timed != nullptr && to.last) return absl::InvalidArgumentError("brings the end of the sequence to every step of it: it looks ahead");
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

absl::StatusOr<ValPtr> Lowering::Linear(const Val& val, ConstantPtr weight, ConstantPtr bias) {
  const int64_t in = weight->shape[1], out = weight->shape[0];
  if (val.shape.empty() || val.shape.back() != in) {
    return absl::InvalidArgumentError(absl::StrCat("its weights expect ", in, " in the last axis of shape ", ShapeString(val.shape)));
  }
  if (val.time == static_cast<int>(val.shape.size()) - 1) return absl::InvalidArgumentError("multiplies along time: it needs the whole sequence");
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
    LSTM_ASSIGN_OR_RETURN(const TensorPtr w, ConstantOf(call, 1, "matrix"));
    if (!w->is_float || w->size() == 0) return Refuse("its matrix is empty, or has integers");
    const size_t rank = w->shape.size();
    const int64_t in = rank == 1 ? w->shape[0] : w->shape[rank - 2], out = rank == 1 ? 1 : w->shape[rank - 1];
    auto weight = NewConstant({out, in});
    for (int64_t i = 0; i < in; ++i) {
      for (int64_t o = 0; o < out; ++o) weight->values.data()[o * in + i] = w->floats[static_cast<size_t>(i * out + o)];
    }
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
    if (v->time >= static_cast<int>(v->shape.size()) - 2) return Refuse("multiplies along time: it needs the whole sequence");
    if (!v->is_float) return Refuse("multiplies integers");
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
  const int ta = a.time < 0 ? -1 : a.time + static_cast<int>(shape_a.size() - a.shape.size()), tb = b.time < 0 ? -1 : b.time + static_cast<int>(shape_b.size() - b.shape.size());
  if ((ta >= 0 && tb >= 0 && ta != tb) || ((ta >= 0 || tb >= 0) && (a.last || b.last))) return Refuse("multiplies values whose time does not run side by side");
  LSTM_ASSIGN_OR_RETURN(const ValueId x, Use(*wide_a, shape_a));
  LSTM_ASSIGN_OR_RETURN(const ValueId w, Use(*wide_b, shape_b));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", MatMulOp{}, {x, w}));
  Val like;
  like.time = std::max(ta, tb);
  like.last = a.last || b.last;
  call.out[0] = Computed(y, builder_.value(y).shape, like);
  return absl::OkStatus();
}

absl::Status Lowering::LowerGemm(Call& call) {
  if (!call.has(0) || !call.has(1)) return Refuse("expected two inputs and a bias");
  ValPtr a = call.in[0];
  if (a->shape.size() != 2) return Refuse(absl::StrCat("multiplies shape ", ShapeString(a->shape), ", expected two dimensions"));
  if (call.node.Int("transA", 0) != 0) {
    if (a->time >= 0) return Refuse("multiplies along time: it needs the whole sequence");
    LSTM_ASSIGN_OR_RETURN(a, Arranged(*a, Transposed(a->shape, {1, 0}), {a->shape[1], a->shape[0]}));
  }
  LSTM_ASSIGN_OR_RETURN(const TensorPtr w, ConstantOf(call, 1, "matrix"));
  if (!w->is_float || w->shape.size() != 2 || w->size() == 0) return Refuse(absl::StrCat("its matrix has shape ", ShapeString(w->shape), ", expected two dimensions"));
  const float alpha = call.node.Float("alpha", 1), beta = call.node.Float("beta", 1);
  const bool turned = call.node.Int("transB", 0) != 0;
  const int64_t out = w->shape[turned ? 0 : 1], in = w->shape[turned ? 1 : 0];
  auto weight = NewConstant({out, in});
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) weight->values.data()[o * in + i] = alpha * w->floats[static_cast<size_t>(turned ? o * in + i : i * out + o)];
  }
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
  for (size_t a = 0; a < val.shape.size(); ++a) {
    if (gone[a] && val.time == static_cast<int>(a)) return absl::InvalidArgumentError("reduces over time: it needs the whole sequence");
    if (gone[a] && val.time < 0 && IsOpen(val.labels[a]) && MakeTime(val.labels[a])) return absl::AbortedError("time was found");
    if (gone[a]) {
      n *= val.shape[a];
      kept_last.push_back(static_cast<int64_t>(a));
      if (!keep) continue;
    } else {
      perm.push_back(static_cast<int64_t>(a));
      compact.push_back(val.shape[a]);
    }
    if (val.time == static_cast<int>(a)) time = static_cast<int>(shape.size());
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
  if (op == "ReduceL2" || op == "ReduceSumSquare") {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kSquare}));
  } else if (op == "ReduceL1") {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kAbs}));
  }
  LSTM_ASSIGN_OR_RETURN(call.out[0], Reduced(*x, kind, axes, call.node.Int("keepdims", 1) != 0));
  if (op == "ReduceL2") {
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(*call.out[0], {ActivationKind::kSqrt}));
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
  if (x.time == axis || (file_.opset < 13 && x.time >= axis)) return Refuse("runs over time: it needs the whole sequence");
  if (x.constant()) return Refuse("its input is a constant");
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

absl::Status Lowering::LowerNorm(Call& call) {  // LayerNormalization
  const Val& x = call[0];
  const auto rank = static_cast<int64_t>(x.shape.size());
  int64_t axis = call.node.Int("axis", -1);
  if (axis < -rank || axis >= rank) return Refuse(absl::StrCat("axis is ", axis, " of ", rank));
  if (axis < 0) axis += rank;
  if (x.time >= axis) return Refuse("runs over time: it needs the whole sequence");
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
  if (x.time == 0 || x.time == 1) return Refuse("time is its axis of batch or channels");
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

absl::Status Lowering::Math(Call& call) {
  using A = ActivationKind;
  using E = ElementwiseKind;
  const NodeView& node = call.node;
  const std::string_view op = node.op;
  static const std::unordered_map<std::string_view, A> kUnary = {
      {"Relu", A::kRelu}, {"Sigmoid", A::kSigmoid}, {"Tanh", A::kTanh}, {"Softplus", A::kSoftplus}, {"LeakyRelu", A::kLeakyRelu}, {"Elu", A::kElu},
      {"HardSigmoid", A::kHardSigmoid}, {"Gelu", A::kGelu}, {"Exp", A::kExp}, {"Log", A::kLog}, {"Abs", A::kAbs}, {"Neg", A::kNegate}, {"Sqrt", A::kSqrt},
      {"Reciprocal", A::kReciprocal}, {"Erf", A::kErf}, {"Softsign", A::kSoftsign}, {"ThresholdedRelu", A::kThresholdedRelu}, {"Floor", A::kFloor},
      {"Sign", A::kSign}, {"Sin", A::kSin}, {"Cos", A::kCos}};
  static const std::unordered_map<std::string_view, E> kBinary = {{"Add", E::kAdd}, {"Sub", E::kSubtract}, {"Mul", E::kMultiply}, {"Div", E::kDivide},
                                                                  {"Min", E::kMinimum}, {"Max", E::kMaximum}, {"Sum", E::kAdd}};
  static const std::unordered_map<std::string_view, ReduceKind> kReduce = {
      {"ReduceMean", ReduceKind::kMean}, {"ReduceSum", ReduceKind::kSum}, {"ReduceMax", ReduceKind::kMaximum}, {"ReduceMin", ReduceKind::kMinimum},
      {"ReduceProd", ReduceKind::kProduct}, {"ReduceL2", ReduceKind::kSum}, {"ReduceL1", ReduceKind::kSum}, {"ReduceSumSquare", ReduceKind::kSum}};
  static const std::set<std::string_view> kOthers = {"MatMul", "Gemm", "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "Pow", "Clip", "PRelu",
                                                     "HardSwish", "Mish", "Selu", "Celu", "Equal", "Not", "And", "Or", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
                                                     "Where", "Range", "Mod"};
  const auto unary = kUnary.find(op);
  const auto binary = kBinary.find(op);
  const auto reduce = kReduce.find(op);
  if (unary == kUnary.end() && binary == kBinary.end() && reduce == kReduce.end() && !kOthers.contains(op)) return absl::UnimplementedError("");
  if (!call.has(0)) return Refuse("its first input is missing");
  const Val& x = call[0];
  static const std::set<std::string_view> kDecisions = {"Equal", "Not", "And", "Or", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Where", "Range", "Mod"};
  if (!x.constant() && !x.is_float && !kDecisions.contains(op)) return Refuse("computes with integers of every step, which are ids alone");
  if (unary != kUnary.end()) {
    ActivationOp a{unary->second};
    if (a.kind == A::kLeakyRelu) a.alpha = node.Float("alpha", 0.01f);
    if (a.kind == A::kElu || a.kind == A::kThresholdedRelu) a.alpha = node.Float("alpha", 1);
    if (a.kind == A::kHardSigmoid) a.alpha = node.Float("alpha", 0.2f), a.beta = node.Float("beta", 0.5f);
    if (a.kind == A::kGelu && node.Text("approximate", "none") != "none") return Refuse("its approximation by tanh is not supported");
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, a));
    NoteGate(op, call);
    return absl::OkStatus();
  }
  if (binary != kBinary.end()) {
    ValPtr y = call.in[0];
    const bool two = binary->second != E::kMinimum && binary->second != E::kMaximum && op != "Sum";
    if (two && call.in.size() != 2) return Refuse(absl::StrCat("has ", call.in.size(), " inputs, expected 2"));
    for (size_t i = 1; i < call.in.size(); ++i) {
      if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
      LSTM_ASSIGN_OR_RETURN(y, Combine(binary->second, *y, call[i]));
    }
    call.out[0] = y;
    NoteGate(op, call);
    return absl::OkStatus();
  }
  if (reduce != kReduce.end()) return LowerReduce(call, reduce->second);
  if (op == "MatMul") return LowerMatMul(call);
  if (op == "Gemm") return LowerGemm(call);
  if (op == "Softmax" || op == "LogSoftmax") return LowerSoftmax(call, op == "LogSoftmax");
  if (op == "LayerNormalization") return LowerNorm(call);
  if (op == "BatchNormalization") return LowerBatchNorm(call);
  const auto number = [&](size_t i, const char* what) -> absl::StatusOr<double> {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, i, what));
    if (t->size() != 1) return absl::InvalidArgumentError(absl::StrCat("its ", what, " has ", t->size(), " numbers, expected one"));
    return t->At(0);
  };
  if (op == "Pow") {
    LSTM_ASSIGN_OR_RETURN(const double p, number(1, "exponent"));
    if (p == 1) {
      call.out[0] = call.in[0];
      return absl::OkStatus();
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, p == 2 ? ActivationOp{A::kSquare} : p == 0.5 ? ActivationOp{A::kSqrt} : ActivationOp{A::kPower, static_cast<float>(p)}));
    return absl::OkStatus();
  }
  if (op == "Clip") {
    double low = -static_cast<double>(std::numeric_limits<float>::max()), high = -low;
    if (node.Find("min") != nullptr) low = static_cast<double>(node.Float("min", 0));
    if (node.Find("max") != nullptr) high = static_cast<double>(node.Float("max", 0));
    if (call.has(1)) {
      LSTM_ASSIGN_OR_RETURN(low, number(1, "lower bound"));
    }
    if (call.has(2)) {
      LSTM_ASSIGN_OR_RETURN(high, number(2, "upper bound"));
    }
    if (!(low <= high)) return Refuse(absl::StrCat("clips to ", low, " .. ", high));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, {A::kClip, static_cast<float>(low), static_cast<float>(high)}));
    return absl::OkStatus();
  }
  if (op == "PRelu") {  // max(x, 0) + slope * min(x, 0)
    if (!call.has(1)) return Refuse("its slope is missing");
    LSTM_ASSIGN_OR_RETURN(const ValPtr up, Activated(x, {A::kRelu}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr down, Activated(x, {A::kClip, -std::numeric_limits<float>::max(), 0}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr scaled, Combine(E::kMultiply, *down, call[1]));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kAdd, *up, *scaled));
    return absl::OkStatus();
  }
  if (op == "HardSwish" || op == "Mish") {
    ValPtr gate;
    if (op == "HardSwish") {
      LSTM_ASSIGN_OR_RETURN(gate, Activated(x, {A::kHardSigmoid, 1.0f / 6, 0.5f}));
    } else {
      LSTM_ASSIGN_OR_RETURN(gate, Activated(x, {A::kSoftplus}));
      LSTM_ASSIGN_OR_RETURN(gate, Activated(*gate, {A::kTanh}));
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kMultiply, x, *gate));
    return absl::OkStatus();
  }
  if (op == "Selu") {
    if (x.constant()) return Refuse("its input is a constant");
    LSTM_ASSIGN_OR_RETURN(const ValPtr y, Activated(x, {A::kElu, node.Float("alpha", 1.67326319217681884765625f)}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Scaled(*y, static_cast<double>(node.Float("gamma", 1.05070102214813232421875f)), 0));
    return absl::OkStatus();
  }
  if (op == "Celu") return Refuse("this operator is not supported");
  // What is left are decisions over constants.
  std::vector<TensorPtr> t;
  for (size_t i = 0; i < call.in.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, ConstantOf(call, i, "input"));
    t.push_back(tensor);
  }
  const size_t wanted = op == "Not" ? 1 : op == "Where" || op == "Range" ? 3 : 2;
  if (t.size() != wanted) return Refuse(absl::StrCat("has ", t.size(), " inputs, expected ", wanted));
  if (op == "Range") {
    const double start = t[0]->size() == 1 ? t[0]->At(0) : NAN, limit = t[1]->size() == 1 ? t[1]->At(0) : NAN, delta = t[2]->size() == 1 ? t[2]->At(0) : NAN;
    const double n = std::ceil((limit - start) / delta);
    if (!(n <= kMaxInts)) return Refuse(absl::StrCat("gives ", n, " numbers, expected at most ", kMaxInts));
    Tensor out{t[0]->is_float, {std::max<int64_t>(0, static_cast<int64_t>(n))}, {}, {}};
    for (int64_t i = 0; i < out.shape[0]; ++i) {
      const double v = start + static_cast<double>(i) * delta;
      if (out.is_float) out.floats.push_back(static_cast<float>(v));
      if (!out.is_float) out.ints.push_back(static_cast<int64_t>(v));
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  Shape shape;
  for (const TensorPtr& tensor : t) {
    LSTM_ASSIGN_OR_RETURN(shape, BroadcastShape(shape, tensor->shape));
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  if (count > kMaxInts) return Refuse(absl::StrCat("gives ", count, " numbers, expected at most ", kMaxInts));
  std::vector<std::vector<size_t>> at(t.size());
  for (size_t i = 0; i < t.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const Arrangement spread, Broadcast(t[i]->shape, shape));
    spread.ForEach([&](int64_t k) { at[i].push_back(static_cast<size_t>(k)); });
  }
  Tensor out{op == "Where" && t[1]->is_float, shape, {}, {}};
  for (size_t k = 0; k < static_cast<size_t>(count); ++k) {
    const double a = t[0]->At(at[0][k]), b = t.size() > 1 ? t[1]->At(at[1][k]) : 0;
    if (op == "Where") {
      const size_t pick = a != 0 ? 1 : 2;
      if (t[1]->is_float != t[2]->is_float) return Refuse("chooses between floats and integers");
      if (out.is_float) out.floats.push_back(t[pick]->floats[at[pick][k]]);
      if (!out.is_float) out.ints.push_back(t[pick]->ints[at[pick][k]]);
      continue;
    }
    if (op == "Mod" && b == 0) return Refuse("divides by zero");
    const bool truth = op == "Equal" ? a == b : op == "Not" ? a == 0 : op == "And" ? a != 0 && b != 0 : op == "Or" ? a != 0 || b != 0 : op == "Less" ? a < b
                       : op == "Greater" ? a > b : op == "LessOrEqual" ? a <= b : a >= b;
    out.ints.push_back(op == "Mod" ? static_cast<int64_t>(a - b * std::floor(a / b)) : truth ? 1 : 0);
  }
  call.out[0] = MakeConstantVal(std::move(out));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
