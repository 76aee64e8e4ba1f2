// SPDX-License-Identifier: MIT
// Quantised operators, of ONNX and of com.microsoft: which one is which computation.
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

using E = ElementwiseKind;

}  // namespace

// X, W [D, I, 4 H], R [D, H, 4 H] and what an LSTM has, then a scale and a zero point of W and of R: one for each direction, or for
// each of its columns too.
absl::Status Lowering::QuantizedLstm(Call& call) {
  std::vector<ValPtr> in = call.in;
  in.resize(12);
  for (size_t i = 1; i <= 2; ++i) {
    const char* const name = i == 1 ? "W" : "R";
    if (!in[i] || !in[i]->stored || !IsQuantized(in[i]->stored->type) || in[i]->quantized || in[i]->shape.size() != 3 || in[i]->count() == 0) return Refuse(absl::StrCat("its weight ", name, " is not three axes of 8 bits in the file"));
    const Shape& shape = in[i]->shape;
    const int64_t directions = shape[0], gates = shape[2];
    auto how = std::make_shared<Quantized>();
    for (const auto& [k, numbers, what] : {std::tuple{6 + 2 * i, &how->scale, "scale"}, {7 + 2 * i, &how->zero, "zero point"}}) {
      if (!in[k]) return Refuse(absl::StrCat("its ", what, " of ", name, " is missing"));
      LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*in[k]));
      const auto n = static_cast<int64_t>(t->size());
      if (!t->is_float || (n != directions && n != directions * gates)) return Refuse(absl::StrCat("its ", what, " of ", name, " has shape ", ShapeString(t->shape), ", expected [", directions, "] or [", directions, ", ", gates, "]"));
      *numbers = t->floats;
    }
    auto weight = std::make_shared<Val>(*in[i]);
    const auto spread = [&](std::vector<float>& v) {  // one for each row and column
      std::vector<float> out;
      for (int64_t d = 0; d < directions; ++d) {
        for (int64_t g = 0; g < gates; ++g) out.push_back(v[static_cast<size_t>(static_cast<int64_t>(v.size()) == directions ? d : d * gates + g)]);
      }
      v = std::move(out);
    };
    spread(how->scale);
    spread(how->zero);
    how->rows = shape[1];
    how->columns = gates;
    weight->shape = {directions, gates, shape[1]};
    weight->quantized = std::move(how);
    weight->tensor.reset();
    in[i] = std::move(weight);
  }
  in.resize(8);
  if (!in[0] || in[0]->constant() || !in[0]->is_float) return Refuse("its input X is a constant, has integers or is missing");
  LSTM_ASSIGN_OR_RETURN(in[0], AsQuantized(in[0]));
  NodeView node = call.node;
  node.op = "LSTM";  // of this domain: Cell::by_range
  Call lstm{node, std::move(in), std::move(call.out)};
  const absl::Status status = Recurrent(lstm);
  call.out = std::move(lstm.out);
  return status;
}

absl::Status Lowering::QuantizedOps(Call& call) {
  const std::string_view op = call.node.op;
  const bool extended = call.node.domain == "com.microsoft";
  const auto in = [&](size_t i) { return call.has(i) ? call.in[i] : nullptr; };
  const auto need = [&](std::initializer_list<size_t> wanted) -> absl::Status {
    for (size_t i : wanted) {
      if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
    }
    return absl::OkStatus();
  };
  const int64_t axis = call.node.Int("axis", 1);
  if (op == "DequantizeLinear" || op == "QuantizeLinear") {
    LSTM_RETURN_IF_ERROR(need({0, 1}));
    if (call.node.Int("block_size", 0) != 0) return Refuse("has a scale for each block, expected one for all or for each item of an axis");
    if (op == "DequantizeLinear") {
      LSTM_ASSIGN_OR_RETURN(call.out[0], Dequantized(call.in[0], call.in[1], in(2), axis));
    } else {
      LSTM_ASSIGN_OR_RETURN(call.out[0], Quantize(call[0], call.in[1], in(2), axis, call.node.Int("output_dtype", 2)));
    }
    return absl::OkStatus();
  }
  if (op == "DynamicQuantizeLinear") {
    LSTM_RETURN_IF_ERROR(need({0}));
    call.out.resize(3);
    return QuantizeByRange(call.in[0], call.out[0], call.out[1], call.out[2]);
  }
  // A zero point of weights is one for each column of a matrix, one for each kernel of a convolution.
  const auto product = [&](std::string_view what, const ValPtr& a, const ValPtr& a_zero, const ValPtr& b, const ValPtr& b_zero, const ValPtr& b_scale = nullptr) -> absl::StatusOr<ValPtr> {
    if (a_zero && a_zero->count() != 1) return absl::InvalidArgumentError("its first zero point is not one number");
    if (what == "Conv" && a->time >= 2 && a_zero && a_zero->time >= 0 && static_cast<size_t>(a->time) < b->shape.size() && b->shape[static_cast<size_t>(a->time)] > 1) {
      return LooksAhead("reaches over steps that are quantised by the range of all of them, which no step knows: export it with its convolutions in floats");
    }
    LSTM_ASSIGN_OR_RETURN(const ValPtr x, Dequantized(a, nullptr, a_zero, 0));
    LSTM_ASSIGN_OR_RETURN(const ValPtr w, Dequantized(b, b_scale, b_zero, what == "Conv" ? 0 : -1));
    return Sub(what, call, {x, w});
  };
  if (op == "MatMulInteger" || op == "ConvInteger") {
    LSTM_RETURN_IF_ERROR(need({0, 1}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], product(op == "ConvInteger" ? "Conv" : "MatMul", call.in[0], in(2), call.in[1], in(3)));
    return absl::OkStatus();
  }
  if (op == "QLinearMatMul" || op == "QLinearConv") {
    const bool conv = op == "QLinearConv";
    LSTM_RETURN_IF_ERROR(need({0, 1, 2, 3, 4, 5, 6, 7}));
    LSTM_ASSIGN_OR_RETURN(ValPtr y, product(conv ? "Conv" : "MatMul", call.in[0], call.in[2], call.in[3], call.in[5]));
    LSTM_ASSIGN_OR_RETURN(ValPtr scale, Combine(E::kMultiply, call[1], call[4]));
    if (conv && call.has(8)) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr bias, Beside(*y, call.in[8], 1, "bias"));
      LSTM_ASSIGN_OR_RETURN(y, Combine(E::kAdd, *y, *bias));
    }
    LSTM_ASSIGN_OR_RETURN(y, Dequantized(y, scale, nullptr, conv ? 1 : -1));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Quantize(*y, call.in[6], call.in[7], 0, 2));
    return absl::OkStatus();
  }
  if (!extended) return absl::UnimplementedError("");
  if (op == "MatMulIntegerToFloat" || op == "DynamicQuantizeMatMul") {
    const bool by_range = op == "DynamicQuantizeMatMul";
    LSTM_RETURN_IF_ERROR(by_range ? need({0, 1, 2}) : need({0, 1, 2, 3}));
    ValPtr a = call.in[0], a_scale = in(2), a_zero = in(4);
    if (by_range) LSTM_RETURN_IF_ERROR(QuantizeByRange(call.in[0], a, a_scale, a_zero));
    const size_t b = by_range ? 2 : 3;  // its scale; its zero point and the bias follow
    LSTM_ASSIGN_OR_RETURN(ValPtr y, product("MatMul", a, a_zero, call.in[1], in(by_range ? 3 : 5)));
    LSTM_ASSIGN_OR_RETURN(const ValPtr scale, Combine(E::kMultiply, *a_scale, call[b]));
    LSTM_ASSIGN_OR_RETURN(y, Combine(E::kMultiply, *y, *scale));
    const ValPtr bias = in(by_range ? 4 : 6);
    if (bias) {
      LSTM_ASSIGN_OR_RETURN(y, Combine(E::kAdd, *y, *bias));
    }
    call.out[0] = y;
    return absl::OkStatus();
  }
  if (op == "DynamicQuantizeLSTM") return QuantizedLstm(call);
  // The rest of its kind: the op of the name between what its inputs and its output say.
  static const std::unordered_map<std::string_view, std::pair<std::string_view, size_t>> kAround = {
      {"QLinearAdd", {"Add", 2}}, {"QLinearMul", {"Mul", 2}}, {"QLinearSigmoid", {"Sigmoid", 1}}, {"QLinearLeakyRelu", {"LeakyRelu", 1}}, {"QLinearSoftmax", {"Softmax", 1}},
      {"QLinearAveragePool", {"AveragePool", 1}}, {"QLinearGlobalAveragePool", {"GlobalAveragePool", 1}}, {"QLinearConcat", {"Concat", 0}}, {"QGemm", {"Gemm", 0}}};
  const auto around = kAround.find(op);
  if (around == kAround.end()) return absl::UnimplementedError("");
  std::vector<ValPtr> inputs;
  size_t out = 0;  // the scale of the output; its zero point follows
  if (op == "QLinearConcat") {
    LSTM_RETURN_IF_ERROR(need({0, 1, 2, 3}));
    for (size_t i = 2; i < call.in.size(); i += 3) {
      LSTM_RETURN_IF_ERROR(need({i, i + 1}));
      LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), Dequantized(call.in[i], call.in[i + 1], in(i + 2), 0));
    }
  } else if (op == "QGemm") {  // a, scale, zero, b, scale, zero, c, scale, zero; without the last two it gives floats
    LSTM_RETURN_IF_ERROR(need({0, 1, 2, 3, 4, 5}));
    const bool turned = call.node.Int("transB", 0) != 0;
    LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), Dequantized(call.in[0], call.in[1], call.in[2], 0));
    LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), Dequantized(call.in[3], call.in[4], call.in[5], turned ? 0 : 1));
    if (call.has(6)) {
      LSTM_ASSIGN_OR_RETURN(const ValPtr scale, Combine(E::kMultiply, call[1], call[4]));
      LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), Dequantized(call.in[6], scale, nullptr, -1));
    }
    out = 7;
  } else {
    const size_t n = around->second.second;
    for (size_t i = 0; i < n; ++i) {
      LSTM_RETURN_IF_ERROR(need({3 * i, 3 * i + 1}));
      LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), Dequantized(call.in[3 * i], call.in[3 * i + 1], in(3 * i + 2), 0));
    }
    out = 3 * n;
    LSTM_RETURN_IF_ERROR(need({out}));
  }
  LSTM_ASSIGN_OR_RETURN(call.out[0], Sub(around->second.first, call, std::move(inputs)));
  if (!call.has(out)) return absl::OkStatus();
  LSTM_ASSIGN_OR_RETURN(call.out[0], Quantize(*call.out[0], call.in[out], in(out + 1), 0, 2));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
