// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status_macros.h"
#include "core/import/cell_parts.h"

// The cells of manifest.proto's Cell, in plain ops.
namespace lstm::core {
namespace {

namespace pb = manifest::v1;

constexpr int64_t kMostHeads = 256;

// Tensors of layer k, once its sizes are known.
struct Read {
  LayerImport& in;
  CellParts& p;
  const pb::Cell& cell;
  const std::string suffix;
  int64_t gates, hidden = 0;
  ConstantPtr weight = {}, bias = {};  // [gates x H, I], [gates x H] or null

  absl::Status Begin() {
    LSTM_ASSIGN_OR_RETURN(weight, in.Tensor("weight_ih" + suffix));
    if (weight->shape.size() != 2 || weight->shape[0] < gates || weight->shape[0] % gates != 0 || weight->shape[1] < 1) {
      return absl::InvalidArgumentError(absl::StrCat("weight_ih", suffix, " has shape ", ShapeString(weight->shape), ", expected [", gates, " x H, I]"));
    }
    hidden = weight->shape[0] / gates;
    if (cell.bias() == pb::BIAS_NONE) return absl::OkStatus();
    LSTM_ASSIGN_OR_RETURN(bias, in.Tensor("bias_ih" + suffix, {gates * hidden}));
    if (cell.bias() != pb::BIAS_TWO) return absl::OkStatus();
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr second, in.Tensor("bias_hh" + suffix, {gates * hidden}));
    auto sum = MakeConstant({gates * hidden});
    for (size_t i = 0; i < sum->values.size(); ++i) sum->values[i] = bias->values[i] + second->values[i];
    bias = std::move(sum);
    return absl::OkStatus();
  }
  ConstantPtr Recurrent(const Shape& shape) { return p.Or(in.Tensor("weight_hh" + suffix, shape)); }
  ConstantPtr Bias(int64_t first, int64_t count) const { return bias ? Rows(*bias, first, count) : nullptr; }
  StateId Hidden() {
    std::vector<float> initial;
    if (cell.initial_state() == pb::TRAINED) {
      const ConstantPtr h0 = p.Or(in.Tensor("h0" + suffix, {hidden}));
      if (h0) initial.assign(h0->values.data(), h0->values.data() + hidden);
    }
    return p.State("h", hidden, std::move(initial));
  }
  // The cell's activation, or `usual`; none: x itself.
  ValueId Activate(std::optional<ActivationKind> usual, ValueId x) {
    if (cell.has_activation()) return p.Act(p.Or(ReadActivation(cell.activation())), x);
    return usual ? p.Act(*usual, x) : x;
  }
};

// f = s(Wf x + Rf h + bf)   n = tanh(Wn x + Rn (f*h) + bn)   h' = (1 - f)*h + f*n   (Zhou et al. 2016)
ValueId Mgu(Read& r, ValueId x, const std::string& layer) {
  CellParts& p = r.p;
  const int64_t n = r.hidden;
  const ConstantPtr recurrent = r.Recurrent({2 * n, n});
  if (!recurrent) return -1;
  const StateId state = r.Hidden();
  const ValueId h = p.Before(state);
  const auto both = [&](int64_t first) { return SideBySide(*Rows(*r.weight, first, n), *Rows(*recurrent, first, n)); };
  const ValueId f = p.Sigmoid(p.Linear(both(0), r.Bias(0, n), p.Concat({x, h})));
  const ValueId candidate = r.Activate(ActivationKind::kTanh, p.Linear(both(n), r.Bias(n, n), p.Concat({x, p.Multiply(f, h)})));
  return p.Result(state, p.Mix(f, h, candidate), layer);
}

// h' = relu(W x + u*h + b)   (Li et al. 2018)
ValueId IndRnn(Read& r, ValueId x, const std::string& layer) {
  CellParts& p = r.p;
  const ConstantPtr own = r.Recurrent({r.hidden});
  const StateId state = r.Hidden();
  const ValueId sum = p.Add(p.Linear(r.weight, r.bias, x), p.Scale(own, p.Before(state)));
  return p.Result(state, r.Activate(ActivationKind::kRelu, sum), layer);
}

// x, or g(x): x + 0.5 where x >= 0, else s(x)
ValueId Candidate(Read& r, ValueId x) {
  CellParts& p = r.p;
  if (!r.cell.positive_candidate()) return r.Activate(std::nullopt, x);
  return p.Add(p.Act(ActivationKind::kRelu, x), p.Act({ActivationKind::kClip, 0, 0.5f}, p.Sigmoid(x)));
}

// z = s(Wz x + bz)   n = Wn x + bn   h' = (1 - z)*h + z*n   (Feng et al. 2024, as the next one)
ValueId MinGru(Read& r, ValueId x, const std::string& layer) {
  CellParts& p = r.p;
  const int64_t n = r.hidden;
  const StateId state = r.Hidden();
  const ValueId pre = p.Linear(r.weight, r.bias, x);
  return p.Result(state, p.Mix(p.Sigmoid(p.Cut(pre, 0, n)), p.Before(state), Candidate(r, p.Cut(pre, n, n))), layer);
}

// i = s(Wi x + bi)   f = s(Wf x + bf)   n = Wn x + bn   h' = f/(i + f)*h + i/(i + f)*n
// The share of i is s(softplus(-f) - softplus(-i)) of what is before the s: it holds where both gates are too small for a float.
ValueId MinLstm(Read& r, ValueId x, const std::string& layer) {
  CellParts& p = r.p;
  const int64_t n = r.hidden;
  const StateId state = r.Hidden();
  const ValueId pre = p.Linear(r.weight, r.bias, x);
  const auto softplus = [&](int64_t gate) { return p.Act(ActivationKind::kSoftplus, p.Act(ActivationKind::kNegate, p.Cut(pre, gate * n, n))); };
  const ValueId share = p.Sigmoid(p.Subtract(softplus(1), softplus(0)));
  return p.Result(state, p.Mix(share, p.Before(state), Candidate(r, p.Cut(pre, 2 * n, n))), layer);
}

// i f z o before their activation; l = log s(f), or f where that is exponential; z and o usual.
//   m' = max(l + m, i)   c' = exp(l + m - m')*c + exp(i - m')*z   n' = exp(l + m - m')*n + exp(i - m')   h' = o*c'/n'
// (Beck et al. 2024). m cancels and keeps the exponentials small; it begins so low that the first step takes i alone.
ValueId Slstm(Read& r, ValueId x, const std::string& layer) {
  CellParts& p = r.p;
  const int64_t n = r.hidden;
  const ConstantPtr recurrent = p.Or(r.in.Tensor("weight_hh" + r.suffix));
  if (!recurrent) return -1;
  const int64_t own = recurrent->shape.size() == 2 ? recurrent->shape[1] : 0;
  if (own < 1 || recurrent->shape[0] != 4 * n || n % own != 0 || n / own > kMostHeads) {
    p.Or(absl::StatusOr<int>(absl::InvalidArgumentError(absl::StrCat("weight_hh", r.suffix, " has shape ", ShapeString(recurrent->shape), ", expected [",
                                                                     4 * n, ", ", n, " / heads], of at most ", kMostHeads, " heads"))));
    return -1;
  }
  const StateId hidden = r.Hidden(), cell = p.State("c", n, {}), norm = p.State("n", n, {});
  const StateId most = p.State("m", n, std::vector<float>(static_cast<size_t>(n), -1e30f));
  const ValueId h = p.Before(hidden), m = p.Before(most);
  const ValueId of_x = p.Linear(r.weight, r.bias, x);
  // Each head's four gates, of its own part of h; then gate by gate.
  std::vector<ValueId> of_head;
  for (int64_t first = 0; first < n; first += own) {
    auto weight = MakeConstant({4 * own, own});
    for (int64_t g = 0; g < 4; ++g) {
      std::copy_n(recurrent->values.data() + (g * n + first) * own, own * own, weight->values.data() + g * own * own);
    }
    of_head.push_back(p.Linear(std::move(weight), nullptr, own == n ? h : p.Cut(h, first, own)));
  }
  const auto gate = [&](int64_t g) {
    std::vector<ValueId> parts;
    for (const ValueId head : of_head) parts.push_back(p.Cut(head, g * own, own));
    return p.Add(p.Cut(of_x, g * n, n), p.Concat(std::move(parts)));
  };
  const ValueId i = gate(0), f = gate(1), z = r.Activate(ActivationKind::kTanh, gate(2)), o = p.Sigmoid(gate(3));
  const ValueId log_f = r.cell.exponential_forget() ? f
                                                    : p.Act(ActivationKind::kNegate, p.Act(ActivationKind::kSoftplus, p.Act(ActivationKind::kNegate, f)));
  const ValueId kept = p.Add(log_f, m);
  const ValueId next_m = p.After(most, p.Do(ElementwiseOp{ElementwiseKind::kMaximum}, {kept, i}));
  const ValueId keep = p.Act(ActivationKind::kExp, p.Subtract(kept, next_m)), take = p.Act(ActivationKind::kExp, p.Subtract(i, next_m));
  const ValueId next_c = p.After(cell, p.Add(p.Multiply(keep, p.Before(cell)), p.Multiply(take, z)));
  const ValueId next_n = p.After(norm, p.Add(p.Multiply(keep, p.Before(norm)), take));
  return p.Result(hidden, p.Multiply(o, p.Divide(next_c, next_n)), layer);
}

}  // namespace

absl::StatusOr<ValueId> AddCell(LayerImport& in, uint32_t k, const std::string& name, const std::string& layer, ValueId x) {
  const pb::Cell& cell = in.layer.cell();
  struct Kind {
    pb::Cell::Kind kind;
    int64_t gates;
    ValueId (*add)(Read&, ValueId, const std::string&);
  };
  static constexpr Kind kKinds[] = {
      {pb::Cell::MGU, 2, Mgu}, {pb::Cell::IND_RNN, 1, IndRnn}, {pb::Cell::MIN_GRU, 2, MinGru}, {pb::Cell::MIN_LSTM, 3, MinLstm}, {pb::Cell::SLSTM, 4, Slstm}};
  for (const Kind& kind : kKinds) {
    if (kind.kind != cell.kind()) continue;
    const bool minimal = cell.kind() == pb::Cell::MIN_GRU || cell.kind() == pb::Cell::MIN_LSTM;
    if (cell.positive_candidate() && (!minimal || cell.has_activation())) {
      return absl::InvalidArgumentError("positive_candidate is set, expected only of MIN_GRU and MIN_LSTM without an activation");
    }
    if (cell.kind() == pb::Cell::SLSTM ? cell.initial_state() == pb::TRAINED : cell.exponential_forget()) {
      return absl::InvalidArgumentError(cell.exponential_forget() ? "exponential_forget is set, expected only of SLSTM" : "initial_state is TRAINED, expected ZEROS of an SLSTM");
    }
    CellParts p(in.builder, name);
    Read read{in, p, cell, absl::StrCat("_l", k), kind.gates};
    LSTM_RETURN_IF_ERROR(read.Begin());
    const ValueId out = kind.add(read, x, layer);
    if (!p.status().ok()) return p.status();
    return out;
  }
  return absl::InvalidArgumentError("cell: kind is not given or unknown");
}

}  // namespace lstm::core
