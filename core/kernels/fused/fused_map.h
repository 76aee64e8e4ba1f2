// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <optional>

#include "core/kernels/fused/fused.h"
#include "core/model/model.h"

namespace lstm::core {

namespace fused {
struct Isa;
enum class Map;
}  // namespace fused

// A function of one or two rows, element by element, in vectors: what cells are made of that the fused layers do not have (clipped, with other
// activations, and so on). Sigmoid and tanh have the bits that they have there; no bit depends on the instruction set. NaN stays
// NaN. Immutable and thread-safe.
class FusedMap {
 public:
  // None: the function has no vector form here.
  static std::optional<FusedMap> Of(const ActivationOp& op, FusedOp::InstructionSet set);
  static std::optional<FusedMap> Of(ElementwiseKind kind, FusedOp::InstructionSet set);

  // out [n] = f(a [n], b [n], or [1] where `one`); of an activation b is null. `out` may be a. Nothing beside the rows is touched.
  void Run(const float* a, const float* b, bool one, size_t n, float* out) const;

 private:
  FusedMap(const fused::Isa& isa, fused::Map map, float alpha = 0, float beta = 0) : isa_(&isa), map_(map), alpha_(alpha), beta_(beta) {}
  const fused::Isa* isa_;
  fused::Map map_;
  float alpha_, beta_;
};

// Layer normalisation of a row (Ba, Kiros and Hinton 2016) in vectors: its sums have 32 lanes on every instruction set, so that no bit depends
// on it. Immutable and thread-safe.
class FusedNorm {
 public:
  explicit FusedNorm(FusedOp::InstructionSet set);

  // out [n] = (x - mean) / sqrt(variance + epsilon) * scale + bias, n > 0; scale and bias [n], or null. `out` may be x.
  void Run(const float* x, const float* scale, const float* bias, float epsilon, size_t n, float* out) const;

 private:
  const fused::Isa* isa_;
};

}  // namespace lstm::core
