// SPDX-License-Identifier: MIT
#include "core/model/fold_symmetry.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <optional>
#include <utility>

namespace lstm::core {
namespace {

constexpr size_t kFewestInputs = 32, kFewestWeights = 4096;  // less is not worth two more ops
constexpr size_t kLongestName = 180;                         // what is made of it has to be a name too
constexpr size_t kMostIndexes = size_t{1} << 20;             // of one selection that is made
constexpr size_t kMostJoined = size_t{1} << 23;              // elements that all selections which are joined look at; the others stay as they are

size_t Count(const Model& model, ValueId id) { return static_cast<size_t>(CheckedElementCount(model.values[static_cast<size_t>(id)].shape)); }

// Columns a and b of the weight that go together; b < 0: one that stays alone.
struct Pair {
  int32_t a = 0, b = -1;
};
struct Symmetry {
  std::vector<Pair> pairs;
  std::vector<size_t> even, odd;  // rows
};

std::vector<Pair> PairColumns(const Constant& weight, size_t rows, size_t columns) {
  const auto size_at = [&](size_t row, size_t column) { return std::bit_cast<uint32_t>(weight.values[row * columns + column]) & 0x7fffffffu; };
  std::vector<uint64_t> hash(columns, 0);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t c = 0; c < columns; ++c) hash[c] = (std::rotl(hash[c], 23) ^ size_at(row, c)) * 0x9e3779b97f4a7c15u;
  }
  std::vector<int32_t> by_hash(columns);
  std::iota(by_hash.begin(), by_hash.end(), 0);
  std::stable_sort(by_hash.begin(), by_hash.end(), [&](int32_t x, int32_t y) { return hash[static_cast<size_t>(x)] < hash[static_cast<size_t>(y)]; });
  std::vector<Pair> out;
  for (size_t i = 0; i < columns; ++i) {
    const auto a = static_cast<size_t>(by_hash[i]), b = static_cast<size_t>(by_hash[std::min(i + 1, columns - 1)]);
    bool alike = a != b && hash[a] == hash[b];
    for (size_t row = 0; alike && row < rows; ++row) alike = size_at(row, a) == size_at(row, b);
    out.push_back({static_cast<int32_t>(a), alike ? static_cast<int32_t>(b) : -1});
    if (alike) ++i;
  }
  std::sort(out.begin(), out.end(), [](const Pair& x, const Pair& y) { return x.a < y.a; });
  return out;
}

std::optional<Symmetry> Find(const Constant& weight) {
  const auto rows = static_cast<size_t>(weight.shape[0]), columns = static_cast<size_t>(weight.shape[1]);
  if (columns < kFewestInputs || weight.values.size() < kFewestWeights) return std::nullopt;
  Symmetry out{.pairs = PairColumns(weight, rows, columns), .even = {}, .odd = {}};
  if (out.pairs.size() * 4 > columns * 3) return std::nullopt;  // few pairs
  for (size_t row = 0; row < rows; ++row) {
    const float* const w = weight.values.data() + row * columns;
    bool even = true, odd = true;
    for (const auto& [a, b] : out.pairs) {
      if (b < 0) continue;
      even = even && w[a] == w[b];
      odd = odd && w[a] == -w[b];
    }
    if (!even && !odd) return std::nullopt;
    (even ? out.even : out.odd).push_back(row);
  }
  return out;
}

class Folder {
 public:
  explicit Folder(Model& model) : model_(model) {}

  void Run() {
    const std::vector<Node> nodes = std::exchange(model_.nodes, {});
    for (const Node& node : nodes) {
      const auto* linear = std::get_if<LinearOp>(&node.op);
      const auto symmetry = linear != nullptr && node.name.size() <= kLongestName ? Find(*linear->weight) : std::nullopt;
      if (symmetry && Count(model_, node.inputs[0]) <= kMostIndexes) {
        Fold(node, *linear, *symmetry);
      } else {
        model_.nodes.push_back(node);
      }
    }
    if (model_.nodes.size() == nodes.size()) return;
    JoinSelections();
    DropUnused();
  }

 private:
  ValueId Add(const std::string& name, Op op, std::vector<ValueId> inputs, Shape shape) {
    const auto id = static_cast<ValueId>(model_.values.size());
    model_.values.push_back({name, DType::kF32, std::move(shape)});
    model_.nodes.push_back({name, std::move(op), std::move(inputs), id});
    return id;
  }

  void Fold(const Node& node, const LinearOp& linear, const Symmetry& symmetry) {
    const auto columns = static_cast<size_t>(linear.weight->shape[1]);
    const ValueId x = node.inputs[0];
    const size_t rows = Count(model_, x) / columns, width = symmetry.pairs.size();
    const Shape folded = {static_cast<int64_t>(rows), static_cast<int64_t>(width)};
    // Of each pair one and the other; of what has no other nothing, which lies behind x.
    auto one = std::make_shared<std::vector<int32_t>>(), other = std::make_shared<std::vector<int32_t>>();
    for (size_t row = 0; row < rows; ++row) {
      const auto at = static_cast<int32_t>(row * columns);
      for (const auto& [a, b] : symmetry.pairs) {
        one->push_back(at + a);
        other->push_back(b >= 0 ? at + b : static_cast<int32_t>(rows * columns));
      }
    }
    auto zero = std::make_shared<Constant>();
    zero->shape = {1};
    zero->values = AlignedBuffer<float>(1);
    const ValueId nothing = Add(node.name + ".nothing", ConstantOp{zero}, {}, {1});
    const ValueId ones = Add(node.name + ".one", SelectOp{one, folded}, {x, nothing}, folded);
    const ValueId others = Add(node.name + ".other", SelectOp{other, folded}, {x, nothing}, folded);
    auto back = std::make_shared<std::vector<int32_t>>(rows * static_cast<size_t>(linear.weight->shape[0]));
    std::vector<ValueId> parts;
    size_t begin = 0;
    const auto part = [&](const char* name, ElementwiseKind kind, const std::vector<size_t>& of) {
      if (of.empty()) return;
      const ValueId sum = Add(node.name + name + ".in", ElementwiseOp{kind}, {ones, others}, folded);
      parts.push_back(Add(node.name + name, LinearOp{Rows(linear.weight, symmetry, of), linear.bias == nullptr ? nullptr : Chosen(*linear.bias, of)}, {sum},
                          {static_cast<int64_t>(rows), static_cast<int64_t>(of.size())}));
      for (size_t row = 0; row < rows; ++row) {
        for (size_t o = 0; o < of.size(); ++o) (*back)[row * static_cast<size_t>(linear.weight->shape[0]) + of[o]] = static_cast<int32_t>(begin + row * of.size() + o);
      }
      begin += rows * of.size();
    };
    part(".even", ElementwiseKind::kAdd, symmetry.even);
    part(".odd", ElementwiseKind::kSubtract, symmetry.odd);
    const Shape& shape = model_.values[static_cast<size_t>(node.output)].shape;
    model_.nodes.push_back({node.name, SelectOp{back, shape}, std::move(parts), node.output});
  }

  // Rows `of` of the weight, a column for each pair.
  static ConstantPtr Rows(const ConstantPtr& weight, const Symmetry& symmetry, const std::vector<size_t>& of) {
    auto out = std::make_shared<Constant>();
    out->shape = {static_cast<int64_t>(of.size()), static_cast<int64_t>(symmetry.pairs.size())};
    out->values = AlignedBuffer<float>(of.size() * symmetry.pairs.size());
    size_t at = 0;
    for (const size_t row : of) {
      for (const Pair& pair : symmetry.pairs) out->values[at++] = weight->values[row * static_cast<size_t>(weight->shape[1]) + static_cast<size_t>(pair.a)];
    }
    return out;
  }
  static ConstantPtr Chosen(const Constant& from, const std::vector<size_t>& of) {
    auto out = std::make_shared<Constant>();
    out->shape = {static_cast<int64_t>(of.size())};
    out->values = AlignedBuffer<float>(of.size());
    for (size_t i = 0; i < of.size(); ++i) out->values[i] = from.values[of[i]];
    return out;
  }

  // A selection from selections takes what they take.
  void JoinSelections() {
    std::vector<const Node*> select(model_.values.size(), nullptr);
    size_t looked_at = 0;
    for (Node& node : model_.nodes) {
      auto* op = std::get_if<SelectOp>(&node.op);
      if (op == nullptr) continue;
      select[static_cast<size_t>(node.output)] = &node;
      if (std::none_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return select[static_cast<size_t>(id)] != nullptr; })) continue;
      for (ValueId id : node.inputs) {
        looked_at += Count(model_, id) + node.inputs.size();  // which are compared with one another
        if (const Node* from = select[static_cast<size_t>(id)]) {
          for (ValueId input : from->inputs) looked_at += Count(model_, input) + node.inputs.size();
        }
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
        end += static_cast<int32_t>(Count(model_, id));
        return begins.back();
      };
      std::vector<int32_t> place;  // of each element of the node's inputs, in `inputs`
      for (ValueId id : node.inputs) {
        const Node* const from = select[static_cast<size_t>(id)];
        if (from == nullptr) {
          const int32_t begin = at(id);
          for (size_t i = 0; i < Count(model_, id); ++i) place.push_back(begin + static_cast<int32_t>(i));
          continue;
        }
        std::vector<int32_t> theirs;
        for (ValueId input : from->inputs) {
          const int32_t begin = at(input);
          for (size_t i = 0; i < Count(model_, input); ++i) theirs.push_back(begin + static_cast<int32_t>(i));
        }
        for (int32_t i : *std::get<SelectOp>(from->op).index) place.push_back(theirs[static_cast<size_t>(i)]);
      }
      auto index = std::make_shared<std::vector<int32_t>>();
      for (int32_t i : *op->index) index->push_back(place[static_cast<size_t>(i)]);
      op->index = std::move(index);
      node.inputs = std::move(inputs);
    }
  }

  // Selections and constants that nobody reads any more, and their values.
  void DropUnused() {
    std::vector<bool> needed(model_.values.size(), false);
    for (const Port& port : model_.outputs) needed[static_cast<size_t>(port.value)] = true;
    std::vector<Node> kept;
    for (size_t n = model_.nodes.size(); n-- > 0;) {
      Node& node = model_.nodes[n];
      const bool plumbing = std::holds_alternative<SelectOp>(node.op) || std::holds_alternative<ConstantOp>(node.op);
      if (plumbing && !needed[static_cast<size_t>(node.output)]) continue;
      for (ValueId id : node.inputs) needed[static_cast<size_t>(id)] = true;
      kept.push_back(std::move(node));
    }
    std::reverse(kept.begin(), kept.end());
    model_.nodes = std::move(kept);
    std::vector<ValueId> moved(model_.values.size(), -1);
    for (const Port& port : model_.inputs) moved[static_cast<size_t>(port.value)] = 0;
    for (const Node& node : model_.nodes) moved[static_cast<size_t>(node.output)] = 0;
    std::vector<Value> values;
    for (size_t v = 0; v < moved.size(); ++v) {
      if (moved[v] < 0) continue;
      moved[v] = static_cast<ValueId>(values.size());
      values.push_back(std::move(model_.values[v]));
    }
    model_.values = std::move(values);
    const auto move = [&](ValueId& id) { id = moved[static_cast<size_t>(id)]; };
    for (Port& port : model_.inputs) move(port.value);
    for (Port& port : model_.outputs) move(port.value);
    for (Node& node : model_.nodes) {
      move(node.output);
      for (ValueId& id : node.inputs) move(id);
    }
  }

  Model& model_;
};

}  // namespace

void FoldSymmetry(Model& model) { Folder(model).Run(); }

}  // namespace lstm::core
