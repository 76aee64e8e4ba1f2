// SPDX-License-Identifier: MIT
// What an LSTM, GRU or RNN node says: weights, attributes, activations.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {

ConstantPtr Blocks(const std::vector<float>& from, size_t offset, const std::vector<size_t>& order, int64_t hidden, int64_t width) {
  auto out = NewConstant(width == 0 ? Shape{static_cast<int64_t>(order.size()) * hidden} : Shape{static_cast<int64_t>(order.size()) * hidden, width});
  const auto block = static_cast<size_t>(hidden * std::max<int64_t>(width, 1));
  for (size_t g = 0; g < order.size(); ++g) std::copy_n(from.data() + offset + order[g] * block, block, out->values.data() + g * block);
  return out;
}

ConstantPtr Sum(const ConstantPtr& a, const ConstantPtr& b) {
  auto out = NewConstant(a->shape);
  for (size_t i = 0; i < out->values.size(); ++i) out->values[i] = a->values[i] + b->values[i];
  return out;
}

namespace {

void Negate(const ConstantPtr& from_const, size_t from, size_t to, size_t block) {
  auto& values = const_cast<core::Constant&>(*from_const).values;
  for (size_t i = 0; i < block; ++i) values[to + i] = -values[from + i];
}

}  // namespace

absl::Status Lowering::ReadActivations(const NodeView& node, size_t direction, size_t directions, Cell& cell) {
  using A = ActivationKind;
  struct Known {
    std::string_view name;
    A kind;
    bool alpha, beta;
    float default_alpha, default_beta;
  };
  static constexpr Known kKnown[] = {{"relu", A::kRelu, false, false, 0, 0}, {"tanh", A::kTanh, false, false, 0, 0}, {"sigmoid", A::kSigmoid, false, false, 0, 0},
                                     {"affine", A::kAbs, true, true, 1, 0}, {"leakyrelu", A::kLeakyRelu, true, false, 0.01f, 0},
                                     {"thresholdedrelu", A::kThresholdedRelu, true, false, 1, 0}, {"scaledtanh", A::kTanh, true, true, 1, 1},
                                     {"hardsigmoid", A::kHardSigmoid, true, true, 0.2f, 0.5f}, {"elu", A::kElu, true, false, 1, 0},
                                     {"softsign", A::kSoftsign, false, false, 0, 0}, {"softplus", A::kSoftplus, false, false, 0, 0}};
  const std::vector<std::string_view> usual = cell.kind == Cell::kLstm  ? std::vector<std::string_view>{"Sigmoid", "Tanh", "Tanh"}
                                              : cell.kind == Cell::kGru ? std::vector<std::string_view>{"Sigmoid", "Tanh"}
                                                                        : std::vector<std::string_view>{"Tanh"};
  const Attribute* named = node.Find("activations");
  std::vector<std::string_view> names;
  for (size_t d = 0; d < directions; ++d) names.insert(names.end(), usual.begin(), usual.end());
  if (named != nullptr && !named->strings.empty()) {
    if (named->strings.size() != names.size()) return Refuse(absl::StrCat("has ", named->strings.size(), " activations, expected ", names.size()));
    names = named->strings;
  }
  const Attribute *alphas = node.Find("activation_alpha"), *betas = node.Find("activation_beta");
  size_t next_alpha = 0, next_beta = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string lower = absl::AsciiStrToLower(std::string(names[i]));
    const auto* known = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& k) { return k.name == lower; });
    if (known == std::end(kKnown)) return Refuse(absl::StrCat("its activation ", Shown(names[i]), " is not known"));
    const auto take = [](const Attribute* list, size_t& next, float otherwise) { return list != nullptr && next < list->floats.size() ? list->floats[next++] : otherwise; };
    const float alpha = known->alpha ? take(alphas, next_alpha, known->default_alpha) : 0;
    const float beta = known->beta ? take(betas, next_beta, known->default_beta) : 0;
    const bool affine = lower == "affine", scaled = lower == "scaledtanh";
    if (i / usual.size() != direction) continue;  // numbers are taken in order, across the directions
    cell.activations.push_back({known->kind, alpha, beta});
    cell.scaled.emplace_back(scaled ? alpha : affine ? std::numeric_limits<float>::infinity() : 1.0f, beta);
    const bool relu_rnn = cell.kind == Cell::kRnn && lower == "relu";
    cell.usual = cell.usual && (relu_rnn || lower == absl::AsciiStrToLower(std::string(usual[i % usual.size()])));
  }
  cell.clip = node.Float("clip", 0);
  if (cell.clip < 0) return Refuse(absl::StrCat("its clip is ", cell.clip));
  cell.usual = cell.usual && cell.clip == 0;
  return absl::OkStatus();
}

absl::Status Lowering::ReadCell(Call& call, size_t direction_index, bool within, Cell& cell) {
  const NodeView& node = call.node;
  cell.kind = node.op == "LSTM" ? Cell::kLstm : node.op == "GRU" ? Cell::kGru : Cell::kRnn;
  cell.gates = cell.kind == Cell::kLstm ? 4 : cell.kind == Cell::kGru ? 3 : 1;
  cell.name = node_name_;
  cell.by_range = node.domain == "com.microsoft";
  cell.batch_first = node.Int("layout", 0) != 0;
  cell.coupled = node.Int("input_forget", 0) != 0;
  cell.reset_after = node.Int("linear_before_reset", 0) != 0;
  const std::string_view direction = node.Text("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") return Refuse(absl::StrCat("its direction is ", Shown(direction)));
  const int64_t directions = direction == "bidirectional" ? 2 : 1;
  cell.reversed = direction == "reverse" || direction_index == 1;
  if (direction != "forward" && !whole_ && !within) return LooksAhead(absl::StrCat("its direction is ", Shown(direction), ": it reads the sequence from its end, which no step knows"));
  LSTM_RETURN_IF_ERROR(ReadActivations(node, direction_index, static_cast<size_t>(directions), cell));
  if (!call.has(0)) return Refuse("its input X is missing");
  for (const auto& [i, what] : {std::pair<size_t, const char*>{1, "weight W"}, {2, "recurrent weight R"}}) {
    if (!call.has(i) || !call[i].constant()) return ConstantOf(call, i, what).status();
  }
  const Val *const w = call.in[1].get(), *const r = call.in[2].get();
  const auto g = static_cast<int64_t>(cell.gates);
  if (!w->is_float || w->shape.size() != 3 || w->shape[0] != directions || w->shape[1] % g != 0 || w->count() == 0) {
    return Refuse(absl::StrCat("its weight W has shape ", ShapeString(w->shape), ", expected [", directions, ", ", g, " H, I]"));
  }
  cell.hidden = w->shape[1] / g;
  cell.width = w->shape[2];
  if (const Attribute* h = node.Find("hidden_size"); h != nullptr && h->i != cell.hidden) {
    return Refuse(absl::StrCat("its hidden_size is ", h->i, ", its weight W is for ", cell.hidden));
  }
  if (!r->is_float || r->shape != Shape{directions, g * cell.hidden, cell.hidden}) {
    return Refuse(absl::StrCat("its recurrent weight R has shape ", ShapeString(r->shape), ", expected ", ShapeString({directions, g * cell.hidden, cell.hidden})));
  }
  const std::vector<size_t> order = cell.kind == Cell::kLstm  ? std::vector<size_t>{0, 2, 3, 1}  // i o f c to i f g o
                                    : cell.kind == Cell::kGru ? std::vector<size_t>{0, 1, 2}
                                                              : std::vector<size_t>{0};
  const auto n = static_cast<size_t>(g * cell.hidden);
  const auto blocks = [&](size_t i, int64_t width) -> absl::StatusOr<ConstantPtr> {
    const auto make = [&](const Tensor& t) { return Blocks(t.floats, direction_index * n * static_cast<size_t>(width), order, cell.hidden, width); };
    // Signs may be turned below.
    return Shared(call.in[i], absl::StrCat(cell.coupled ? absl::StrCat("coupled ", shared_.size()) : std::string(node.op), " ", direction_index, " ", i), {g * cell.hidden, width}, make);
  };
  LSTM_ASSIGN_OR_RETURN(cell.weight, blocks(1, cell.width));
  LSTM_ASSIGN_OR_RETURN(cell.recurrent, blocks(2, cell.hidden));
  if (!cell.usual) LSTM_RETURN_IF_ERROR(Bear((w->count() + r->count()) / directions));  // in plain ops each gate has them once more
  std::vector<float> bias(2 * n, 0);
  if (call.has(3)) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr b, ConstantOf(call, 3, "bias B"));
    if (!b->is_float || b->shape != Shape{directions, 2 * g * cell.hidden}) return Refuse(absl::StrCat("its bias B has shape ", ShapeString(b->shape), ", expected [", directions, ", ", 2 * n, "]"));
    const auto begin = b->floats.begin() + static_cast<std::ptrdiff_t>(direction_index * 2 * n);
    bias.assign(begin, begin + static_cast<std::ptrdiff_t>(2 * n));
  }
  cell.input_bias = Blocks(bias, 0, order, cell.hidden, 0);
  cell.recurrent_bias = Blocks(bias, n, order, cell.hidden, 0);
  if (cell.kind == Cell::kLstm && call.has(7)) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr p, ConstantOf(call, 7, "peephole P"));
    if (!p->is_float || p->shape != Shape{directions, 3 * cell.hidden}) return Refuse(absl::StrCat("its peephole P has shape ", ShapeString(p->shape), ", expected [", directions, ", ", 3 * cell.hidden, "]"));
    cell.peephole = Blocks(p->floats, direction_index * static_cast<size_t>(3 * cell.hidden), {0, 2, 1}, cell.hidden, 0);  // i o f to i f o
  }
  if (cell.coupled && cell.kind == Cell::kLstm && cell.activations[0].kind == ActivationKind::kSigmoid && cell.clip == 0) {
    // 1 - s(x) is s(-x): the forget gate has the input gate's weights with the other sign.
    const auto h = static_cast<size_t>(cell.hidden), i = static_cast<size_t>(cell.width);
    Negate(cell.weight, 0, h * i, h * i);
    Negate(cell.recurrent, 0, h * h, h * h);
    Negate(cell.input_bias, 0, h, h);
    Negate(cell.recurrent_bias, 0, h, h);
    if (cell.peephole) Negate(cell.peephole, 0, h, h);
    cell.coupled = false;
  }
  cell.usual = cell.usual && !cell.by_range && !(cell.coupled && cell.kind == Cell::kLstm) && !reading_.plain_cells.contains(cell.name);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
