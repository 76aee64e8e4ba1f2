// SPDX-License-Identifier: MIT
// Ops that compute: which op is which function.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::Status Lowering::Math(Call& call) {
  using A = ActivationKind;
  using E = ElementwiseKind;
  const NodeView& node = call.node;
  const std::string_view op = node.op;
  static const std::unordered_map<std::string_view, A> kUnary = {
      {"Relu", A::kRelu}, {"Sigmoid", A::kSigmoid}, {"Tanh", A::kTanh}, {"Softplus", A::kSoftplus}, {"LeakyRelu", A::kLeakyRelu}, {"Elu", A::kElu},
      {"HardSigmoid", A::kHardSigmoid}, {"Gelu", A::kGelu}, {"Exp", A::kExp}, {"Log", A::kLog}, {"Abs", A::kAbs}, {"Neg", A::kNegate}, {"Sqrt", A::kSqrt},
      {"Reciprocal", A::kReciprocal}, {"Erf", A::kErf}, {"Softsign", A::kSoftsign}, {"ThresholdedRelu", A::kThresholdedRelu}, {"Floor", A::kFloor},
      {"Sign", A::kSign}, {"Sin", A::kSin}, {"Cos", A::kCos}, {"Atan", A::kAtan}, {"Round", A::kRound}};
  static const std::unordered_map<std::string_view, E> kBinary = {{"Add", E::kAdd}, {"Sub", E::kSubtract}, {"Mul", E::kMultiply}, {"Div", E::kDivide},
                                                                  {"Min", E::kMinimum}, {"Max", E::kMaximum}, {"Sum", E::kAdd}, {"Mean", E::kAdd}};
  static const std::unordered_map<std::string_view, ReduceKind> kReduce = {
      {"ReduceMean", ReduceKind::kMean}, {"ReduceSum", ReduceKind::kSum}, {"ReduceMax", ReduceKind::kMaximum}, {"ReduceMin", ReduceKind::kMinimum},
      {"ReduceProd", ReduceKind::kProduct}, {"ReduceL2", ReduceKind::kSum}, {"ReduceL1", ReduceKind::kSum}, {"ReduceSumSquare", ReduceKind::kSum},
      {"ReduceLogSum", ReduceKind::kSum}, {"ReduceLogSumExp", ReduceKind::kSum}};
  static const std::set<std::string_view> kOthers = {"MatMul", "Gemm", "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "Pow", "Clip", "PRelu",
                                                     "HardSwish", "Mish", "Selu", "Celu", "Ceil", "Tan", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "MeanVarianceNormalization",
                                                     "LpNormalization", "ArgMax", "ArgMin", "CumSum", "Swish", "Xor", "Equal", "Not", "And", "Or", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
                                                     "Where", "Range", "Mod"};
  const auto unary = kUnary.find(op);
  const auto binary = kBinary.find(op);
  const auto reduce = kReduce.find(op);
  if (unary == kUnary.end() && binary == kBinary.end() && reduce == kReduce.end() && !kOthers.contains(op)) return absl::UnimplementedError("");
  if (!call.has(0)) return Refuse("its first input is missing");
  for (ValPtr& in : call.in) {  // a mask, a number that was counted: computed with as it is
    if (!in || in->constant() || in->is_float) continue;
    LSTM_ASSIGN_OR_RETURN(in, AsFloats(in));
  }
  const Val& x = call[0];
  if (unary != kUnary.end()) {
    ActivationOp a{unary->second};
    if (a.kind == A::kLeakyRelu) a.alpha = node.Float("alpha", 0.01f);
    if (a.kind == A::kElu || a.kind == A::kThresholdedRelu) a.alpha = node.Float("alpha", 1);
    if (a.kind == A::kHardSigmoid) a.alpha = node.Float("alpha", 0.2f), a.beta = node.Float("beta", 0.5f);
    if (a.kind == A::kGelu && node.Text("approximate", "none") == "tanh") {  // x times a sigmoid: 1 + tanh(a) is twice that of 2a
      LSTM_ASSIGN_OR_RETURN(const ValPtr cube, Activated(x, {A::kPower, 3}));
      LSTM_ASSIGN_OR_RETURN(const ValPtr bent, Scaled(*cube, 0.044715, 0));
      LSTM_ASSIGN_OR_RETURN(const ValPtr sum, Combine(E::kAdd, x, *bent));
      LSTM_ASSIGN_OR_RETURN(const ValPtr wide, Scaled(*sum, 2 * 0.79788456080286535588, 0));
      LSTM_ASSIGN_OR_RETURN(const ValPtr gate, Activated(*wide, {A::kSigmoid}));
      LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kMultiply, x, *gate));
      return absl::OkStatus();
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, a));
    NoteGate(op, call);
    return absl::OkStatus();
  }
  if (binary != kBinary.end()) {
    ValPtr y = call.in[0];
    const bool two = binary->second != E::kMinimum && binary->second != E::kMaximum && op != "Sum" && op != "Mean";
    if (two && call.in.size() != 2) return Refuse(absl::StrCat("has ", call.in.size(), " inputs, expected 2"));
    for (size_t i = 1; i < call.in.size(); ++i) {
      if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
      LSTM_ASSIGN_OR_RETURN(y, Combine(binary->second, *y, call[i]));
    }
    if (op == "Mean" && call.in.size() > 1) {
      LSTM_ASSIGN_OR_RETURN(y, Combine(E::kMultiply, *y, *MakeConstantVal({true, {}, {1 / static_cast<float>(call.in.size())}, {}})));
    }
    call.out[0] = y;
    NoteGate(op, call);
    return absl::OkStatus();
  }
  if (reduce != kReduce.end()) return LowerReduce(call, reduce->second);
  if (op == "MatMul") return LowerMatMul(call);
  if (op == "Gemm") return LowerGemm(call);
  if (op == "Softmax" || op == "LogSoftmax") return LowerSoftmax(call, op == "LogSoftmax");
  if (op == "LayerNormalization") return LowerNorm(call);
  if (op == "BatchNormalization") return LowerBatchNorm(call);
  if (op.ends_with("Normalization")) return LowerNorms(call);
  if (op == "ArgMax" || op == "ArgMin") return LowerArg(call);
  if (op == "CumSum") return LowerCumSum(call);
  const auto number = [&](size_t i, const char* what) -> absl::StatusOr<double> {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, ConstantOf(call, i, what));
    if (t->size() != 1) return absl::InvalidArgumentError(absl::StrCat("its ", what, " has ", t->size(), " numbers, expected one"));
    return t->At(0);
  };
  if (op == "Pow") {
    LSTM_ASSIGN_OR_RETURN(const double p, number(1, "exponent"));
    if (p == 1) {
      call.out[0] = call.in[0];
      return absl::OkStatus();
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, p == 2 ? ActivationOp{A::kSquare} : p == 0.5 ? ActivationOp{A::kSqrt} : ActivationOp{A::kPower, static_cast<float>(p)}));
    return absl::OkStatus();
  }
  if (op == "Clip") {
    double low = -static_cast<double>(std::numeric_limits<float>::max()), high = -low;
    if (node.Find("min") != nullptr) low = static_cast<double>(node.Float("min", 0));
    if (node.Find("max") != nullptr) high = static_cast<double>(node.Float("max", 0));
    if (call.has(1)) {
      LSTM_ASSIGN_OR_RETURN(low, number(1, "lower bound"));
    }
    if (call.has(2)) {
      LSTM_ASSIGN_OR_RETURN(high, number(2, "upper bound"));
    }
    if (!(low <= high)) return Refuse(absl::StrCat("clips to ", low, " .. ", high));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, {A::kClip, static_cast<float>(low), static_cast<float>(high)}));
    return absl::OkStatus();
  }
  if (op == "PRelu") {  // max(x, 0) + slope * min(x, 0)
    if (!call.has(1)) return Refuse("its slope is missing");
    LSTM_ASSIGN_OR_RETURN(const ValPtr up, Activated(x, {A::kRelu}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr down, Activated(x, {A::kClip, -std::numeric_limits<float>::max(), 0}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr scaled, Combine(E::kMultiply, *down, call[1]));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kAdd, *up, *scaled));
    return absl::OkStatus();
  }
  if (op == "HardSwish" || op == "Mish" || op == "Swish") {
    ValPtr gate;
    if (op == "Swish") {
      LSTM_ASSIGN_OR_RETURN(gate, Scaled(x, static_cast<double>(node.Float("alpha", 1)), 0));
      LSTM_ASSIGN_OR_RETURN(gate, Activated(*gate, {A::kSigmoid}));
    } else if (op == "HardSwish") {
      LSTM_ASSIGN_OR_RETURN(gate, Activated(x, {A::kHardSigmoid, 1.0f / 6, 0.5f}));
    } else {
      LSTM_ASSIGN_OR_RETURN(gate, Activated(x, {A::kSoftplus}));
      LSTM_ASSIGN_OR_RETURN(gate, Activated(*gate, {A::kTanh}));
    }
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kMultiply, x, *gate));
    return absl::OkStatus();
  }
  if (op == "Selu") {
    if (x.constant()) return Refuse("its input is a constant");
    LSTM_ASSIGN_OR_RETURN(const ValPtr y, Activated(x, {A::kElu, node.Float("alpha", 1.67326319217681884765625f)}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Scaled(*y, static_cast<double>(node.Float("gamma", 1.05070102214813232421875f)), 0));
    return absl::OkStatus();
  }
  if (op == "Celu") {
    const double alpha = static_cast<double>(node.Float("alpha", 1));
    if (!(std::fabs(alpha) > 1e-6)) return Refuse(absl::StrCat("its alpha is ", alpha));
    LSTM_ASSIGN_OR_RETURN(const ValPtr up, Activated(x, {A::kRelu}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr scaled, Combine(E::kMultiply, x, *MakeConstantVal({true, {}, {static_cast<float>(1 / alpha)}, {}})));
    LSTM_ASSIGN_OR_RETURN(const ValPtr bent, Activated(*scaled, {A::kElu, 1}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr wide, Combine(E::kMultiply, *bent, *MakeConstantVal({true, {}, {static_cast<float>(alpha)}, {}})));
    LSTM_ASSIGN_OR_RETURN(const ValPtr down, Activated(*wide, {A::kClip, -std::numeric_limits<float>::max(), 0}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kAdd, *up, *down));
    return absl::OkStatus();
  }
  if (op == "Ceil") {
    LSTM_ASSIGN_OR_RETURN(const ValPtr down, Activated(x, {A::kNegate}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr floor, Activated(*down, {A::kFloor}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(*floor, {A::kNegate}));
    return absl::OkStatus();
  }
  if (op == "Tan") {
    LSTM_ASSIGN_OR_RETURN(const ValPtr sine, Activated(x, {A::kSin}));
    LSTM_ASSIGN_OR_RETURN(const ValPtr cosine, Activated(x, {A::kCos}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kDivide, *sine, *cosine));
    return absl::OkStatus();
  }
  return Decide(call);
}

}  // namespace lstm::core::onnx
