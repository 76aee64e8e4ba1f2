// SPDX-License-Identifier: MIT
#include "core/kernels/fused/fused_map.h"

#include "core/kernels/fused/fused_parts.h"
#include "core/kernels/fused/jobs.h"

namespace lstm::core {

using fused::Map;

std::optional<FusedMap> FusedMap::Of(const ActivationOp& op, FusedOp::InstructionSet set) {
  const auto map = [&](Map which) { return FusedMap(fused::IsaFor(set), which, op.alpha, op.beta); };
  switch (op.kind) {
    case ActivationKind::kSigmoid: return map(Map::kSigmoid);
    case ActivationKind::kTanh: return map(Map::kTanh);
    case ActivationKind::kSilu: return map(Map::kSilu);
    case ActivationKind::kRelu: return map(Map::kRelu);
    case ActivationKind::kLeakyRelu: return map(Map::kLeakyRelu);
    case ActivationKind::kElu: return map(Map::kElu);
    case ActivationKind::kHardSigmoid: return map(Map::kHardSigmoid);
    case ActivationKind::kSoftsign: return map(Map::kSoftsign);
    case ActivationKind::kClip: return map(Map::kClip);
    case ActivationKind::kSqrt: return map(Map::kSqrt);
    default: return std::nullopt;
  }
}

std::optional<FusedMap> FusedMap::Of(ElementwiseKind kind, FusedOp::InstructionSet set) {
  const auto map = [&](Map which) { return FusedMap(fused::IsaFor(set), which); };
  switch (kind) {
    case ElementwiseKind::kAdd: return map(Map::kAdd);
    case ElementwiseKind::kSubtract: return map(Map::kSubtract);
    case ElementwiseKind::kMultiply: return map(Map::kMultiply);
    case ElementwiseKind::kDivide: return map(Map::kDivide);
    default: return std::nullopt;  // Minimum and Maximum say what becomes of NaN
  }
}

void FusedMap::Run(const float* a, const float* b, bool one, size_t n, float* out) const { isa_->map({map_, a, b, one, n, alpha_, beta_, out}); }

FusedNorm::FusedNorm(FusedOp::InstructionSet set) : isa_(&fused::IsaFor(set)) {}

void FusedNorm::Run(const float* x, const float* scale, const float* bias, float epsilon, size_t n, float* out) const {
  isa_->norm({x, scale, bias, n, epsilon, out});
}

}  // namespace lstm::core
