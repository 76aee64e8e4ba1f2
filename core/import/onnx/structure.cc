// SPDX-License-Identifier: MIT
// Ops that only move elements, and constants: which op is which.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::Status Lowering::Structure(Call& call) {
  const std::string_view op = call.node.op;
  if (op == "Constant") {
    Tensor out;
    if (const Attribute* a = call.node.Find("value")) {
      LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor(a->tensor));
      auto val = std::make_shared<Val>();
      val->stored = stored;
      val->is_float = IsFloatType(stored.type) || IsQuantized(stored.type);
      val->shape = stored.shape;
      val->labels.assign(val->shape.size(), -1);
      if (val->count() < 4096 || !val->is_float) {
        LSTM_ASSIGN_OR_RETURN(val->tensor, LoadTensor(stored));
      }
      call.out[0] = std::move(val);
      return absl::OkStatus();
    }
    if (const Attribute* f = call.node.Find("value_float")) out.floats = {f->f};
    else if (const Attribute* i = call.node.Find("value_int")) out.is_float = false, out.ints = {i->i};
    else if (const Attribute* fs = call.node.Find("value_floats")) out.floats = fs->floats, out.shape = {static_cast<int64_t>(fs->floats.size())};
    else if (const Attribute* is = call.node.Find("value_ints")) out.is_float = false, out.ints = is->ints, out.shape = {static_cast<int64_t>(is->ints.size())};
    else return Refuse("its value is missing or no tensor of numbers");
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  if (op == "ConstantOfShape") {
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> ints, IntsOf(call, 0, "shape"));
    const Shape shape(ints.begin(), ints.end());
    LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
    LSTM_RETURN_IF_ERROR(Spend(count));
    Tensor out;
    if (const Attribute* a = call.node.Find("value")) {
      LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor(a->tensor));
      LSTM_ASSIGN_OR_RETURN(const TensorPtr value, LoadTensor(stored));
      if (value->size() != 1) return Refuse("its value is not one number");
      out = *value;
    } else {
      out.floats = {0};
    }
    if (!out.is_float && count > kMaxInts) return Refuse("gives too many integers");
    if (out.is_float) out.floats.assign(static_cast<size_t>(count), out.floats[0]);
    if (!out.is_float) out.ints.assign(static_cast<size_t>(count), out.ints[0]);
    out.shape = shape;
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  static constexpr std::string_view kOurs[] = {"Shape", "Size", "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather",
                                               "Concat", "Split", "Pad", "Expand", "Tile", "Cast", "CastLike", "TopK", "ScatterElements", "Scatter",
                                               "ScatterND", "ReverseSequence", "OneHot", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth", "Trilu", "EyeLike", "Resize", "Upsample"};
  if (std::find(std::begin(kOurs), std::end(kOurs), op) == std::end(kOurs)) return absl::UnimplementedError("");
  if (!call.has(0)) return Refuse("its first input is missing");
  const Val& x = call[0];
  if (op == "Shape") return LowerShape(call);
  if (op == "Size") {
    call.out[0] = MakeConstantVal({false, {}, {}, {CheckedElementCount(FullShape(x))}});
    return absl::OkStatus();
  }
  if (op == "Identity" || op == "Dropout") {
    call.out[0] = call.in[0];
    if (call.out.size() > 1) call.out[1] = MakeConstantVal({false, {1}, {}, {1}});
    return absl::OkStatus();
  }
  if (op == "Cast" || op == "CastLike") {
    const int64_t to = op == "CastLike" ? (call.has(1) && call[1].is_float ? 1 : 7) : call.node.Int("to", 1);
    if (!x.constant() && !x.is_float && to == 9) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr number, AsFloats(call.in[0]));
      LSTM_ASSIGN_OR_RETURN(const ValPtr size, Activated(*number, {ActivationKind::kAbs}));
      LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(*size, {ActivationKind::kSign}));
      return absl::OkStatus();
    }
    if (!x.constant() && x.is_float && !IsFloatType(to)) {  // it goes on as floats: truth values are 0 or 1, others whole
      LSTM_ASSIGN_OR_RETURN(const ValPtr size, Activated(x, {ActivationKind::kAbs}));
      LSTM_ASSIGN_OR_RETURN(const ValPtr sign, Activated(to == 9 ? *size : x, {ActivationKind::kSign}));
      call.out[0] = sign;
      if (to == 9) return absl::OkStatus();
      LSTM_ASSIGN_OR_RETURN(const ValPtr floor, Activated(*size, {ActivationKind::kFloor}));
      LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(ElementwiseKind::kMultiply, *floor, *sign));
      return absl::OkStatus();
    }
    const bool to_float = op == "CastLike" ? call.has(1) && call[1].is_float : IsFloatType(call.node.Int("to", 1));
    if (to_float == x.is_float) {
      call.out[0] = call.in[0];
      if (!x.constant() || call.node.Int("to", 1) != 9) return absl::OkStatus();
    }
    if (!x.constant()) {
      LSTM_ASSIGN_OR_RETURN(call.out[0], AsFloats(call.in[0]));
      return absl::OkStatus();
    }
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, ConstantOf(call, 0, "input"));
    Tensor out{to_float, from->shape, {}, {}};
    if (!to_float && from->size() > static_cast<size_t>(kMaxInts)) return Refuse("gives too many integers");
    for (size_t i = 0; i < from->size(); ++i) {
      const double v = from->At(i);
      if (to_float && !from->is_float && IsTimeLength(std::abs(from->ints[i])) && from->ints[i] % kTime == 0) return Refuse("computes with the length of the sequence, which no step knows");
      if (to_float) out.floats.push_back(static_cast<float>(v));
      if (!to_float) out.ints.push_back(call.node.Int("to", 1) == 9 ? v != 0 : std::fabs(v) < 9e18 ? static_cast<int64_t>(v) : 0);
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  if (op == "Reshape") {
    std::vector<int64_t> target;
    if (const Attribute* a = call.node.Find("shape")) {
      target = a->ints;
    } else {
      LSTM_ASSIGN_OR_RETURN(target, IntsOf(call, 1, "shape"));
    }
    return LowerReshape(call, target, call.node.Int("allowzero", 0) == 0);
  }
  if (op == "Flatten") {
    const Shape full = FullShape(x);
    const int64_t rank = static_cast<int64_t>(full.size());
    int64_t axis = call.node.Int("axis", 1), front = 1;
    if (axis < -rank || axis > rank) return Refuse(absl::StrCat("axis is ", axis));
    if (axis < 0) axis += rank;
    for (int64_t a = 0; a < axis; ++a) front *= full[static_cast<size_t>(a)];
    return LowerReshape(call, {front, -1}, false);
  }
  if (op == "Squeeze" || op == "Unsqueeze") {
    std::vector<int64_t> axes;
    if (const Attribute* a = call.node.Find("axes")) {
      axes = a->ints;
    } else if (call.has(1)) {
      LSTM_ASSIGN_OR_RETURN(axes, IntsOf(call, 1, "axes"));
    } else if (op == "Unsqueeze") {
      return Refuse("its axes are missing");
    }
    const size_t rank = x.shape.size() + (op == "Unsqueeze" ? axes.size() : 0);
    if (rank > 16) return Refuse("gives more than 16 dimensions");
    std::vector<bool> chosen(rank, false);
    for (int64_t a : axes) {
      LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(a, rank));
      if (chosen[axis]) return Refuse("names an axis twice");
      chosen[axis] = true;
    }
    Shape shape;
    std::vector<int> labels;
    int time = -1;
    if (op == "Squeeze") {
      for (size_t a = 0; a < rank; ++a) {
        if (axes.empty() && x.shape[a] == 1 && x.time != static_cast<int>(a)) chosen[a] = true;
        if (chosen[a] && x.time == static_cast<int>(a)) return Refuse(absl::StrCat("drops axis ", a, ", which is time"));
        if (chosen[a] && x.shape[a] != 1) return Refuse(absl::StrCat("drops axis ", a, " of shape ", ShapeString(x.shape)));
        if (chosen[a]) continue;
        if (x.time == static_cast<int>(a)) time = static_cast<int>(shape.size());
        shape.push_back(x.shape[a]);
        labels.push_back(x.labels[a]);
      }
    } else {
      size_t from = 0;
      for (size_t a = 0; a < rank; ++a) {
        if (!chosen[a] && x.time == static_cast<int>(from)) time = static_cast<int>(a);
        shape.push_back(chosen[a] ? 1 : x.shape[from]);
        labels.push_back(chosen[a] ? -1 : x.labels[from]);
        from += chosen[a] ? 0 : 1;
      }
    }
    auto out = std::make_shared<Val>(*Reshaped(x, shape));
    out->labels = labels;
    out->time = time;
    call.out[0] = std::move(out);
    return absl::OkStatus();
  }
  if (op == "Transpose") return LowerTranspose(call);
  if (op == "Slice") return LowerSlice(call);
  if (op == "Gather") return LowerGather(call);
  if (op == "Concat") return LowerConcat(call);
  if (op == "Split") return LowerSplit(call);
  if (op == "Pad") return LowerPad(call);
  if (op == "TopK") return LowerTopK(call);
  if (op == "ReverseSequence") return LowerReverse(call);
  if (op == "OneHot") return LowerOneHot(call);
  if (op == "ScatterElements" || op == "Scatter" || op == "ScatterND") return LowerScatter(call);
  if (op != "Expand" && op != "Tile") return LowerMoves(call);
  if (op == "Expand") {
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, IntsOf(call, 1, "shape"));
    return LowerExpand(call, Shape(shape.begin(), shape.end()));
  }
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> repeats, IntsOf(call, 1, "repeats"));  // Tile
  if (repeats.size() != x.shape.size()) return Refuse("has not one repeat for each axis");
  Shape shape = x.shape;
  for (size_t a = 0; a < shape.size(); ++a) {
    if (shape[a] == 1 && x.time < 0 && RateOfSize(repeats[a])) {  // once for each step
      Shape target(shape.size(), 1);
      target[a] = repeats[a];
      if (std::any_of(repeats.begin(), repeats.end(), [&](int64_t n) { return n != 1 && n != repeats[a]; })) return Refuse("repeats other axes along with time");
      return LowerExpand(call, target);
    }
    if (repeats[a] < 1 || (x.time == static_cast<int>(a) && repeats[a] != 1)) return Refuse(absl::StrCat("repeats axis ", a, " ", repeats[a], " times"));
    LSTM_RETURN_IF_ERROR(ElementCount({shape[a], repeats[a]}).status());
    shape[a] *= repeats[a];
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  LSTM_RETURN_IF_ERROR(Spend(count));
  LSTM_ASSIGN_OR_RETURN(call.out[0], Arranged(x, Tiled(x.shape, repeats), shape));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
