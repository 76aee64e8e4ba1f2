// SPDX-License-Identifier: MIT
#include "core/model/op_shapes.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

absl::Status Wrong(const char* what, const Shape& expected, const Shape& came) {
  return absl::InvalidArgumentError(absl::StrCat(what, " has shape ", ShapeString(came), ", expected ", ShapeString(expected)));
}

absl::Status CheckConstant(const char* what, const ConstantPtr& constant, const Shape& expected) {
  if (!constant) return absl::InvalidArgumentError(absl::StrCat(what, " is missing"));
  if (constant->shape != expected) return Wrong(what, expected, constant->shape);
  if (static_cast<int64_t>(constant->values.size()) != CheckedElementCount(expected)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", constant->values.size(), " values, expected ",
                                                   CheckedElementCount(expected)));
  }
  for (size_t i = 0; !constant->untouched && i < constant->values.size(); ++i) {
    if ((std::bit_cast<uint32_t>(constant->values[i]) & 0x7f800000u) == 0x7f800000u) {
      return absl::InvalidArgumentError(absl::StrCat(what, " is not finite at element ", i));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOptional(const char* what, const ConstantPtr& constant, const Shape& expected) {
  return constant ? CheckConstant(what, constant, expected) : absl::OkStatus();
}

// The rank-2 constant that gives an op its sizes.
absl::Status CheckMatrix(const char* what, const ConstantPtr& constant) {
  if (!constant) return absl::InvalidArgumentError(absl::StrCat(what, " is missing"));
  if (constant->shape.size() != 2 || constant->shape[0] < 1 || constant->shape[1] < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has shape ", ShapeString(constant->shape), ", expected two dimensions of at least 1"));
  }
  return absl::OkStatus();
}

absl::Status CheckState(const char* what, StateId id, const Shape& expected, const Model& model) {
  if (id < 0 || static_cast<size_t>(id) >= model.state.size()) {
    return absl::InvalidArgumentError(absl::StrCat("its ", what, " state is missing"));
  }
  const StateTensor& state = model.state[static_cast<size_t>(id)];
  if (state.shape != expected) return Wrong(absl::StrCat("state '", state.name, "'").c_str(), expected, state.shape);
  return absl::OkStatus();
}

using Inputs = std::vector<const Value*>;

absl::Status CheckInputCount(const Inputs& inputs, size_t least, size_t most) {
  if (inputs.size() >= least && inputs.size() <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("reads ", inputs.size(), " values, expected ", least == most ? "" : "at least ", least));
}

// One f32 input whose last axis has `width` elements.
absl::Status CheckLastAxis(const Inputs& inputs, int64_t width) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  const Value& x = *inputs[0];
  if (x.shape.empty() || x.shape.back() != width) {
    return absl::InvalidArgumentError(absl::StrCat("reads '", x.name, "' of shape ", ShapeString(x.shape), ", its weights expect ",
                                                   width, " in the last axis"));
  }
  return absl::OkStatus();
}

absl::Status CheckVector(const Inputs& inputs, int64_t width) {
  LSTM_RETURN_IF_ERROR(CheckLastAxis(inputs, width));
  if (inputs[0]->shape.size() != 1) return Wrong(absl::StrCat("its input '", inputs[0]->name, "'").c_str(), {width}, inputs[0]->shape);
  return absl::OkStatus();
}

absl::StatusOr<Shape> Infer(const EmbeddingOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  LSTM_RETURN_IF_ERROR(CheckMatrix("weight", op.weight));
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, op.weight->shape));
  if (inputs[0]->dtype != DType::kI32 || !inputs[0]->shape.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("reads '", inputs[0]->name, "', expected an INT32 input of one id a step"));
  }
  return Shape{op.weight->shape[1]};
}

absl::StatusOr<Shape> Infer(const LinearOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckMatrix("weight", op.weight));
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, op.weight->shape));
  LSTM_RETURN_IF_ERROR(CheckOptional("bias", op.bias, {op.weight->shape[0]}));
  LSTM_RETURN_IF_ERROR(CheckLastAxis(inputs, op.weight->shape[1]));
  Shape shape = inputs[0]->shape;
  shape.back() = op.weight->shape[0];
  return shape;
}

absl::StatusOr<Shape> Infer(const LstmOp& op, const Inputs& inputs, const Model& model) {
  LSTM_RETURN_IF_ERROR(CheckMatrix("weight", op.weight));
  LSTM_RETURN_IF_ERROR(CheckMatrix("recurrent weight", op.recurrent));
  const int64_t gates = op.weight->shape[0], hidden = gates / 4, back = op.recurrent->shape[1];
  if (gates % 4 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("weight has ", gates, " rows, expected four gates: a multiple of 4"));
  }
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, op.weight->shape));
  LSTM_RETURN_IF_ERROR(CheckConstant("recurrent weight", op.recurrent, {gates, op.projection ? back : hidden}));
  LSTM_RETURN_IF_ERROR(CheckConstant("bias", op.bias, {gates}));
  LSTM_RETURN_IF_ERROR(CheckOptional("peephole", op.peephole, {3 * hidden}));
  LSTM_RETURN_IF_ERROR(CheckOptional("projection", op.projection, {back, hidden}));
  LSTM_RETURN_IF_ERROR(CheckVector(inputs, op.weight->shape[1]));
  LSTM_RETURN_IF_ERROR(CheckState("hidden", op.hidden, {back}, model));
  LSTM_RETURN_IF_ERROR(CheckState("cell", op.cell, {hidden}, model));
  return Shape{back};
}

absl::StatusOr<Shape> Infer(const GruOp& op, const Inputs& inputs, const Model& model) {
  LSTM_RETURN_IF_ERROR(CheckMatrix("weight", op.weight));
  const int64_t gates = op.weight->shape[0], hidden = gates / 3;
  if (gates % 3 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("weight has ", gates, " rows, expected three gates: a multiple of 3"));
  }
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, op.weight->shape));
  LSTM_RETURN_IF_ERROR(CheckConstant("recurrent weight", op.recurrent, {gates, hidden}));
  LSTM_RETURN_IF_ERROR(CheckConstant("bias", op.bias, {(op.reset_after ? 4 : 3) * hidden}));
  LSTM_RETURN_IF_ERROR(CheckVector(inputs, op.weight->shape[1]));
  LSTM_RETURN_IF_ERROR(CheckState("hidden", op.hidden, {hidden}, model));
  return Shape{hidden};
}

absl::StatusOr<Shape> Infer(const RnnOp& op, const Inputs& inputs, const Model& model) {
  LSTM_RETURN_IF_ERROR(CheckMatrix("weight", op.weight));
  const int64_t hidden = op.weight->shape[0];
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, op.weight->shape));
  LSTM_RETURN_IF_ERROR(CheckConstant("recurrent weight", op.recurrent, {hidden, hidden}));
  LSTM_RETURN_IF_ERROR(CheckConstant("bias", op.bias, {hidden}));
  LSTM_RETURN_IF_ERROR(CheckVector(inputs, op.weight->shape[1]));
  LSTM_RETURN_IF_ERROR(CheckState("hidden", op.hidden, {hidden}, model));
  return Shape{hidden};
}

absl::StatusOr<Shape> Infer(const LayerNormOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  const Shape& shape = inputs[0]->shape;
  if (shape.empty()) return absl::InvalidArgumentError("reads a scalar, expected a last axis to normalise");
  if (!(op.epsilon > 0)) return absl::InvalidArgumentError("epsilon must be above 0");
  LSTM_RETURN_IF_ERROR(CheckOptional("weight", op.scale, {shape.back()}));
  LSTM_RETURN_IF_ERROR(CheckOptional("bias", op.bias, {shape.back()}));
  return shape;
}

absl::StatusOr<Shape> Infer(const Conv1dOp& op, const Inputs& inputs, const Model& model) {
  if (!op.weight) return absl::InvalidArgumentError("weight is missing");
  const Shape& w = op.weight->shape;
  if (w.size() != 3 || w[0] < 1 || w[1] < 1 || w[2] < 1) {
    return absl::InvalidArgumentError(absl::StrCat("weight has shape ", ShapeString(w), ", expected [O, C / groups, K]"));
  }
  if (op.dilation < 1 || op.dilation > 1 << 20 || op.groups < 1 || w[0] % op.groups != 0) {
    return absl::InvalidArgumentError(absl::StrCat("dilation ", op.dilation, " and groups ", op.groups,
                                                   ", expected 1 or more, groups dividing ", w[0], " outputs"));
  }
  LSTM_RETURN_IF_ERROR(CheckConstant("weight", op.weight, w));
  LSTM_RETURN_IF_ERROR(CheckOptional("bias", op.bias, {w[0]}));
  const int64_t channels = w[1] * op.groups;
  LSTM_RETURN_IF_ERROR(CheckVector(inputs, channels));
  if (w[2] > 1) LSTM_RETURN_IF_ERROR(CheckState("context", op.context, {(w[2] - 1) * op.dilation, channels}, model));
  return Shape{w[0]};
}

absl::StatusOr<Shape> Infer(const ActivationOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  if (op.kind == ActivationKind::kClip && !(op.alpha <= op.beta)) {
    return absl::InvalidArgumentError(absl::StrCat("clips to ", op.alpha, " .. ", op.beta, ", expected alpha <= beta"));
  }
  return inputs[0]->shape;
}

absl::StatusOr<Shape> Infer(const SoftmaxOp&, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  if (inputs[0]->shape.empty()) return absl::InvalidArgumentError("reads a scalar, expected a last axis");
  return inputs[0]->shape;
}

absl::StatusOr<Shape> Infer(const ElementwiseOp& op, const Inputs& inputs, const Model&) {
  const bool two = op.kind == ElementwiseKind::kSubtract || op.kind == ElementwiseKind::kDivide;
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 2, two ? 2 : 64));
  const Shape* widest = &inputs[0]->shape;
  for (const Value* x : inputs) {
    if (CheckedElementCount(x->shape) > CheckedElementCount(*widest)) widest = &x->shape;
  }
  for (const Value* x : inputs) {
    if (x->shape != *widest && CheckedElementCount(x->shape) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("combines '", x->name, "' of shape ", ShapeString(x->shape), " with shape ",
                                                     ShapeString(*widest), ", expected the same, or one element"));
    }
  }
  return *widest;
}

absl::StatusOr<Shape> Infer(const ConcatOp&, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 64));
  Shape shape = inputs[0]->shape;
  if (shape.empty()) return absl::InvalidArgumentError("reads a scalar, expected a last axis");
  for (size_t i = 1; i < inputs.size(); ++i) {
    Shape other = inputs[i]->shape;
    if (other.size() != shape.size()) return Wrong(absl::StrCat("'", inputs[i]->name, "'").c_str(), shape, other);
    shape.back() += other.back();
    other.back() = shape.back();
    if (other != shape) return Wrong(absl::StrCat("'", inputs[i]->name, "'").c_str(), inputs[0]->shape, inputs[i]->shape);
  }
  return shape;
}

absl::StatusOr<Shape> Infer(const SliceOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  Shape shape = inputs[0]->shape;
  if (shape.empty() || op.begin < 0 || op.begin >= op.end || op.end > shape.back()) {
    return absl::InvalidArgumentError(absl::StrCat("takes elements ", op.begin, " to ", op.end, " of the last axis of '", inputs[0]->name,
                                                   "' ", ShapeString(shape)));
  }
  shape.back() = op.end - op.begin;
  return shape;
}

absl::StatusOr<Shape> Infer(const AffineOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  const Shape& shape = inputs[0]->shape;
  const int64_t last = shape.empty() ? 1 : shape.back();
  const auto check = [&](const char* what, const ConstantPtr& constant) {
    const bool one = constant && constant->values.size() == 1;
    return CheckConstant(what, constant, one ? constant->shape : Shape{last});
  };
  LSTM_RETURN_IF_ERROR(check("scale", op.scale));
  LSTM_RETURN_IF_ERROR(check("offset", op.offset));
  return shape;
}

absl::StatusOr<Shape> Infer(const ReshapeOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(op.shape));
  if (count != CheckedElementCount(inputs[0]->shape)) return Wrong("the new value", inputs[0]->shape, op.shape);
  return op.shape;
}

absl::StatusOr<Shape> Infer(const StateReadOp& op, const Inputs& inputs, const Model& model) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 0, 0));
  if (op.state < 0 || static_cast<size_t>(op.state) >= model.state.size()) return absl::InvalidArgumentError("its state is missing");
  return model.state[static_cast<size_t>(op.state)].shape;
}

absl::StatusOr<Shape> Infer(const StateWriteOp& op, const Inputs& inputs, const Model& model) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  LSTM_RETURN_IF_ERROR(CheckState("written", op.state, inputs[0]->shape, model));
  return inputs[0]->shape;
}

absl::StatusOr<Shape> Infer(const ConstantOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 0, 0));
  LSTM_RETURN_IF_ERROR(CheckConstant("value", op.value, op.value ? op.value->shape : Shape{}));
  return op.value->shape;
}

absl::StatusOr<Shape> Infer(const SelectOp& op, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1024));
  int64_t all = 0;
  for (const Value* x : inputs) all += CheckedElementCount(x->shape);
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(op.shape));
  if (!op.index || static_cast<int64_t>(op.index->size()) != count) return absl::InvalidArgumentError("has not one index for each element");
  for (int32_t i : *op.index) {
    if (i < 0 || i >= all) return absl::InvalidArgumentError(absl::StrCat("takes element ", i, " of ", all));
  }
  return op.shape;
}

absl::StatusOr<Shape> Infer(const ReduceOp&, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 1, 1));
  Shape shape = inputs[0]->shape;
  if (shape.empty()) return absl::InvalidArgumentError("reads a scalar, expected a last axis");
  shape.pop_back();
  return shape;
}

absl::StatusOr<Shape> Infer(const MatMulOp&, const Inputs& inputs, const Model&) {
  LSTM_RETURN_IF_ERROR(CheckInputCount(inputs, 2, 2));
  const Shape &a = inputs[0]->shape, &b = inputs[1]->shape;
  const size_t rank = a.size();
  if (rank < 2 || b.size() != rank || a[rank - 1] != b[rank - 2] || !std::equal(a.begin(), a.end() - 2, b.begin())) {
    return absl::InvalidArgumentError(absl::StrCat("multiplies shapes ", ShapeString(a), " and ", ShapeString(b)));
  }
  Shape shape = a;
  shape.back() = b.back();
  return shape;
}

}  // namespace

absl::StatusOr<Shape> InferShape(const Op& op, const std::vector<const Value*>& inputs, const Model& model) {
  for (const Value* input : inputs) {
    if (input->dtype == DType::kI32 && !std::holds_alternative<EmbeddingOp>(op)) {
      return absl::InvalidArgumentError(absl::StrCat("reads '", input->name, "', which is INT32, expected FLOAT32"));
    }
  }
  return std::visit([&](const auto& typed) { return Infer(typed, inputs, model); }, op);
}

}  // namespace lstm::core
