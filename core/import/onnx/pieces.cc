// SPDX-License-Identifier: MIT
// Ops that take parts of values, join them, or pad them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

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
      if (step == -1 && begin == n - 1 && end < 0 && x->head == 0 && x->tail == 0 && whole_) {
        LSTM_ASSIGN_OR_RETURN(x, Anew(x, {-1, SequenceRead::kEach, 0, true}));
        continue;
      }
      if (step == 1 && begin == 0 && end == n) continue;
      // From a step near the front to one near the end, every so many: so many frames for T steps.
      const bool cut_padding = step == 1 && begin == 0 && end == n - x->tail;
      if (whole_ && step > 0 && begin < n / 2 && end > n / 2 && x->head == 0 && x->tail == 0 && !cut_padding) {
        LSTM_ASSIGN_OR_RETURN(const ValPtr part, Windowed(x, -begin, end - n, 0, step));
        x = part;
        continue;
      }
      if (step != 1) return LooksAhead("takes steps of time apart, or backwards: what it gives is not one for each step");
      auto out = std::make_shared<Val>(*x);
      if (begin == 0 && end == n - x->tail) {  // cuts what padding added behind
        out->tail = 0;
      } else if (begin == n - 1 && count == 1 && x->head == 0 && x->tail == 0) {
        out->time = -1;
        out->last = true;
      } else if (whole_ && count == 1 && x->head == 0 && x->tail == 0) {
        LSTM_ASSIGN_OR_RETURN(const ValPtr one, Anew(x, {-1, SequenceRead::kAt, 0, false, begin >= n / 2 ? begin - n : begin}));
        *out = *one;
        out->time = -1;
      } else {
        return LooksAhead(absl::StrCat("cuts time: takes steps ", starts[i], " to ", ends[i], " of the sequence; the last one, -1, can be streamed"));
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

absl::StatusOr<ValPtr> Lowering::Embedding(const ValPtr& table_ptr, const Val& ids) {
  const Val& table = *table_ptr;
  const Source* input = ids.elements ? nullptr : &sources_[static_cast<size_t>(ids.source)];
  if (input != nullptr && input->kind == Source::kImport) input = &sources_[static_cast<size_t>(input->origin.source)];
  if (input != nullptr && input->kind != Source::kInput) input = nullptr;
  if (input != nullptr && ids.is_float && reading_.floats.erase(input->input) > 0) {  // looked up, and computed with
    if (table.shape.empty()) return absl::InvalidArgumentError("its table is no array of floats");
    reading_.looked_up[input->input] = table.shape[0];
    return absl::AbortedError("numbers are ids too");
  }
  // Nobody said yet which axis is time: what reads this may.
  const bool open = input != nullptr && ids.time < 0 && !ids.is_float && (whole_ || ids.count() > 1);
  if ((ids.count() != 1 && !open) || ids.is_float) return absl::InvalidArgumentError(absl::StrCat("its index is computed in every step, shape ", ShapeString(ids.shape), "; expected one integer id a step"));
  if (!table.constant()) return Constant(table).status();
  if (!table.is_float || table.shape.empty()) return absl::InvalidArgumentError("its table is no array of floats");
  const int64_t rows = table.shape[0], width = rows == 0 ? 0 : table.count() / rows;
  if (rows == 0 || width == 0) return absl::InvalidArgumentError("its table is empty");
  LSTM_ASSIGN_OR_RETURN(const ConstantPtr weight, Shared(table_ptr, absl::StrCat("Gather ", rows), {rows, width}, [&](const Tensor& tensor) {
    auto made = NewConstant({rows, width});
    std::copy(tensor.floats.begin(), tensor.floats.end(), made->values.data());
    return made;
  }));
  const Element id = ids.at(0);
  Shape shape = ids.shape;
  shape.insert(shape.end(), table.shape.begin() + 1, table.shape.end());
  if (open) {
    const std::string_view name = inputs_[static_cast<size_t>(input->input)].declared.name;
    if (undecided_.ok()) {
      undecided_ = absl::InvalidArgumentError(absl::StrCat("looks up input ", Shown(name), " of shape ", ShapeString(ids.shape), ", expected one id a step: which of its axes is time, nothing in the graph says. The manifest can: ", ManifestLine(name, "time: ...")));
    }
    auto stand_in = std::make_shared<Val>(ids);
    stand_in->is_float = true;
    LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount({ids.count(), width}));
    LSTM_RETURN_IF_ERROR(Spend(count));
    stand_in->source = NewSource({Source::kConstant, -1, -1, std::make_shared<const Tensor>(Tensor{true, {count}, std::vector<float>(static_cast<size_t>(count), 0), {}}), {count}});
    stand_in->elements = nullptr;
    stand_in->labels.resize(shape.size(), -1);
    stand_in->shape = shape;
    return ValPtr(stand_in);
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId source, ValueOf(id.source));
  LSTM_ASSIGN_OR_RETURN(const ValueId value, Add("", EmbeddingOp{weight}, {source}));
  return Computed(value, shape, ids);
}

absl::Status Lowering::LowerGather(Call& call) {
  const Val& x = call[0];
  if (!call.has(1)) return Refuse("its index is missing");
  if (!call[1].constant()) {
    if (call.node.Int("axis", 0) != 0) return Refuse("looks ids up along another axis than the first");
    LSTM_ASSIGN_OR_RETURN(call.out[0], Embedding(call.in[0], call[1]));
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
    if (whole_ && index.size() == 1 && index[0] != n - 1 && x.head == 0 && x.tail == 0) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr one, Anew(call.in[0], {-1, SequenceRead::kAt, 0, false, index[0] >= n / 2 ? index[0] - n : index[0]}));
      auto out = std::make_shared<Val>(*Reshaped(*one, shape));
      out->time = -1;
      call.out[0] = std::move(out);
      return absl::OkStatus();
    }
    if (index.size() != 1 || index[0] != n - 1 || x.head != 0 || x.tail != 0) return LooksAhead("takes single steps out of the sequence; the last one, -1, can be streamed");
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
  if (last && lead->time >= 0) return LooksAhead("joins the end of the sequence to every step of it: it looks ahead");
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
    LSTM_ASSIGN_OR_RETURN(parts.emplace_back(), AsComputed(part));
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
      if (after[t] > 0 && before[t] == 0 && !whole_) return LooksAhead(absl::StrCat("pads time with ", after[t], " frames behind its end: it looks ahead"));
      if (before[t] < 0) return Refuse("cuts the begin of the sequence");
      if (after[t] < -x.tail || before[t] > kMaxInts || after[t] > kMaxInts) return Refuse("cuts the end of the sequence");
      padded->head += before[t];
      padded->zeros_behind = x.tail == 0 || x.zeros_behind;
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
  Shape wide = x.shape;
  for (size_t a = 0; a < rank; ++a) {
    if (before[a] > kMaxInts || before[a] < -kMaxInts || after[a] > kMaxInts || after[a] < -kMaxInts) return Refuse(absl::StrCat("pads axis ", a, " by ", before[a], " and ", after[a]));
    wide[a] = std::max<int64_t>(1, wide[a] + before[a] + after[a]);
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t padded_count, ElementCount(wide));
  LSTM_RETURN_IF_ERROR(Affordable(padded_count));
  LSTM_ASSIGN_OR_RETURN(const Arrangement arrangement,
                        Padded(x.shape, before, after, mode == "constant" ? PadMode::kConstant : mode == "reflect" ? PadMode::kReflect : PadMode::kEdge));
  LSTM_ASSIGN_OR_RETURN(const ValPtr out, Arranged(*padded, arrangement, arrangement.shape(), fill));
  auto labelled = std::make_shared<Val>(*out);
  labelled->labels = x.labels;
  call.out[0] = std::move(labelled);
  return absl::OkStatus();
}

// What Keras' layers that go backwards are exported as, its length being all steps.
absl::Status Lowering::LowerReverse(Call& call) {
  const Val& x = call[0];
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("time_axis", 0), x.shape.size()));
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> ends, IntsOf(call, 1, "sequence_lens"));
  if (x.time < 0 && x.labels[axis] >= 0 && (IsOpen(x.labels[axis]) || x.shape[axis] > 1) && MakeTime(x.labels[axis])) return absl::AbortedError("time was found");
  if (x.time != static_cast<int>(axis)) return Refuse(absl::StrCat("turns axis ", axis, " of shape ", ShapeString(x.shape), ", which is not time"));
  if (!whole_) return LooksAhead("reads the sequence from its end, which no step knows");
  const int rate = RateOf(x);
  for (int64_t end : ends) {
    if (end != TimeOf(rate) && end != FixedTime(rate)) return Refuse(absl::StrCat("its sequence_lens is ", end, ", expected all steps of the sequence"));
  }
  if (x.head != 0 || x.tail != 0) return Refuse("turns a sequence that is padded");
  LSTM_ASSIGN_OR_RETURN(call.out[0], Anew(call.in[0], {-1, SequenceRead::kEach, 0, true}));
  return absl::OkStatus();
}

// A table whose rows are `off` but for one `on`.
absl::Status Lowering::LowerOneHot(Call& call) {
  LSTM_ASSIGN_OR_RETURN(const TensorPtr depth, ConstantOf(call, 1, "depth"));
  LSTM_ASSIGN_OR_RETURN(const TensorPtr values, ConstantOf(call, 2, "values"));
  const double n = depth->size() == 1 ? depth->At(0) : 0;
  if (!(n >= 1) || n > 65536 || values->size() != 2) return Refuse(absl::StrCat("its depth is ", n, " and it has ", values->size(), " values, expected 1 to 65536 and two"));
  const Val& ids = call[0];
  const auto rank = static_cast<int64_t>(ids.shape.size()), axis = call.node.Int("axis", -1);
  if (axis != -1 && axis != rank) return Refuse(absl::StrCat("its axis is ", axis, ", expected the last"));
  if (ids.constant()) return Refuse("its indices are constants");
  const auto rows = static_cast<int64_t>(n);
  LSTM_RETURN_IF_ERROR(Affordable(rows * rows));
  Tensor table{true, {rows, rows}, std::vector<float>(static_cast<size_t>(rows * rows), static_cast<float>(values->At(0))), {}};
  for (size_t i = 0; i < static_cast<size_t>(rows); ++i) table.floats[i * static_cast<size_t>(rows) + i] = static_cast<float>(values->At(1));
  LSTM_ASSIGN_OR_RETURN(call.out[0], Embedding(MakeConstantVal(std::move(table)), ids));
  return absl::OkStatus();
}

// Sorting a batch by length, as packed sequences are: of one item it is that item.
absl::Status Lowering::LowerTopK(Call& call) {
  const Val& x = call[0];
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", -1), x.shape.size()));
  if (x.time == static_cast<int>(axis)) return LooksAhead("sorts the sequence: it needs the whole of it");
  if (x.shape[axis] != 1) {
    const int label = x.labels[axis];
    if (x.shape.size() == 1 && !x.is_float && label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
    return Refuse(absl::StrCat("sorts axis ", axis, " of shape ", ShapeString(x.shape), ", expected one item, a batch"));
  }
  LSTM_RETURN_IF_ERROR(Spend(x.count()));
  call.out[0] = call.in[0];
  if (call.out.size() > 1) call.out[1] = MakeConstantVal({false, x.shape, {}, std::vector<int64_t>(static_cast<size_t>(x.count()), 0)});
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
