// SPDX-License-Identifier: MIT
#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/cell_parts.h"
#include "core/import/layer_import.h"
#include "core/import/recurrent_tensors.h"

// LSTM, GRU and RNN weights of each framework to the canonical form of core/model/model.h.
namespace lstm::core {
namespace {

namespace pb = manifest::v1;

constexpr uint32_t kMaxStack = 64;

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

absl::StatusOr<LstmOp> Lstm(LayerImport& in, const pb::Lstm& lstm, uint32_t k, int64_t width, const std::string& name) {
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

absl::StatusOr<GruOp> Gru(LayerImport& in, const pb::Gru& gru, uint32_t k, int64_t width, const std::string& name) {
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

absl::StatusOr<RnnOp> Rnn(LayerImport& in, const pb::Rnn& rnn, uint32_t k, int64_t width, const std::string& name) {
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

// `activation` where it is given, or `usual`.
absl::StatusOr<ActivationOp> OrUsual(bool given, const pb::Activation& activation, ActivationKind usual) {
  return given ? ReadActivation(activation) : ActivationOp{usual};
}

bool IsVaried(const pb::Lstm& lstm) {
  return lstm.has_recurrent_activation() || lstm.has_activation() || lstm.cell_clip() != 0 || lstm.projection_clip() != 0 || lstm.layer_norm() || lstm.depth_gated();
}

absl::StatusOr<LstmVariant> ReadVariant(LayerImport& in, const pb::Lstm& lstm, uint32_t k, int64_t hidden, int64_t width) {
  LstmVariant v;
  v.coupled = lstm.coupled();
  LSTM_ASSIGN_OR_RETURN(v.gate, OrUsual(lstm.has_recurrent_activation(), lstm.recurrent_activation(), ActivationKind::kSigmoid));
  LSTM_ASSIGN_OR_RETURN(v.candidate, OrUsual(lstm.has_activation(), lstm.activation(), ActivationKind::kTanh));
  for (const auto& [name, clip] : {std::pair{"cell_clip", lstm.cell_clip()}, {"projection_clip", lstm.projection_clip()}}) {
    if (!(clip >= 0) || !std::isfinite(clip)) return absl::InvalidArgumentError(absl::StrCat(name, " is ", clip, ", expected a finite number that is not negative"));
  }
  v.cell_clip = lstm.cell_clip();
  v.projection_clip = lstm.projection_clip();
  if (v.projection_clip > 0 && !lstm.projection()) return absl::InvalidArgumentError("projection_clip is set, expected only with projection");
  if (lstm.layer_norm()) {
    if (lstm.coupled()) return absl::InvalidArgumentError("layer_norm is set, expected only where the cell is not coupled");
    LSTM_ASSIGN_OR_RETURN(const Order order, LstmOrder(lstm));
    const char* const names[] = {"norm_ih_weight", "norm_ih_bias", "norm_hh_weight", "norm_hh_bias", "norm_c_weight", "norm_c_bias"};
    for (size_t i = 0; i < std::size(names); ++i) {
      const bool gates = i < 4;
      LSTM_ASSIGN_OR_RETURN(const ConstantPtr values, in.Tensor(Name(names[i], k, lstm.convention()), {(gates ? 4 : 1) * hidden}));
      v.norm[i] = gates ? ConstantPtr(Reorder(values, order, hidden, 0)) : values;
    }
  }
  if (lstm.depth_gated() && lstm.convention() != pb::PYTORCH) return absl::InvalidArgumentError("depth_gated is set, expected only of a PYTORCH stack");
  if (lstm.depth_gated() && k > 0) {
    LSTM_ASSIGN_OR_RETURN(v.depth[0], in.Tensor(absl::StrCat("weight_d_l", k), {hidden, width}));
    LSTM_ASSIGN_OR_RETURN(v.depth[1], in.Tensor(absl::StrCat("bias_d_l", k), {hidden}));
    LSTM_ASSIGN_OR_RETURN(v.depth[2], in.Tensor(absl::StrCat("peephole_d_l", k), {hidden}));
    LSTM_ASSIGN_OR_RETURN(v.depth[3], in.Tensor(absl::StrCat("depth_d_l", k), {hidden}));
  }
  return v;
}

// Layer k, called `name`; its value is called `layer`. `cell`: its new cell state, where it has one that the next layer reads.
absl::StatusOr<ValueId> AddLayer(LayerImport& in, uint32_t k, const std::string& name, const std::string& layer, ValueId* cell) {
  const ValueId x = in.inputs[0];
  const Shape& shape = in.builder.value(x).shape;
  const int64_t width = shape.empty() ? 1 : shape.back();
  if (in.layer.has_lstm()) {
    const pb::Lstm& lstm = in.layer.lstm();
    LSTM_ASSIGN_OR_RETURN(LstmOp op, Lstm(in, lstm, k, width, name));
    if (!IsVaried(lstm)) return in.builder.AddNode(layer, std::move(op), {x});
    if (op.weight->shape[1] != width) {
      return absl::InvalidArgumentError(absl::StrCat("its input weights have ", op.weight->shape[1], " columns, expected ", width, ", the width of what it reads"));
    }
    const int64_t hidden = op.bias->shape[0] / 4, back = op.projection && op.projection->shape.size() == 2 ? op.projection->shape[0] : hidden;
    if (op.recurrent->shape[1] != back) {
      return absl::InvalidArgumentError(absl::StrCat("its recurrent weights have ", op.recurrent->shape[1], " columns, expected ", back));
    }
    LSTM_ASSIGN_OR_RETURN(LstmVariant variant, ReadVariant(in, lstm, k, hidden, width));
    variant.below = *cell;
    return LstmInParts(in.builder, name, layer, op, variant, x, cell);
  }
  if (in.layer.has_gru()) {
    const pb::Gru& gru = in.layer.gru();
    LSTM_ASSIGN_OR_RETURN(GruOp op, Gru(in, gru, k, width, name));
    if (!gru.has_recurrent_activation() && !gru.has_activation()) return in.builder.AddNode(layer, std::move(op), {x});
    const int64_t hidden = op.weight->shape[0] / 3;
    if (op.weight->shape[1] != width || op.recurrent->shape[1] != hidden) {
      return absl::InvalidArgumentError(absl::StrCat("its weights are ", ShapeString(op.weight->shape), " and ", ShapeString(op.recurrent->shape), ", expected ",
                                                     width, " and ", hidden, " columns"));
    }
    LSTM_ASSIGN_OR_RETURN(const ActivationOp gate, OrUsual(gru.has_recurrent_activation(), gru.recurrent_activation(), ActivationKind::kSigmoid));
    LSTM_ASSIGN_OR_RETURN(const ActivationOp candidate, OrUsual(gru.has_activation(), gru.activation(), ActivationKind::kTanh));
    return GruInParts(in.builder, name, layer, op, gate, candidate, x);
  }
  if (in.layer.has_cell()) return AddCell(in, k, name, layer, x);
  const pb::Rnn& rnn = in.layer.rnn();
  LSTM_ASSIGN_OR_RETURN(RnnOp op, Rnn(in, rnn, k, width, name));
  if (!rnn.has_activation() && rnn.clip() == 0) return in.builder.AddNode(layer, std::move(op), {x});
  if (!(rnn.clip() >= 0) || !std::isfinite(rnn.clip())) return absl::InvalidArgumentError(absl::StrCat("clip is ", rnn.clip(), ", expected a finite number that is not negative"));
  if (rnn.has_activation() && op.relu) return absl::InvalidArgumentError("nonlinearity and activation are given, expected one of them");
  const int64_t hidden = op.weight->shape[0];
  if (op.weight->shape[1] != width || op.recurrent->shape[1] != hidden) {
    return absl::InvalidArgumentError(absl::StrCat("its weights are ", ShapeString(op.weight->shape), " and ", ShapeString(op.recurrent->shape), ", expected ", width, " and ", hidden, " columns"));
  }
  LSTM_ASSIGN_OR_RETURN(const ActivationOp activation, OrUsual(rnn.has_activation(), rnn.activation(), op.relu ? ActivationKind::kRelu : ActivationKind::kTanh));
  return RnnInParts(in.builder, name, layer, op, activation, rnn.clip(), x);
}

}  // namespace

absl::Status ImportRecurrentLayer(LayerImport& in) {
  const auto& layer = in.layer;
  const auto [stack, convention] = layer.has_lstm()   ? std::pair{layer.lstm().layers(), layer.lstm().convention()}
                                   : layer.has_gru()  ? std::pair{layer.gru().layers(), layer.gru().convention()}
                                   : layer.has_cell() ? std::pair{layer.cell().layers(), pb::PYTORCH}
                                                      : std::pair{layer.rnn().layers(), layer.rnn().convention()};
  const auto within = [&](const absl::Status& status) {
    if (absl::StartsWith(status.message(), absl::StrCat("layer '", layer.name(), "'"))) return status;
    return absl::Status(status.code(), absl::StrCat("layer '", layer.name(), "': ", status.message()));
  };
  if (stack > kMaxStack || (stack > 1 && convention != pb::PYTORCH)) {
    return within(absl::InvalidArgumentError(absl::StrCat("layers is ", stack, ", expected at most ",
                                                          convention == pb::PYTORCH ? kMaxStack : 1)));
  }
  if (in.inputs.size() != 1) return within(absl::InvalidArgumentError("reads several values, expected one"));
  ValueId cell = -1;
  for (uint32_t k = 0; k < std::max(stack, 1u); ++k) {
    const std::string own = stack > 1 ? absl::StrCat(layer.name(), ".l", k) : layer.name();
    auto value = AddLayer(in, k, own, k + 1 == std::max(stack, 1u) ? layer.name() : own, &cell);
    if (!value.ok()) return within(value.status());
    in.inputs = {*value};
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
