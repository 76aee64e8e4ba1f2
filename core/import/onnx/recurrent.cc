// SPDX-License-Identifier: MIT
// LSTM, GRU and RNN: as a cell of the model where it has one, else in plain ops over state that is read and written.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

struct Lowering::Cell {
  enum Kind { kLstm, kGru, kRnn } kind = kLstm;
  std::string name;
  size_t gates = 4;
  int64_t hidden = 0, width = 0;
  bool batch_first = false;
  bool coupled = false;        // f = 1 - i
  bool reset_after = false;
  bool usual = true;           // the activations of the model's own cells, and no clip
  float clip = 0;
  std::vector<ActivationOp> activations;
  std::vector<std::pair<float, float>> scaled;  // of each activation: what its result is multiplied by, and 1 where it is Affine
  ConstantPtr weight, recurrent;                // gates i f g o; z r n
  ConstantPtr input_bias, recurrent_bias;       // [gates * H]
  ConstantPtr peephole;                         // i f o, or null
  bool steps = false;                           // time flows through it; else the graph is of one step
};

namespace {

ConstantPtr Blocks(const std::vector<float>& from, size_t offset, const std::vector<size_t>& order, int64_t hidden, int64_t width) {
  auto out = NewConstant(width == 0 ? Shape{static_cast<int64_t>(order.size()) * hidden} : Shape{static_cast<int64_t>(order.size()) * hidden, width});
  const auto block = static_cast<size_t>(hidden * std::max<int64_t>(width, 1));
  for (size_t g = 0; g < order.size(); ++g) std::copy_n(from.data() + offset + order[g] * block, block, out->values.data() + g * block);
  return out;
}

void Negate(const ConstantPtr& from_const, size_t from, size_t to, size_t block) {
  auto& values = const_cast<core::Constant&>(*from_const).values;
  for (size_t i = 0; i < block; ++i) values[to + i] = -values[from + i];
}

ConstantPtr Sum(const ConstantPtr& a, const ConstantPtr& b) {
  auto out = NewConstant(a->shape);
  for (size_t i = 0; i < out->values.size(); ++i) out->values[i] = a->values[i] + b->values[i];
  return out;
}

}  // namespace

absl::Status Lowering::ReadActivations(const NodeView& node, Cell& cell) {
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
  const std::vector<std::string_view> names = named != nullptr && !named->strings.empty() ? named->strings : usual;
  if (names.size() != usual.size()) return Refuse(absl::StrCat("has ", names.size(), " activations, expected ", usual.size()));
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
    cell.activations.push_back({known->kind, alpha, beta});
    cell.scaled.emplace_back(scaled ? alpha : affine ? std::numeric_limits<float>::infinity() : 1.0f, beta);
    const bool relu_rnn = cell.kind == Cell::kRnn && lower == "relu";
    cell.usual = cell.usual && (relu_rnn || lower == absl::AsciiStrToLower(std::string(usual[i])));
  }
  cell.clip = node.Float("clip", 0);
  if (cell.clip < 0) return Refuse(absl::StrCat("its clip is ", cell.clip));
  cell.usual = cell.usual && cell.clip == 0;
  return absl::OkStatus();
}

absl::Status Lowering::ReadCell(Call& call, Cell& cell) {
  const NodeView& node = call.node;
  cell.kind = node.op == "LSTM" ? Cell::kLstm : node.op == "GRU" ? Cell::kGru : Cell::kRnn;
  cell.gates = cell.kind == Cell::kLstm ? 4 : cell.kind == Cell::kGru ? 3 : 1;
  cell.name = node_name_;
  cell.batch_first = node.Int("layout", 0) != 0;
  cell.coupled = node.Int("input_forget", 0) != 0;
  cell.reset_after = node.Int("linear_before_reset", 0) != 0;
  const std::string_view direction = node.Text("direction", "forward");
  if (direction != "forward") return Refuse(absl::StrCat("its direction is ", Shown(direction), ": it reads the sequence from its end, which no step knows"));
  LSTM_RETURN_IF_ERROR(ReadActivations(node, cell));
  if (!call.has(0)) return Refuse("its input X is missing");
  LSTM_ASSIGN_OR_RETURN(const TensorPtr w, ConstantOf(call, 1, "weight W"));
  LSTM_ASSIGN_OR_RETURN(const TensorPtr r, ConstantOf(call, 2, "recurrent weight R"));
  const auto g = static_cast<int64_t>(cell.gates);
  if (!w->is_float || w->shape.size() != 3 || w->shape[0] != 1 || w->shape[1] % g != 0 || w->size() == 0) {
    return Refuse(absl::StrCat("its weight W has shape ", ShapeString(w->shape), ", expected [1, ", g, " H, I]"));
  }
  cell.hidden = w->shape[1] / g;
  cell.width = w->shape[2];
  if (const Attribute* h = node.Find("hidden_size"); h != nullptr && h->i != cell.hidden) {
    return Refuse(absl::StrCat("its hidden_size is ", h->i, ", its weight W is for ", cell.hidden));
  }
  if (!r->is_float || r->shape != Shape{1, g * cell.hidden, cell.hidden}) {
    return Refuse(absl::StrCat("its recurrent weight R has shape ", ShapeString(r->shape), ", expected ", ShapeString({1, g * cell.hidden, cell.hidden})));
  }
  const std::vector<size_t> order = cell.kind == Cell::kLstm  ? std::vector<size_t>{0, 2, 3, 1}  // i o f c to i f g o
                                    : cell.kind == Cell::kGru ? std::vector<size_t>{0, 1, 2}
                                                              : std::vector<size_t>{0};
  cell.weight = Blocks(w->floats, 0, order, cell.hidden, cell.width);
  cell.recurrent = Blocks(r->floats, 0, order, cell.hidden, cell.hidden);
  const auto n = static_cast<size_t>(g * cell.hidden);
  std::vector<float> bias(2 * n, 0);
  if (call.has(3)) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr b, ConstantOf(call, 3, "bias B"));
    if (!b->is_float || b->shape != Shape{1, 2 * g * cell.hidden}) return Refuse(absl::StrCat("its bias B has shape ", ShapeString(b->shape), ", expected [1, ", 2 * n, "]"));
    bias = b->floats;
  }
  cell.input_bias = Blocks(bias, 0, order, cell.hidden, 0);
  cell.recurrent_bias = Blocks(bias, n, order, cell.hidden, 0);
  if (cell.kind == Cell::kLstm && call.has(7)) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr p, ConstantOf(call, 7, "peephole P"));
    if (!p->is_float || p->shape != Shape{1, 3 * cell.hidden}) return Refuse(absl::StrCat("its peephole P has shape ", ShapeString(p->shape), ", expected [1, ", 3 * cell.hidden, "]"));
    cell.peephole = Blocks(p->floats, 0, {0, 2, 1}, cell.hidden, 0);  // i o f to i f o
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
  cell.usual = cell.usual && !(cell.coupled && cell.kind == Cell::kLstm) && !reading_.plain_cells.contains(cell.name);
  return absl::OkStatus();
}

absl::Status Lowering::PlaceInTime(Call& call, Cell& cell) {
  const Val& x = call[0];
  const size_t seq = cell.batch_first ? 1 : 0, batch = cell.batch_first ? 0 : 1;
  if (x.shape.size() != 3 || x.shape[2] != cell.width) return Refuse(absl::StrCat("reads shape ", ShapeString(FullShape(x)), ", its weights expect three axes with ", cell.width, " in the last"));
  if (!x.is_float || x.constant()) return Refuse("its input X is a constant, or has integers");
  const bool carried = call.has(5) && !call[5].constant();
  if (x.time < 0 && x.labels[seq] >= 0 && (IsOpen(x.labels[seq]) || x.shape[seq] > 1 || !carried) && MakeTime(x.labels[seq])) return absl::AbortedError("time was found");
  if (x.time >= 0 && x.time != static_cast<int>(seq)) return Refuse(absl::StrCat("time comes in axis ", x.time, " of its input, expected axis ", seq));
  if (x.shape[batch] != 1) {
    const int label = x.labels[batch];
    if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
    return Refuse(absl::StrCat("reads a batch of ", x.shape[batch], " in axis ", batch, ": a session is a batch of one"));
  }
  cell.steps = x.time >= 0;
  if (call.has(4)) {  // lengths: a session ends when its client ends it
    const Val& lengths = call[4];
    if (!lengths.constant() && !lengths.elements && sources_[static_cast<size_t>(lengths.source)].kind == Source::kInput) {
      const int input = sources_[static_cast<size_t>(lengths.source)].input;
      GraphInput& in = inputs_[static_cast<size_t>(input)];
      if (!in.constant) in.constant = std::make_shared<const Tensor>(Tensor{false, {1}, {}, {0}});
      reading_.constants.insert(input);
      return absl::AbortedError("lengths are not needed");
    }
    if (!lengths.constant()) return Refuse("its sequence_lens is computed in every step");
  }
  if (!cell.steps && !carried) {
    return Refuse(absl::StrCat("begins anew in every step: time flows through no axis of its input, and no input of the graph carries its state. The manifest can say which axis is time: ",
                               ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
  }
  return absl::OkStatus();
}

absl::StatusOr<StateId> Lowering::OwnState(const Cell& cell, const ValPtr& initial, const char* part, int& input, std::vector<int32_t>& at) {
  std::vector<float> values;
  input = -1;
  if (initial && initial->constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*initial));
    if (!t->is_float || static_cast<int64_t>(t->size()) != cell.hidden) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " has shape ", ShapeString(t->shape), ", expected ", cell.hidden, " numbers"));
    if (std::any_of(t->floats.begin(), t->floats.end(), [](float v) { return v != 0; })) values = t->floats;
  } else if (initial) {
    const size_t batch = cell.batch_first ? 0 : 1;
    if (initial->shape.size() == 3 && initial->shape[batch] > 1) {
      const int label = initial->labels[batch];
      if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
    }
    if (initial->count() != cell.hidden) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " has shape ", ShapeString(initial->shape), ", expected ", cell.hidden, " numbers"));
    for (int64_t i = 0; i < cell.hidden; ++i) {
      const Element e = initial->at(i);
      const Source& source = sources_[static_cast<size_t>(e.source)];
      if (source.kind != Source::kInput || (input >= 0 && source.input != input)) {
        input = -1;
        break;
      }
      input = source.input;
      at.push_back(e.index);
    }
    if (input < 0 && cell.steps) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " is computed: a sequence that begins from another's end cannot be streamed"));
    if (input < 0) return -1;
    if (initial->time >= 0) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " changes over time"));
    GraphInput& in = inputs_[static_cast<size_t>(input)];
    if (!in.no_state && reading_.states.insert(input).second) return absl::AbortedError("a state was found");
    if (in.no_state || reading_.explicit_states.contains(input)) return -1;
    if (in.initial) {
      for (int32_t i : at) values.push_back(in.initial->floats[static_cast<size_t>(i)]);
    }
  }
  return AddState(absl::StrCat(cell.name, ".", part), {cell.hidden}, std::move(values));
}

absl::StatusOr<ValPtr> Lowering::Native(const Cell& cell, const Val& x, StateId h, StateId c) {
  Op op;
  if (cell.kind == Cell::kLstm) {
    op = LstmOp{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .peephole = cell.peephole, .projection = nullptr, .hidden = h, .cell = c};
  } else if (cell.kind == Cell::kGru) {
    GruOp gru{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .reset_after = cell.reset_after, .hidden = h};
    if (cell.reset_after) {  // z and r summed, n apart
      auto bias = NewConstant({4 * cell.hidden});
      const auto n = static_cast<size_t>(cell.hidden);
      std::copy_n(gru.bias->values.data(), 2 * n, bias->values.data());
      std::copy_n(cell.input_bias->values.data() + 2 * n, n, bias->values.data() + 2 * n);
      std::copy_n(cell.recurrent_bias->values.data() + 2 * n, n, bias->values.data() + 3 * n);
      gru.bias = std::move(bias);
    }
    op = std::move(gru);
  } else {
    op = RnnOp{.weight = cell.weight, .recurrent = cell.recurrent, .bias = Sum(cell.input_bias, cell.recurrent_bias), .relu = cell.activations[0].kind == ActivationKind::kRelu, .hidden = h};
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId in, Use(x, {cell.width}));
  LSTM_ASSIGN_OR_RETURN(const ValueId y, Add("", std::move(op), {in}));
  return Computed(y, {cell.hidden}, Val{});
}

absl::StatusOr<ValPtr> Lowering::Activate(const Val& val, const Cell& cell, size_t which) {
  ValPtr x = std::make_shared<const Val>(val);
  if (cell.clip > 0) {
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kClip, -cell.clip, cell.clip}));
  }
  const ActivationOp& op = cell.activations[which];
  const auto [factor, beta] = cell.scaled[which];
  if (factor == std::numeric_limits<float>::infinity()) return Scaled(*x, static_cast<double>(op.alpha), static_cast<double>(beta));
  if (op.kind == ActivationKind::kTanh && op.alpha != 0) {  // ScaledTanh: alpha tanh(beta x)
    LSTM_ASSIGN_OR_RETURN(x, Scaled(*x, static_cast<double>(beta), 0));
    LSTM_ASSIGN_OR_RETURN(x, Activated(*x, {ActivationKind::kTanh}));
    return Scaled(*x, static_cast<double>(factor), 0);
  }
  return Activated(*x, op);
}

// Gates [first, first + count) before their activation: the product with x, with h, or with both as one.
absl::StatusOr<ValPtr> Lowering::Gates(const Val& x, const Val& h, const Cell& cell, size_t first, size_t count, bool inputs, bool recurrent, const ConstantPtr& bias) {
  const int64_t rows = static_cast<int64_t>(count) * cell.hidden, in = inputs ? cell.width : 0, back = recurrent ? cell.hidden : 0;
  auto weight = NewConstant({rows, in + back});
  auto own_bias = NewConstant({rows});
  const auto offset = static_cast<int64_t>(first) * cell.hidden;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = weight->values.data() + r * (in + back);
    std::copy_n(cell.weight->values.data() + (offset + r) * cell.width, in, row);
    std::copy_n(cell.recurrent->values.data() + (offset + r) * cell.hidden, back, row + in);
    own_bias->values[static_cast<size_t>(r)] = bias->values[static_cast<size_t>(offset + r)];
  }
  Val both;
  both.shape = {in + back};
  both.labels = {-1};
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t i = 0; i < in; ++i) elements->push_back(x.at(i));
  for (int64_t i = 0; i < back; ++i) elements->push_back(h.at(i));
  both.elements = std::move(elements);
  return Linear(both, std::move(weight), std::move(own_bias));
}

absl::Status Lowering::PlainStep(const Cell& cell, const Val& x, ValPtr& h, ValPtr& c) {
  using E = ElementwiseKind;
  const int64_t n = cell.hidden;
  const ConstantPtr both = Sum(cell.input_bias, cell.recurrent_bias);
  if (cell.kind == Cell::kRnn) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr pre, Gates(x, *h, cell, 0, 1, true, true, both));
    LSTM_ASSIGN_OR_RETURN(h, Activate(*pre, cell, 0));
    return absl::OkStatus();
  }
  if (cell.kind == Cell::kGru) {
    LSTM_ASSIGN_OR_RETURN(const ValPtr zr, Gates(x, *h, cell, 0, 2, true, true, both));
    LSTM_ASSIGN_OR_RETURN(const ValPtr gates, Activate(*zr, cell, 0));
    LSTM_ASSIGN_OR_RETURN(const ValPtr z, Cut(*gates, 0, 0, n, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr r, Cut(*gates, 0, n, n, 1));
    ValPtr pre;
    if (cell.reset_after) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr of_x, Gates(x, *h, cell, 2, 1, true, false, cell.input_bias));
      LSTM_ASSIGN_OR_RETURN(const ValPtr of_h, Gates(x, *h, cell, 2, 1, false, true, cell.recurrent_bias));
      LSTM_ASSIGN_OR_RETURN(const ValPtr reset, Combine(E::kMultiply, *r, *of_h));
      LSTM_ASSIGN_OR_RETURN(pre, Combine(E::kAdd, *of_x, *reset));
    } else {
      LSTM_ASSIGN_OR_RETURN(const ValPtr reset, Combine(E::kMultiply, *r, *h));
      LSTM_ASSIGN_OR_RETURN(pre, Gates(x, *reset, cell, 2, 1, true, true, both));
    }
    LSTM_ASSIGN_OR_RETURN(const ValPtr candidate, Activate(*pre, cell, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr keep, Combine(E::kMultiply, *z, *h));
    LSTM_ASSIGN_OR_RETURN(const ValPtr open, Scaled(*z, -1, 1));
    LSTM_ASSIGN_OR_RETURN(const ValPtr fresh, Combine(E::kMultiply, *open, *candidate));
    LSTM_ASSIGN_OR_RETURN(h, Combine(E::kAdd, *fresh, *keep));
    return absl::OkStatus();
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr pre, Gates(x, *h, cell, 0, 4, true, true, both));
  ValPtr part[4];
  for (int64_t g = 0; g < 4; ++g) {
    LSTM_ASSIGN_OR_RETURN(part[g], Cut(*pre, 0, g * n, n, 1));
  }
  const auto peep = [&](ValPtr& gate, int64_t block, const Val& state) -> absl::Status {
    if (!cell.peephole) return absl::OkStatus();
    Tensor p{true, {n}, {}, {}};
    p.floats.assign(cell.peephole->values.data() + block * n, cell.peephole->values.data() + (block + 1) * n);
    LSTM_ASSIGN_OR_RETURN(const ValPtr looked, Combine(E::kMultiply, state, *MakeConstantVal(std::move(p))));
    LSTM_ASSIGN_OR_RETURN(gate, Combine(E::kAdd, *gate, *looked));
    return absl::OkStatus();
  };
  LSTM_RETURN_IF_ERROR(peep(part[0], 0, *c));
  LSTM_RETURN_IF_ERROR(peep(part[1], 1, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr i, Activate(*part[0], cell, 0));
  ValPtr f;
  if (cell.coupled) {
    LSTM_ASSIGN_OR_RETURN(f, Scaled(*i, -1, 1));
  } else {
    LSTM_ASSIGN_OR_RETURN(f, Activate(*part[1], cell, 0));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr g, Activate(*part[2], cell, 1));
  LSTM_ASSIGN_OR_RETURN(const ValPtr kept, Combine(E::kMultiply, *f, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr fresh, Combine(E::kMultiply, *i, *g));
  LSTM_ASSIGN_OR_RETURN(c, Combine(E::kAdd, *kept, *fresh));
  LSTM_RETURN_IF_ERROR(peep(part[3], 2, *c));
  LSTM_ASSIGN_OR_RETURN(const ValPtr o, Activate(*part[3], cell, 0));
  LSTM_ASSIGN_OR_RETURN(const ValPtr shown, Activate(*c, cell, 2));
  LSTM_ASSIGN_OR_RETURN(h, Combine(E::kMultiply, *o, *shown));
  return absl::OkStatus();
}

absl::Status Lowering::Recurrent(Call& call) {
  const std::string_view op = call.node.op;
  if (op != "LSTM" && op != "GRU" && op != "RNN") return absl::UnimplementedError("");
  Cell cell;
  LSTM_RETURN_IF_ERROR(ReadCell(call, cell));
  LSTM_RETURN_IF_ERROR(PlaceInTime(call, cell));
  const Val& x = call[0];
  const size_t seq = cell.batch_first ? 1 : 0, batch = cell.batch_first ? 0 : 1;
  const bool lstm = cell.kind == Cell::kLstm;
  const int64_t steps = x.shape[seq];
  if (steps > 64) return Refuse(absl::StrCat("runs ", steps, " steps in one: expected at most 64"));
  const ValPtr h0 = call.has(5) ? call.in[5] : nullptr, c0 = lstm && call.has(6) ? call.in[6] : nullptr;
  int h_input = -1, c_input = -1;
  std::vector<int32_t> h_at, c_at;
  LSTM_ASSIGN_OR_RETURN(const StateId h_state, OwnState(cell, h0, "h", h_input, h_at));
  StateId c_state = -1;
  if (lstm) {
    LSTM_ASSIGN_OR_RETURN(c_state, OwnState(cell, c0, "c", c_input, c_at));
  }
  const auto vector = [&](const Val& v) {
    auto flat = std::make_shared<Val>(*Reshaped(v, {v.count()}));
    flat->time = -1;
    flat->tail = 0;
    return ValPtr(flat);
  };
  std::vector<ValPtr> ys;
  ValPtr h, c;
  if (cell.usual && steps == 1 && h_state >= 0 && (!lstm || c_state >= 0)) {
    LSTM_ASSIGN_OR_RETURN(h, Native(cell, *vector(x), h_state, c_state));
    ys.push_back(h);
    if (lstm) {
      auto kept = std::make_shared<Val>(*h);
      sources_.push_back({Source::kCell, -1, -1, nullptr, {cell.hidden}, cell.name});
      kept->source = static_cast<int>(sources_.size()) - 1;
      c = kept;
    }
  } else {
    const auto before = [&](StateId state, const ValPtr& initial, const char* part) -> absl::StatusOr<ValPtr> {
      if (state < 0) {
        if (initial->constant()) return absl::InvalidArgumentError("its initial states are half constants, half computed");
        return vector(*initial);
      }
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Add(absl::StrCat(part, ".before"), StateReadOp{state}, {}));
      return Computed(id, {cell.hidden}, Val{});
    };
    LSTM_ASSIGN_OR_RETURN(h, before(h_state, h0, "h"));
    if (lstm) {
      LSTM_ASSIGN_OR_RETURN(c, before(c_state, c0, "c"));
    }
    const ValPtr flat = vector(x);
    for (int64_t t = 0; t < steps; ++t) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr one, Cut(*flat, 0, t * cell.width, cell.width, 1));
      LSTM_RETURN_IF_ERROR(PlainStep(cell, *one, h, c));
      ys.push_back(h);
    }
    for (const auto& [state, value, part] : {std::tuple{h_state, h, "h.after"}, {c_state, c, "c.after"}}) {
      if (state < 0) continue;
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*value, {cell.hidden}));
      LSTM_RETURN_IF_ERROR(Add(part, StateWriteOp{state}, {id}).status());
    }
  }
  if (h_input >= 0 && h_state >= 0) claims_.push_back({h_input, h_at, h->source, cell.steps ? -2 : x.labels[seq]});
  if (c_input >= 0 && c_state >= 0) claims_.push_back({c_input, c_at, c->source, cell.steps ? -2 : x.labels[seq]});

  const auto placed = [&](const Val& v, Shape shape, bool sequence) {
    auto out = std::make_shared<Val>(*Reshaped(v, shape));
    if (cell.steps && sequence) {
      out->time = static_cast<int>(seq);
      out->tail = x.tail;
      out->labels[seq] = x.labels[seq];
    }
    out->last = x.last || (cell.steps && !sequence);
    out->labels[cell.batch_first ? 0 : sequence ? 2 : 1] = x.labels[batch];
    return ValPtr(out);
  };
  if (x.tail != 0 && call.out.size() > 1 && (!call.node.outputs[1].empty() || (call.out.size() > 2 && !call.node.outputs[2].empty()))) {
    return Refuse("its end is that of a sequence which was padded behind");
  }
  if (!call.out.empty() && !call.node.outputs[0].empty()) {
    ValPtr all = ys[0];
    if (ys.size() > 1) {
      auto joined = std::make_shared<Val>();
      auto elements = std::make_shared<std::vector<Element>>();
      for (const ValPtr& y : ys) {
        for (int64_t i = 0; i < cell.hidden; ++i) elements->push_back(y->at(i));
      }
      joined->elements = std::move(elements);
      joined->shape = {steps * cell.hidden};
      joined->labels = {-1};
      all = joined;
    }
    call.out[0] = placed(*all, cell.batch_first ? Shape{1, steps, 1, cell.hidden} : Shape{steps, 1, 1, cell.hidden}, true);
  }
  if (call.out.size() > 1) call.out[1] = placed(*h, {1, 1, cell.hidden}, false);
  if (call.out.size() > 2 && lstm) call.out[2] = placed(*c, {1, 1, cell.hidden}, false);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
