// SPDX-License-Identifier: MIT
// Ops that move elements by other rules than an axis at a time, and Resize: of networks that work on pictures of a spectrum, within a step.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

// Where item `i` of `size` items lies among the `n` items of the axis that was resized by `scale`.
double Original(std::string_view mode, int64_t i, int64_t n, int64_t size, double scale) {
  const auto at = static_cast<double>(i);
  if (mode == "asymmetric") return at / scale;
  if (mode == "align_corners") return size == 1 ? 0 : at * static_cast<double>(n - 1) / static_cast<double>(size - 1);
  if (mode == "pytorch_half_pixel" && size == 1) return 0;
  const double half = (at + 0.5) / scale - 0.5;
  if (mode != "half_pixel_symmetric") return half;
  return half + static_cast<double>(n) / 2 * (1 - static_cast<double>(size) / (scale * static_cast<double>(n)));
}

double Nearest(std::string_view mode, double at) {
  if (mode == "floor") return std::floor(at);
  if (mode == "ceil") return std::ceil(at);
  return mode == "round_prefer_ceil" ? std::floor(at + 0.5) : std::ceil(at - 0.5);
}

bool OneOf(std::string_view name, std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); }

}  // namespace

absl::StatusOr<ValPtr> Lowering::Picked(const Val& x, const std::vector<int64_t>& places, Shape shape) {
  if (x.time >= 0) return LooksAhead("picks elements of a sequence");
  // One axis of all, then the shape that is meant.
  LSTM_ASSIGN_OR_RETURN(const ValPtr flat, Arranged(x, Arrangement{{places}}, {static_cast<int64_t>(places.size())}));
  return Reshaped(*flat, std::move(shape));
}

absl::Status Lowering::LowerMoves(Call& call) {
  const std::string_view op = call.node.op;
  const Val& x = call[0];
  const size_t rank = x.shape.size();
  const auto strides = Strides(x.shape);
  if (op == "Resize" || op == "Upsample") return LowerResize(call);
  if (op == "EyeLike") {
    if (rank != 2 || x.time >= 0) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), ", expected two axes that are not time"));
    const int64_t k = call.node.Int("k", 0);
    LSTM_RETURN_IF_ERROR(Spend(x.count()));
    Tensor out{IsFloatType(call.node.Int("dtype", x.is_float ? 1 : 7)), x.shape, {}, {}};
    for (int64_t i = 0; i < x.count(); ++i) {
      const bool one = i % x.shape[1] - i / x.shape[1] == k;
      if (out.is_float) out.floats.push_back(one ? 1.0f : 0.0f);
      if (!out.is_float) out.ints.push_back(one ? 1 : 0);
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  std::vector<int64_t> places;
  Shape shape = x.shape;
  if (op == "Trilu") {
    if (rank < 2) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), ", expected two axes or more"));
    std::vector<int64_t> k = {0};
    if (call.has(1)) {
      LSTM_ASSIGN_OR_RETURN(k, IntsOf(call, 1, "k"));
      if (k.size() != 1 || k[0] > kMaxInts || k[0] < -kMaxInts) return Refuse("its k is not one number");
    }
    const bool upper = call.node.Int("upper", 1) != 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t beside = i % shape[rank - 1] - i / shape[rank - 1] % shape[rank - 2];
      places.push_back((upper ? beside >= k[0] : beside <= k[0]) ? i : kFill);
    }
  } else if (op == "DepthToSpace" || op == "SpaceToDepth") {
    const int64_t b = call.node.Int("blocksize", 0);
    const bool spread = op == "DepthToSpace";
    if (rank != 4 || b < 1 || b > 4096 || (spread ? shape[1] % (b * b) != 0 : shape[2] % b != 0 || shape[3] % b != 0)) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), " in blocks of ", b));
    shape = spread ? Shape{shape[0], shape[1] / (b * b), shape[2] * b, shape[3] * b} : Shape{shape[0], shape[1] * b * b, shape[2] / b, shape[3] / b};
    const bool rows_first = call.node.Text("mode", "DCR") == "CRD";
    const Shape& deep = spread ? x.shape : shape;
    const int64_t channels = spread ? shape[1] : x.shape[1];
    for (int64_t i = 0; i < x.count(); ++i) {
      const int64_t w = i % shape[3], h = i / shape[3] % shape[2], c = i / (shape[3] * shape[2]) % shape[1], n = i / (shape[3] * shape[2] * shape[1]);
      if (spread) {
        const int64_t part = h % b * b + w % b, from = rows_first ? c * b * b + part : part * channels + c;
        places.push_back(((n * deep[1] + from) * deep[2] + h / b) * deep[3] + w / b);
      } else {
        const int64_t part = c / channels;
        places.push_back(((n * channels + c % channels) * x.shape[2] + h * b + part / b) * x.shape[3] + w * b + part % b);
      }
    }
  } else {  // GatherElements, GatherND
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> index, IntsOf(call, 1, "indices"));
    const Shape& of = call[1].shape;
    const bool nd = op == "GatherND";
    const size_t depth = nd && !of.empty() ? static_cast<size_t>(of.back()) : 1;
    if (of.empty() || (nd ? of.back() < 1 || depth > rank || call.node.Int("batch_dims", 0) != 0 : of.size() != rank)) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), " by indices of shape ", ShapeString(of)));
    const auto item = [&](int64_t i, size_t a) -> absl::StatusOr<int64_t> {
      if (i < 0) i += x.shape[a];
      if (i < 0 || i >= x.shape[a]) return absl::InvalidArgumentError(absl::StrCat("reads item ", i, " of axis ", a, " of shape ", ShapeString(x.shape)));
      return i * strides[a];
    };
    if (nd) {
      shape.assign(of.begin(), of.end() - 1);
      shape.insert(shape.end(), x.shape.begin() + static_cast<long>(depth), x.shape.end());
      LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
      LSTM_RETURN_IF_ERROR(Affordable(count));
    } else {
      shape = of;
    }
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(nd ? 0 : call.node.Int("axis", 0), rank));
    const auto to = Strides(of);
    for (size_t i = 0; i < index.size(); i += depth) {
      int64_t at = 0;
      for (size_t a = 0; a < (nd ? depth : rank); ++a) {
        LSTM_ASSIGN_OR_RETURN(const int64_t part, item(nd ? index[i + a] : a == axis ? index[i] : static_cast<int64_t>(i) / to[a] % of[a], a));
        at += part;
      }
      for (int64_t k = 0; k < (nd ? strides[depth - 1] : 1); ++k) places.push_back(at + k);
    }
  }
  if (places.empty()) return Refuse("gives nothing");
  LSTM_ASSIGN_OR_RETURN(call.out[0], Picked(x, places, shape));
  return absl::OkStatus();
}

// The sizes and scales of Resize (opset 10 had no others than scales) and of Upsample, by axis.
absl::Status Lowering::ReadResize(const Call& call, Shape& sizes, std::vector<double>& scales) {
  const Val& x = call[0];
  const size_t rank = x.shape.size();
  const bool old = call.node.op == "Upsample" || call.in.size() == 2;
  std::vector<int64_t> axes;
  const Attribute* const some = call.node.Find("axes");
  if (some != nullptr) axes = some->ints;
  for (size_t a = 0; some == nullptr && a < rank; ++a) axes.push_back(static_cast<int64_t>(a));
  std::vector<double> given;
  std::vector<int64_t> wanted;
  if (const Attribute* a = call.node.Find("scales")) {
    given.assign(a->floats.begin(), a->floats.end());
  } else if (call.has(old ? 1 : 2) && call[old ? 1 : 2].count() > 0) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, old ? 1 : 2, "scales"));
    for (size_t i = 0; i < t->size(); ++i) given.push_back(t->At(i));
  } else if (call.has(3)) {
    LSTM_ASSIGN_OR_RETURN(wanted, IntsOf(call, 3, "sizes"));
  }
  if (given.size() != axes.size() && wanted.size() != axes.size()) return Refuse(absl::StrCat("has ", given.size(), " scales and ", wanted.size(), " sizes for ", axes.size(), " axes"));
  sizes = x.shape;
  scales.assign(rank, 1);
  for (size_t i = 0; i < axes.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const size_t a, Axis(axes[i], rank));
    const double n = static_cast<double>(x.shape[a]), size = given.empty() ? static_cast<double>(wanted[i]) : std::floor(n * given[i]);
    const bool time = x.time == static_cast<int>(a);
    if (time && (given.empty() ? IsTimeLength(wanted[i]) : given[i] == 1)) continue;
    if (time) return LooksAhead("gives another number of frames than the sequence has steps");
    if (!(size >= 1) || size > static_cast<double>(kMaxInts)) return Refuse(absl::StrCat("makes ", size, " items of the ", x.shape[a], " of axis ", a));
    sizes[a] = static_cast<int64_t>(size);
    scales[a] = given.empty() ? size / n : given[i];
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(sizes));
  return Affordable(count);
}

absl::Status Lowering::LowerResize(Call& call) {
  const NodeView& node = call.node;
  const bool old = node.op == "Upsample" || call.in.size() == 2;
  const std::string_view mode = node.Text("mode", "nearest"), coordinates = old ? "asymmetric" : node.Text("coordinate_transformation_mode", "half_pixel");
  const std::string_view rounds = old ? "floor" : node.Text("nearest_mode", "round_prefer_floor");
  if (!OneOf(mode, {"nearest", "linear"})) return Refuse(absl::StrCat("its mode is ", Shown(mode), ", expected nearest or linear"));
  if (!OneOf(coordinates, {"half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric"})) return Refuse(absl::StrCat("its coordinate_transformation_mode is ", Shown(coordinates)));
  if (!OneOf(rounds, {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})) return Refuse(absl::StrCat("its nearest_mode is ", Shown(rounds)));
  if (node.Int("antialias", 0) != 0 || node.Text("keep_aspect_ratio_policy", "stretch") != "stretch") return Refuse("its antialias or keep_aspect_ratio_policy is not supported");
  Shape sizes;
  std::vector<double> scales;
  LSTM_RETURN_IF_ERROR(ReadResize(call, sizes, scales));
  ValPtr x = call.in[0];
  if (mode == "linear" && x->constant()) return Refuse("reads a constant");
  for (size_t a = 0; a < sizes.size(); ++a) {
    const int64_t n = x->shape[a], size = sizes[a];
    if (size == n && scales[a] == 1) continue;
    std::vector<int64_t> low, high;
    Tensor share{true, Shape(sizes.size() - a, 1), {}, {}}, rest = share;
    share.shape[0] = rest.shape[0] = size;
    for (int64_t i = 0; i < size; ++i) {
      const double at = Original(coordinates, i, n, size, scales[a]);
      const auto within = [&](double place) { return static_cast<int64_t>(std::clamp(place, 0.0, static_cast<double>(n - 1))); };
      low.push_back(within(mode == "nearest" ? Nearest(rounds, at) : std::floor(at)));
      high.push_back(within(std::floor(at) + 1));
      share.floats.push_back(static_cast<float>(at - std::floor(at)));
      rest.floats.push_back(1 - share.floats.back());
    }
    Shape shape = x->shape;
    shape[a] = size;
    const auto moved = [&](const std::vector<int64_t>& index) -> absl::StatusOr<ValPtr> {
      LSTM_ASSIGN_OR_RETURN(const ValPtr out, Arranged(*x, Gathered(x->shape, a, index), shape));
      auto labelled = std::make_shared<Val>(*out);
      for (size_t k = 0; k < shape.size(); ++k) labelled->labels[k] = k == a ? -1 : x->labels[k];
      return ValPtr(labelled);
    };
    LSTM_ASSIGN_OR_RETURN(ValPtr y, moved(low));
    if (mode == "linear") {
      LSTM_ASSIGN_OR_RETURN(const ValPtr next, moved(high));
      LSTM_ASSIGN_OR_RETURN(const ValPtr first, Combine(ElementwiseKind::kMultiply, *y, *MakeConstantVal(std::move(rest))));
      LSTM_ASSIGN_OR_RETURN(const ValPtr second, Combine(ElementwiseKind::kMultiply, *next, *MakeConstantVal(std::move(share))));
      LSTM_ASSIGN_OR_RETURN(y, Combine(ElementwiseKind::kAdd, *first, *second));
    }
    x = y;
  }
  call.out[0] = x;
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
