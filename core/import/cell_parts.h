// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/import/layer_import.h"

// Private to core/import: cells that are written out in plain ops.
namespace lstm::core {

// The ops of one cell, as an expression: after the first error every op gives -1, and status() has it. Values are called
// "<name>:0", "<name>:1", ... Confined to one thread.
class CellParts {
 public:
  CellParts(ModelBuilder& builder, std::string name) : builder_(builder), name_(std::move(name)) {}

  const absl::Status& status() const { return status_; }
  // The first error from outside counts as one of its own.
  template <typename T>
  T Or(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    if (status_.ok()) status_ = value.status();
    return T{};
  }

  ValueId Do(Op op, std::vector<ValueId> inputs) { return Do(absl::StrCat(name_, ":", count_++), std::move(op), std::move(inputs)); }
  // State `name`.<what> of `width`; what it is before the step.
  StateId State(const char* what, int64_t width, std::vector<float> initial) {
    return status_.ok() ? Or(builder_.AddState(absl::StrCat(name_, ".", what), {width}, std::move(initial))) : -1;
  }
  ValueId Before(StateId state) { return Do(StateReadOp{state}, {}); }
  ValueId After(StateId state, ValueId x) { return Do(StateWriteOp{state}, {x}); }
  // The last op, whose value has the layer's name: h' into its state.
  ValueId Result(StateId state, ValueId x, const std::string& layer) { return Do(layer, StateWriteOp{state}, {x}); }

  ValueId Linear(ConstantPtr weight, ConstantPtr bias, ValueId x) { return Do(LinearOp{std::move(weight), std::move(bias)}, {x}); }
  ValueId Act(const ActivationOp& op, ValueId x) { return Do(op, {x}); }
  ValueId Act(ActivationKind kind, ValueId x) { return Act(ActivationOp{kind}, x); }
  ValueId Sigmoid(ValueId x) { return Act(ActivationKind::kSigmoid, x); }
  ValueId Clip(float limit, ValueId x) { return limit > 0 ? Act({ActivationKind::kClip, -limit, limit}, x) : x; }
  ValueId Add(ValueId a, ValueId b) { return Do(ElementwiseOp{ElementwiseKind::kAdd}, {a, b}); }
  ValueId Subtract(ValueId a, ValueId b) { return Do(ElementwiseOp{ElementwiseKind::kSubtract}, {a, b}); }
  ValueId Multiply(ValueId a, ValueId b) { return Do(ElementwiseOp{ElementwiseKind::kMultiply}, {a, b}); }
  ValueId Divide(ValueId a, ValueId b) { return Do(ElementwiseOp{ElementwiseKind::kDivide}, {a, b}); }
  ValueId Cut(ValueId x, int64_t begin, int64_t count) { return Do(SliceOp{begin, begin + count}, {x}); }
  ValueId Concat(std::vector<ValueId> values) { return values.size() == 1 ? values[0] : Do(ConcatOp{}, std::move(values)); }
  ValueId Scale(ConstantPtr scale, ValueId x);
  ValueId OneMinus(ValueId x);
  // (1 - gate)*a + gate*b
  ValueId Mix(ValueId gate, ValueId a, ValueId b) { return Add(Multiply(OneMinus(gate), a), Multiply(gate, b)); }

 private:
  ValueId Do(std::string name, Op op, std::vector<ValueId> inputs) {
    return status_.ok() ? Or(builder_.AddNode(std::move(name), std::move(op), std::move(inputs))) : -1;
  }

  ModelBuilder& builder_;
  const std::string name_;
  int count_ = 0;
  absl::Status status_;
};

// Rows [first, first + count) of a matrix or a vector.
ConstantPtr Rows(const Constant& from, int64_t first, int64_t count);
// [A, I] and [A, H] to [A, I + H].
ConstantPtr SideBySide(const Constant& a, const Constant& b);

// What an LSTM is beside `op`; the tensors of the rest are read from `in`, with `suffix` behind their names.
struct LstmVariant {
  ActivationOp gate{ActivationKind::kSigmoid}, candidate{ActivationKind::kTanh};
  bool coupled = false;
  float cell_clip = 0, projection_clip = 0;
  ConstantPtr norm[6];  // weight and bias of LN(W x), LN(R h) and LN(c), or null
  ConstantPtr depth[4];  // Wd, bd, wc, wb, or null
  ValueId below = -1;    // with depth: the new cell state of the layer below
};

// The value of the layer, called `layer`; `cell`: the new cell state.
absl::StatusOr<ValueId> LstmInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const LstmOp& op,
                                    const LstmVariant& variant, ValueId x, ValueId* cell);
absl::StatusOr<ValueId> GruInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const GruOp& op,
                                   const ActivationOp& gate, const ActivationOp& candidate, ValueId x);
absl::StatusOr<ValueId> RnnInParts(ModelBuilder& builder, const std::string& name, const std::string& layer, const RnnOp& op,
                                   const ActivationOp& activation, float clip, ValueId x);
// Layer k of a Cell.
absl::StatusOr<ValueId> AddCell(LayerImport& in, uint32_t k, const std::string& name, const std::string& layer, ValueId x);

}  // namespace lstm::core
