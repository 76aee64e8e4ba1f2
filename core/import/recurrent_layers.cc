// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/layer_import.h"

// LSTM, GRU and RNN weights of each framework to the canonical form of core/model/model.h.
namespace lstm::core {
namespace {

namespace pb = manifest::v1;

constexpr uint32_t kMaxStack = 64;

// Where each canonical gate's block lies in the file, as -1 where the file has none.
using Order = std::vector<int>;

// Input weights [G*H, I], recurrent weights [G*H, R] and biases as they lie in the file, in its gate order.
struct Raw {
  ConstantPtr weight, recurrent;
  ConstantPtr bias;            // null: none
  ConstantPtr recurrent_bias;  // null: one or none
  int64_t hidden = 0;
};

// Tensor names of one layer of a PyTorch stack: "weight_ih_l0".
std::string Name(const char* name, uint32_t k, pb::Convention convention) {
  return convention == pb::PYTORCH ? absl::StrCat(name, "_l", k) : std::string(name);
}

absl::StatusOr<std::pair<ConstantPtr, ConstantPtr>> SplitRows(const ConstantPtr& kernel, int64_t first, const std::string& name) {
  if (kernel->shape.size() != 2 || kernel->shape[0] <= first || first < 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has shape ", ShapeString(kernel->shape), ", expected [", first, " + H, gates x H]"));
  }
  const int64_t columns = kernel->shape[1];
  auto top = MakeConstant({first, columns}), bottom = MakeConstant({kernel->shape[0] - first, columns});
  std::copy_n(kernel->values.data(), first * columns, top->values.data());
  std::copy_n(kernel->values.data() + first * columns, (kernel->shape[0] - first) * columns, bottom->values.data());
  return std::pair<ConstantPtr, ConstantPtr>(top, bottom);
}

absl::StatusOr<Raw> ReadRaw(LayerImport& in, pb::Convention convention, pb::BiasForm bias, pb::BiasForm usual, uint32_t k,
                            int64_t gates, int64_t width) {
  Raw raw;
  if (convention == pb::PYTORCH) {
    LSTM_ASSIGN_OR_RETURN(raw.weight, in.Tensor(Name("weight_ih", k, convention)));
    LSTM_ASSIGN_OR_RETURN(raw.recurrent, in.Tensor(Name("weight_hh", k, convention)));
  } else if (convention == pb::KERAS) {
    LSTM_ASSIGN_OR_RETURN(ConstantPtr kernel, in.Tensor("kernel"));
    LSTM_ASSIGN_OR_RETURN(raw.weight, Transpose(kernel, in.prefix + "kernel"));
    kernel.reset();
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr recurrent, in.Tensor("recurrent_kernel"));
    LSTM_ASSIGN_OR_RETURN(raw.recurrent, Transpose(recurrent, in.prefix + "recurrent_kernel"));
  } else {
    // Each form is dropped as soon as the next one is made: a large file must not be in memory three times.
    LSTM_ASSIGN_OR_RETURN(ConstantPtr kernel, in.Tensor("kernel"));
    LSTM_ASSIGN_OR_RETURN(auto parts, SplitRows(kernel, width, in.prefix + "kernel"));
    kernel.reset();
    LSTM_ASSIGN_OR_RETURN(raw.weight, Transpose(parts.first, in.prefix + "kernel"));
    parts.first.reset();
    LSTM_ASSIGN_OR_RETURN(raw.recurrent, Transpose(parts.second, in.prefix + "kernel"));
  }
  for (const auto& [matrix, what] : {std::pair{raw.weight, "input"}, {raw.recurrent, "recurrent"}}) {
    if (matrix->shape.size() != 2 || matrix->shape[0] < gates || matrix->shape[0] % gates != 0 ||
        matrix->shape[0] != raw.weight->shape[0] || matrix->shape[1] < 1) {
      return absl::InvalidArgumentError(absl::StrCat("its ", what, " weights are ", ShapeString(matrix->shape), " (gates first), expected ",
                                                     gates, " gates of one size"));
    }
  }
  raw.hidden = raw.weight->shape[0] / gates;
  if (bias == pb::BIAS_BY_CONVENTION) bias = usual;
  if (bias == pb::BIAS_NONE) return raw;
  const int64_t rows = gates * raw.hidden;
  if (convention == pb::PYTORCH) {
    LSTM_ASSIGN_OR_RETURN(raw.bias, in.Tensor(Name("bias_ih", k, convention), {rows}));
    if (bias == pb::BIAS_TWO) {
    LSTM_ASSIGN_OR_RETURN(raw.recurrent_bias, in.Tensor(Name("bias_hh", k, convention), {rows}));
  }
  } else if (bias == pb::BIAS_ONE) {
    LSTM_ASSIGN_OR_RETURN(raw.bias, in.Tensor("bias", {rows}));
  } else {  // Keras keeps both in one tensor
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr both, in.Tensor("bias", {2, rows}));
    auto first = MakeConstant({rows}), second = MakeConstant({rows});
    std::copy_n(both->values.data(), rows, first->values.data());
    std::copy_n(both->values.data() + rows, rows, second->values.data());
    raw.bias = std::move(first);
    raw.recurrent_bias = std::move(second);
  }
  return raw;
}

// The blocks of `rows` rows each, picked in `order`; a block of -1 is zeros. `from` null: all zeros.
std::shared_ptr<Constant> Reorder(const ConstantPtr& from, const Order& order, int64_t rows, int64_t columns) {
  Shape shape = {static_cast<int64_t>(order.size()) * rows};
  if (columns > 0) shape.push_back(columns);
  auto out = MakeConstant(shape);
  const int64_t block = rows * std::max<int64_t>(columns, 1);
  for (size_t g = 0; from && g < order.size(); ++g) {
    if (order[g] >= 0) std::copy_n(from->values.data() + order[g] * block, block, out->values.data() + static_cast<int64_t>(g) * block);
  }
  return out;
}

std::shared_ptr<Constant> SummedBias(const Raw& raw, const Order& order) {
  auto out = Reorder(raw.bias, order, raw.hidden, 0);
  if (raw.recurrent_bias) {
    const auto second = Reorder(raw.recurrent_bias, order, raw.hidden, 0);
    for (size_t i = 0; i < out->values.size(); ++i) out->values[i] += second->values[i];
  }
  return out;
}

// A coupled cell's input gate is 1 - f, and 1 - s(x) = s(-x): the first block is the second one negated.
void NegateIntoFirst(Constant& blocks) {
  const size_t block = blocks.values.size() / 4;
  for (size_t i = 0; i < block; ++i) blocks.values[i] = -blocks.values[block + i];
}

absl::StatusOr<Order> LstmOrder(const pb::Lstm& lstm) {
  pb::GateOrder order = lstm.gate_order();
  if (order == pb::BY_CONVENTION) order = lstm.convention() == pb::TENSORFLOW ? pb::IGFO : pb::IFGO;
  Order positions;  // of i f g o
  switch (order) {
    case pb::IFGO: positions = {0, 1, 2, 3}; break;
    case pb::IGFO: positions = {0, 2, 1, 3}; break;
    case pb::IOFG: positions = {0, 2, 3, 1}; break;
    case pb::FIGO: positions = {1, 0, 2, 3}; break;
    default: return absl::InvalidArgumentError("gate_order is unknown");
  }
  if (lstm.coupled()) {
    const int input = positions[0];
    for (int& p : positions) p = p == input ? -1 : p > input ? p - 1 : p;
  }
  return positions;
}

absl::StatusOr<std::vector<float>> Initial(LayerImport& in, pb::InitialState kind, const std::string& name, int64_t width) {
  if (kind != pb::TRAINED) return std::vector<float>();
  LSTM_ASSIGN_OR_RETURN(const ConstantPtr values, in.Tensor(name, {width}));
  return std::vector<float>(values->values.data(), values->values.data() + width);
}

absl::StatusOr<Op> Lstm(LayerImport& in, const pb::Lstm& lstm, uint32_t k, int64_t width, const std::string& name) {
  const pb::Convention convention = lstm.convention();
  const pb::BiasForm usual = convention == pb::PYTORCH ? pb::BIAS_TWO : pb::BIAS_ONE;
  LSTM_ASSIGN_OR_RETURN(const Order order, LstmOrder(lstm));
  LSTM_ASSIGN_OR_RETURN(const Raw raw, ReadRaw(in, convention, lstm.bias(), usual, k, lstm.coupled() ? 3 : 4, width));
  const int64_t hidden = raw.hidden, back = raw.recurrent->shape[1];
  auto weight = Reorder(raw.weight, order, hidden, raw.weight->shape[1]);
  auto recurrent = Reorder(raw.recurrent, order, hidden, back);
  auto bias = SummedBias(raw, order);
  for (int64_t j = 0; j < hidden; ++j) bias->values.data()[hidden + j] += lstm.forget_bias();
  LstmOp op;
  if (lstm.peepholes()) {
    auto peephole = MakeConstant({3 * hidden});  // i f o
    int64_t block = 0;
    for (const char* gate : {"peephole_i", "peephole_f", "peephole_o"}) {
      const std::string tensor = Name(gate, k, convention);
      if (in.Has(tensor)) {
        LSTM_ASSIGN_OR_RETURN(const ConstantPtr values, in.Tensor(tensor, {hidden}));
        std::copy_n(values->values.data(), hidden, peephole->values.data() + block * hidden);
      }
      ++block;
    }
    if (lstm.coupled()) {
      for (int64_t j = 0; j < hidden; ++j) peephole->values.data()[j] = -peephole->values.data()[hidden + j];
    }
    op.peephole = std::move(peephole);
  }
  if (lstm.coupled()) {
    for (const auto& blocks : {weight, recurrent, bias}) NegateIntoFirst(*blocks);
  }
  if (lstm.projection()) {
    if (convention == pb::PYTORCH) {
      LSTM_ASSIGN_OR_RETURN(op.projection, in.Tensor(Name("weight_hr", k, convention)));
    } else {
      LSTM_ASSIGN_OR_RETURN(const ConstantPtr kernel, in.Tensor("projection_kernel"));
      LSTM_ASSIGN_OR_RETURN(op.projection, Transpose(kernel, in.prefix + "projection_kernel"));
    }
  }
  op.weight = std::move(weight);
  op.recurrent = std::move(recurrent);
  op.bias = std::move(bias);
  LSTM_ASSIGN_OR_RETURN(auto h0, Initial(in, lstm.initial_state(), Name("h0", k, convention), back));
  LSTM_ASSIGN_OR_RETURN(auto c0, Initial(in, lstm.initial_state(), Name("c0", k, convention), hidden));
  LSTM_ASSIGN_OR_RETURN(op.hidden, in.builder.AddState(name + ".h", {back}, std::move(h0)));
  LSTM_ASSIGN_OR_RETURN(op.cell, in.builder.AddState(name + ".c", {hidden}, std::move(c0)));
  return op;
}

absl::StatusOr<Op> Gru(LayerImport& in, const pb::Gru& gru, uint32_t k, int64_t width, const std::string& name) {
  GruOp op;
  op.reset_after = gru.reset() == pb::Gru::RESET_BY_CONVENTION ? gru.convention() != pb::TENSORFLOW
                                                               : gru.reset() == pb::Gru::AFTER_PRODUCT;
  const pb::BiasForm usual = gru.convention() == pb::PYTORCH || (gru.convention() == pb::KERAS && op.reset_after) ? pb::BIAS_TWO
                                                                                                               : pb::BIAS_ONE;
  const bool rzn = gru.gate_order() == pb::Gru::ORDER_BY_CONVENTION ? gru.convention() != pb::KERAS : gru.gate_order() == pb::Gru::RZN;
  const Order order = rzn ? Order{1, 0, 2} : Order{0, 1, 2};  // of z r n
  LSTM_ASSIGN_OR_RETURN(const Raw raw, ReadRaw(in, gru.convention(), gru.bias(), usual, k, 3, width));
  const int64_t hidden = raw.hidden;
  op.weight = Reorder(raw.weight, order, hidden, raw.weight->shape[1]);
  op.recurrent = Reorder(raw.recurrent, order, hidden, raw.recurrent->shape[1]);
  if (op.reset_after) {  // z and r summed; n apart, because r acts on the recurrent one
    const auto summed = SummedBias(raw, order), first = Reorder(raw.bias, order, hidden, 0),
               second = Reorder(raw.recurrent_bias, order, hidden, 0);
    auto bias = MakeConstant({4 * hidden});
    std::copy_n(summed->values.data(), 2 * hidden, bias->values.data());
    std::copy_n(first->values.data() + 2 * hidden, hidden, bias->values.data() + 2 * hidden);
    std::copy_n(second->values.data() + 2 * hidden, hidden, bias->values.data() + 3 * hidden);
    op.bias = std::move(bias);
  } else {
    op.bias = SummedBias(raw, order);
  }
  LSTM_ASSIGN_OR_RETURN(auto h0, Initial(in, gru.initial_state(), Name("h0", k, gru.convention()), hidden));
  LSTM_ASSIGN_OR_RETURN(op.hidden, in.builder.AddState(name + ".h", {hidden}, std::move(h0)));
  return op;
}

absl::StatusOr<Op> Rnn(LayerImport& in, const pb::Rnn& rnn, uint32_t k, int64_t width, const std::string& name) {
  const pb::BiasForm usual = rnn.convention() == pb::PYTORCH ? pb::BIAS_TWO : pb::BIAS_ONE;
  LSTM_ASSIGN_OR_RETURN(const Raw raw, ReadRaw(in, rnn.convention(), rnn.bias(), usual, k, 1, width));
  RnnOp op;
  op.weight = raw.weight;
  op.recurrent = raw.recurrent;
  op.bias = SummedBias(raw, {0});
  op.relu = rnn.nonlinearity() == pb::Rnn::RELU;
  LSTM_ASSIGN_OR_RETURN(auto h0, Initial(in, rnn.initial_state(), Name("h0", k, rnn.convention()), raw.hidden));
  LSTM_ASSIGN_OR_RETURN(op.hidden, in.builder.AddState(name + ".h", {raw.hidden}, std::move(h0)));
  return op;
}

absl::StatusOr<Op> MakeCell(LayerImport& in, uint32_t k, int64_t width, const std::string& name) {
  switch (in.layer.kind_case()) {
    case pb::Layer::kLstm: return Lstm(in, in.layer.lstm(), k, width, name);
    case pb::Layer::kGru: return Gru(in, in.layer.gru(), k, width, name);
    default: return Rnn(in, in.layer.rnn(), k, width, name);
  }
}

}  // namespace

absl::Status ImportRecurrentLayer(LayerImport& in) {
  const auto& layer = in.layer;
  const auto [stack, convention] = layer.has_lstm()  ? std::pair{layer.lstm().layers(), layer.lstm().convention()}
                                   : layer.has_gru() ? std::pair{layer.gru().layers(), layer.gru().convention()}
                                                     : std::pair{layer.rnn().layers(), layer.rnn().convention()};
  const auto within = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("layer '", layer.name(), "': ", status.message()));
  };
  if (stack > kMaxStack || (stack > 1 && convention != pb::PYTORCH)) {
    return within(absl::InvalidArgumentError(absl::StrCat("layers is ", stack, ", expected at most ",
                                                          convention == pb::PYTORCH ? kMaxStack : 1)));
  }
  if (in.inputs.size() != 1) return within(absl::InvalidArgumentError("reads several values, expected one"));
  for (uint32_t k = 0; k < std::max(stack, 1u); ++k) {
    const std::string own = stack > 1 ? absl::StrCat(layer.name(), ".l", k) : layer.name();
    const Shape& shape = in.builder.value(in.inputs[0]).shape;
    auto op = MakeCell(in, k, shape.empty() ? 1 : shape.back(), own);
    if (!op.ok()) return within(op.status());
    auto value = in.builder.AddNode(k + 1 == std::max(stack, 1u) ? layer.name() : own, *std::move(op), in.inputs);
    if (!value.ok()) return value.status();
    in.inputs = {*value};
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
