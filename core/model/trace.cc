// SPDX-License-Identifier: MIT
#include "core/model/trace.h"

#include <algorithm>

namespace lstm::core {

Trace::Trace(const Model& model) : model_(model), producer_(model.values.size(), -1) {
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    producer_[static_cast<size_t>(model.nodes[n].output)] = static_cast<int>(n);
    if (const auto* write = std::get_if<StateWriteOp>(&model.nodes[n].op)) written_[write->state] = model.nodes[n].inputs[0];
  }
}

const Node* Trace::Producer(At at) const {
  const int n = at.value < 0 ? -1 : producer_[static_cast<size_t>(at.value)];
  return n < 0 ? nullptr : &model_.nodes[static_cast<size_t>(n)];
}

At Trace::Root(At at) const {
  constexpr int kMostMoves = 64;  // a file may move one element about as often as it likes, for a million others
  for (int moves = 0;; ++moves) {
    if (moves == kMostMoves) return at;
    const Node* node = Producer(at);
    if (node == nullptr) return at;
    if (std::holds_alternative<ReshapeOp>(node->op) || std::holds_alternative<StateWriteOp>(node->op)) {
      at.value = node->inputs[0];
    } else if (const auto* slice = std::get_if<SliceOp>(&node->op)) {
      const int64_t width = slice->end - slice->begin, all = model_.values[static_cast<size_t>(node->inputs[0])].shape.back();
      at = {node->inputs[0], at.index / width * all + slice->begin + at.index % width};
    } else if (const auto* select = std::get_if<SelectOp>(&node->op)) {
      int64_t rest = (*select->index)[static_cast<size_t>(at.index)];
      size_t k = 0;
      while (rest >= Count(node->inputs[k])) rest -= Count(node->inputs[k++]);
      at = {node->inputs[k], rest};
    } else if (std::holds_alternative<ConcatOp>(node->op)) {
      const int64_t width = model_.values[static_cast<size_t>(at.value)].shape.back(), row = at.index / width;
      int64_t column = at.index % width;
      size_t k = 0;
      const auto last = [&](size_t i) { return model_.values[static_cast<size_t>(node->inputs[i])].shape.back(); };
      while (column >= last(k)) column -= last(k++);
      at = {node->inputs[k], row * last(k) + column};
    } else {
      return at;
    }
  }
}

std::optional<std::pair<At, At>> Trace::Operands(At root, ElementwiseKind kind) const {
  const Node* node = Producer(root);
  const auto* op = node == nullptr ? nullptr : std::get_if<ElementwiseOp>(&node->op);
  if (op == nullptr || op->kind != kind || node->inputs.size() != 2) return std::nullopt;
  const auto operand = [&](size_t k) { return Root({node->inputs[k], Count(node->inputs[k]) == 1 ? 0 : root.index}); };
  return std::pair(operand(0), operand(1));
}

std::optional<At> Trace::Activated(At root, ActivationKind kind) const {
  const Node* node = Producer(root);
  const auto* op = node == nullptr ? nullptr : std::get_if<ActivationOp>(&node->op);
  if (op == nullptr || op->kind != kind) return std::nullopt;
  return Root({node->inputs[0], root.index});
}

std::optional<At> Trace::OneMinus(At root) const {
  const Node* node = Producer(root);
  const auto* op = node == nullptr ? nullptr : std::get_if<AffineOp>(&node->op);
  if (op == nullptr) return std::nullopt;
  const auto all = [](const Constant& c, float v) { return std::all_of(c.values.span().begin(), c.values.span().end(), [&](float x) { return x == v; }); };
  if (!all(*op->scale, -1) || !all(*op->offset, 1)) return std::nullopt;
  return Root({node->inputs[0], root.index});
}

std::optional<StateId> Trace::StateOf(At root) const {
  const Node* node = Producer(root);
  const auto* op = node == nullptr ? nullptr : std::get_if<StateReadOp>(&node->op);
  return op == nullptr ? std::nullopt : std::optional(op->state);
}

At Trace::Written(StateId state, int64_t position) const {
  const auto it = written_.find(state);
  return it == written_.end() ? At{} : Root({it->second, position});
}

void Trace::Expand(At at, float factor, ValueId stop, LinearForm& form, int depth) const {
  // A file may nest sums as it likes; no gate is a sum of so many.
  form.broken = form.broken || depth > 24 || form.terms.size() > (1u << 16);
  if (form.broken) return;
  at = Root(at);
  const Node* node = at.value == stop ? nullptr : Producer(at);
  for (const auto& [kind, sign] : {std::pair{ElementwiseKind::kAdd, 1.0f}, {ElementwiseKind::kSubtract, -1.0f}}) {
    if (node == nullptr) break;
    const auto operands = Operands(at, kind);
    if (!operands) continue;
    Expand(operands->first, factor, stop, form, depth + 1);
    return Expand(operands->second, factor * sign, stop, form, depth + 1);
  }
  if (const auto* function = node == nullptr ? nullptr : std::get_if<ActivationOp>(&node->op); function != nullptr && function->kind == ActivationKind::kNegate) {
    return Expand({node->inputs[0], at.index}, -factor, stop, form, depth + 1);
  }
  const auto* affine = node == nullptr ? nullptr : std::get_if<AffineOp>(&node->op);
  if (affine != nullptr) {
    const Shape& shape = model_.values[static_cast<size_t>(at.value)].shape;
    const auto pick = [&](const Constant& c) { return c.values[c.values.size() == 1 ? 0 : static_cast<size_t>(at.index % shape.back())]; };
    form.bias += static_cast<double>(factor) * static_cast<double>(pick(*affine->offset));
    return Expand({node->inputs[0], at.index}, factor * pick(*affine->scale), stop, form, depth + 1);
  }
  if (const auto* constant = node == nullptr ? nullptr : std::get_if<ConstantOp>(&node->op)) {
    form.bias += static_cast<double>(factor) * static_cast<double>(constant->value->values[static_cast<size_t>(at.index)]);
    return;
  }
  const auto* linear = node == nullptr ? nullptr : std::get_if<LinearOp>(&node->op);
  if (linear == nullptr) return form.terms.push_back({at, factor});
  const int64_t out = linear->weight->shape[0], in = linear->weight->shape[1], row = at.index / out, o = at.index % out;
  for (int64_t k = 0; k < in; ++k) form.terms.push_back({Root({node->inputs[0], row * in + k}), factor * linear->weight->values[static_cast<size_t>(o * in + k)]});
  if (linear->bias) form.bias += static_cast<double>(factor) * static_cast<double>(linear->bias->values[static_cast<size_t>(o)]);
}

}  // namespace lstm::core
