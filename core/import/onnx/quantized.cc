// SPDX-License-Identifier: MIT
// What quantised operators are made of. A quantised value goes on as whole numbers in floats, so sums of products are those of integers as long as
// they fit 24 bits; weights of 8 bits become floats where an op takes them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

using E = ElementwiseKind;

// Below this no range of a step is told from none: it keeps zeros from being divided by zero.
constexpr float kLeastScale = 1e-30f;

// Padding is zeros before and after an op of these, which sees none of it.
Val Unpadded(const Val& x) {
  Val out = x;
  out.head = 0;
  return out;
}

ValPtr PaddedAs(const ValPtr& y, const Val& x, ValPtr padding) {
  if (x.head == 0 && !x.zeros_behind) return y;
  auto out = std::make_shared<Val>(*y);
  out->head = x.head;
  out->zeros_behind = x.zeros_behind;
  out->padding = std::move(padding);
  return out;
}

bool SameNumber(const ValPtr& a, const ValPtr& b) {
  if (!a || !b || a == b) return a == b;
  if (a->tensor && b->tensor) return a->tensor->size() == 1 && b->tensor->size() == 1 && a->tensor->At(0) == b->tensor->At(0);
  if (a->stored && b->stored) return a->stored->message.data() == b->stored->message.data();
  return a->source >= 0 && a->source == b->source;
}

int64_t TypeOf(const Val& val) { return val.stored ? val.stored->type : val.tensor ? val.tensor->type : 0; }

}  // namespace

void Quantized::Apply(std::vector<float>& weights) const {
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto item = static_cast<size_t>(rows == 0 ? at / inner % items : at / (rows * columns) * columns + at % columns);
    if (!zero.empty()) weights[i] -= zero[zero.size() == 1 ? 0 : item];
    if (!scale.empty()) weights[i] *= scale[scale.size() == 1 ? 0 : item];
  }
  if (rows == 0) return;
  const std::vector<float> from = weights;
  const auto r = static_cast<size_t>(rows), c = static_cast<size_t>(columns);
  for (size_t begin = 0; begin < from.size(); begin += r * c) {
    for (size_t i = 0; i < r * c; ++i) weights[begin + i % c * r + i / c] = from[begin + i];
  }
}

absl::StatusOr<ValPtr> Lowering::Sub(std::string_view op, const Call& call, std::vector<ValPtr> in) {
  NodeView node = call.node;
  node.op = op;
  node.domain = {};
  Call inner{node, std::move(in), {nullptr}};
  absl::Status status = absl::UnimplementedError("");
  using Part = absl::Status (Lowering::*)(Call&);
  for (Part part : {&Lowering::Structure, &Lowering::Math, &Lowering::Windows, &Lowering::Recurrent}) {
    status = (this->*part)(inner);
    if (!absl::IsUnimplemented(status)) break;
  }
  LSTM_RETURN_IF_ERROR(status);
  return inner.out[0];
}

// A scale or a zero point as it stands beside x: one number, or one for each item of `axis`.
absl::StatusOr<ValPtr> Lowering::Beside(const Val& x, const ValPtr& number, int64_t axis, const char* what) {
  ValPtr out = number;
  if (out->constant() && !out->is_float) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr ints, Constant(*out));
    Tensor floats{true, ints->shape, {}, {}};
    for (int64_t v : ints->ints) floats.floats.push_back(static_cast<float>(v));
    out = MakeConstantVal(std::move(floats));
  }
  if (out->count() == 1) return out->constant() ? Reshaped(*out, {}) : out;
  if (x.shape.empty()) return absl::InvalidArgumentError(absl::StrCat("its ", what, " has ", out->count(), " numbers for one"));
  LSTM_ASSIGN_OR_RETURN(const size_t a, Axis(axis, x.shape.size()));
  if (out->shape.size() != 1 || out->count() != x.shape[a]) {
    return absl::InvalidArgumentError(absl::StrCat("its ", what, " has shape ", ShapeString(out->shape), ", expected one number, or one for each item of axis ", a, " of shape ", ShapeString(x.shape)));
  }
  Shape shape(x.shape.size() - a, 1);
  shape[0] = x.shape[a];
  return Reshaped(*out, shape);
}

absl::StatusOr<ValPtr> Lowering::Dequantized(const ValPtr& x, const ValPtr& scale, const ValPtr& zero, int64_t axis) {
  if (x->constant()) {
    auto how = std::make_shared<Quantized>();
    const auto numbers = [&](const ValPtr& from, const char* what, std::vector<float>& out) -> absl::Status {
      if (!from) return absl::OkStatus();
      LSTM_ASSIGN_OR_RETURN(const ValPtr beside, Beside(*x, from, axis, what));
      LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*beside));
      out = t->floats;
      return absl::OkStatus();
    };
    LSTM_RETURN_IF_ERROR(numbers(scale, "scale", how->scale));
    LSTM_RETURN_IF_ERROR(numbers(zero, "zero point", how->zero));
    const auto large = [](float v) { return !(std::abs(v) < 1e30f); };  // 8 bits of it would be no number, or times another
    if (std::any_of(how->scale.begin(), how->scale.end(), large)) return absl::InvalidArgumentError("its scale is not finite, or makes weights that are not");
    if (how->scale.empty() && std::all_of(how->zero.begin(), how->zero.end(), [](float z) { return z == 0; })) return x;
    if (std::max(how->scale.size(), how->zero.size()) > 1) {
      LSTM_ASSIGN_OR_RETURN(const size_t a, Axis(axis, x->shape.size()));
      how->items = x->shape[a];
      how->inner = CheckedElementCount({x->shape.begin() + static_cast<long>(a) + 1, x->shape.end()});
    }
    auto out = std::make_shared<Val>(*x);
    out->is_float = true;
    if (out->stored && IsQuantized(out->stored->type) && !out->quantized) {  // weights stay in the file until an op takes them
      out->quantized = std::move(how);
      out->tensor.reset();
      out->labels.assign(out->shape.size(), -1);
      return ValPtr(out);
    }
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, Constant(*x));
    Tensor floats{true, from->shape, {}, {}};
    for (size_t i = 0; i < from->size(); ++i) floats.floats.push_back(static_cast<float>(from->At(i)));
    how->Apply(floats.floats);
    return MakeConstantVal(std::move(floats));
  }
  if (x->head != 0 && !SameNumber(x->padding, zero)) return absl::InvalidArgumentError("reads a sequence that was padded by another number than its zero point");
  ValPtr y = std::make_shared<const Val>(Unpadded(*x));
  if (zero) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr z, Beside(*x, zero, axis, "zero point"));
    bool none = false;
    if (z->constant()) {
      LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*z));
      none = std::all_of(t->floats.begin(), t->floats.end(), [](float v) { return v == 0; });
    }
    if (!none) {
      LSTM_ASSIGN_OR_RETURN(y, Combine(E::kSubtract, *y, *z));
    }
  }
  if (scale) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr s, Beside(*x, scale, axis, "scale"));
    LSTM_ASSIGN_OR_RETURN(y, Combine(E::kMultiply, *y, *s));
  }
  return PaddedAs(y, *x, nullptr);
}

absl::StatusOr<ValPtr> Lowering::Quantize(const Val& x, const ValPtr& scale, const ValPtr& zero, int64_t axis, int64_t type) {
  const int64_t said = zero ? TypeOf(*zero) : 0;
  if (said != 0) type = said;
  double low = 0, high = 255;
  switch (type) {
    case 2: break;
    case 3: low = -128, high = 127; break;
    case 4: high = 65535; break;
    case 5: low = -32768, high = 32767; break;
    default: return absl::InvalidArgumentError(absl::StrCat("quantises to element type ", type, ", expected integers of 8 or 16 bits"));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr s, Beside(x, scale, axis, "scale"));
  if (s->constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*s));
    if (std::any_of(t->floats.begin(), t->floats.end(), [](float v) { return v == 0; })) return absl::InvalidArgumentError("divides by zero");
  }
  // Divided, where a product with the reciprocal would do: ties are common, a mean of quantised values say, and must be seen as such.
  LSTM_ASSIGN_OR_RETURN(const ValPtr divisor, AsComputed(s));
  LSTM_ASSIGN_OR_RETURN(ValPtr y, Combine(E::kDivide, Unpadded(x), *divisor));
  LSTM_ASSIGN_OR_RETURN(y, Activated(*y, {ActivationKind::kRound}));
  if (zero) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr z, Beside(x, zero, axis, "zero point"));
    LSTM_ASSIGN_OR_RETURN(y, Combine(E::kAdd, *y, *z));
  }
  LSTM_ASSIGN_OR_RETURN(y, Activated(*y, {ActivationKind::kClip, static_cast<float>(low), static_cast<float>(high)}));
  return PaddedAs(y, x, zero);
}

// By its range, that of the step or of the whole sequence, zero in it: x as 0 to 255, the scale, the zero point.
absl::Status Lowering::QuantizeByRange(const ValPtr& from, ValPtr& y, ValPtr& scale, ValPtr& zero) {
  LSTM_ASSIGN_OR_RETURN(ValPtr x, AsComputed(from));
  Val bare = Unpadded(*x);
  if (x->zeros_behind) bare.tail = 0;
  ValPtr most, least;
  if (whole_ && x->time >= 0) {
    LSTM_ASSIGN_OR_RETURN(most, Reduced(bare, ReduceKind::kMaximum, {}, true));
    LSTM_ASSIGN_OR_RETURN(least, Reduced(bare, ReduceKind::kMinimum, {}, true));
    NewStage(-1);
    most = Bring(*most, {-1, SequenceRead::kAfter});
    least = Bring(*least, {-1, SequenceRead::kAfter});
    x = PaddedAs(Bring(bare, {-1, SequenceRead::kEach}), *x, x->padding);
  } else {
    const Shape one = x->time >= 0 ? Shape(x->shape.size(), 1) : Shape{};  // time goes on through it
    const int64_t n = x->count();
    const auto edge = [&](ReduceKind kind) -> absl::StatusOr<ValPtr> {
      LSTM_RETURN_IF_ERROR(Spend(n));
      LSTM_ASSIGN_OR_RETURN(ValueId id, Use(bare, {n}));
      if (n > 1) {
        LSTM_ASSIGN_OR_RETURN(id, Add("range", ReduceOp{kind}, {id}));
      }
      Val like = bare;
      like.labels.assign(one.size(), -1);
      return Computed(id, one, like);
    };
    LSTM_ASSIGN_OR_RETURN(most, edge(ReduceKind::kMaximum));
    LSTM_ASSIGN_OR_RETURN(least, edge(ReduceKind::kMinimum));
  }
  constexpr float kMost = std::numeric_limits<float>::max();
  LSTM_ASSIGN_OR_RETURN(most, Activated(*most, {ActivationKind::kClip, 0, kMost}));
  LSTM_ASSIGN_OR_RETURN(least, Activated(*least, {ActivationKind::kClip, -kMost, 0}));
  LSTM_ASSIGN_OR_RETURN(const ValPtr range, Combine(E::kSubtract, *most, *least));
  LSTM_ASSIGN_OR_RETURN(scale, Combine(E::kDivide, *range, *MakeConstantVal({true, {}, {255}, {}})));
  LSTM_ASSIGN_OR_RETURN(scale, Activated(*scale, {ActivationKind::kClip, kLeastScale, kMost}));
  LSTM_ASSIGN_OR_RETURN(const ValPtr below, Activated(*least, {ActivationKind::kNegate}));
  LSTM_ASSIGN_OR_RETURN(const ValPtr steps, Combine(E::kDivide, *below, *scale));
  LSTM_ASSIGN_OR_RETURN(const ValPtr whole, Activated(*steps, {ActivationKind::kRound}));
  LSTM_ASSIGN_OR_RETURN(zero, Activated(*whole, {ActivationKind::kClip, 0, 255}));
  LSTM_ASSIGN_OR_RETURN(y, Quantize(*x, scale, zero, 0, 2));
  return absl::OkStatus();
}

absl::StatusOr<ValPtr> Lowering::AsQuantized(const ValPtr& x) {
  ValPtr y, scale, zero;
  LSTM_RETURN_IF_ERROR(QuantizeByRange(x, y, scale, zero));
  return Dequantized(y, scale, zero, 0);
}

}  // namespace lstm::core::onnx
