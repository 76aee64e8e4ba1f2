// SPDX-License-Identifier: MIT
#include "core/program/block_schedule.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace lstm::core {
namespace {

// Which nodes read what a node makes: its value in the same step, the states that it writes in the next.
class Readers {
 public:
  explicit Readers(const Model& model) : of_(model.nodes.size()) {
    constexpr size_t kNone = std::numeric_limits<size_t>::max();
    std::vector<size_t> maker(model.values.size(), kNone), writer(model.state.size(), kNone);
    const auto writes = [&](StateId id, size_t node) {
      if (id >= 0) writer[static_cast<size_t>(id)] = node;
    };
    for (size_t n = 0; n < model.nodes.size(); ++n) {
      const Op& op = model.nodes[n].op;
      maker[static_cast<size_t>(model.nodes[n].output)] = n;
      if (const auto* lstm = std::get_if<LstmOp>(&op)) writes(lstm->hidden, n), writes(lstm->cell, n);
      if (const auto* gru = std::get_if<GruOp>(&op)) writes(gru->hidden, n);
      if (const auto* rnn = std::get_if<RnnOp>(&op)) writes(rnn->hidden, n);
      if (const auto* conv = std::get_if<Conv1dOp>(&op)) writes(conv->context, n);
      if (const auto* write = std::get_if<StateWriteOp>(&op)) writes(write->state, n);
    }
    const auto add = [&](size_t from, size_t to) {
      if (from != kNone) of_[from].push_back(to);
    };
    for (size_t n = 0; n < model.nodes.size(); ++n) {
      for (ValueId id : model.nodes[n].inputs) add(maker[static_cast<size_t>(id)], n);
      if (const auto* read = std::get_if<StateReadOp>(&model.nodes[n].op)) add(writer[static_cast<size_t>(read->state)], n);
    }
  }
  const std::vector<size_t>& of(size_t node) const { return of_[node]; }

 private:
  std::vector<std::vector<size_t>> of_;
};

}  // namespace

// The strongly connected components (Tarjan 1972), without recursion: models may be deep. They come out last first.
std::vector<BlockUnit> BlockSchedule(const Model& model) {
  const size_t count = model.nodes.size();
  const Readers readers(model);
  std::vector<size_t> index(count, 0), low(count, 0), open;  // index: 0 where a node was not met yet
  std::vector<bool> is_open(count, false);
  std::vector<std::pair<size_t, size_t>> path;  // node, and the reader of it that is next
  std::vector<BlockUnit> units;
  size_t met = 0;
  for (size_t root = 0; root < count; ++root) {
    if (index[root] != 0) continue;
    path.emplace_back(root, 0);
    while (!path.empty()) {
      const auto [node, next] = path.back();
      if (next == 0) {
        index[node] = low[node] = ++met;
        open.push_back(node);
        is_open[node] = true;
      }
      if (next < readers.of(node).size()) {
        ++path.back().second;
        const size_t reader = readers.of(node)[next];
        if (index[reader] == 0) {
          path.emplace_back(reader, 0);
        } else if (is_open[reader]) {
          low[node] = std::min(low[node], index[reader]);
        }
        continue;
      }
      path.pop_back();
      if (!path.empty()) low[path.back().first] = std::min(low[path.back().first], low[node]);
      if (low[node] != index[node]) continue;
      BlockUnit unit;
      while (true) {
        const size_t member = open.back();
        open.pop_back();
        is_open[member] = false;
        unit.nodes.push_back(member);
        if (member == node) break;
      }
      unit.in_turn = unit.nodes.size() > 1;
      std::sort(unit.nodes.begin(), unit.nodes.end());  // nodes of a model are in an order that can be executed
      units.push_back(std::move(unit));
    }
  }
  std::reverse(units.begin(), units.end());
  return units;
}

}  // namespace lstm::core
