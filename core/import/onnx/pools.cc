// SPDX-License-Identifier: MIT
// Pools: over axes of the step as one reduction, over time with the frames before kept in the session's state, or over windows of a whole sequence.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"
#include "core/import/onnx/windows.h"

namespace lstm::core::onnx {

struct Lowering::Pool {
  bool mean = false;
  bool counted = false;               // an average over its padding too, as zeros; else padding is not there
  std::string_view auto_pad;
  Window window;
  std::vector<int64_t> extra;         // what ceil_mode adds behind the padding, which is never there; below 0: cuts off
  std::vector<std::vector<int64_t>> taken;  // over axes of the step: how many taps of each window are there
  ValPtr present = nullptr;           // over time: 1 for each tap that is there, else 0; null: all are
  int64_t tail = 0;
};

namespace {

constexpr int64_t kMostReach = 4096;
constexpr float kLeast = -std::numeric_limits<float>::max();  // padding of a maximum

// So many taps of each window along an axis of `size` items are among them, or in padding that counts.
std::vector<int64_t> TapsWithin(const Window& w, size_t j, int64_t size, int64_t windows, bool counted) {
  const int64_t begin = counted ? 0 : w.before[j], end = w.before[j] + size + (counted ? w.after[j] : 0);
  std::vector<int64_t> out;
  for (int64_t o = 0; o < windows; ++o) {
    int64_t n = 0;
    for (int64_t k = 0; k < w.kernel[j]; ++k) {
      const int64_t at = o * w.strides[j] + k * w.dilations[j];
      n += at >= begin && at < end ? 1 : 0;
    }
    out.push_back(n);
  }
  return out;
}

// Whether a window over some number of frames, `least` or more, may have none of them: `front` and `behind` more that are
// not there lie around them.
bool MayBeEmpty(const Window& w, size_t j, int64_t front, int64_t behind, int64_t least) {
  const int64_t reach = w.Extent(j) - 1, dilation = w.dilations[j];
  if (front > reach || behind > reach) return true;
  for (int64_t start = front; start > 0; start -= w.strides[j]) {  // the window that begins so many frames before the first
    const int64_t first = (dilation - start % dilation) % dilation, exists_from = reach + 1 - behind - start;
    if (std::max(least, exists_from) <= first) return true;
  }
  return false;
}

std::pair<int64_t, int64_t> Around(const Val& val) {
  const auto t = static_cast<size_t>(val.time);
  int64_t outer = 1, inner = 1;
  for (size_t a = 0; a < t; ++a) outer *= val.shape[a];
  for (size_t a = t + 1; a < val.shape.size(); ++a) inner *= val.shape[a];
  return {outer, inner};
}

// A value of which each frame is one row, and one number more.
ValPtr WithOne(const Val& x, int source) {
  auto out = std::make_shared<Val>(x);
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t i = 0; i < x.count(); ++i) elements->push_back(x.at(i));
  elements->push_back({source, 0});
  out->source = -1;
  out->time = 0;
  out->head = out->tail = 0;
  out->shape = {1, x.count() + 1};
  out->labels.assign(2, -1);
  out->elements = std::move(elements);
  return out;
}

}  // namespace

absl::Status Lowering::ReadPool(const Call& call, Pool& pool) {
  const Val& x = call[0];
  Window& w = pool.window;
  if (const Attribute* k = call.node.Find("kernel_shape")) w.kernel = k->ints;
  for (size_t j = 0; j < w.kernel.size() && j + 2 < x.shape.size(); ++j) {
    if (x.time < 0 && w.kernel[j] > 1 && IsOpen(x.labels[j + 2]) && MakeTime(x.labels[j + 2])) return absl::AbortedError("time was found");
  }
  if (w.kernel.size() + 2 != x.shape.size()) return Refuse(absl::StrCat("its kernel_shape has ", w.kernel.size(), " numbers, expected one for each axis of ", ShapeString(x.shape), " behind the second"));
  LSTM_RETURN_IF_ERROR(ReadWindow(call.node, x.shape, w));
  pool.auto_pad = call.node.Text("auto_pad", "NOTSET");
  pool.counted = pool.mean && call.node.Int("count_include_pad", 0) != 0;
  const bool automatic = IsSame(pool.auto_pad) || pool.auto_pad == "VALID";  // ONNX gives those one size with ceil_mode and without
  pool.extra.assign(w.kernel.size(), 0);
  if (call.node.Int("ceil_mode", 0) == 0 || automatic) return absl::OkStatus();
  // As much as the last window reaches beyond the padding, but no window begins behind all items.
  for (size_t j = 0; j < w.kernel.size(); ++j) pool.extra[j] = std::min(w.strides[j] - 1, w.Extent(j) - 1 - w.after[j]);
  return absl::OkStatus();
}

// The frames of each window along time, one for each tap: there is no window over time after this.
absl::StatusOr<ValPtr> Lowering::PoolFrames(const ValPtr& x, Pool& pool) {
  Window& w = pool.window;
  const size_t j = static_cast<size_t>(x->time) - 2;
  const int64_t reach = w.Extent(j) - 1, stride = w.strides[j];
  if (IsSame(pool.auto_pad)) {
    if (stride != 1) return LooksAhead(absl::StrCat("pools over time by strides of ", stride, " with auto_pad ", Shown(pool.auto_pad), ": what it pads depends on the length of the sequence; export it with pads"));
    PadSameInTime(pool.auto_pad, w, j);
  }
  const int64_t front = x->head + w.before[j], behind = x->tail + w.after[j] + pool.extra[j];
  const bool computed_behind = x->tail != 0 && !x->zeros_behind;
  ValPtr frames;
  if (stride == 1 && front == reach && (!whole_ || behind == 0 || (computed_behind && behind == x->tail))) {
    LSTM_ASSIGN_OR_RETURN(frames, CausalFrames(x, pool));
    pool.tail = behind;
  } else if (!whole_) {
    return LooksAhead(stride != 1 ? absl::StrCat("pools over time by strides of ", stride, ": a session gets an answer to each step, and this gives one for ", stride)
                      : front < reach ? absl::StrCat("pools over time: it reads ", reach + 1, " frames and has ", front, " frames of padding before them: it looks ", reach - front, " frames ahead")
                                      : absl::StrCat("pools over time: it pads time by ", front, " frames in front, expected ", reach));
  } else {
    if (reach > kMostReach) return Refuse(absl::StrCat("pools over ", reach + 1, " frames, expected at most ", kMostReach + 1));
    if (computed_behind) return LooksAhead("pools over what was padded behind the end of the sequence and is not zeros");
    LSTM_ASSIGN_OR_RETURN(frames, WholeFrames(x, pool));
  }
  w.strides[j] = w.dilations[j] = 1;
  w.before[j] = w.after[j] = pool.extra[j] = 0;
  return frames;
}

// The taps of a window of all frames that it reaches over.
absl::StatusOr<ValPtr> Lowering::TapsOf(const Val& window, const Pool& pool, size_t j) {
  const auto t = static_cast<size_t>(window.time);
  if (pool.window.dilations[j] == 1) return std::make_shared<const Val>(window);
  const Arrangement taps = Sliced(window.shape, t, 0, pool.window.kernel[j], pool.window.dilations[j]);
  return Arranged(window, taps, taps.shape());
}

int Lowering::One() { return NewSource({Source::kConstant, -1, -1, MakeConstantVal({true, {1}, {1.0f}, {}})->tensor, {1}}); }

// What is not there is the least of all numbers to a maximum. An average needs to know how many frames were there: that is kept too.
absl::StatusOr<ValPtr> Lowering::CausalFrames(const ValPtr& x, Pool& pool) {
  const size_t j = static_cast<size_t>(x->time) - 2;
  const int64_t reach = pool.window.Extent(j) - 1, missing = pool.counted ? 0 : pool.window.before[j];
  LSTM_RETURN_IF_ERROR(Affordable(reach));
  std::vector<float> initial(static_cast<size_t>(reach), pool.mean ? 1 : 0);
  std::fill_n(initial.begin(), missing, pool.mean ? 0 : kLeast);
  if (missing == 0) initial.clear();
  LSTM_ASSIGN_OR_RETURN(const ValPtr window, WithContext(*x, reach, node_name_, pool.mean ? std::vector<float>() : initial));
  if (pool.mean && missing > 0) {
    Val one;
    one.shape = {1};
    one.time = 0;
    one.labels = {-1};
    one.source = One();
    LSTM_ASSIGN_OR_RETURN(const ValPtr there, WithContext(one, reach, absl::StrCat(node_name_, ".there"), initial));
    LSTM_ASSIGN_OR_RETURN(pool.present, TapsOf(*there, pool, j));
  }
  return TapsOf(*window, pool, j);
}

absl::StatusOr<ValPtr> Lowering::WholeFrames(const ValPtr& x, Pool& pool) {
  const Window& w = pool.window;
  const size_t j = static_cast<size_t>(x->time) - 2;
  const int64_t reach = w.Extent(j) - 1;
  // Zeros that a Pad put around the sequence are items as all others, as padding is that counts; what lies around those is not there.
  const int64_t zeros_front = x->head + (pool.counted ? w.before[j] : 0), zeros_behind = x->tail + (pool.counted ? w.after[j] : 0);
  const int64_t front = pool.counted ? 0 : w.before[j], behind = (pool.counted ? 0 : w.after[j]) + pool.extra[j];
  if (front == 0 && behind <= 0) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr window, Windowed(x, zeros_front, zeros_behind + behind, reach, w.strides[j]));
    return TapsOf(*window, pool, j);
  }
  if (MayBeEmpty(w, j, front, behind, 1 + zeros_front + zeros_behind)) return Refuse(absl::StrCat("pools over time padded by ", front, " and ", behind, " frames: some windows may have padding alone"));
  ValPtr from = x;
  if (zeros_front != 0 || zeros_behind != 0) {
    LSTM_ASSIGN_OR_RETURN(from, Windowed(x, zeros_front, zeros_behind, 0, 1));
  }
  // A one that is in every frame is read as zero where there is none.
  LSTM_ASSIGN_OR_RETURN(const ValPtr window, Windowed(WithOne(*from, One()), front, behind, reach, w.strides[j]));
  return Apart(*window, *from, pool, j);
}

// Takes the ones from the frames. Those of a maximum become the least of all numbers where nothing is there.
absl::StatusOr<ValPtr> Lowering::Apart(const Val& window, const Val& like, Pool& pool, size_t j) {
  const auto [outer, inner] = Around(like);
  const int64_t taps = pool.window.kernel[j], frame = (outer * inner + 1) * pool.window.dilations[j];
  auto frames = std::make_shared<std::vector<Element>>(), ones = std::make_shared<std::vector<Element>>();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t k = 0; k < taps; ++k) {
      for (int64_t i = 0; i < inner; ++i) frames->push_back(window.at(k * frame + o * inner + i));
    }
  }
  for (int64_t k = 0; k < taps; ++k) ones->push_back(window.at(k * frame + outer * inner));
  Val all = like, present;
  all.source = -1;
  all.shape[static_cast<size_t>(like.time)] = taps;
  all.elements = std::move(frames);
  present.shape = {taps, 1};
  present.labels = {-1, -1};
  present.elements = std::move(ones);
  if (pool.mean) {
    pool.present = std::make_shared<const Val>(std::move(present));
    return std::make_shared<const Val>(std::move(all));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr less, Scaled(present, -static_cast<double>(kLeast), static_cast<double>(kLeast)));
  Val flat = *Reshaped(all, {outer, taps, inner});
  flat.time = -1;
  LSTM_ASSIGN_OR_RETURN(const ValPtr sum, Combine(ElementwiseKind::kAdd, flat, *less));
  Val out = *Reshaped(*sum, all.shape);
  out.time = like.time;
  return std::make_shared<const Val>(std::move(out));
}

// The windows over all axes, a row for each.
absl::StatusOr<ValPtr> Lowering::PoolRows(const Val& frames, Pool& pool, Shape& shape) {
  const Window& w = pool.window;
  const size_t axes = w.kernel.size();
  std::vector<int64_t> before = {0, 0}, behind = {0, 0};
  for (size_t j = 0; j < axes; ++j) {
    before.push_back(w.before[j]);
    behind.push_back(w.after[j] + pool.extra[j]);
  }
  Shape wide = frames.shape;
  for (size_t a = 0; a < wide.size(); ++a) wide[a] += before[a] + behind[a];
  LSTM_ASSIGN_OR_RETURN(const int64_t padded_count, ElementCount(wide));
  LSTM_RETURN_IF_ERROR(Affordable(padded_count));
  LSTM_ASSIGN_OR_RETURN(const Arrangement pad, Padded(frames.shape, before, behind, PadMode::kConstant));
  LSTM_ASSIGN_OR_RETURN(const ValPtr padded, Arranged(frames, pad, pad.shape(), pool.mean ? 0 : static_cast<double>(kLeast)));
  const auto strides = Strides(padded->shape);
  Arrangement rows = Same(padded->shape);
  rows.axes.resize(2);
  shape = {frames.shape[0], frames.shape[1]};
  int64_t taps = 1;
  for (size_t j = 0; j < axes; ++j) {
    const int64_t n = padded->shape[j + 2];
    if (n < w.Extent(j)) return Refuse(absl::StrCat("its kernel reaches over ", w.Extent(j), " items of ", n));
    shape.push_back((n - w.Extent(j)) / w.strides[j] + 1);
    taps *= w.kernel[j];
    auto& axis = rows.axes.emplace_back();
    for (int64_t o = 0; o < shape.back(); ++o) axis.push_back(o * w.strides[j] * strides[j + 2]);
  }
  for (size_t j = 0; j < axes; ++j) {
    auto& axis = rows.axes.emplace_back();
    for (int64_t k = 0; k < w.kernel[j]; ++k) axis.push_back(k * w.dilations[j] * strides[j + 2]);
  }
  const int64_t count = CheckedElementCount(shape);
  LSTM_RETURN_IF_ERROR(ElementCount({count, taps}).status());
  LSTM_RETURN_IF_ERROR(Spend(count * taps));
  for (size_t j = 0; j < axes; ++j) {
    pool.taken.push_back(TapsWithin(w, j, frames.shape[j + 2], shape[j + 2], pool.counted));
    if (std::count(pool.taken[j].begin(), pool.taken[j].end(), 0) > 0) return Refuse(absl::StrCat("has windows of padding alone along axis ", j + 2));
  }
  return Arranged(*padded, rows, {count, taps});
}

// The mean of all taps becomes that of those that are there.
absl::StatusOr<ValPtr> Lowering::Averaged(ValPtr y, const Pool& pool) {
  const Window& w = pool.window;
  Tensor share{true, {y->shape.begin() + 2, y->shape.end()}, {}, {}};
  bool whole = true;
  for (int64_t i = 0; i < CheckedElementCount(share.shape); ++i) {
    int64_t rest = i;
    double all = 1;
    for (size_t j = w.kernel.size(); j-- > 0; rest /= share.shape[j]) all *= static_cast<double>(w.kernel[j]) / static_cast<double>(pool.taken[j][static_cast<size_t>(rest % share.shape[j])]);
    share.floats.push_back(static_cast<float>(all));
    whole = whole && all == 1;
  }
  if (!whole) {
    LSTM_ASSIGN_OR_RETURN(y, Combine(ElementwiseKind::kMultiply, *y, *MakeConstantVal(std::move(share))));
  }
  if (!pool.present) return y;
  const int64_t taps = pool.present->count();
  LSTM_ASSIGN_OR_RETURN(const ValueId present, Use(*pool.present, {1, taps}));
  LSTM_ASSIGN_OR_RETURN(const ValueId mean, Add("there.mean", ReduceOp{ReduceKind::kMean}, {present}));
  return Combine(ElementwiseKind::kDivide, *y, *Computed(mean, {1}, Val{}));
}

absl::Status Lowering::LowerPool(Call& call) {
  const Val& x = call[0];
  const std::string_view op = call.node.op;
  Pool pool;
  pool.mean = op == "AveragePool" || op == "GlobalAveragePool";
  const ReduceKind kind = pool.mean ? ReduceKind::kMean : ReduceKind::kMaximum;
  if (x.shape.size() < 3 || x.constant() || !x.is_float) return Refuse(absl::StrCat("reads shape ", ShapeString(x.shape), ", expected computed floats [N, C, ...]"));
  if (op == "GlobalAveragePool" || op == "GlobalMaxPool") {
    std::vector<int64_t> axes;
    for (size_t a = 2; a < x.shape.size(); ++a) axes.push_back(static_cast<int64_t>(a));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Reduced(x, kind, axes, true));
    return absl::OkStatus();
  }
  LSTM_RETURN_IF_ERROR(ReadPool(call, pool));
  ValPtr frames = call.in[0];
  Val like = x;
  if (x.time >= 2) {
    LSTM_ASSIGN_OR_RETURN(frames, PoolFrames(call.in[0], pool));
    like.head = 0;
    like.tail = pool.tail;
  }
  Shape shape;
  LSTM_ASSIGN_OR_RETURN(const ValPtr rows, PoolRows(*frames, pool, shape));
  LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(*rows, rows->shape));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", ReduceOp{kind}, {in}));
  call.out[0] = Computed(y, shape, like);
  if (pool.mean) {
    LSTM_ASSIGN_OR_RETURN(call.out[0], Averaged(call.out[0], pool));
  }
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
