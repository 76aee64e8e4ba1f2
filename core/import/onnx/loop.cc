// SPDX-License-Identifier: MIT
// Loop nodes: along time, where their number of turns is the length of the sequence, or a fixed number of turns within a step.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

constexpr int64_t kMostTurns = 1024, kNoLimit = (int64_t{1} << 31) - 1;

ValPtr Number(int64_t more, Shape shape) {
  auto val = std::make_shared<Val>();
  val->is_float = false;
  val->number = more;
  val->labels.assign(shape.size(), -1);
  val->shape = std::move(shape);
  return val;
}

// For each value that an Identity or the like gives, what it is.
std::string_view Behind(const std::map<std::string_view, std::string_view>& same, std::string_view name) {
  size_t left = same.size();  // a file may say that they are in a circle
  for (auto it = same.find(name); it != same.end() && left-- > 0; it = same.find(name)) name = it->second;
  return name;
}

}  // namespace

// What reads the number of a step and still is the same in every step of a session.
absl::Status Lowering::WithNumber(Call& call) {
  const std::string_view op = call.node.op;
  const auto number = [&](size_t i) { return call.has(i) && call[i].number; };
  const auto nobody = [&] { return LooksAhead("computes with the number of the step, which no session knows"); };
  if (op == "Gather" && number(1) && !number(0)) {
    const Val& x = call[0];
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), x.shape.size()));
    if (x.time != static_cast<int>(axis)) return Refuse(absl::StrCat("reads axis ", axis, " of shape ", ShapeString(FullShape(x)), " by the number of the step: expected the axis of time"));
    if (*call[1].number != 0 || x.head != 0 || x.tail != 0) return LooksAhead("reads another step than its own");
    Shape shape(x.shape.begin(), x.shape.begin() + static_cast<long>(axis));
    shape.insert(shape.end(), call[1].shape.begin(), call[1].shape.end());
    shape.insert(shape.end(), x.shape.begin() + static_cast<long>(axis) + 1, x.shape.end());
    label_ = x.labels[axis];
    if (whole_) {  // a value of this stage: it has no time of its own that could say how it is brought
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*Bring(x, {-1, SequenceRead::kEach}), {x.count()}));
      call.out[0] = Computed(id, shape, Val{});
      return absl::OkStatus();
    }
    auto item = std::make_shared<Val>(*Reshaped(x, shape));
    item->time = -1;
    call.out[0] = std::move(item);
    return absl::OkStatus();
  }
  if (!number(0)) {  // these may have it second
    if (op != "Add" && op != "Greater" && op != "GreaterOrEqual") return nobody();
    if (!number(1) || number(0)) return nobody();
  }
  const size_t at = number(0) ? 0 : 1;
  const int64_t more = *call[at].number;
  if (op == "Identity" || op == "Cast") {
    if (op == "Cast" && IsFloatType(call.node.Int("to", 1))) return nobody();
    call.out[0] = call.in[0];
    return absl::OkStatus();
  }
  if (op == "Unsqueeze" || op == "Squeeze" || op == "Reshape") {
    call.out[0] = Number(more, op == "Squeeze" ? Shape{} : Shape{1});
    return absl::OkStatus();
  }
  if (!call.has(1 - at) || number(1 - at)) return nobody();
  LSTM_ASSIGN_OR_RETURN(const TensorPtr other, ConstantOf(call, 1 - at, "other operand"));
  if (other->is_float || other->size() != 1) return nobody();
  const int64_t n = other->ints[0];
  if (op == "Add" || op == "Sub") {
    if (n < -kMostTurns || n > kMostTurns || more < -kNoLimit || more > kNoLimit) return nobody();
    call.out[0] = Number(op == "Add" ? more + n : more - n, call[at].shape);
    return absl::OkStatus();
  }
  // Whether there is such a step: a session goes on until its client ends it.
  const bool below = at == 0 ? op == "Less" || op == "LessOrEqual" : op == "Greater" || op == "GreaterOrEqual";
  if (!below || more < 0 || more > 1 || (n < kNoLimit && !IsTimeLength(n) && n != FixedTime(-1))) return nobody();
  call.out[0] = MakeConstantVal({false, call[at].shape, {}, {1}});
  return absl::OkStatus();
}

// A sequence that is read step by step is along time, whatever nobody said of its axis.
absl::Status Lowering::FindTime(const GraphView& body) {
  std::map<std::string_view, std::string_view> same, parts;
  for (std::string_view message : body.nodes) {
    LSTM_ASSIGN_OR_RETURN(const NodeView node, ReadNode(message));
    if (node.inputs.empty() || node.outputs.empty()) continue;
    if (node.op == "Identity" || node.op == "Cast" || node.op == "Unsqueeze" || node.op == "Squeeze") same.emplace(node.outputs[0], node.inputs[0]);
    if (node.op == "Identity" || node.op == "Slice") parts.emplace(node.outputs[0], node.inputs[0]);
    if (node.op != "Gather" || node.inputs.size() < 2) continue;
    const std::string_view index = Behind(same, node.inputs[1]);
    const bool counts = std::any_of(body.inputs.begin(), body.inputs.end(), [&](const Declared& in) { return in.name == index; });
    const auto data = values_.find(Behind(parts, node.inputs[0]));
    if (!counts || data == values_.end() || data->second->constant() || data->second->time >= 0) continue;
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(node.Int("axis", 0), data->second->shape.size()));
    const int label = data->second->labels[axis];
    if (IsOpen(label) && MakeTime(label)) return absl::AbortedError("time was found");
  }
  return absl::OkStatus();
}

absl::Status Lowering::RunLoop(Call& call) {
  const Attribute* attribute = call.node.Find("body");
  if (attribute == nullptr) return Refuse("its body is missing");
  LSTM_ASSIGN_OR_RETURN(const GraphView body, ReadGraph(attribute->graph));
  if (call.in.size() < 2) return Refuse(absl::StrCat("has ", call.in.size(), " inputs, expected a number of turns, a condition and its states"));
  const size_t n = call.in.size() - 2;
  if (body.inputs.size() != n + 2 || body.outputs.size() < std::max(call.out.size(), n) + 1) {
    return Refuse(absl::StrCat("has ", n, " states and ", call.out.size(), " outputs; its body has ", body.inputs.size(), " inputs and ", body.outputs.size(), " outputs"));
  }
  for (size_t i = 0; i < n; ++i) {
    if (!call.has(i + 2)) return Refuse(absl::StrCat("its state ", i, " is missing"));
  }
  LSTM_RETURN_IF_ERROR(FindTime(body));
  const auto scalar = [&](size_t i, const char* what, int64_t otherwise) -> absl::StatusOr<int64_t> {
    if (!call.has(i)) return otherwise;
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, i, what));
    if (t->is_float || t->size() != 1) return absl::InvalidArgumentError(absl::StrCat("its ", what, " is not one integer"));
    return t->ints[0];
  };
  LSTM_ASSIGN_OR_RETURN(const int64_t turns, scalar(0, "number of turns", kNoLimit));
  LSTM_ASSIGN_OR_RETURN(const int64_t begins, scalar(1, "condition", 1));
  if (begins == 0 || turns < 1) return Refuse("never runs");
  const int64_t fixed = FixedTime(-1);
  if (turns < kNoLimit && !IsTimeLength(turns) && (fixed < 2 || turns != fixed)) return LoopWithin(call, body, turns);
  // States that are handed on as they came are none.
  std::map<std::string_view, std::string_view> same;
  for (std::string_view message : body.nodes) {
    LSTM_ASSIGN_OR_RETURN(const NodeView node, ReadNode(message));
    if (node.op == "Identity" && !node.inputs.empty() && !node.outputs.empty()) same.emplace(node.outputs[0], node.inputs[0]);
  }
  std::vector<bool> stays;
  for (size_t i = 0; i < n; ++i) stays.push_back(Behind(same, body.outputs[i + 1].name) == body.inputs[i + 2].name);
  return LoopOverTime(call, body, stays);
}

absl::Status Lowering::LoopOverTime(Call& call, const GraphView& body, const std::vector<bool>& stays) {
  const size_t n = stays.size();
  std::vector<size_t> kept;  // states that the session carries
  std::vector<ValPtr> initial, in = {Number(0, {}), MakeConstantVal({false, {}, {}, {1}})};
  std::vector<int64_t> counted(n, 0);
  if (whole_ && stages_[static_cast<size_t>(stage_)]->length >= 0) NewStage(-1);
  for (size_t i = 0; i < n; ++i) {
    ValPtr val = call.in[i + 2];
    if (val->time >= 0 && !stays[i]) return Refuse(absl::StrCat("its initial state ", i, " changes over time"));
    if (!stays[i] && val->constant() && !val->is_float && !val->list) {  // a number that counts
      LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*val));
      if (t->size() != 1 || t->ints[0] < -kMostTurns || t->ints[0] > kMostTurns) return Refuse(absl::StrCat("its state ", i, " has integers that are no counter of its turns"));
      counted[i] = t->ints[0];
      val = Number(counted[i], val->shape);
    } else if (!stays[i] && !val->list) {
      kept.push_back(i);
      initial.push_back(val);
    }
    in.push_back(std::move(val));
  }
  if (whole_ && std::any_of(initial.begin(), initial.end(), [&](const ValPtr& v) { return !v->constant() && !CanBring(*v, {-1, SequenceRead::kAfter}); })) NewStage(-1);
  if (whole_) stages_[static_cast<size_t>(stage_)]->timed = true;
  Carried carried;
  LSTM_RETURN_IF_ERROR(BeginStates(initial, false, carried));
  for (size_t k = 0; k < kept.size(); ++k) in[kept[k] + 2] = carried.before[k];
  const int before = std::exchange(label_, -2);
  LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> out, RunStep(body, in));
  const int label = std::exchange(label_, before);
  if (label == -2) return Refuse("runs once for each step of a sequence and reads no step of one");
  if (!out[0]->constant() || out[0]->is_float) return LooksAhead("ends when its values say so: a session ends when its client ends it");
  LSTM_ASSIGN_OR_RETURN(const TensorPtr goes_on, Constant(*out[0]));
  if (goes_on->size() != 1 || goes_on->ints[0] == 0) return Refuse("ends after its first turn");
  std::vector<ValPtr> after;
  for (size_t i : kept) after.push_back(out[i + 1]);
  LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> next, EndStates(carried, after));
  for (size_t i = 0; i < n; ++i) {
    const ValPtr& val = out[i + 1];
    ValPtr end;
    if (stays[i]) {
      end = call.in[i + 2];
    } else if (const auto k = std::find(kept.begin(), kept.end(), i); k != kept.end()) {
      auto last = std::make_shared<Val>(*next[static_cast<size_t>(k - kept.begin())]);
      last->last = true;
      end = std::move(last);
    } else if (in[i + 2]->list) {
      if (!val->list || val->list->size() != 1 || !in[i + 2]->list->empty() || val->listed_each) return Refuse(absl::StrCat("its state ", i, " is a sequence: expected that it is empty and that each turn adds one value"));
      auto list = std::make_shared<Val>(*val);
      list->listed_each = true;
      list->labels = {label};
      end = std::move(list);
    } else {
      if (val->number != counted[i] + 1) return Refuse(absl::StrCat("its state ", i, " has integers that are no counter of its turns"));
      end = MakeConstantVal({false, val->shape, {}, {kTime + counted[i]}});
    }
    if (i < call.out.size()) call.out[i] = std::move(end);
  }
  for (size_t i = n; i < call.out.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr item, AsComputed(out[i + 1]));
    call.out[i] = EachStep(*item, 0, label);
  }
  return absl::OkStatus();
}

absl::Status Lowering::LoopWithin(Call& call, const GraphView& body, int64_t turns) {
  if (turns > kMostTurns) return Refuse(absl::StrCat("runs ", turns, " turns in one step: expected at most ", kMostTurns));
  const size_t n = call.in.size() - 2, k = std::max(call.out.size(), n) - n;
  if (within_.ok()) {
    within_ = absl::InvalidArgumentError(absl::StrCat("runs ", turns, " turns anew in every step: time flows through no input, and no input of the graph carries a state. The manifest can say which axis is time, -1 for none: ",
                                                      ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
  }
  const auto computed = [&](const ValPtr& val) -> absl::StatusOr<ValPtr> {
    return val->list || val->number || !val->is_float ? absl::StatusOr<ValPtr>(val) : AsComputed(val);
  };
  std::vector<ValPtr> state;
  for (size_t i = 0; i < n; ++i) {
    LSTM_ASSIGN_OR_RETURN(state.emplace_back(), computed(call.in[i + 2]));
  }
  std::vector<std::vector<ValPtr>> given(k);
  for (int64_t t = 0; t < turns; ++t) {
    std::vector<ValPtr> in = {MakeConstantVal({false, {}, {}, {t}}), MakeConstantVal({false, {}, {}, {1}})};
    in.insert(in.end(), state.begin(), state.end());
    LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> out, RunBody(body, in));
    for (size_t i = 0; i < n; ++i) {
      LSTM_ASSIGN_OR_RETURN(state[i], computed(out[i + 1]));
    }
    for (size_t i = 0; i < k; ++i) {
      LSTM_ASSIGN_OR_RETURN(given[i].emplace_back(), AsComputed(out[n + i + 1]));
      if (given[i].back()->shape != given[i][0]->shape) return Refuse(absl::StrCat("its output ", n + i, " changes its shape"));
    }
    if (!out[0]->constant() || out[0]->is_float) return LooksAhead("ends when its values say so");
    LSTM_ASSIGN_OR_RETURN(const TensorPtr goes_on, Constant(*out[0]));
    if (goes_on->size() != 1) return Refuse("its condition is not one truth value");
    if (goes_on->ints[0] == 0) break;
  }
  for (size_t i = 0; i < n && i < call.out.size(); ++i) call.out[i] = state[i];
  for (size_t i = 0; i < k; ++i) {
    LSTM_ASSIGN_OR_RETURN(call.out[n + i], Stacked(given[i], 0));
  }
  return absl::OkStatus();
}

// Lists of values, which loops of TorchScript fill.
absl::Status Lowering::Sequences(Call& call) {
  const std::string_view op = call.node.op;
  if (op == "SequenceEmpty" || op == "SequenceConstruct") {
    auto val = std::make_shared<Val>();
    val->list = std::make_shared<const std::vector<ValPtr>>(call.in);
    if (std::any_of(call.in.begin(), call.in.end(), [](const ValPtr& v) { return !v; })) return Refuse("one of its values is missing");
    call.out[0] = std::move(val);
    return absl::OkStatus();
  }
  if (op != "SequenceInsert" && op != "ConcatFromSequence") return absl::UnimplementedError("");
  if (!call.has(0) || !call[0].list) return Refuse("its first input is no sequence of values");
  const std::vector<ValPtr>& list = *call[0].list;
  if (op == "SequenceInsert") {
    if (!call.has(1) || call[1].list || call.has(2)) return Refuse("inserts no value, or elsewhere than behind the last");
    if (call[0].listed_each || list.size() >= static_cast<size_t>(kMostTurns)) return Refuse(absl::StrCat("adds to a sequence of more than ", kMostTurns, " values, or of one for each step"));
    auto longer = list;
    longer.push_back(call.in[1]);
    auto val = std::make_shared<Val>();
    val->list = std::make_shared<const std::vector<ValPtr>>(std::move(longer));
    call.out[0] = std::move(val);
    return absl::OkStatus();
  }
  const bool fresh = call.node.Int("new_axis", 0) != 0;
  if (list.empty()) return Refuse("joins nothing");
  std::vector<ValPtr> items;
  for (const ValPtr& item : list) {
    LSTM_ASSIGN_OR_RETURN(items.emplace_back(), AsComputed(item));
    if (items.back()->shape != items[0]->shape && (fresh || call[0].listed_each)) return Refuse("joins values of different shapes");
  }
  LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), items[0]->shape.size() + (fresh ? 1 : 0)));
  if (!call[0].listed_each) {
    if (fresh) {
      LSTM_ASSIGN_OR_RETURN(call.out[0], Stacked(items, axis));
    } else {
      LSTM_ASSIGN_OR_RETURN(call.out[0], Sub("Concat", call, items));
    }
    return absl::OkStatus();
  }
  const int label = call[0].labels.empty() ? -1 : call[0].labels[0];
  if (fresh) {
    call.out[0] = EachStep(*items[0], axis, label);
    return absl::OkStatus();
  }
  if (items[0]->shape[axis] != 1) return Refuse(absl::StrCat("lays ", items[0]->shape[axis], " items of every step along one axis"));
  auto y = std::make_shared<Val>(*items[0]);
  y->time = static_cast<int>(axis);
  y->labels[axis] = label;
  call.out[0] = std::move(y);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
