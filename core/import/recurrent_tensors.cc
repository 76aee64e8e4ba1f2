// SPDX-License-Identifier: MIT
#include "core/import/recurrent_tensors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::core {

namespace pb = manifest::v1;

namespace {

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

}  // namespace

std::string Name(const char* name, uint32_t k, pb::Convention convention) {
  return convention == pb::PYTORCH ? absl::StrCat(name, "_l", k) : std::string(name);
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

}  // namespace lstm::core
