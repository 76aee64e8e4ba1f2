// SPDX-License-Identifier: MIT
// Convolutions: over axes of the step as one product, over time with the frames before kept in the session's state.
#include "core/import/onnx/windows.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

// As a convolution: of x with zeros between its items, `every` so far apart, against the kernel turned round.
absl::Status ReadTransposed(const NodeView& node, const Shape& shape, Window& w, std::vector<int64_t>& every) {
  const size_t n = w.kernel.size();
  LSTM_RETURN_IF_ERROR(ReadWindow(node, shape, w));
  every = std::exchange(w.strides, std::vector<int64_t>(n, 1));
  std::vector<int64_t> more(n, 0), sizes;
  if (const Attribute* a = node.Find("output_padding")) more = a->ints;
  if (const Attribute* a = node.Find("output_shape")) sizes = a->ints;
  if (sizes.size() == n + 2) sizes.erase(sizes.begin(), sizes.begin() + 2);
  if (more.size() != n || (!sizes.empty() && sizes.size() != n)) return absl::InvalidArgumentError(absl::StrCat("output_padding has ", more.size(), " numbers and output_shape ", sizes.size(), ", expected ", n));
  const std::string_view mode = node.Text("auto_pad", "NOTSET");
  for (size_t j = 0; j < n; ++j) {
    if (more[j] < 0 || more[j] > kMaxInts || every[j] > kMaxInts) return absl::InvalidArgumentError(absl::StrCat("output_padding has ", more[j]));
    const int64_t all = (shape[j + 2] - 1) * every[j] + w.Extent(j) + more[j];
    if (!sizes.empty() || IsSame(mode)) {
      const int64_t size = sizes.empty() ? shape[j + 2] * every[j] : sizes[j];
      if (size < 1 || size > kMaxInts) return absl::InvalidArgumentError(absl::StrCat("output_shape has ", size));
      const int64_t cut = all - size;  // below 0: zeros behind
      w.before[j] = mode == "SAME_UPPER" ? cut / 2 : cut - cut / 2;
      w.after[j] = cut - w.before[j];
    }
    w.before[j] = w.Extent(j) - 1 - w.before[j];
    w.after[j] = w.Extent(j) - 1 - w.after[j] + more[j];
  }
  return absl::OkStatus();
}

// [C, M / groups, ...] to the rows of a convolution, [M, C / groups, ...] turned round.
ConstantPtr TurnedKernel(const Tensor& kernel, int64_t groups) {
  const int64_t in = kernel.shape[0], out = kernel.shape[1], per_group = in / groups, taps = static_cast<int64_t>(kernel.size()) / (in * out);
  auto made = NewConstant({out * groups, per_group * taps});
  for (int64_t c = 0; c < in; ++c) {
    for (int64_t o = 0; o < out; ++o) {
      float* const row = made->values.data() + ((c / per_group) * out + o) * per_group * taps + c % per_group * taps;
      for (int64_t k = 0; k < taps; ++k) row[taps - 1 - k] = kernel.floats[static_cast<size_t>((c * out + o) * taps + k)];
    }
  }
  return made;
}

// Rows [first, first + count) of a matrix.
ConstantPtr Rows(const core::Constant& from, int64_t first, int64_t count) {
  auto out = NewConstant({count, from.shape[1]});
  std::copy_n(from.values.data() + first * from.shape[1], count * from.shape[1], out->values.data());
  return out;
}

}  // namespace

absl::Status ReadWindow(const NodeView& node, const Shape& shape, Window& w) {
  const size_t n = w.kernel.size();
  const auto list = [&](const char* name, std::vector<int64_t>& out, size_t count, int64_t otherwise) -> absl::Status {
    const Attribute* a = node.Find(name);
    out = a != nullptr ? a->ints : std::vector<int64_t>(count, otherwise);
    if (out.size() != count) return absl::InvalidArgumentError(absl::StrCat(name, " has ", out.size(), " numbers, expected ", count));
    for (int64_t v : out) {
      if (v < (otherwise == 0 ? 0 : 1) || v > kMaxInts) return absl::InvalidArgumentError(absl::StrCat(name, " has ", v));
    }
    return absl::OkStatus();
  };
  std::vector<int64_t> pads;
  LSTM_RETURN_IF_ERROR(list("strides", w.strides, n, 1));
  LSTM_RETURN_IF_ERROR(list("dilations", w.dilations, n, 1));
  LSTM_RETURN_IF_ERROR(list("pads", pads, 2 * n, 0));
  w.before.assign(pads.begin(), pads.begin() + static_cast<long>(n));
  w.after.assign(pads.begin() + static_cast<long>(n), pads.end());
  const std::string_view mode = node.Text("auto_pad", "NOTSET");
  for (size_t j = 0; j < n; ++j) {
    if (w.kernel[j] < 1 || w.kernel[j] > kMaxInts) return absl::InvalidArgumentError(absl::StrCat("its kernel has ", w.kernel[j]));
    if (mode == "VALID") w.before[j] = w.after[j] = 0;
    if (!IsSame(mode)) continue;
    const int64_t size = shape[j + 2], out = (size + w.strides[j] - 1) / w.strides[j];
    const int64_t all = std::max<int64_t>(0, (out - 1) * w.strides[j] + w.Extent(j) - size);
    w.before[j] = mode == "SAME_UPPER" ? all / 2 : all - all / 2;
    w.after[j] = all - w.before[j];
  }
  return absl::OkStatus();
}

void PadSameInTime(std::string_view auto_pad, Window& w, size_t j) {
  const int64_t reach = w.Extent(j) - 1;
  w.before[j] = auto_pad == "SAME_UPPER" ? reach / 2 : reach - reach / 2;
  w.after[j] = reach - w.before[j];
}

absl::StatusOr<ValPtr> Lowering::WithContext(const Val& val, int64_t frames, absl::string_view name, const std::vector<float>& initial) {
  if (frames == 0) return std::make_shared<const Val>(val);
  const auto t = static_cast<size_t>(val.time);
  Shape shape = val.shape;
  shape[t] = frames;
  LSTM_ASSIGN_OR_RETURN(int64_t count, ElementCount(shape));
  LSTM_RETURN_IF_ERROR(Spend(3 * count));
  stages_[static_cast<size_t>(stage_)]->timed = true;
  int64_t outer = 1, inner = 1;
  for (size_t a = 0; a < t; ++a) outer *= val.shape[a];
  for (size_t a = t + 1; a < val.shape.size(); ++a) inner *= val.shape[a];
  std::vector<float> begin;
  for (int64_t o = 0; o < outer && !initial.empty(); ++o) {
    for (float f : initial) begin.insert(begin.end(), static_cast<size_t>(inner), f);
  }
  LSTM_ASSIGN_OR_RETURN(const StateId state, AddState(absl::StrCat(name, ".context"), shape, std::move(begin)));
  LSTM_ASSIGN_OR_RETURN(const ValueId before, Add("context", StateReadOp{state}, {}));
  const ValPtr past = Computed(before, shape, Val{});
  auto window = std::make_shared<Val>(val);
  window->source = -1;
  window->head = 0;
  window->shape[t] = frames + 1;
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < frames * inner; ++i) elements->push_back(past->at(o * frames * inner + i));
    for (int64_t i = 0; i < inner; ++i) elements->push_back(val.at(o * inner + i));
  }
  window->elements = std::move(elements);
  LSTM_ASSIGN_OR_RETURN(const ValPtr next, Arranged(*window, Sliced(window->shape, t, 1, frames, 1), shape));
  LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*next, shape));
  LSTM_RETURN_IF_ERROR(Add("context.after", StateWriteOp{state}, {id}).status());
  return ValPtr(window);
}

absl::StatusOr<ValPtr> Lowering::Windowed(const ValPtr& val, int64_t front, int64_t behind, int64_t reach, int64_t stride) {
  const auto t = static_cast<size_t>(val->time);
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount({val->count(), reach + 1}));
  LSTM_RETURN_IF_ERROR(Spend(count));
  const int from = RateOf(*val);
  LSTM_ASSIGN_OR_RETURN(const int rate, RateAfter(from, stride, reach + 1 - front - behind));
  if (rate != stages_[static_cast<size_t>(stage_)]->rate || stride != 1 || !CanBring(*val, {-1, SequenceRead::kEach, 1})) NewStage(-1, rate);
  std::vector<ValPtr> parts;
  for (int64_t f = -front; f <= reach - front; ++f) {
    LSTM_ASSIGN_OR_RETURN(parts.emplace_back(), Anew(val, {-1, SequenceRead::kEach, f, false, 0, stride}));
  }
  int64_t outer = 1, inner = 1;
  for (size_t a = 0; a < t; ++a) outer *= val->shape[a];
  for (size_t a = t + 1; a < val->shape.size(); ++a) inner *= val->shape[a];
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t o = 0; o < outer; ++o) {
    for (const ValPtr& part : parts) {
      for (int64_t i = 0; i < inner; ++i) elements->push_back(part->at(o * inner + i));
    }
  }
  auto window = std::make_shared<Val>(*val);
  window->source = -1;
  window->head = window->tail = 0;
  window->shape[t] = reach + 1;
  window->elements = std::move(elements);
  return ValPtr(window);
}

// What a convolution reads over time, where a step and those before it are not enough.
absl::StatusOr<ValPtr> Lowering::WindowsOverTime(const ValPtr& x, std::string_view mode, int64_t front, int64_t behind, int64_t reach, int64_t stride, int64_t& tail) {
  if (reach > 4096) return absl::InvalidArgumentError(absl::StrCat("reaches over ", reach + 1, " frames, expected at most 4097"));
  if (stride != 1 && IsSame(mode)) return LooksAhead(absl::StrCat("steps over time by ", stride, " with auto_pad ", Shown(mode), ": what it pads depends on the length of the sequence; export it with pads"));
  if (x->tail != 0 && !x->zeros_behind) return LooksAhead("reads what was padded behind the end of the sequence and is not zeros");
  tail = stride == 1 ? std::max<int64_t>(0, front + behind - reach) : 0;  // cut by a Slice, mostly
  return Windowed(x, front, behind - tail, reach, stride);
}

// With the window's padding around it, and its items `every` so far apart: zeros in between.
absl::StatusOr<ValPtr> Lowering::Spread(const ValPtr& x, const Window& window, const std::vector<int64_t>& every) {
  const Shape& shape = x->shape;
  Arrangement to = Same(shape);
  const auto strides = Strides(shape);
  Shape wide = shape;
  bool same = true;
  for (size_t j = 0; j < window.kernel.size(); ++j) {
    const size_t a = j + 2;
    const int64_t end = (shape[a] - 1) * every[j] + 1;
    wide[a] = window.before[j] + end + window.after[j];
    same = same && window.before[j] == 0 && window.after[j] == 0 && every[j] == 1;
    if (wide[a] < 1) return Refuse(absl::StrCat("leaves nothing of axis ", a, " of shape ", ShapeString(shape)));
  }
  if (same) return x;
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(wide));
  LSTM_RETURN_IF_ERROR(Affordable(count));
  for (size_t j = 0; j < window.kernel.size(); ++j) {
    const size_t a = j + 2;
    to.axes[a].clear();
    for (int64_t i = -window.before[j]; i < wide[a] - window.before[j]; ++i) {
      to.axes[a].push_back(i >= 0 && i < (shape[a] - 1) * every[j] + 1 && i % every[j] == 0 ? i / every[j] * strides[a] : kFill);
    }
  }
  return Arranged(*x, to, wide);
}

absl::Status Lowering::LowerConv(Call& call, bool transposed) {
  ValPtr x = call.in[0];
  if (!call.has(1) || !call[1].constant()) return ConstantOf(call, 1, "kernel").status();
  const Val* const w = call.in[1].get();
  const int64_t groups = call.node.Int("group", 1);
  const size_t rank = x->shape.size();
  if (rank < 3 || w->shape.size() != rank || !w->is_float || w->count() == 0) return Refuse(absl::StrCat("reads shape ", ShapeString(x->shape), " with a kernel of shape ", ShapeString(w->shape)));
  if (x->constant() || !x->is_float) return Refuse("reads a constant, or integers");
  if (x->time == 1) return Refuse("time is its axis of channels");
  if (x->time == 0 && (x->head != 0 || x->tail != 0)) return Refuse("its batch is a sequence that is padded");
  if (x->shape[0] > 1 && x->labels[0] >= 0 && reading_.single.insert({x->labels[0] / 16, x->labels[0] % 16}).second) return absl::AbortedError("the batch was found");
  if (groups < 1 || groups > 1024) return Refuse(absl::StrCat("has ", groups, " groups, expected 1 to 1024"));
  const int64_t out = transposed ? w->shape[1] * groups : w->shape[0], per_group = transposed ? w->shape[0] / groups : w->shape[1];
  if ((transposed ? w->shape[0] : out) % groups != 0 || x->shape[0] != 1 || x->shape[1] != per_group * groups) {
    return Refuse(absl::StrCat("reads shape ", ShapeString(x->shape), " in ", groups, " groups, its kernel of shape ", ShapeString(w->shape), " expects one item of ", per_group, " channels a group"));
  }
  for (size_t a = 2; a < rank; ++a) {
    if (x->time < 0 && w->shape[a] > 1 && IsOpen(x->labels[a]) && MakeTime(x->labels[a])) return absl::AbortedError("time was found");
  }
  Window window;
  window.kernel.assign(w->shape.begin() + 2, w->shape.end());
  std::vector<int64_t> every(window.kernel.size(), 1);
  LSTM_RETURN_IF_ERROR(transposed ? ReadTransposed(call.node, x->shape, window, every) : ReadWindow(call.node, x->shape, window));
  int64_t tail = x->tail;
  if (x->time >= 2) {
    const size_t j = static_cast<size_t>(x->time) - 2;
    const int64_t reach = (window.kernel[j] - 1) * window.dilations[j];
    const std::string_view mode = call.node.Text("auto_pad", "NOTSET");
    if (every[j] != 1) return LooksAhead(absl::StrCat("gives ", every[j], " frames for each step of time"));
    if (IsSame(mode)) {
      PadSameInTime(mode, window, j);
      if (reach > 0 && !whole_) return LooksAhead("pads time on both sides: it looks ahead");
    }
    if (window.before[j] < 0 || window.after[j] < 0) return Refuse("cuts the sequence");
    const int64_t front = x->head + window.before[j], behind = window.after[j] + x->tail, stride = std::exchange(window.strides[j], 1);
    window.before[j] = window.after[j] = 0;
    if (front == reach && stride == 1) {
      tail = behind;
      LSTM_ASSIGN_OR_RETURN(x, WithContext(*x, reach, node_name_));
    } else if (!whole_) {
      return LooksAhead(stride != 1 ? absl::StrCat("steps over time by ", stride, ": a session gets an answer to each step, and this gives one for ", stride)
                        : front < reach ? absl::StrCat("reads ", reach + 1, " frames and has ", front, " frames of padding before them: it looks ", reach - front, " frames ahead")
                                        : absl::StrCat("pads time by ", front, " frames in front, expected ", reach));
    } else {
      LSTM_ASSIGN_OR_RETURN(x, WindowsOverTime(x, mode, front, behind, reach, stride, tail));
    }
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr padded, Spread(x, window, every));
  Shape shape = {1, out};
  int64_t positions = 1, taps = per_group;
  for (size_t j = 0; j < window.kernel.size(); ++j) {
    const int64_t extent = (window.kernel[j] - 1) * window.dilations[j] + 1, n = padded->shape[j + 2];
    if (n < extent) return Refuse(absl::StrCat("its kernel reaches over ", extent, " items, axis ", j + 2, " of shape ", ShapeString(padded->shape), " has ", n));
    shape.push_back((n - extent) / window.strides[j] + 1);
    positions *= shape.back();
    taps *= window.kernel[j];
  }
  LSTM_RETURN_IF_ERROR(ElementCount({positions, taps, groups}).status());
  LSTM_RETURN_IF_ERROR(Spend(positions * taps * groups));
  const auto strides = Strides(padded->shape);
  std::vector<ValPtr> parts;
  const int64_t out_per_group = out / groups;
  TensorPtr bias;
  if (call.has(2)) {
    LSTM_ASSIGN_OR_RETURN(bias, ConstantOf(call, 2, "bias"));
    if (!bias->is_float || static_cast<int64_t>(bias->size()) != out) return Refuse(absl::StrCat("its bias has ", bias->size(), " numbers, expected ", out));
  }
  LSTM_ASSIGN_OR_RETURN(const ConstantPtr kernel, Shared(call.in[1], absl::StrCat(transposed ? "ConvTranspose " : "Conv ", taps), {out, taps}, [&](const Tensor& k) -> ConstantPtr {
    if (transposed) return TurnedKernel(k, groups);
    auto made = NewConstant({out, taps});
    std::copy(k.floats.begin(), k.floats.end(), made->values.data());
    return made;
  }));
  if (groups > 1) LSTM_RETURN_IF_ERROR(Bear(out * taps));
  for (int64_t g = 0; g < groups; ++g) {
    Arrangement rows;
    for (size_t j = 0; j < window.kernel.size(); ++j) {
      auto& axis = rows.axes.emplace_back();
      for (int64_t o = 0; o < shape[j + 2]; ++o) axis.push_back(o * window.strides[j] * strides[j + 2]);
    }
    auto& channels = rows.axes.emplace_back();
    for (int64_t c = 0; c < per_group; ++c) channels.push_back((g * per_group + c) * strides[1]);
    for (size_t j = 0; j < window.kernel.size(); ++j) {
      auto& axis = rows.axes.emplace_back();
      for (int64_t k = 0; k < window.kernel[j]; ++k) axis.push_back(k * window.dilations[j] * strides[j + 2]);
    }
    Val flat = *padded;
    flat.time = -1;
    flat.tail = 0;
    LSTM_ASSIGN_OR_RETURN(const ValPtr gathered, Arranged(flat, rows, {positions, taps}));
    const ConstantPtr weight = groups == 1 ? kernel : Rows(*kernel, g * out_per_group, out_per_group);
    std::shared_ptr<core::Constant> own;
    if (bias) {
      own = NewConstant({out_per_group});
      std::copy_n(bias->floats.data() + g * out_per_group, out_per_group, own->values.data());
    }
    LSTM_ASSIGN_OR_RETURN(const ValPtr y, Linear(*gathered, weight, own));
    parts.push_back(y);
  }
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t p = 0; p < positions; ++p) elements->push_back(parts[static_cast<size_t>(o / out_per_group)]->at(p * out_per_group + o % out_per_group));
  }
  auto result = std::make_shared<Val>();
  result->shape = shape;
  result->time = x->time;
  result->tail = tail;
  result->last = x->last;
  result->labels.assign(rank, -1);
  result->labels[0] = x->labels[0];
  for (size_t a = 2; a < rank; ++a) result->labels[a] = x->labels[a];
  result->elements = std::move(elements);
  call.out[0] = std::move(result);
  return absl::OkStatus();
}

absl::Status Lowering::Windows(Call& call) {
  const std::string_view op = call.node.op;
  const bool pool = op == "MaxPool" || op == "AveragePool" || op == "GlobalAveragePool" || op == "GlobalMaxPool";
  if (op != "Conv" && op != "ConvTranspose" && !pool) return absl::UnimplementedError("");
  if (!call.has(0)) return Refuse("its input is missing");
  if (call[0].padding) return Refuse("reads a quantised sequence that was padded");
  return pool ? LowerPool(call) : LowerConv(call, op == "ConvTranspose");
}

}  // namespace lstm::core::onnx
