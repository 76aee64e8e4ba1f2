// SPDX-License-Identifier: MIT
#include "core/model/cell_match.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace lstm::core {
namespace {

constexpr int64_t kMostWeights = int64_t{1} << 26;  // of one cell

std::shared_ptr<Constant> Zeros(Shape shape) {
  auto constant = std::make_shared<Constant>();
  constant->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(shape)));
  constant->shape = std::move(shape);
  return constant;
}

// Looks for cells; each of its functions says no where one thing differs.
class Matcher {
  using Form = LinearForm;
  using Element = core::At;

 public:
  Matcher(const Model& model, const Trace& trace) : model_(model), trace_(trace) {
    for (size_t s = 0; s < model.state.size(); ++s) {
      for (int64_t p = 0; p < CheckedElementCount(model.state[s].shape); ++p) {
        const Element root = trace.Written(static_cast<StateId>(s), p);
        if (root.value < 0) break;
        kept_[root.value][static_cast<StateId>(s)].emplace_back(root.index, p);
      }
    }
  }

  std::optional<FoundCell> At(size_t node) {
    const auto* op = std::get_if<ElementwiseOp>(&model_.nodes[node].op);
    const auto* activation = std::get_if<ActivationOp>(&model_.nodes[node].op);
    if (activation != nullptr && activation->kind != ActivationKind::kTanh && activation->kind != ActivationKind::kRelu) return std::nullopt;
    if ((op == nullptr && activation == nullptr) || model_.values[static_cast<size_t>(model_.nodes[node].output)].shape.size() != 1) return std::nullopt;
    cell_ = {};
    cell_.node = node;
    size_ = trace_.Count(model_.nodes[node].output);
    if (!FindHidden()) return std::nullopt;
    if (activation != nullptr) return Rnn(activation->kind) ? std::optional(cell_) : std::nullopt;
    const bool found = op->kind == ElementwiseKind::kMultiply ? Lstm() : op->kind == ElementwiseKind::kAdd && Gru();
    return found ? std::optional(cell_) : std::nullopt;
  }

 private:
  using Places = std::map<StateId, std::vector<std::pair<int64_t, int64_t>>>;  // element of a value, position in the state

  // The state that the result is kept in.
  bool FindHidden() {
    const ValueId y = model_.nodes[cell_.node].output;
    const auto it = kept_.find(y);
    if (it == kept_.end()) return false;
    for (const auto& [state, places] : it->second) {
      StatePart part{state, std::vector<int64_t>(static_cast<size_t>(size_), -1)};
      int64_t found = 0;
      for (const auto& [index, position] : places) {
        if (part.at[static_cast<size_t>(index)] >= 0) continue;
        part.at[static_cast<size_t>(index)] = position;
        ++found;
      }
      if (found != size_) continue;
      cell_.h = part;
      position_.clear();
      for (int64_t j = 0; j < size_; ++j) position_[part.at[static_cast<size_t>(j)]] = j;
      return true;
    }
    return false;
  }

  // The j of an element of h before the step; -1: it is none.
  int64_t Hidden(Element e) const {
    const auto state = trace_.StateOf(e);
    if (!state || *state != cell_.h.state) return -1;
    const auto it = position_.find(e.index);
    return it == position_.end() ? -1 : it->second;
  }

  // Both ways round: `first` of one operand, `second` of the other.
  template <typename First, typename Second>
  static bool Either(const std::optional<std::pair<Element, Element>>& operands, First first, Second second) {
    if (!operands) return false;
    return (first(operands->first) && second(operands->second)) || (first(operands->second) && second(operands->first));
  }

  bool Lstm() {
    const ValueId y = model_.nodes[cell_.node].output;
    std::vector<Element> gates[4];
    cell_.c.at.assign(static_cast<size_t>(size_), -1);
    for (int64_t j = 0; j < size_; ++j) {
      Element o, sum, f, i, g, before;
      const auto sigmoid = [&](Element& to) { return [&](Element e) { const auto x = trace_.Activated(e, ActivationKind::kSigmoid); return x ? (to = *x, true) : false; }; };
      const auto tanh = [&](Element& to) { return [&](Element e) { const auto x = trace_.Activated(e, ActivationKind::kTanh); return x ? (to = *x, true) : false; }; };
      if (!Either(trace_.Operands({y, j}, ElementwiseKind::kMultiply), sigmoid(o), tanh(sum))) return false;
      const auto state = [&](Element e) { return trace_.StateOf(e) ? (before = e, true) : false; };
      const auto keep = [&](Element e) { return Either(trace_.Operands(e, ElementwiseKind::kMultiply), sigmoid(f), state); };
      const auto fresh = [&](Element e) { return Either(trace_.Operands(e, ElementwiseKind::kMultiply), sigmoid(i), tanh(g)); };
      if (!Either(trace_.Operands(sum, ElementwiseKind::kAdd), keep, fresh)) return false;
      if (j == 0) cell_.sum = sum.value, cell_.c.state = *trace_.StateOf(before);
      if (sum.value != cell_.sum || sum.index != j || trace_.StateOf(before) != cell_.c.state || !(trace_.Written(cell_.c.state, before.index) == sum)) return false;
      cell_.c.at[static_cast<size_t>(j)] = before.index;
      for (const auto& [k, e] : {std::pair{0, i}, {1, f}, {2, g}, {3, o}}) gates[k].push_back(e);
    }
    LstmOp op;
    auto bias = Zeros({4 * size_}), peephole = Zeros({3 * size_});
    bool peeps = false;
    if (!Reserve(4)) return false;
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t j = 0; j < size_; ++j) {
        Form form;
        trace_.Expand(gates[gate][static_cast<size_t>(j)], 1, cell_.sum, form);
        // What looks at the cell state looks at its own element: the input and forget gates at the one before, the output gate at the new one.
        std::vector<std::pair<Element, float>> rest;
        for (const auto& [e, factor] : form.terms) {
          const bool fresh = e.value == cell_.sum;
          if (!fresh && trace_.StateOf(e) != cell_.c.state) {
            rest.emplace_back(e, factor);
          } else if (!fresh && Hidden(e) >= 0) {  // h and c in one tensor
            rest.emplace_back(e, factor);
          } else if (fresh ? gate != 3 || e.index != j : gate > 1 || e.index != cell_.c.at[static_cast<size_t>(j)]) {
            return false;
          } else {
            peephole->values[static_cast<size_t>((gate == 3 ? 2 : gate) * size_ + j)] += factor;
            peeps = true;
          }
        }
        form.terms = std::move(rest);
        if (!Place(form, gate * size_ + j)) return false;
        bias->values[static_cast<size_t>(gate * size_ + j)] = static_cast<float>(form.bias);
      }
    }
    op.bias = std::move(bias);
    if (peeps) op.peephole = std::move(peephole);
    if (!Weights(4, op.weight, op.recurrent)) return false;
    cell_.op = std::move(op);
    return true;
  }

  bool Rnn(ActivationKind kind) {
    if (!Reserve(1)) return false;
    auto bias = Zeros({size_});
    bool mixed = size_ == 1;  // where each element reads its own past alone a matrix would be a waste
    int64_t recurrent = 0;
    for (int64_t j = 0; j < size_; ++j) {
      const auto sum = trace_.Activated({model_.nodes[cell_.node].output, j}, kind);
      if (!sum) return false;
      Form form;
      trace_.Expand(*sum, 1, -1, form);
      for (const auto& [e, factor] : form.terms) {
        const int64_t k = Hidden(e);
        if (k < 0 || factor == 0) continue;
        ++recurrent;
        mixed = mixed || k != j;
      }
      if (!Place(form, j)) return false;
      bias->values[static_cast<size_t>(j)] = static_cast<float>(form.bias);
    }
    if (recurrent == 0 || !mixed || columns_.empty()) return false;
    RnnOp op;
    op.relu = kind == ActivationKind::kRelu;
    op.bias = std::move(bias);
    if (!Weights(1, op.weight, op.recurrent)) return false;
    cell_.op = std::move(op);
    return true;
  }

  bool Gru() {
    const ValueId y = model_.nodes[cell_.node].output;
    std::vector<Element> update, candidate;
    bool turned = false;
    for (int64_t j = 0; j < size_; ++j) {
      Element z, other, n, gate;
      const auto own = [&](Element e) { return Hidden(e) == j; };
      const auto new_one = [&](Element e) { const auto x = trace_.Activated(e, ActivationKind::kTanh); return x ? (n = *x, true) : false; };
      const auto sigmoid = [&](Element e) { const auto x = trace_.Activated(e, ActivationKind::kSigmoid); return x ? (z = *x, gate = e, true) : false; };
      const auto complement = [&](Element e) { const auto x = trace_.OneMinus(e); return x ? (other = *x, true) : false; };
      const auto product = [&](auto first, auto second) { return [&, first, second](Element e) { return Either(trace_.Operands(e, ElementwiseKind::kMultiply), first, second); }; };
      const auto sum = trace_.Operands({y, j}, ElementwiseKind::kAdd);
      bool turned_here = false;
      // (1 - z) n + z h, or with 1 - z and z the other way round, or n + z (h - n), or h + z (n - h).
      if (Either(sum, product(sigmoid, own), product(complement, new_one))) {
        if (!(other == gate)) return false;
      } else if (Either(sum, product(complement, own), product(sigmoid, new_one))) {
        if (!(other == gate)) return false;
        turned_here = true;
      } else {
        const auto difference = [&](bool of_new) { return [&, of_new](Element e) {
          const auto d = trace_.Operands(e, ElementwiseKind::kSubtract);
          return d && (of_new ? new_one(d->first) && own(d->second) : own(d->first) && new_one(d->second));
        }; };
        Element first_n;
        const auto outer_new = [&](Element e) { return new_one(e) ? (first_n = n, true) : false; };
        if (Either(sum, outer_new, product(sigmoid, difference(false)))) {
          if (!(first_n == n)) return false;
        } else if (Either(sum, own, product(sigmoid, difference(true)))) {
          turned_here = true;
        } else {
          return false;
        }
      }
      if (j > 0 && turned != turned_here) return false;
      turned = turned_here;
      update.push_back(z);
      candidate.push_back(n);
    }
    return Candidate(update, candidate, turned);
  }

  // The candidate, and the reset gate inside it.
  bool Candidate(const std::vector<Element>& update, const std::vector<Element>& candidate, bool turned) {
    if (!Reserve(3)) return false;
    std::vector<std::optional<Element>> reset(static_cast<size_t>(size_));  // what goes into its sigmoid
    const auto own_reset = [&](int64_t j, Element r) {
      auto& known = reset[static_cast<size_t>(j)];
      if (known && !(*known == r)) return false;
      known = r;
      return true;
    };
    GruOp op;
    std::vector<Form> forms(static_cast<size_t>(size_)), inner(static_cast<size_t>(size_));
    std::optional<bool> after;
    for (int64_t j = 0; j < size_; ++j) {
      Form all;
      Form& form = forms[static_cast<size_t>(j)];
      trace_.Expand(candidate[static_cast<size_t>(j)], 1, -1, all);
      form.bias = all.bias;
      form.broken = all.broken;
      bool outside = false, inside = false;
      for (const auto& [e, factor] : all.terms) {
        const auto operands = trace_.Operands(e, ElementwiseKind::kMultiply);
        Element r, other;
        const auto sigmoid = [&](Element v) { const auto x = trace_.Activated(v, ActivationKind::kSigmoid); return x ? (r = *x, true) : false; };
        const auto rest = [&](Element v) { return other = v, true; };
        int64_t k = -1;
        if (operands && Either(operands, sigmoid, [&](Element v) { return Hidden(v) >= 0 ? (other = v, true) : false; })) k = Hidden(other);
        if (k >= 0) {  // r * h in a product with Rn
          if (!own_reset(k, r)) return false;
          form.terms.push_back({{model_.nodes[cell_.node].output, k}, factor});
          inside = true;
        } else if (operands && Either(operands, sigmoid, rest) && factor == 1 && !outside) {  // r * (Rn h + cn)
          trace_.Expand(other, 1, -1, inner[static_cast<size_t>(j)]);
          bool of_h = !inner[static_cast<size_t>(j)].terms.empty();
          for (const auto& term : inner[static_cast<size_t>(j)].terms) of_h = of_h && Hidden(term.first) >= 0;
          if (!of_h) {
            form.terms.push_back({e, factor});
            continue;
          }
          if (!own_reset(j, r)) return false;
          outside = true;
        } else {
          form.terms.push_back({e, factor});
        }
      }
      for (const auto& term : form.terms) {
        if (Hidden(term.first) >= 0) return false;  // h past the reset gate
      }
      if (inside == outside || (after && *after != outside)) return false;
      after = outside;
    }
    op.reset_after = after.value_or(false);
    auto bias = Zeros({(op.reset_after ? 4 : 3) * size_});
    for (int64_t j = 0; j < size_; ++j) {
      if (!reset[static_cast<size_t>(j)]) return false;
      for (const auto& [gate, from] : {std::pair<int64_t, Element>{0, update[static_cast<size_t>(j)]}, {1, *reset[static_cast<size_t>(j)]}}) {
        Form form;
        trace_.Expand(from, gate == 0 && turned ? -1.0f : 1.0f, -1, form);  // 1 - s(x) is s(-x)
        if (!Place(form, gate * size_ + j)) return false;
        bias->values[static_cast<size_t>(gate * size_ + j)] = static_cast<float>(form.bias);
      }
      Form& form = forms[static_cast<size_t>(j)];
      for (auto& [e, factor] : form.terms) {
        if (e.value == model_.nodes[cell_.node].output) e = {-2, e.index};  // by its place in h
      }
      bias->values[static_cast<size_t>(2 * size_ + j)] = static_cast<float>(form.bias);
      if (!Place(form, 2 * size_ + j)) return false;
      if (!op.reset_after) continue;
      if (!Place(inner[static_cast<size_t>(j)], 2 * size_ + j)) return false;
      bias->values[static_cast<size_t>(3 * size_ + j)] = static_cast<float>(inner[static_cast<size_t>(j)].bias);
    }
    op.bias = std::move(bias);
    if (!Weights(3, op.weight, op.recurrent)) return false;
    cell_.op = std::move(op);
    return true;
  }

  bool Reserve(int64_t gates) {
    inputs_.assign(static_cast<size_t>(gates * size_), {});
    recurrents_ = inputs_;
    columns_.clear();
    return gates * size_ * size_ <= kMostWeights;
  }

  // The terms of one row of the weights.
  bool Place(const Form& form, int64_t row) {
    work_ += form.terms.size();
    if (form.broken || work_ > (size_t{1} << 25)) return false;
    for (const auto& [e, factor] : form.terms) {
      const int64_t k = e.value == -2 ? e.index : Hidden(e);
      if (k >= 0) {
        recurrents_[static_cast<size_t>(row)].emplace_back(k, factor);
        continue;
      }
      const auto [it, fresh] = columns_.try_emplace(e, static_cast<int64_t>(columns_.size()));
      if (fresh) cell_.x.push_back(e);
      inputs_[static_cast<size_t>(row)].emplace_back(it->second, factor);
    }
    return static_cast<int64_t>(columns_.size()) * static_cast<int64_t>(inputs_.size()) <= kMostWeights;
  }

  // False where they would be mostly zeros: rows of a batch within a step are found as one cell whose weights are blocks along a diagonal, and as
  // products of rows they cost a fraction.
  bool Weights(int64_t gates, ConstantPtr& weight, ConstantPtr& recurrent) const {
    const auto width = static_cast<int64_t>(columns_.size());
    size_t terms = 0;
    for (const auto* rows : {&inputs_, &recurrents_}) {
      for (const auto& row : *rows) terms += row.size();
    }
    if (4 * terms < static_cast<size_t>(gates * size_ * (width + size_))) return false;
    const auto dense = [&](const Terms& rows, int64_t columns) {
      auto out = Zeros({gates * size_, columns});
      for (int64_t row = 0; row < gates * size_; ++row) {
        for (const auto& [column, factor] : rows[static_cast<size_t>(row)]) out->values[static_cast<size_t>(row * columns + column)] += factor;
      }
      return out;
    };
    weight = dense(inputs_, width);
    recurrent = dense(recurrents_, size_);
    return true;
  }

  using Terms = std::vector<std::vector<std::pair<int64_t, float>>>;  // by row: column and number

  const Model& model_;
  const Trace& trace_;
  std::map<ValueId, Places> kept_;
  FoundCell cell_;
  size_t work_ = 0;
  int64_t size_ = 0;
  std::map<int64_t, int64_t> position_;  // in the state tensor -> j
  Terms inputs_, recurrents_;
  std::map<Element, int64_t> columns_;
};

}  // namespace

std::vector<FoundCell> FindCells(const Model& model) {
  const Trace trace(model);
  Matcher matcher(model, trace);
  std::vector<FoundCell> cells;
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    if (auto cell = matcher.At(n)) cells.push_back(*std::move(cell));
  }
  return cells;
}

}  // namespace lstm::core
