// SPDX-License-Identifier: MIT
#include "core/program/straighten.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

namespace lstm::core {
namespace {

constexpr size_t kFewElements = 16;            // not worth it
constexpr size_t kMostElements = size_t{1} << 20;  // of all selections of a group; more would take long

size_t Count(const Model& model, ValueId id) { return static_cast<size_t>(CheckedElementCount(model.values[static_cast<size_t>(id)].shape)); }

// Every element of the output is a function of those at the same place alone. REQUIRES: no input of one element.
bool IsByElement(const Op& op) {
  const auto* affine = std::get_if<AffineOp>(&op);
  return std::holds_alternative<ActivationOp>(op) || std::holds_alternative<ElementwiseOp>(op) || std::holds_alternative<ReshapeOp>(op) ||
         (affine != nullptr && affine->scale->values.size() == 1 && affine->offset->values.size() == 1);
}

// The weights [.., I] that meet the op's input; null: it has none.
const ConstantPtr* InputWeight(const Op& op) {
  if (const auto* linear = std::get_if<LinearOp>(&op)) return &linear->weight;
  if (const auto* lstm = std::get_if<LstmOp>(&op)) return &lstm->weight;
  if (const auto* gru = std::get_if<GruOp>(&op)) return &gru->weight;
  if (const auto* rnn = std::get_if<RnnOp>(&op)) return &rnn->weight;
  return nullptr;
}

// Values whose elements have to lie in the same order.
struct Group {
  bool free = true;
  size_t columns = 0;           // of a row to those that want the same order in each; 0: nobody does
  std::vector<size_t> selects;  // nodes
};

class Straightener {
 public:
  explicit Straightener(const Model& model) : model_(model), parent_(model.values.size()), orders_(model.values.size()) {
    std::iota(parent_.begin(), parent_.end(), ValueId{0});
    for (const Node& node : model.nodes) {
      if (!IsByElement(node.op)) continue;
      for (ValueId id : node.inputs) {
        if (Count(model, id) == Count(model, node.output)) parent_[static_cast<size_t>(Root(id))] = Root(node.output);
      }
    }
    for (const Port& port : model.inputs) Of(port.value).free = false;
    for (const Port& port : model.outputs) Of(port.value).free = false;
    for (size_t n = 0; n < model.nodes.size(); ++n) Meet(n);
  }

  Straight Run() {
    for (ValueId first : by_first_select_) Decide(first, groups_.at(first));
    Straight out{model_.nodes, std::vector<Order>(model_.values.size())};
    for (size_t v = 0; v < out.orders.size(); ++v) out.orders[v] = OrderOf(static_cast<ValueId>(v));
    for (Node& node : out.nodes) Rewrite(node);
    return out;
  }

 private:
  ValueId Root(ValueId id) {
    while (parent_[static_cast<size_t>(id)] != id) id = parent_[static_cast<size_t>(id)] = parent_[static_cast<size_t>(parent_[static_cast<size_t>(id)])];
    return id;
  }
  Group& Of(ValueId id) { return groups_[Root(id)]; }
  const Order& OrderOf(ValueId id) { return orders_[static_cast<size_t>(Root(id))]; }

  // What a node asks of the values that it reads and makes.
  void Meet(size_t n) {
    const Node& node = model_.nodes[n];
    const bool select = std::holds_alternative<SelectOp>(node.op), by_element = IsByElement(node.op);
    if (select) {
      Group& group = Of(node.output);
      if (group.selects.empty()) by_first_select_.push_back(Root(node.output));
      group.selects.push_back(n);
    } else if (!by_element && !std::holds_alternative<ConstantOp>(node.op)) {
      Of(node.output).free = false;
    }
    if (select || by_element) return;
    const ConstantPtr* const weight = InputWeight(node.op);
    for (ValueId id : node.inputs) {
      Group& group = Of(id);
      const auto columns = weight == nullptr ? size_t{0} : static_cast<size_t>((*weight)->shape[1]);
      if (columns == 0 || (group.columns != 0 && group.columns != columns)) group.free = false;
      group.columns = columns;
    }
  }

  // Where each element that a selection takes lies in its inputs laid end to end.
  std::vector<int32_t> Sources(const Node& select) {
    std::vector<int32_t> place;
    for (ValueId id : select.inputs) {
      const auto begin = static_cast<int32_t>(place.size());
      const Order& order = OrderOf(id);
      for (size_t i = 0; i < Count(model_, id); ++i) place.push_back(begin + (order ? (*order)[i] : static_cast<int32_t>(i)));
    }
    std::vector<int32_t> out;
    for (int32_t i : *std::get<SelectOp>(select.op).index) out.push_back(place[static_cast<size_t>(i)]);
    return out;
  }

  // Runs of elements side by side, or of the same one, when element (row, column) comes from `sources` at (row, by[column]).
  static size_t Runs(const std::vector<int32_t>& sources, const std::vector<int32_t>& by) {
    size_t runs = 0;
    int32_t last = -2, step = 0;
    for (size_t row = 0; row < sources.size(); row += by.size()) {
      for (int32_t column : by) {
        const int32_t at = sources[row + static_cast<size_t>(column)], apart = at - last;
        const bool goes_on = (apart == 0 || apart == 1) && (step == -1 || step == apart);
        step = goes_on ? apart : -1;  // the second of a run says which it is
        if (!goes_on) ++runs;
        last = at;
      }
    }
    return runs;
  }

  void Decide(ValueId root, const Group& group) {
    const size_t n = Count(model_, root), columns = group.columns == 0 ? n : group.columns;
    if (!group.free || n < kFewElements || n * group.selects.size() > kMostElements || n % columns != 0) return;
    std::vector<std::vector<int32_t>> sources;
    for (size_t node : group.selects) sources.push_back(Sources(model_.nodes[node]));
    std::vector<int32_t> as_is(columns);
    std::iota(as_is.begin(), as_is.end(), 0);
    std::vector<int32_t> sorted = as_is;
    std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
      for (const auto& source : sources) {
        for (size_t row = 0; row < n; row += columns) {
          const int32_t x = source[row + static_cast<size_t>(a)], y = source[row + static_cast<size_t>(b)];
          if (x != y) return x < y;
        }
      }
      return false;
    });
    size_t before = 0, after = 0;
    for (const auto& source : sources) before += Runs(source, as_is), after += Runs(source, sorted);
    if (after >= before) return;
    auto order = std::make_shared<std::vector<int32_t>>(n);
    for (size_t row = 0; row < n; row += columns) {
      for (size_t at = 0; at < columns; ++at) (*order)[row + static_cast<size_t>(sorted[at])] = static_cast<int32_t>(row + at);
    }
    orders_[static_cast<size_t>(root)] = std::move(order);
  }

  static ConstantPtr Moved(const Constant& from, size_t columns, const Order& order) {
    auto out = std::make_shared<Constant>();
    out->shape = from.shape;
    out->values = AlignedBuffer<float>(from.values.size());
    for (size_t row = 0; row < from.values.size(); row += columns) {
      for (size_t i = 0; i < columns; ++i) out->values[row + static_cast<size_t>((*order)[i])] = from.values[row + i];
    }
    return out;
  }

  void Rewrite(Node& node) {
    const Order& order = OrderOf(node.output);
    if (auto* select = std::get_if<SelectOp>(&node.op)) {
      const bool as_it_was = !order && std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return OrderOf(id) == nullptr; });
      if (as_it_was) return;
      const std::vector<int32_t> sources = Sources(node);
      auto index = std::make_shared<std::vector<int32_t>>(sources);
      for (size_t i = 0; order && i < sources.size(); ++i) (*index)[static_cast<size_t>((*order)[i])] = sources[i];
      select->index = std::move(index);
    } else if (auto* constant = std::get_if<ConstantOp>(&node.op); constant != nullptr && order) {
      constant->value = Moved(*constant->value, order->size(), order);
    } else if (const ConstantPtr* weight = InputWeight(node.op); weight != nullptr && OrderOf(node.inputs[0])) {
      const ConstantPtr moved = Moved(**weight, static_cast<size_t>((*weight)->shape[1]), OrderOf(node.inputs[0]));
      if (auto* linear = std::get_if<LinearOp>(&node.op)) linear->weight = moved;
      if (auto* lstm = std::get_if<LstmOp>(&node.op)) lstm->weight = moved;
      if (auto* gru = std::get_if<GruOp>(&node.op)) gru->weight = moved;
      if (auto* rnn = std::get_if<RnnOp>(&node.op)) rnn->weight = moved;
    }
  }

  const Model& model_;
  std::vector<ValueId> parent_;  // to the root of its group
  std::map<ValueId, Group> groups_;
  std::vector<ValueId> by_first_select_;
  std::vector<Order> orders_;  // by root
};

}  // namespace

Straight Straighten(const Model& model) { return Straightener(model).Run(); }

}  // namespace lstm::core
