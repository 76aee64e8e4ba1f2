// SPDX-License-Identifier: MIT
#include "core/model/selections.h"

#include <algorithm>
#include <utility>

namespace lstm::core {
namespace {

constexpr size_t kMostJoined = size_t{1} << 23;  // elements that all selections which are joined look at; the others stay as they are

// Inputs of which nothing is taken go.
void DropInputs(const Model& model, Node& node) {
  auto& op = std::get<SelectOp>(node.op);
  std::vector<size_t> input;  // by element of the inputs laid end to end
  std::vector<bool> used(node.inputs.size(), false);
  for (size_t k = 0; k < node.inputs.size(); ++k) input.insert(input.end(), Count(model, node.inputs[k]), k);
  for (const int32_t i : *op.index) used[input[static_cast<size_t>(i)]] = true;
  if (std::find(used.begin(), used.end(), false) == used.end()) return;
  std::vector<int32_t> place;
  int32_t next = 0;
  for (const size_t k : input) place.push_back(used[k] ? next++ : -1);
  auto index = std::make_shared<std::vector<int32_t>>();
  for (const int32_t i : *op.index) index->push_back(place[static_cast<size_t>(i)]);
  op.index = std::move(index);
  std::vector<ValueId> inputs;
  for (size_t k = 0; k < used.size(); ++k) {
    if (used[k]) inputs.push_back(node.inputs[k]);
  }
  node.inputs = std::move(inputs);
}

}  // namespace

void JoinSelections(Model& model) {
  std::vector<const Node*> select(model.values.size(), nullptr);
  size_t looked_at = 0;
  for (Node& node : model.nodes) {
    auto* op = std::get_if<SelectOp>(&node.op);
    if (op == nullptr) continue;
    for (ValueId id : node.inputs) looked_at += Count(model, id) + node.inputs.size();  // which are compared with one another
    if (looked_at > kMostJoined) return;
    DropInputs(model, node);
    select[static_cast<size_t>(node.output)] = &node;
    if (std::none_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return select[static_cast<size_t>(id)] != nullptr; })) continue;
    for (ValueId id : node.inputs) {
      const Node* const from = select[static_cast<size_t>(id)];
      for (size_t i = 0; from != nullptr && i < from->inputs.size(); ++i) looked_at += Count(model, from->inputs[i]) + node.inputs.size();
    }
    if (looked_at > kMostJoined) return;
    std::vector<ValueId> inputs;
    std::vector<int32_t> begins;  // of `inputs`, laid end to end
    int32_t end = 0;
    const auto at = [&](ValueId id) {
      const auto found = std::find(inputs.begin(), inputs.end(), id);
      if (found != inputs.end()) return begins[static_cast<size_t>(found - inputs.begin())];
      inputs.push_back(id);
      begins.push_back(end);
      end += static_cast<int32_t>(Count(model, id));
      return begins.back();
    };
    std::vector<int32_t> place;  // of each element of the node's inputs, in `inputs`
    for (ValueId id : node.inputs) {
      const Node* const from = select[static_cast<size_t>(id)];
      if (from == nullptr) {
        const int32_t begin = at(id);
        for (size_t i = 0; i < Count(model, id); ++i) place.push_back(begin + static_cast<int32_t>(i));
        continue;
      }
      std::vector<int32_t> theirs;
      for (ValueId input : from->inputs) {
        const int32_t begin = at(input);
        for (size_t i = 0; i < Count(model, input); ++i) theirs.push_back(begin + static_cast<int32_t>(i));
      }
      for (int32_t i : *std::get<SelectOp>(from->op).index) place.push_back(theirs[static_cast<size_t>(i)]);
    }
    auto index = std::make_shared<std::vector<int32_t>>();
    for (int32_t i : *op->index) index->push_back(place[static_cast<size_t>(i)]);
    op->index = std::move(index);
    node.inputs = std::move(inputs);
    DropInputs(model, node);
  }
}

void DropUnused(Model& model) {
  std::vector<bool> needed(model.values.size(), false);
  for (const Port& port : model.outputs) needed[static_cast<size_t>(port.value)] = true;
  std::vector<Node> kept;
  for (size_t n = model.nodes.size(); n-- > 0;) {
    Node& node = model.nodes[n];
    const bool plumbing = std::holds_alternative<SelectOp>(node.op) || std::holds_alternative<ConstantOp>(node.op);
    if (plumbing && !needed[static_cast<size_t>(node.output)]) continue;
    for (ValueId id : node.inputs) needed[static_cast<size_t>(id)] = true;
    kept.push_back(std::move(node));
  }
  std::reverse(kept.begin(), kept.end());
  model.nodes = std::move(kept);
  std::vector<ValueId> moved(model.values.size(), -1);
  for (const Port& port : model.inputs) moved[static_cast<size_t>(port.value)] = 0;
  for (const Node& node : model.nodes) moved[static_cast<size_t>(node.output)] = 0;
  std::vector<Value> values;
  for (size_t v = 0; v < moved.size(); ++v) {
    if (moved[v] < 0) continue;
    moved[v] = static_cast<ValueId>(values.size());
    values.push_back(std::move(model.values[v]));
  }
  model.values = std::move(values);
  const auto move = [&](ValueId& id) { id = moved[static_cast<size_t>(id)]; };
  for (Port& port : model.inputs) move(port.value);
  for (Port& port : model.outputs) move(port.value);
  for (Node& node : model.nodes) {
    move(node.output);
    for (ValueId& id : node.inputs) move(id);
  }
}

}  // namespace lstm::core
