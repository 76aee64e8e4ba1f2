// SPDX-License-Identifier: MIT
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/layer_import.h"

namespace lstm::core {
namespace {

namespace pb = manifest::v1;

absl::StatusOr<Op> Linear(LayerImport& in, const pb::Linear& linear) {
  LinearOp op;
  if (linear.convention() == pb::PYTORCH) {
    LSTM_ASSIGN_OR_RETURN(op.weight, in.Tensor("weight"));
  } else {
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr kernel, in.Tensor("kernel"));
    LSTM_ASSIGN_OR_RETURN(op.weight, Transpose(kernel, in.prefix + "kernel"));
  }
  if (!linear.no_bias()) {
    LSTM_ASSIGN_OR_RETURN(op.bias, in.Tensor("bias"));
  }
  return op;
}

absl::StatusOr<Op> Conv1d(LayerImport& in, const pb::Conv1d& conv) {
  Conv1dOp op;
  op.dilation = conv.dilation() > 0 ? conv.dilation() : 1;
  op.groups = conv.groups() > 0 ? conv.groups() : 1;
  LSTM_ASSIGN_OR_RETURN(const ConstantPtr raw, in.Tensor(conv.convention() == pb::PYTORCH ? "weight" : "kernel"));
  if (raw->shape.size() != 3) {
    return absl::InvalidArgumentError(absl::StrCat("its kernel has shape ", ShapeString(raw->shape), ", expected three dimensions"));
  }
  if (conv.convention() == pb::PYTORCH) {
    op.weight = raw;
  } else {  // [K, C / groups, O] to [O, C / groups, K]
    const int64_t taps = raw->shape[0], channels = raw->shape[1], out = raw->shape[2];
    auto turned = MakeConstant({out, channels, taps});
    for (int64_t k = 0; k < taps; ++k) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t o = 0; o < out; ++o) {
          turned->values.data()[(o * channels + c) * taps + k] = raw->values.data()[(k * channels + c) * out + o];
        }
      }
    }
    op.weight = std::move(turned);
  }
  if (!conv.no_bias()) {
    LSTM_ASSIGN_OR_RETURN(op.bias, in.Tensor("bias"));
  }
  const Shape& shape = op.weight->shape;
  if (shape[2] > 1) {
    if (op.dilation > 1 << 20 || op.groups > 1 << 20) return absl::InvalidArgumentError("dilation or groups above 1048576");
    LSTM_ASSIGN_OR_RETURN(op.context, in.builder.AddState(in.layer.name() + ".context",
                                                          {(shape[2] - 1) * op.dilation, shape[1] * op.groups}, {}));
  }
  return op;
}

absl::StatusOr<Op> LayerNorm(LayerImport& in, const pb::LayerNorm& norm) {
  LayerNormOp op;
  if (norm.has_epsilon()) op.epsilon = norm.epsilon();
  if (!norm.no_scale()) {
    LSTM_ASSIGN_OR_RETURN(op.scale, in.Tensor("weight"));
  }
  if (!norm.no_bias()) {
    LSTM_ASSIGN_OR_RETURN(op.bias, in.Tensor("bias"));
  }
  return op;
}

absl::StatusOr<Op> Elementwise(const pb::Elementwise& elementwise) {
  switch (elementwise.function()) {
    case pb::Elementwise::ADD: return ElementwiseOp{ElementwiseKind::kAdd};
    case pb::Elementwise::SUBTRACT: return ElementwiseOp{ElementwiseKind::kSubtract};
    case pb::Elementwise::MULTIPLY: return ElementwiseOp{ElementwiseKind::kMultiply};
    case pb::Elementwise::DIVIDE: return ElementwiseOp{ElementwiseKind::kDivide};
    case pb::Elementwise::MINIMUM: return ElementwiseOp{ElementwiseKind::kMinimum};
    case pb::Elementwise::MAXIMUM: return ElementwiseOp{ElementwiseKind::kMaximum};
    default: return absl::InvalidArgumentError("elementwise: function is not given or unknown");
  }
}

ConstantPtr FromManifest(const google::protobuf::RepeatedField<float>& values, float otherwise) {
  auto constant = MakeConstant({values.empty() ? 1 : values.size()});
  constant->values[0] = otherwise;
  for (int i = 0; i < values.size(); ++i) constant->values[static_cast<size_t>(i)] = values.Get(i);
  return constant;
}

absl::StatusOr<Op> MakeOp(LayerImport& in) {
  const pb::Layer& layer = in.layer;
  switch (layer.kind_case()) {
    case pb::Layer::kEmbedding: {
      EmbeddingOp op;
      LSTM_ASSIGN_OR_RETURN(op.weight, in.Tensor("weight"));
      return op;
    }
    case pb::Layer::kLinear: return Linear(in, layer.linear());
    case pb::Layer::kLayerNorm: return LayerNorm(in, layer.layer_norm());
    case pb::Layer::kConv1D: return Conv1d(in, layer.conv1d());
    case pb::Layer::kActivation: return ReadActivation(layer.activation());
    case pb::Layer::kSoftmax: return SoftmaxOp{layer.softmax().log()};
    case pb::Layer::kElementwise: return Elementwise(layer.elementwise());
    case pb::Layer::kConcat: return ConcatOp{};
    case pb::Layer::kSlice: return SliceOp{layer.slice().begin(), layer.slice().end()};
    case pb::Layer::kAffine: return AffineOp{FromManifest(layer.affine().scale(), 1), FromManifest(layer.affine().offset(), 0)};
    case pb::Layer::kReshape: return ReshapeOp{Shape(layer.reshape().shape().begin(), layer.reshape().shape().end())};
    default: return absl::InvalidArgumentError("no kind of layer is given");
  }
}

}  // namespace

absl::StatusOr<ActivationOp> ReadActivation(const pb::Activation& activation) {
  ActivationOp op;
  float alpha = 0, beta = 0;
  switch (activation.function()) {
    case pb::Activation::RELU: op.kind = ActivationKind::kRelu; break;
    case pb::Activation::SIGMOID: op.kind = ActivationKind::kSigmoid; break;
    case pb::Activation::TANH: op.kind = ActivationKind::kTanh; break;
    case pb::Activation::SOFTPLUS: op.kind = ActivationKind::kSoftplus; break;
    case pb::Activation::LEAKY_RELU: op.kind = ActivationKind::kLeakyRelu, alpha = 0.01f; break;
    case pb::Activation::ELU: op.kind = ActivationKind::kElu, alpha = 1; break;
    case pb::Activation::HARD_SIGMOID: op.kind = ActivationKind::kHardSigmoid, alpha = 0.2f, beta = 0.5f; break;
    case pb::Activation::GELU: op.kind = ActivationKind::kGelu; break;
    case pb::Activation::SILU: op.kind = ActivationKind::kSilu; break;
    case pb::Activation::CLIP:
      if (!activation.has_alpha() || !activation.has_beta()) {
        return absl::InvalidArgumentError("CLIP needs alpha and beta, its bounds");
      }
      op.kind = ActivationKind::kClip;
      break;
    case pb::Activation::EXP: op.kind = ActivationKind::kExp; break;
    case pb::Activation::LOG: op.kind = ActivationKind::kLog; break;
    case pb::Activation::ABS: op.kind = ActivationKind::kAbs; break;
    case pb::Activation::NEGATE: op.kind = ActivationKind::kNegate; break;
    case pb::Activation::SQRT: op.kind = ActivationKind::kSqrt; break;
    case pb::Activation::SQUARE: op.kind = ActivationKind::kSquare; break;
    default: return absl::InvalidArgumentError("activation: function is not given or unknown");
  }
  op.alpha = activation.has_alpha() ? activation.alpha() : alpha;
  op.beta = activation.has_beta() ? activation.beta() : beta;
  return op;
}

absl::Status ImportPlainLayer(LayerImport& in) {
  auto op = MakeOp(in);
  if (!op.ok()) return absl::Status(op.status().code(), absl::StrCat("layer '", in.layer.name(), "': ", op.status().message()));
  return in.builder.AddNode(in.layer.name(), *std::move(op), in.inputs).status();
}

}  // namespace lstm::core
