// SPDX-License-Identifier: MIT
// Comparisons, logic and choices: over constants folded, of computed values as numbers that are 0 or 1.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

// Integers and truth values of every step are ids where they look something up. Where they are computed with, the input is
// one of floats: clients send the same numbers.
absl::StatusOr<ValPtr> Lowering::AsFloats(const ValPtr& val) {
  const Source* source = &sources_[static_cast<size_t>(val->at(0).source)];
  if (source->kind == Source::kImport) source = &sources_[static_cast<size_t>(source->origin.source)];
  if (source->kind != Source::kInput) return Refuse("computes with integers of every step, which are ids alone");
  const auto ids = reading_.looked_up.find(source->input);
  if (ids == reading_.looked_up.end()) {
    if (reading_.floats.insert(source->input).second) return absl::AbortedError("integers are computed with");
    return Refuse("computes with integers of every step, which are ids alone");
  }
  // An id as a number: what a table of numbers has for it.
  LSTM_RETURN_IF_ERROR(Affordable(ids->second));
  Tensor table{true, {ids->second, 1}, {}, {}};
  for (int64_t i = 0; i < ids->second; ++i) table.floats.push_back(static_cast<float>(i));
  LSTM_ASSIGN_OR_RETURN(const ValPtr number, Embedding(MakeConstantVal(std::move(table)), *val));
  auto out = std::make_shared<Val>(*Reshaped(*number, val->shape));
  out->labels = val->labels;
  out->time = val->time;
  return ValPtr(out);
}

absl::Status Lowering::DecideComputed(Call& call) {
  using A = ActivationKind;
  using E = ElementwiseKind;
  const std::string_view op = call.node.op;
  if (op == "Range" || op == "Mod") return Refuse("decides on what is computed in every step");
  const auto one_less = [&](const Val& v) -> absl::StatusOr<ValPtr> {
    return Combine(E::kSubtract, *MakeConstantVal({true, {}, {1}, {}}), v);
  };
  std::vector<ValPtr> in;
  for (size_t i = 0; i < call.in.size(); ++i) {
    if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
    ValPtr v = call.in[i];
    if (v->constant() && !v->is_float) {
      LSTM_ASSIGN_OR_RETURN(const TensorPtr ints, ConstantOf(call, i, "input"));
      Tensor floats{true, ints->shape, {}, {}};
      for (int64_t n : ints->ints) floats.floats.push_back(static_cast<float>(n));
      v = MakeConstantVal(std::move(floats));
    }
    in.push_back(std::move(v));
  }
  const size_t wanted = op == "Not" ? 1 : op == "Where" ? 3 : 2;
  if (in.size() != wanted) return Refuse(absl::StrCat("has ", in.size(), " inputs, expected ", wanted));
  if (op == "Not") {
    LSTM_ASSIGN_OR_RETURN(call.out[0], one_less(*in[0]));
  } else if (op == "And" || op == "Or") {
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(op == "And" ? E::kMultiply : E::kMaximum, *in[0], *in[1]));
  } else if (op == "Where") {
    return Choose(call, in);
  } else {
    // a > b is the sign of what a is above b by.
    const bool turned = op == "Less" || op == "GreaterOrEqual";
    LSTM_ASSIGN_OR_RETURN(const ValPtr above, Combine(E::kSubtract, *in[turned ? 1 : 0], *in[turned ? 0 : 1]));
    LSTM_ASSIGN_OR_RETURN(const ValPtr kept, Activated(*above, {op == "Equal" || op == "Xor" ? A::kAbs : A::kRelu}));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Activated(*kept, {A::kSign}));
    if (op == "Equal" || op == "LessOrEqual" || op == "GreaterOrEqual") {
      LSTM_ASSIGN_OR_RETURN(call.out[0], one_less(*call.out[0]));
    }
  }
  return absl::OkStatus();
}

absl::Status Lowering::Choose(Call& call, const std::vector<ValPtr>& in) {
  using E = ElementwiseKind;
  const Val& condition = *in[0];
  if (!condition.constant()) {  // one of the two factors is 0
    LSTM_ASSIGN_OR_RETURN(const ValPtr other, Combine(E::kSubtract, *MakeConstantVal({true, {}, {1}, {}}), condition));
    LSTM_ASSIGN_OR_RETURN(const ValPtr yes, Combine(E::kMultiply, condition, *in[1]));
    LSTM_ASSIGN_OR_RETURN(const ValPtr no, Combine(E::kMultiply, *other, *in[2]));
    LSTM_ASSIGN_OR_RETURN(call.out[0], Combine(E::kAdd, *yes, *no));
    return absl::OkStatus();
  }
  LSTM_ASSIGN_OR_RETURN(const TensorPtr chosen, Constant(condition));
  Shape shape = chosen->shape;
  for (size_t i : {size_t{1}, size_t{2}}) {
    LSTM_ASSIGN_OR_RETURN(shape, BroadcastShape(shape, in[i]->shape));
  }
  const Val& lead = in[1]->time >= 0 || in[2]->constant() ? *in[1] : *in[2];
  const Val& other = &lead == in[1].get() ? *in[2] : *in[1];
  const auto time = [&](const Val& v) { return v.time < 0 ? -1 : v.time + static_cast<int>(shape.size() - v.shape.size()); };
  if (time(other) >= 0 && (time(other) != time(lead) || other.head != lead.head || other.tail != lead.tail)) return Refuse("chooses between values whose time does not run side by side");
  if (time(lead) >= 0 && (lead.last || other.last)) return LooksAhead("brings the end of the sequence to every step of it: it looks ahead");
  if (time(lead) >= 0 && shape[static_cast<size_t>(time(lead))] != 1) return Refuse("has a condition for each step");
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  LSTM_RETURN_IF_ERROR(Spend(3 * count));
  LSTM_ASSIGN_OR_RETURN(const Arrangement by, Broadcast(chosen->shape, shape));
  std::vector<Element> of[2];
  for (size_t i = 0; i < 2; ++i) {
    ValPtr v = in[i + 1];
    if (v->constant()) {
      LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(*v));
      auto made = std::make_shared<Val>(*v);
      made->tensor = nullptr;
      made->stored.reset();
      made->source = NewSource({Source::kConstant, -1, -1, tensor, tensor->shape});
      v = made;
    }
    LSTM_ASSIGN_OR_RETURN(const Arrangement spread, Broadcast(v->shape, shape));
    spread.ForEach([&](int64_t k) { of[i].push_back(v->at(k)); });
  }
  auto elements = std::make_shared<std::vector<Element>>();
  by.ForEach([&](int64_t k) { elements->push_back(of[chosen->At(static_cast<size_t>(k)) != 0 ? 0 : 1][elements->size()]); });
  auto out = std::make_shared<Val>();
  out->time = time(lead);
  out->head = lead.head;
  out->tail = lead.tail;
  out->last = lead.last || other.last;
  out->labels.assign(shape.size(), -1);
  for (size_t a = 0; a < lead.labels.size(); ++a) out->labels[a + shape.size() - lead.shape.size()] = lead.labels[a];
  out->shape = std::move(shape);
  out->elements = std::move(elements);
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::Decide(Call& call) {
  const std::string_view op = call.node.op;
  if (std::any_of(call.in.begin(), call.in.end(), [](const ValPtr& v) { return v && !v->constant(); })) return DecideComputed(call);
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
    const bool truth = op == "Equal" ? a == b : op == "Not" ? a == 0 : op == "And" ? a != 0 && b != 0 : op == "Or" ? a != 0 || b != 0 : op == "Xor" ? (a != 0) != (b != 0) : op == "Less" ? a < b
                       : op == "Greater" ? a > b : op == "LessOrEqual" ? a <= b : a >= b;
    out.ints.push_back(op == "Mod" ? static_cast<int64_t>(a - b * std::floor(a / b)) : truth ? 1 : 0);
  }
  call.out[0] = MakeConstantVal(std::move(out));
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
