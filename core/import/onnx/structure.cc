// SPDX-License-Identifier: MIT
// Ops that only move elements, and shapes that a graph computes: folded where they are constant.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

absl::StatusOr<size_t> Axis(int64_t axis, size_t rank) {
  const auto n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n) return absl::InvalidArgumentError(absl::StrCat("axis is ", axis, ", expected ", -n, " to ", n - 1));
  return static_cast<size_t>(axis < 0 ? axis + n : axis);
}

bool IsTimeLength(int64_t n) { return n >= kTime / 2; }

}  // namespace

absl::StatusOr<ValPtr> Lowering::Cut(const Val& val, size_t axis, int64_t begin, int64_t count, int64_t step) {
  Shape shape = val.shape;
  if (shape[axis] == count && begin == 0 && step == 1) return std::make_shared<const Val>(val);
  shape[axis] = count;
  LSTM_ASSIGN_OR_RETURN(ValPtr out, Arranged(val, Sliced(val.shape, axis, begin, count, step), shape));
  auto labelled = std::make_shared<Val>(*out);
  labelled->labels = val.labels;
  labelled->labels[axis] = -1;
  return ValPtr(labelled);
}

absl::Status Lowering::LowerShape(Call& call) {
  const Shape full = FullShape(call[0]);
  const auto rank = static_cast<int64_t>(full.size());
  const auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank); };
  const int64_t begin = clamp(call.node.Int("start", 0)), end = clamp(call.node.Int("end", rank));
  Tensor out;
  out.is_float = false;
  for (int64_t a = begin; a < end; ++a) out.ints.push_back(full[static_cast<size_t>(a)]);
  out.shape = {static_cast<int64_t>(out.ints.size())};
  call.out[0] = MakeConstantVal(std::move(out));
  return absl::OkStatus();
}

absl::Status Lowering::LowerReshape(Call& call, const std::vector<int64_t>& target, bool zero_copies) {
  const Val& x = call[0];
  const Shape full = FullShape(x);
  Shape shape(target.begin(), target.end());
  if (shape.size() > 16) return Refuse(absl::StrCat("gives ", shape.size(), " dimensions, expected at most 16"));
  int64_t known = 1, infer = -1;
  for (size_t a = 0; a < shape.size(); ++a) {
    if (shape[a] == 0 && zero_copies && a < full.size()) shape[a] = full[a];
    if (shape[a] == -1) {
      if (infer >= 0) return Refuse("its shape has -1 twice");
      infer = static_cast<int64_t>(a);
      continue;
    }
    if (shape[a] < 0) return Refuse(absl::StrCat("its shape has ", shape[a]));
    LSTM_RETURN_IF_ERROR(ElementCount({known, shape[a]}).status());
    known *= shape[a];
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(full));
  if (infer >= 0) {
    if (known == 0 || count % known != 0) return Refuse(absl::StrCat("shape ", ShapeString(full), " does not become ", ShapeString(shape)));
    shape[static_cast<size_t>(infer)] = count / known;
  } else if (known != count) {
    // A fixed length or a fixed batch may be written into the graph: the sizes of one item of one step are what is left.
    const int64_t own = x.count();
    int64_t rest = 1;
    for (int64_t n : shape) rest *= n;
    if (x.time >= 0 || rest == 0 || rest % std::max<int64_t>(own, 1) != 0 || reading_.single.empty()) {
      return Refuse(absl::StrCat("shape ", ShapeString(full), " (one session", x.time >= 0 ? absl::StrCat(", ", kTime, " for any number of steps") : "", ") does not become ", ShapeString(shape)));
    }
    for (int64_t& n : shape) {
      if (n > 1 && n == rest / own) {
        n = 1;
        break;
      }
    }
    if (CheckedElementCount(shape) != own) return Refuse(absl::StrCat("shape ", ShapeString(full), " does not become ", ShapeString(shape)));
  }
  int time = -1;
  if (x.time >= 0) {
    int64_t before = 1, wanted = 1;
    for (int a = 0; a < x.time; ++a) wanted *= full[static_cast<size_t>(a)];
    for (size_t a = 0; a < shape.size() && time < 0; ++a) {
      if (shape[a] == full[static_cast<size_t>(x.time)] && before == wanted) {
        time = static_cast<int>(a);
      } else {
        before *= shape[a];
      }
    }
    if (time < 0) return Refuse(absl::StrCat("mixes time, axis ", x.time, " of ", ShapeString(full), ", with other axes: ", ShapeString(shape)));
    shape[static_cast<size_t>(time)] = 1;
  }
  auto out = std::make_shared<Val>(*Reshaped(x, shape));
  out->time = time;
  if (time >= 0) out->labels[static_cast<size_t>(time)] = x.labels[static_cast<size_t>(x.time)];
  for (size_t a = 0; a < shape.size() && a < x.shape.size() && x.shape[a] == shape[a]; ++a) {
    out->labels[a] = x.labels[a];
    // Past an axis of one item it is a guess which is which, a good one while the rest of the shape is the same too.
  }
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerTranspose(Call& call) {
  const Val& x = call[0];
  const size_t rank = x.shape.size();
  std::vector<int64_t> perm;
  if (const Attribute* a = call.node.Find("perm")) {
    perm = a->ints;
  } else {
    for (size_t i = rank; i > 0; --i) perm.push_back(static_cast<int64_t>(i) - 1);
  }
  std::vector<bool> seen(rank, false);
  for (int64_t axis : perm) {
    if (axis < 0 || axis >= static_cast<int64_t>(rank) || seen[static_cast<size_t>(axis)]) return Refuse("perm is no permutation of its axes");
    seen[static_cast<size_t>(axis)] = true;
  }
  if (perm.size() != rank) return Refuse(absl::StrCat("perm has ", perm.size(), " axes, expected ", rank));
  Shape shape;
  std::vector<int> labels;
  int time = -1;
  size_t moved = 0;
  std::vector<int64_t> wide;  // axes of more than one item: where their order stays, no element moves
  for (int64_t axis : perm) {
    const auto a = static_cast<size_t>(axis);
    if (x.time == static_cast<int>(a)) time = static_cast<int>(shape.size());
    shape.push_back(x.shape[a]);
    labels.push_back(x.labels[a]);
    if (x.shape[a] != 1) wide.push_back(axis);
  }
  moved = std::is_sorted(wide.begin(), wide.end()) ? 0 : 1;
  ValPtr arranged;
  if (moved == 0) {
    arranged = Reshaped(x, shape);
  } else {
    LSTM_ASSIGN_OR_RETURN(arranged, Arranged(x, Transposed(x.shape, perm), shape));
  }
  auto out = std::make_shared<Val>(*arranged);
  out->labels = labels;
  out->time = time;
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerSlice(Call& call) {
  std::vector<int64_t> starts, ends, axes, steps;
  if (const Attribute* a = call.node.Find("starts")) {  // opset 9 and before
    starts = a->ints;
    if (const Attribute* e = call.node.Find("ends")) ends = e->ints;
    if (const Attribute* x = call.node.Find("axes")) axes = x->ints;
  } else {
    LSTM_ASSIGN_OR_RETURN(starts, IntsOf(call, 1, "starts"));
    LSTM_ASSIGN_OR_RETURN(ends, IntsOf(call, 2, "ends"));
    if (call.has(3)) {
      LSTM_ASSIGN_OR_RETURN(axes, IntsOf(call, 3, "axes"));
    }
    if (call.has(4)) {
      LSTM_ASSIGN_OR_RETURN(steps, IntsOf(call, 4, "steps"));
    }
  }
  if (axes.empty()) {
    for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  }
  if (steps.empty()) steps.assign(starts.size(), 1);
  if (ends.size() != starts.size() || axes.size() != starts.size() || steps.size() != starts.size()) return Refuse("starts, ends, axes and steps differ in number");
  ValPtr x = call.in[0];
  for (size_t i = 0; i < starts.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(axes[i], x->shape.size()));
    const int64_t step = steps[i];
    if (step == 0 || step > kMaxInts || step < -kMaxInts) return Refuse(absl::StrCat("its step is ", step));
    const bool over_time = x->time == static_cast<int>(axis);
    const int64_t n = FullShape(*x)[axis];
    int64_t begin = starts[i] < -n ? (step < 0 ? -1 : 0) : starts[i] < 0 ? starts[i] + n : std::min(starts[i], step < 0 ? n - 1 : n);
    int64_t end = ends[i] < -n ? (step < 0 ? -1 : 0) : ends[i] < 0 ? ends[i] + n : std::min(ends[i], n);
    if (begin < 0 && step > 0) begin = 0;
    const int64_t count = step > 0 ? std::max<int64_t>(0, (end - begin + step - 1) / step) : std::max<int64_t>(0, (begin - end - step - 1) / -step);
    if (over_time) {
      if (step != 1) return Refuse("takes steps of time apart, or backwards: what it gives is not one for each step");
      if (begin == 0 && end == n) continue;
      auto out = std::make_shared<Val>(*x);
      if (begin == 0 && end == kTime + x->head) {  // cuts what padding added behind
        out->tail = 0;
      } else if (begin == n - 1 && count == 1 && x->head == 0 && x->tail == 0) {
        out->time = -1;
        out->last = true;
      } else {
        return Refuse(absl::StrCat("cuts time: takes steps ", starts[i], " to ", ends[i], " of the sequence; the last one, -1, can be streamed"));
      }
      x = out;
      continue;
    }
    if (count == 0 && !x->constant()) return Refuse(absl::StrCat("takes nothing of axis ", axis, " of shape ", ShapeString(x->shape)));
    LSTM_ASSIGN_OR_RETURN(x, Cut(*x, axis, begin, count, step));
  }
  call.out[0] = x;
  return absl::OkStatus();
}

absl::StatusOr<ValPtr> Lowering::Embedding(const Call& call, const Val& table, const Val& ids) {
  if (call.node.Int("axis", 0) != 0) return absl::InvalidArgumentError("looks ids up along another axis than the first");
  if (ids.count() != 1 || ids.is_float) return absl::InvalidArgumentError(absl::StrCat("its index is computed in every step, shape ", ShapeString(ids.shape), "; expected one integer id a step"));
  auto loaded = Constant(table);
  if (!loaded.ok()) return loaded.status();
  const TensorPtr& tensor = *loaded;
  if (!tensor->is_float || tensor->shape.empty()) return absl::InvalidArgumentError("its table is no array of floats");
  const int64_t rows = tensor->shape[0], width = rows == 0 ? 0 : static_cast<int64_t>(tensor->size()) / rows;
  if (rows == 0) return absl::InvalidArgumentError("its table is empty");
  auto weight = NewConstant({rows, width});
  std::copy(tensor->floats.begin(), tensor->floats.end(), weight->values.data());
  const Element id = ids.at(0);
  LSTM_ASSIGN_OR_RETURN(const ValueId source, ValueOf(id.source));
  LSTM_ASSIGN_OR_RETURN(const ValueId value, Add("", EmbeddingOp{weight}, {source}));
  Shape shape = ids.shape;
  shape.insert(shape.end(), tensor->shape.begin() + 1, tensor->shape.end());
  return Computed(value, shape, ids);
}

absl::Status Lowering::LowerGather(Call& call) {
  const Val& x = call[0];
  if (!call.has(1)) return Refuse("its index is missing");
  if (!call[1].constant()) {
    LSTM_ASSIGN_OR_RETURN(call.out[0], Embedding(call, x, call[1]));
    return absl::OkStatus();
  }
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), x.shape.size()));
  LSTM_ASSIGN_OR_RETURN(std::vector<int64_t> index, IntsOf(call, 1, "index"));
  const Shape index_shape = call[1].shape;
  const int64_t n = FullShape(x)[axis];
  for (int64_t& i : index) {
    if (i < -n || i >= n) return Refuse(absl::StrCat("takes item ", i, " of axis ", axis, " of shape ", ShapeString(x.shape)));
    if (i < 0) i += n;
  }
  Shape shape(x.shape.begin(), x.shape.begin() + static_cast<long>(axis));
  shape.insert(shape.end(), index_shape.begin(), index_shape.end());
  shape.insert(shape.end(), x.shape.begin() + static_cast<long>(axis) + 1, x.shape.end());
  if (x.time == static_cast<int>(axis)) {
    if (index.size() != 1 || index[0] != n - 1 || x.head != 0 || x.tail != 0) return Refuse("takes single steps out of the sequence; the last one, -1, can be streamed");
    auto out = std::make_shared<Val>(*Reshaped(x, shape));
    out->time = -1;
    out->last = true;
    call.out[0] = std::move(out);
    return absl::OkStatus();
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr arranged, Arranged(x, Gathered(x.shape, axis, index), shape));
  auto out = std::make_shared<Val>(*arranged);
  const int shift = static_cast<int>(index_shape.size()) - 1;
  out->time = x.time > static_cast<int>(axis) ? x.time + shift : x.time;
  for (size_t a = 0; a < x.shape.size(); ++a) {
    if (a != axis) out->labels[a < axis ? a : static_cast<size_t>(static_cast<int>(a) + shift)] = x.labels[a];
  }
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerConcat(Call& call) {
  if (call.in.empty()) return Refuse("joins nothing");
  for (size_t i = 0; i < call.in.size(); ++i) {
    if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
  }
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), call[0].shape.size()));
  Shape shape = call[0].shape;
  shape[axis] = 0;
  bool constant = true;
  const Val* lead = call.in[0].get();
  for (const ValPtr& part : call.in) {
    if (part->shape.size() != shape.size()) return Refuse(absl::StrCat("joins shapes of ", shape.size(), " and ", part->shape.size(), " dimensions"));
    for (size_t a = 0; a < shape.size(); ++a) {
      if (a != axis && part->shape[a] != shape[a]) return Refuse(absl::StrCat("joins shapes ", ShapeString(call[0].shape), " and ", ShapeString(part->shape), " along axis ", axis));
      if (a != axis) Unite(part->labels[a], lead->labels[a]);
    }
    if (part->time == static_cast<int>(axis)) return Refuse("joins sequences one behind the other");
    if (part->time >= 0 && lead->time < 0) lead = part.get();
    if (part->time >= 0 && (part->time != lead->time || part->head != lead->head || part->tail != lead->tail)) return Refuse("joins values whose time does not run side by side");
    shape[axis] += part->shape[axis];
    constant = constant && part->constant();
  }
  bool last = false;
  for (const ValPtr& part : call.in) last = last || part->last;
  if (last && lead->time >= 0) return Refuse("joins the end of the sequence to every step of it: it looks ahead");
  int64_t outer = 1, inner = 1;
  for (size_t a = 0; a < axis; ++a) outer *= shape[a];
  for (size_t a = axis + 1; a < shape.size(); ++a) inner *= shape[a];
  if (constant) {
    Tensor out;
    out.shape = shape;
    std::vector<TensorPtr> parts;
    for (size_t i = 0; i < call.in.size(); ++i) {
      LSTM_ASSIGN_OR_RETURN(const TensorPtr part, ConstantOf(call, i, "part"));
      if (i > 0 && part->is_float != parts[0]->is_float) return Refuse("joins floats and integers");
      parts.push_back(part);
    }
    out.is_float = parts[0]->is_float;
    if (!out.is_float && CheckedElementCount(shape) > kMaxInts) return Refuse("gives too many integers");
    LSTM_RETURN_IF_ERROR(Spend(outer * inner * shape[axis]));
    for (int64_t o = 0; o < outer; ++o) {
      for (const TensorPtr& part : parts) {
        const int64_t run = part->shape[axis] * inner;
        if (out.is_float) out.floats.insert(out.floats.end(), part->floats.begin() + o * run, part->floats.begin() + (o + 1) * run);
        if (!out.is_float) out.ints.insert(out.ints.end(), part->ints.begin() + o * run, part->ints.begin() + (o + 1) * run);
      }
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  LSTM_RETURN_IF_ERROR(Spend(outer * inner * shape[axis]));
  auto elements = std::make_shared<std::vector<Element>>();
  std::vector<ValPtr> parts;
  for (const ValPtr& part : call.in) {
    if (!part->constant()) {
      parts.push_back(part);
      continue;
    }
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(*part));
    if (!tensor->is_float) return Refuse("joins integers to computed values");
    auto made = std::make_shared<Val>();
    sources_.push_back({Source::kConstant, -1, -1, tensor, tensor->shape});
    made->source = static_cast<int>(sources_.size()) - 1;
    made->shape = part->shape;
    parts.push_back(made);
  }
  for (int64_t o = 0; o < outer; ++o) {
    for (const ValPtr& part : parts) {
      const int64_t run = part->shape[axis] * inner;
      for (int64_t i = 0; i < run; ++i) elements->push_back(part->at(o * run + i));
    }
  }
  auto out = std::make_shared<Val>();
  out->is_float = lead->is_float;
  out->shape = shape;
  out->labels = lead->labels;
  out->labels[axis] = -1;
  out->time = lead->time;
  out->head = lead->head;
  out->tail = lead->tail;
  out->last = last;
  out->elements = std::move(elements);
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerSplit(Call& call) {
  const Val& x = call[0];
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), x.shape.size()));
  std::vector<int64_t> sizes;
  if (const Attribute* a = call.node.Find("split")) {
    sizes = a->ints;
  } else if (call.has(1)) {
    LSTM_ASSIGN_OR_RETURN(sizes, IntsOf(call, 1, "split"));
  }
  if (x.time == static_cast<int>(axis)) return Refuse("cuts the sequence into parts");
  const auto parts = static_cast<int64_t>(call.out.size());
  const int64_t n = x.shape[axis], each = parts == 0 ? 0 : (n + parts - 1) / parts;
  if (sizes.empty()) {
    for (int64_t i = 0; i < parts; ++i) sizes.push_back(std::min(each, n - i * each));
  }
  if (sizes.size() != call.out.size()) return Refuse(absl::StrCat("has ", sizes.size(), " sizes for ", call.out.size(), " parts"));
  int64_t begin = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] <= 0 || begin + sizes[i] > n) return Refuse(absl::StrCat("takes ", sizes[i], " items from ", begin, " of axis ", axis, " of shape ", ShapeString(x.shape)));
    LSTM_ASSIGN_OR_RETURN(call.out[i], Cut(x, axis, begin, sizes[i], 1));
    begin += sizes[i];
  }
  return absl::OkStatus();
}

absl::Status Lowering::LowerPad(Call& call) {
  const Val& x = call[0];
  const size_t rank = x.shape.size();
  std::vector<int64_t> pads, axes;
  double fill = call.node.Float("value", 0);
  if (const Attribute* a = call.node.Find("pads")) {
    pads = a->ints;
  } else {
    LSTM_ASSIGN_OR_RETURN(pads, IntsOf(call, 1, "pads"));
    if (call.has(2)) {
      LSTM_ASSIGN_OR_RETURN(const TensorPtr value, ConstantOf(call, 2, "value"));
      if (value->size() != 1) return Refuse("its value is not one number");
      fill = value->At(0);
    }
  }
  if (call.has(3)) {
    LSTM_ASSIGN_OR_RETURN(axes, IntsOf(call, 3, "axes"));
  } else {
    for (size_t a = 0; a < rank; ++a) axes.push_back(static_cast<int64_t>(a));
  }
  if (pads.size() != 2 * axes.size()) return Refuse(absl::StrCat("has ", pads.size(), " pads, expected ", 2 * axes.size()));
  std::vector<int64_t> before(rank, 0), after(rank, 0);
  for (size_t i = 0; i < axes.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const size_t a, Axis(axes[i], rank));
    before[a] = pads[i];
    after[a] = pads[i + axes.size()];
  }
  const std::string_view mode = call.node.Text("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge") return Refuse(absl::StrCat("its mode is ", Shown(mode)));
  auto padded = std::make_shared<Val>(x);
  if (x.time >= 0) {
    const auto t = static_cast<size_t>(x.time);
    if (before[t] != 0 || after[t] != 0) {
      if (mode != "constant" || fill != 0) return Refuse("pads time with something else than zeros");
      if (after[t] > 0 && before[t] == 0) return Refuse(absl::StrCat("pads time with ", after[t], " frames behind its end: it looks ahead"));
      if (before[t] < 0) return Refuse("cuts the begin of the sequence");
      if (after[t] < -x.tail || before[t] > kMaxInts || after[t] > kMaxInts) return Refuse("cuts the end of the sequence");
      padded->head += before[t];
      padded->tail += after[t];
      before[t] = after[t] = 0;
    }
  }
  for (size_t a = 0; a < rank; ++a) {
    if ((before[a] != 0 || after[a] != 0) && IsOpen(x.labels[a]) && x.time < 0 && MakeTime(x.labels[a])) return absl::AbortedError("time was found");
  }
  if (std::all_of(before.begin(), before.end(), [](int64_t n) { return n == 0; }) && std::all_of(after.begin(), after.end(), [](int64_t n) { return n == 0; })) {
    call.out[0] = std::move(padded);
    return absl::OkStatus();
  }
  LSTM_ASSIGN_OR_RETURN(const Arrangement arrangement,
                        Padded(x.shape, before, after, mode == "constant" ? PadMode::kConstant : mode == "reflect" ? PadMode::kReflect : PadMode::kEdge));
  LSTM_ASSIGN_OR_RETURN(const ValPtr out, Arranged(*padded, arrangement, arrangement.shape(), fill));
  auto labelled = std::make_shared<Val>(*out);
  labelled->labels = x.labels;
  call.out[0] = std::move(labelled);
  return absl::OkStatus();
}

absl::Status Lowering::LowerExpand(Call& call, Shape target) {
  const Val& x = call[0];
  for (int64_t n : target) {
    if (n < 0) return Refuse("its shape has a negative size");
  }
  LSTM_ASSIGN_OR_RETURN(Shape full, BroadcastShape(FullShape(x), target));
  const int shift = static_cast<int>(full.size() - x.shape.size());
  const int time = x.time < 0 ? -1 : x.time + shift;
  if (time >= 0) full[static_cast<size_t>(time)] = 1;
  for (int64_t n : full) {
    if (IsTimeLength(n)) return Refuse("spreads a value over time, which no step knows the length of");
  }
  LSTM_RETURN_IF_ERROR(ElementCount(full).status());
  LSTM_RETURN_IF_ERROR(Spend(CheckedElementCount(full)));
  LSTM_ASSIGN_OR_RETURN(const Arrangement arrangement, Broadcast(x.shape, full));
  LSTM_ASSIGN_OR_RETURN(const ValPtr arranged, Arranged(x, arrangement, full));
  auto out = std::make_shared<Val>(*arranged);
  out->time = time;
  for (size_t a = 0; a < x.shape.size(); ++a) out->labels[a + static_cast<size_t>(shift)] = x.labels[a];
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::Structure(Call& call) {
  const std::string_view op = call.node.op;
  if (call.out.empty()) return Refuse("it has no output");
  if (op == "Constant") {
    Tensor out;
    if (const Attribute* a = call.node.Find("value")) {
      LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor(a->tensor));
      auto val = std::make_shared<Val>();
      val->stored = stored;
      val->is_float = IsFloatType(stored.type);
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
                                               "Concat", "Split", "Pad", "Expand", "Tile", "Cast", "CastLike"};
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
    const bool to_float = op == "CastLike" ? call.has(1) && call[1].is_float : IsFloatType(call.node.Int("to", 1));
    if (to_float == x.is_float) {
      call.out[0] = call.in[0];
      if (!x.constant() || call.node.Int("to", 1) != 9) return absl::OkStatus();
    }
    if (!x.constant()) return Refuse(absl::StrCat("turns computed ", x.is_float ? "floats into integers" : "integers into floats"));
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
  if (op == "Expand") {
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, IntsOf(call, 1, "shape"));
    return LowerExpand(call, Shape(shape.begin(), shape.end()));
  }
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> repeats, IntsOf(call, 1, "repeats"));  // Tile
  if (repeats.size() != x.shape.size()) return Refuse("has not one repeat for each axis");
  Shape shape = x.shape;
  for (size_t a = 0; a < shape.size(); ++a) {
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
