// SPDX-License-Identifier: MIT
#include "core/model/fuse_cells.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/base/status_macros.h"
#include "core/model/cell_match.h"
#include "core/model/model_builder.h"

namespace lstm::core {
namespace {

// The model with `cells` in place of their parts. `bad`: one that cannot be, for something else needs what it keeps to itself.
absl::StatusOr<Model> Rebuilt(const Model& model, const std::vector<FoundCell>& cells, std::optional<size_t>& bad) {
  std::map<size_t, size_t> by_node;
  std::map<StateId, std::vector<std::pair<size_t, const StatePart*>>> parts;  // of state tensors that cells take over
  for (size_t k = 0; k < cells.size(); ++k) {
    by_node[cells[k].node] = k;
    parts[cells[k].h.state].emplace_back(k, &cells[k].h);
    if (cells[k].c.state >= 0) parts[cells[k].c.state].emplace_back(k, &cells[k].c);
  }
  // A tensor is taken over whole, each element by one part.
  for (const auto& [state, taken] : parts) {
    std::vector<int> owners(static_cast<size_t>(CheckedElementCount(model.state[static_cast<size_t>(state)].shape)), 0);
    for (const auto& [k, part] : taken) {
      for (int64_t p : part->at) ++owners[static_cast<size_t>(p)];
    }
    if (std::any_of(owners.begin(), owners.end(), [](int n) { return n != 1; })) return bad = taken[0].first, Model{};
  }
  // What is needed, from the end.
  std::vector<bool> needed(model.values.size(), false);
  for (const Port& port : model.outputs) needed[static_cast<size_t>(port.value)] = true;
  std::vector<bool> kept(model.nodes.size(), false);
  for (size_t n = model.nodes.size(); n-- > 0;) {
    const Node& node = model.nodes[n];
    const auto* write = std::get_if<StateWriteOp>(&node.op);
    const bool owns = std::holds_alternative<LstmOp>(node.op) || std::holds_alternative<GruOp>(node.op) || std::holds_alternative<RnnOp>(node.op) || std::holds_alternative<Conv1dOp>(node.op);
    const bool cell = by_node.contains(n);
    kept[n] = cell || owns || (write != nullptr && !parts.contains(write->state)) || needed[static_cast<size_t>(node.output)];
    if (!kept[n]) continue;
    if (cell) {
      for (const At& e : cells[by_node[n]].x) needed[static_cast<size_t>(e.value)] = true;
    } else {
      for (ValueId id : node.inputs) needed[static_cast<size_t>(id)] = true;
    }
  }
  for (size_t k = 0; k < cells.size(); ++k) {
    if (cells[k].sum >= 0 && needed[static_cast<size_t>(cells[k].sum)]) return bad = k, Model{};
  }
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    StateId state = -1;
    if (const auto* read = std::get_if<StateReadOp>(&model.nodes[n].op)) state = read->state;
    if (const auto* write = std::get_if<StateWriteOp>(&model.nodes[n].op)) state = write->state;
    if (kept[n] && parts.contains(state)) return bad = parts[state][0].first, Model{};
  }
  ModelBuilder builder;
  std::vector<ValueId> value(model.values.size(), -1);
  std::vector<StateId> state(model.state.size(), -1);
  for (const Port& port : model.inputs) {
    const Value& v = model.values[static_cast<size_t>(port.value)];
    LSTM_ASSIGN_OR_RETURN(value[static_cast<size_t>(port.value)], builder.AddInput(port, v.dtype, v.shape));
  }
  for (size_t s = 0; s < model.state.size(); ++s) {
    if (parts.contains(static_cast<StateId>(s))) continue;
    LSTM_ASSIGN_OR_RETURN(state[s], builder.AddState(model.state[s].name, model.state[s].shape, model.state[s].initial));
  }
  const auto add_part = [&](const StatePart& part, const std::string& name) -> absl::StatusOr<StateId> {
    std::vector<float> initial;
    const StateTensor& from = model.state[static_cast<size_t>(part.state)];
    for (int64_t p : part.at) {
      if (!from.initial.empty()) initial.push_back(from.initial[static_cast<size_t>(p)]);
    }
    return builder.AddState(name, {static_cast<int64_t>(part.at.size())}, std::move(initial));
  };
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    if (!kept[n]) continue;
    const Node& node = model.nodes[n];
    Op op = node.op;
    std::vector<ValueId> inputs;
    if (const auto it = by_node.find(n); it != by_node.end()) {
      const FoundCell& cell = cells[it->second];
      op = cell.op;
      LSTM_ASSIGN_OR_RETURN(const StateId h, add_part(cell.h, node.name + ".h"));
      if (auto* lstm = std::get_if<LstmOp>(&op)) {
        lstm->hidden = h;
        LSTM_ASSIGN_OR_RETURN(lstm->cell, add_part(cell.c, node.name + ".c"));
      } else if (auto* gru = std::get_if<GruOp>(&op)) {
        gru->hidden = h;
      } else {
        std::get<RnnOp>(op).hidden = h;
      }
      auto index = std::make_shared<std::vector<int32_t>>();
      std::map<ValueId, int64_t> offsets;
      int64_t end = 0;
      for (const At& e : cell.x) {
        if (offsets.try_emplace(e.value, end).second) {
          inputs.push_back(value[static_cast<size_t>(e.value)]);
          end += CheckedElementCount(model.values[static_cast<size_t>(e.value)].shape);
        }
        index->push_back(static_cast<int32_t>(offsets[e.value] + e.index));
      }
      const Shape shape = {static_cast<int64_t>(cell.x.size())};
      LSTM_ASSIGN_OR_RETURN(const ValueId x, builder.AddNode(node.name + ".x", SelectOp{index, shape}, std::move(inputs)));
      inputs = {x};
    } else {
      for (ValueId id : node.inputs) inputs.push_back(value[static_cast<size_t>(id)]);
      const auto move = [&](StateId& id) { id = id < 0 ? id : state[static_cast<size_t>(id)]; };
      if (auto* o = std::get_if<LstmOp>(&op)) move(o->hidden), move(o->cell);
      if (auto* o = std::get_if<GruOp>(&op)) move(o->hidden);
      if (auto* o = std::get_if<RnnOp>(&op)) move(o->hidden);
      if (auto* o = std::get_if<Conv1dOp>(&op)) move(o->context);
      if (auto* o = std::get_if<StateReadOp>(&op)) move(o->state);
      if (auto* o = std::get_if<StateWriteOp>(&op)) move(o->state);
    }
    LSTM_ASSIGN_OR_RETURN(value[static_cast<size_t>(node.output)], builder.AddNode(node.name, std::move(op), std::move(inputs)));
  }
  for (Port port : model.outputs) {
    port.value = value[static_cast<size_t>(port.value)];
    LSTM_RETURN_IF_ERROR(builder.AddOutput(std::move(port)));
  }
  Model& out = builder.model();
  out.name = model.name, out.version = model.version, out.description = model.description, out.hash = model.hash;
  out.vocabulary = model.vocabulary, out.sequence = model.sequence, out.not_streamable = model.not_streamable;
  return std::move(builder).Build();
}

}  // namespace

absl::StatusOr<Model> FuseCells(Model model) {
  std::vector<FoundCell> cells = FindCells(model);
  while (!cells.empty()) {
    std::optional<size_t> bad;
    auto built = Rebuilt(model, cells, bad);
    if (!bad) return built.ok() ? std::move(built) : absl::StatusOr<Model>(std::move(model));
    cells.erase(cells.begin() + static_cast<std::ptrdiff_t>(*bad));
  }
  return model;
}

}  // namespace lstm::core
