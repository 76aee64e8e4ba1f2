// SPDX-License-Identifier: MIT
// What Scan and Loop have in common: a graph of their own that runs again and again, states that it hands on, what its turns give.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {
namespace {

Shape WithAxis(Shape shape, size_t axis, int64_t n) {
  shape.insert(shape.begin() + static_cast<long>(axis), n);
  return shape;
}

}  // namespace

absl::StatusOr<std::vector<ValPtr>> Lowering::RunBody(const GraphView& body, const std::vector<ValPtr>& inputs) {
  std::vector<std::string_view> names;
  for (const Declared& in : body.inputs) names.push_back(in.name);
  for (std::string_view message : body.initializers) {
    LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor(message));
    names.push_back(stored.name);
  }
  for (std::string_view message : body.nodes) {
    LSTM_ASSIGN_OR_RETURN(const NodeView node, ReadNode(message));
    names.insert(names.end(), node.outputs.begin(), node.outputs.end());
  }
  // A body of tensors alone has no node that would pay for its turns.
  budget_ -= static_cast<int64_t>(names.size());
  if (budget_ < 0) return absl::ResourceExhaustedError("the graph, or the turns of its loops, are too many to be tried in so many readings");
  // Its names are its own: another body may have the same.
  std::vector<std::pair<std::string_view, ValPtr>> outer;
  for (std::string_view name : names) {
    if (auto node = values_.extract(name)) outer.emplace_back(node.key(), std::move(node.mapped()));
  }
  const std::string name = node_name_;
  ++bodies_;
  absl::Status status;
  for (size_t i = 0; i < inputs.size() && status.ok(); ++i) status = Bind(body.inputs[i].name, inputs[i]);
  if (status.ok()) status = RunNodes(body);
  --bodies_;
  node_name_ = name;
  LSTM_RETURN_IF_ERROR(status);
  std::vector<ValPtr> out;
  for (const Declared& output : body.outputs) {
    const auto it = values_.find(output.name);
    if (it == values_.end()) return Refuse(absl::StrCat("its body gives ", Shown(output.name), ", which no node before gives"));
    out.push_back(it->second);
  }
  for (std::string_view own : names) values_.erase(own);
  for (auto& [own, val] : outer) values_.emplace(own, std::move(val));
  return out;
}

absl::Status Lowering::BeginStates(const std::vector<ValPtr>& initial, bool turned, Carried& out) {
  for (size_t i = 0; i < initial.size(); ++i) {
    const Val& val = *initial[i];
    const std::string part = absl::StrCat("state", i);
    if (!val.is_float || val.count() < 1) return Refuse(absl::StrCat("its state ", i, " has integers, or nothing: expected floats"));
    Cell cell;  // what a state's owner says of itself
    cell.name = node_name_;
    cell.hidden = val.count();
    cell.reversed = turned;
    cell.steps = true;
    Carried::State& state = out.states.emplace_back();
    state.shape = val.shape;
    if (whole_) {
      LSTM_ASSIGN_OR_RETURN(state.id, GivenState(cell, initial[i], part.c_str()));
    } else {
      LSTM_ASSIGN_OR_RETURN(state.id, OwnState(cell, Reshaped(val, {val.count()}), part.c_str(), state.input, state.at));
    }
    if (state.id < 0) return Refuse(absl::StrCat("its initial state ", i, " comes anew with every step: expected that the session carries it"));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Add(absl::StrCat(part, ".before"), StateReadOp{state.id}, {}));
    out.before.push_back(Computed(id, val.shape, Val{}));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ValPtr>> Lowering::EndStates(const Carried& carried, const std::vector<ValPtr>& after) {
  std::vector<ValPtr> out;
  for (size_t i = 0; i < after.size(); ++i) {
    const Carried::State& state = carried.states[i];
    if (after[i]->shape != state.shape || !after[i]->is_float) return Refuse(absl::StrCat("its state ", i, " has shape ", ShapeString(state.shape), " before a step and ", ShapeString(after[i]->shape), " after it"));
    LSTM_ASSIGN_OR_RETURN(const ValPtr computed, AsComputed(after[i]));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*computed, {computed->count()}));
    out.push_back(Computed(id, after[i]->shape, Val{}));
    LSTM_RETURN_IF_ERROR(Add(absl::StrCat("state", i, ".after"), StateWriteOp{state.id}, {id}).status());
    if (!whole_ && state.input >= 0) claims_.push_back({state.input, state.at, out.back()->source, -2});
  }
  return out;
}

absl::StatusOr<std::vector<ValPtr>> Lowering::RunStep(const GraphView& body, const std::vector<ValPtr>& inputs) {
  const int stage = stage_;
  LSTM_ASSIGN_OR_RETURN(std::vector<ValPtr> out, RunBody(body, inputs));
  for (const ValPtr& val : out) {
    if (stage_ != stage || val->last) return LooksAhead("its body reads the end of a sequence");
    if (val->time >= 0) return LooksAhead("its body reads every step of a sequence in each step");
  }
  return out;
}

ValPtr Lowering::EachStep(const Val& item, size_t axis, int label) {
  auto y = std::make_shared<Val>(*Reshaped(item, WithAxis(item.shape, axis, 1)));
  y->labels = item.labels;
  y->labels.insert(y->labels.begin() + static_cast<long>(axis), label);
  y->time = static_cast<int>(axis);
  y->last = false;
  return y;
}

absl::StatusOr<ValPtr> Lowering::Stacked(const std::vector<ValPtr>& items, size_t axis) {
  const Val& item = *items[0];
  int64_t outer = 1;
  for (size_t a = 0; a < axis; ++a) outer *= item.shape[a];
  const int64_t inner = item.count() / std::max<int64_t>(outer, 1), n = static_cast<int64_t>(items.size());
  LSTM_RETURN_IF_ERROR(Spend(item.count() * n));
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t o = 0; o < outer; ++o) {
    for (const ValPtr& part : items) {
      for (int64_t e = 0; e < inner; ++e) elements->push_back(part->at(o * inner + e));
    }
  }
  auto y = std::make_shared<Val>(item);
  y->source = -1;
  y->elements = std::move(elements);
  y->shape = WithAxis(item.shape, axis, n);
  y->labels.insert(y->labels.begin() + static_cast<long>(axis), -1);
  if (y->time >= static_cast<int>(axis)) ++y->time;
  return ValPtr(y);
}

}  // namespace lstm::core::onnx
