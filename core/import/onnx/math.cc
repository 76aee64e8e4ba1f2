// SPDX-License-Identifier: MIT
// Ops that compute: which op is which function; decisions over constants.
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
      {"Sign", A::kSign}, {"Sin", A::kSin}, {"Cos", A::kCos}};
  static const std::unordered_map<std::string_view, E> kBinary = {{"Add", E::kAdd}, {"Sub", E::kSubtract}, {"Mul", E::kMultiply}, {"Div", E::kDivide},
                                                                  {"Min", E::kMinimum}, {"Max", E::kMaximum}, {"Sum", E::kAdd}};
  static const std::unordered_map<std::string_view, ReduceKind> kReduce = {
      {"ReduceMean", ReduceKind::kMean}, {"ReduceSum", ReduceKind::kSum}, {"ReduceMax", ReduceKind::kMaximum}, {"ReduceMin", ReduceKind::kMinimum},
      {"ReduceProd", ReduceKind::kProduct}, {"ReduceL2", ReduceKind::kSum}, {"ReduceL1", ReduceKind::kSum}, {"ReduceSumSquare", ReduceKind::kSum}};
  static const std::set<std::string_view> kOthers = {"MatMul", "Gemm", "Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization", "Pow", "Clip", "PRelu",
                                                     "HardSwish", "Mish", "Selu", "Celu", "Equal", "Not", "And", "Or", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
                                                     "Where", "Range", "Mod"};
  const auto unary = kUnary.find(op);
  const auto binary = kBinary.find(op);
  const auto reduce = kReduce.find(op);
  if (unary == kUnary.end() && binary == kBinary.end() && reduce == kReduce.end() && !kOthers.contains(op)) return absl::UnimplementedError("");
  if (!call.has(0)) return Refuse("its first input is missing");
  const Val& x = call[0];
  static const std::set<std::string_view> kDecisions = {"Equal", "Not", "And", "Or", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Where", "Range", "Mod"};
  if (!x.constant() && !x.is_float && !kDecisions.contains(op)) return Refuse("computes with integers of every step, which are ids alone");
  if (unary != kUnary.end()) {
    ActivationOp a{unary->second};
    if (a.kind == A::kLeakyRelu) a.alpha = node.Float("alpha", 0.01f);
    if (a.kind == A::kElu || a.kind == A::kThresholdedRelu) a.alpha = node.Float("alpha", 1);
    if (a.kind == A::kHardSigmoid) a.alpha = node.Float("alpha", 0.2f), a.beta = node.Float("beta", 0.5f);
    if (a.kind == A::kGelu && node.Text("approximate", "none") != "none") return Refuse("its approximation by tanh is not supported");
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(x, a));
    NoteGate(op, call);
    return absl::OkStatus();
  }
  if (binary != kBinary.end()) {
    ValPtr y = call.in[0];
    const bool two = binary->second != E::kMinimum && binary->second != E::kMaximum && op != "Sum";
    if (two && call.in.size() != 2) return Refuse(absl::StrCat("has ", call.in.size(), " inputs, expected 2"));
    for (size_t i = 1; i < call.in.size(); ++i) {
      if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
      LSTM_ASSIGN_OR_RETURN(y, Combine(binary->second, *y, call[i]));
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
  if (op == "HardSwish" || op == "Mish") {
    ValPtr gate;
    if (op == "HardSwish") {
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
  if (op == "Celu") return Refuse("this operator is not supported");
  // What is left are decisions over constants.
  std::vector<TensorPtr> t;
  for (size_t i = 0; i < call.in.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, ConstantOf(call, i, "input"));
    t.push_back(tensor);
  }
  const size_t wanted = op == "Not" ? 1 : op == "Where" || op == "Range" ? 3 : 2;
  if (t.size() != wanted) return Refuse(absl::StrCat("has ", t.size(), " inputs, expected ", wanted));
  if (op == "Range") {
    const double start = t[0]->size() == 1 ? t[0]->At(0) : NAN, limit = t[1]->size() == 1 ? t[1]->At(0) : NAN, delta = t[2]->size() == 1 ? t[2]->At(0) : NAN;
    const double n = std::ceil((limit - start) / delta);
    if (!(n <= kMaxInts)) return Refuse(absl::StrCat("gives ", n, " numbers, expected at most ", kMaxInts));
    Tensor out{t[0]->is_float, {std::max<int64_t>(0, static_cast<int64_t>(n))}, {}, {}};
    for (int64_t i = 0; i < out.shape[0]; ++i) {
      const double v = start + static_cast<double>(i) * delta;
      if (out.is_float) out.floats.push_back(static_cast<float>(v));
      if (!out.is_float) out.ints.push_back(static_cast<int64_t>(v));
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  Shape shape;
  for (const TensorPtr& tensor : t) {
    LSTM_ASSIGN_OR_RETURN(shape, BroadcastShape(shape, tensor->shape));
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  if (count > kMaxInts) return Refuse(absl::StrCat("gives ", count, " numbers, expected at most ", kMaxInts));
  std::vector<std::vector<size_t>> at(t.size());
  for (size_t i = 0; i < t.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const Arrangement spread, Broadcast(t[i]->shape, shape));
    spread.ForEach([&](int64_t k) { at[i].push_back(static_cast<size_t>(k)); });
  }
  Tensor out{op == "Where" && t[1]->is_float, shape, {}, {}};
  for (size_t k = 0; k < static_cast<size_t>(count); ++k) {
    const double a = t[0]->At(at[0][k]), b = t.size() > 1 ? t[1]->At(at[1][k]) : 0;
    if (op == "Where") {
      const size_t pick = a != 0 ? 1 : 2;
      if (t[1]->is_float != t[2]->is_float) return Refuse("chooses between floats and integers");
      if (out.is_float) out.floats.push_back(t[pick]->floats[at[pick][k]]);
      if (!out.is_float) out.ints.push_back(t[pick]->ints[at[pick][k]]);
      continue;
    }
    if (op == "Mod" && b == 0) return Refuse("divides by zero");
    const bool truth = op == "Equal" ? a == b : op == "Not" ? a == 0 : op == "And" ? a != 0 && b != 0 : op == "Or" ? a != 0 || b != 0 : op == "Less" ? a < b
                       : op == "Greater" ? a > b : op == "LessOrEqual" ? a <= b : a >= b;
    out.ints.push_back(op == "Mod" ? static_cast<int64_t>(a - b * std::floor(a / b)) : truth ? 1 : 0);
  }
  call.out[0] = MakeConstantVal(std::move(out));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
