// SPDX-License-Identifier: MIT
#include "core/model/fold_symmetry.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/model/selections.h"

namespace lstm::core {
namespace {

constexpr size_t kFewestInputs = 32, kFewestWeights = 4096;  // less is not worth two more ops
constexpr size_t kFewestOfMultiples = 8192;                  // nor five
constexpr float kTolerance = 0x1p-22f;                       // of a column's largest weight: two roundings of each of two numbers
constexpr size_t kMostAlone = 3;                             // of the largest columns
constexpr size_t kMostWeights = size_t{1} << 28;             // that are looked at, for one model
constexpr size_t kMostLooks = size_t{1} << 25;               // at a row of two columns, for one model
constexpr size_t kMostColumns = 2048;                        // each is compared with each

// Columns a and b of the weight that go together: b is a times the ratio, in each row with one sign or the other. b < 0: one that stays alone.
struct Pair {
  int32_t a = 0, b = -1;
  float ratio = 1;
};
struct Symmetry {
  std::vector<Pair> pairs;              // without the columns that are zeros
  std::vector<size_t> even, odd, none;  // rows; `none` are zeros
};

// Pairs of the same numbers.
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
    bool zeros = hash[a] == 0;
    for (size_t row = 0; zeros && row < rows; ++row) zeros = size_at(row, a) == 0;
    if (zeros) continue;
    bool alike = a != b && hash[a] == hash[b];
    for (size_t row = 0; alike && row < rows; ++row) alike = size_at(row, a) == size_at(row, b);
    out.push_back({static_cast<int32_t>(a), alike ? static_cast<int32_t>(b) : -1});
    if (alike) ++i;
  }
  std::sort(out.begin(), out.end(), [](const Pair& x, const Pair& y) { return x.a < y.a; });
  return out;
}

// Columns that are multiples of others, as a window leaves them that stands before a transform.
class Multiples {
 public:
  // `looks`: comparisons that are left.
  Multiples(const Constant& weight, size_t rows, size_t columns, size_t& looks) : weight_(weight), rows_(rows), columns_(columns), looks_(looks), largest_(columns, 0), at_(columns, 0) {
    for (size_t row = 0; row < rows; ++row) {
      for (size_t c = 0; c < columns; ++c) {
        const float size = std::fabs(weight.values[row * columns + c]);
        if (size > largest_[c]) largest_[c] = size, at_[c] = row;
      }
    }
    for (size_t c = 0; c < columns; ++c) {
      if (largest_[c] > 0) by_size_.push_back(c);
    }
    std::stable_sort(by_size_.begin(), by_size_.end(), [&](size_t x, size_t y) { return largest_[x] > largest_[y]; });
  }

  // Pairs of which one is a multiple of the other but for rounding, the larger one first, all with the same signs: so many columns, the largest, stay alone. Where
  // a transform is symmetric about two places, its largest column may be a multiple of one that goes with others. None where `looks` do not suffice.
  std::vector<Pair> Pairs(size_t alone) const {
    std::vector<bool> taken(columns_, false);
    std::vector<int8_t> signs(rows_, 0);
    std::vector<Pair> out;
    for (size_t i = 0; i < by_size_.size(); ++i) {
      const size_t a = by_size_[i];
      if (taken[a]) continue;
      Pair pair{static_cast<int32_t>(a)};
      for (size_t k = i + 1; i >= alone && k < by_size_.size() && pair.b < 0; ++k) {
        const size_t b = by_size_[k];
        if (taken[b]) continue;
        const float ratio = weight_.values[at_[a] * columns_ + b] / weight_.values[at_[a] * columns_ + a];
        for (const float r : {ratio, -ratio}) {
          if (pair.b >= 0 || !Agree(a, b, r, signs)) continue;
          pair = {static_cast<int32_t>(a), static_cast<int32_t>(b), r};
          for (size_t row = 0; row < rows_; ++row) signs[row] = signs[row] == 0 ? Sign(a, b, r, row).value_or(0) : signs[row];
          taken[b] = true;
        }
        if (looks_ == 0) return {};
      }
      out.push_back(pair);
    }
    std::sort(out.begin(), out.end(), [](const Pair& x, const Pair& y) { return x.a < y.a; });
    return out;
  }

 private:
  // That b is so many times a in this row, or the negative of that, or 0 for both. None: neither.
  std::optional<int8_t> Sign(size_t a, size_t b, float ratio, size_t row) const {
    const float* const w = weight_.values.data() + row * columns_;
    const float slack = kTolerance * largest_[b];
    const bool even = std::fabs(w[b] - ratio * w[a]) <= slack, odd = std::fabs(w[b] + ratio * w[a]) <= slack;
    if (!even && !odd) return std::nullopt;
    return static_cast<int8_t>(even && odd ? 0 : even ? 1 : -1);
  }
  bool Agree(size_t a, size_t b, float ratio, const std::vector<int8_t>& signs) const {
    for (size_t row = 0; row < rows_; ++row) {
      if (looks_ == 0 || --looks_ == 0) return false;
      const auto sign = Sign(a, b, ratio, row);
      if (!sign || *sign * signs[row] < 0) return false;
    }
    return true;
  }

  const Constant& weight_;
  const size_t rows_, columns_;
  size_t& looks_;
  std::vector<float> largest_;   // by column
  std::vector<size_t> at_;       // the row of that
  std::vector<size_t> by_size_;  // columns that are not zeros
};

// Which of the pairs' two forms each row has; none where one has neither.
std::optional<Symmetry> Divide(const Constant& weight, size_t rows, size_t columns, std::vector<Pair> pairs, float tolerance) {
  if (pairs.empty() || pairs.size() * 4 > columns * 3) return std::nullopt;  // few pairs
  Symmetry out{.pairs = std::move(pairs), .even = {}, .odd = {}, .none = {}};
  std::vector<float> slack;
  for (const Pair& pair : out.pairs) {
    float largest = 0;
    for (size_t row = 0; pair.b >= 0 && row < rows; ++row) largest = std::max(largest, std::fabs(weight.values[row * columns + static_cast<size_t>(pair.b)]));
    slack.push_back(tolerance * largest);
  }
  for (size_t row = 0; row < rows; ++row) {
    const float* const w = weight.values.data() + row * columns;
    bool even = true, odd = true;
    for (size_t p = 0; p < out.pairs.size(); ++p) {
      const auto& [a, b, ratio] = out.pairs[p];
      if (b < 0) continue;
      even = even && std::fabs(w[b] - ratio * w[a]) <= slack[p];
      odd = odd && std::fabs(w[b] + ratio * w[a]) <= slack[p];
    }
    if (!even && !odd) return std::nullopt;
    const bool none = std::all_of(w, w + columns, [](float v) { return v == 0; });
    (none ? out.none : even ? out.even : out.odd).push_back(row);
  }
  return out;
}

std::optional<Symmetry> Find(const Constant& weight, size_t& looks) {
  const auto rows = static_cast<size_t>(weight.shape[0]), columns = static_cast<size_t>(weight.shape[1]);
  if (columns < kFewestInputs || weight.values.size() < kFewestWeights) return std::nullopt;
  if (auto exact = Divide(weight, rows, columns, PairColumns(weight, rows, columns), 0)) return exact;
  if (weight.values.size() < kFewestOfMultiples || columns > kMostColumns) return std::nullopt;
  const Multiples multiples(weight, rows, columns, looks);
  for (size_t alone = 0; alone < kMostAlone; ++alone) {
    if (auto divided = Divide(weight, rows, columns, multiples.Pairs(alone), kTolerance)) return divided;
  }
  return std::nullopt;
}

class Folder {
 public:
  explicit Folder(Model& model) : model_(model) {}

  void Run() {
    const std::vector<Node> nodes = std::exchange(model_.nodes, {});
    for (const Node& node : nodes) Put(node);
    if (model_.nodes.size() == nodes.size()) return;
    JoinSelections(model_);
    DropUnused(model_);
  }

 private:
  void Put(const Node& node) {
    const auto* linear = std::get_if<LinearOp>(&node.op);
    const bool may = linear != nullptr && node.name.size() <= kLongestSplitName && std::max(Count(model_, node.inputs[0]), Count(model_, node.output)) <= kMostIndexes;
    weights_ -= may ? std::min(weights_, linear->weight->values.size()) : 0;
    if (const auto symmetry = may && weights_ > 0 ? Find(*linear->weight, looks_) : std::nullopt) {
      Fold(node, *linear, *symmetry);
    } else {
      model_.nodes.push_back(node);
    }
  }

  ValueId Add(const std::string& name, Op op, std::vector<ValueId> inputs, Shape shape) {
    const auto id = static_cast<ValueId>(model_.values.size());
    model_.values.push_back({name, DType::kF32, std::move(shape)});
    Put({name, std::move(op), std::move(inputs), id});
    return id;
  }

  // Of each pair one, and the other times the ratio; of what has no other nothing, which lies behind x.
  std::vector<ValueId> Sides(const Node& node, const std::vector<Pair>& pairs, size_t rows, size_t columns) {
    const Shape shape = {static_cast<int64_t>(rows), static_cast<int64_t>(pairs.size())};
    auto one = std::make_shared<std::vector<int32_t>>(), other = std::make_shared<std::vector<int32_t>>();
    for (size_t row = 0; row < rows; ++row) {
      const auto at = static_cast<int32_t>(row * columns);
      for (const Pair& pair : pairs) {
        one->push_back(at + pair.a);
        other->push_back(pair.b >= 0 ? at + pair.b : static_cast<int32_t>(rows * columns));
      }
    }
    const ValueId x = node.inputs[0], nothing = Add(node.name + ".nothing", ConstantOp{Numbers({1}, {0})}, {}, {1});
    const ValueId ones = Add(node.name + ".one", SelectOp{one, shape}, {x, nothing}, shape);
    ValueId others = Add(node.name + ".other", SelectOp{other, shape}, {x, nothing}, shape);
    if (std::any_of(pairs.begin(), pairs.end(), [](const Pair& pair) { return pair.ratio != 1; })) {
      std::vector<float> ratios;
      for (const Pair& pair : pairs) ratios.push_back(pair.ratio);
      others = Add(node.name + ".multiple", AffineOp{Numbers({static_cast<int64_t>(ratios.size())}, ratios), Numbers({1}, {0})}, {others}, shape);
    }
    return {ones, others};
  }

  void Fold(const Node& node, const LinearOp& linear, const Symmetry& symmetry) {
    const auto columns = static_cast<size_t>(linear.weight->shape[1]), outputs = static_cast<size_t>(linear.weight->shape[0]);
    const size_t rows = Count(model_, node.inputs[0]) / columns;
    const Shape folded = {static_cast<int64_t>(rows), static_cast<int64_t>(symmetry.pairs.size())};
    const std::vector<ValueId> sides = Sides(node, symmetry.pairs, rows, columns);
    auto back = std::make_shared<std::vector<int32_t>>(rows * outputs);
    std::vector<ValueId> parts;
    size_t begin = 0;
    const auto place = [&](const std::vector<size_t>& of, size_t copies) {  // parts' last lies from `begin` on
      for (size_t row = 0; row < rows; ++row) {
        for (size_t o = 0; o < of.size(); ++o) (*back)[row * outputs + of[o]] = static_cast<int32_t>(begin + (copies == 1 ? 0 : row * of.size()) + o);
      }
      begin += copies * of.size();
    };
    const auto part = [&](const char* name, ElementwiseKind kind, const std::vector<size_t>& of) {
      if (of.empty()) return;
      const ValueId sum = Add(node.name + name + ".in", ElementwiseOp{kind}, sides, folded);
      parts.push_back(Add(node.name + name, LinearOp{Rows(linear.weight, symmetry, of), linear.bias == nullptr ? nullptr : Chosen(*linear.bias, of)}, {sum},
                          {static_cast<int64_t>(rows), static_cast<int64_t>(of.size())}));
      place(of, rows);
    };
    part(".even", ElementwiseKind::kAdd, symmetry.even);
    part(".odd", ElementwiseKind::kSubtract, symmetry.odd);
    if (const auto& none = symmetry.none; !none.empty()) {
      const auto n = static_cast<int64_t>(none.size());
      parts.push_back(Add(node.name + ".none", ConstantOp{linear.bias == nullptr ? Numbers({n}, std::vector<float>(none.size(), 0)) : Chosen(*linear.bias, none)}, {}, {n}));
      place(none, 1);
    }
    const Shape& shape = model_.values[static_cast<size_t>(node.output)].shape;
    model_.nodes.push_back({node.name, SelectOp{back, shape}, std::move(parts), node.output});
  }

  static ConstantPtr Numbers(Shape shape, const std::vector<float>& values) {
    auto out = std::make_shared<Constant>();
    out->shape = std::move(shape);
    out->values = AlignedBuffer<float>(values.size());
    std::copy(values.begin(), values.end(), out->values.data());
    return out;
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
    std::vector<float> out;
    for (const size_t i : of) out.push_back(from.values[i]);
    return Numbers({static_cast<int64_t>(of.size())}, out);
  }

  Model& model_;
  size_t looks_ = kMostLooks, weights_ = kMostWeights;
};

}  // namespace

void FoldSymmetry(Model& model) { Folder(model).Run(); }

}  // namespace lstm::core
