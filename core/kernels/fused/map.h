// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/accumulate.h"
#include "core/kernels/fused/activations.h"
#include "core/kernels/fused/jobs.h"

// Functions of one or two rows, element by element. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

template <class V, class F>
LSTM_INLINE void MapEach(const MapJob& job, F f) {
  using Reg = typename V::Reg;
  const bool one = job.b == nullptr || job.one;  // what takes no second row is given any
  const Reg same = V::Set(job.b == nullptr ? 0.0f : job.b[0]);
  size_t i = 0;
  for (; i + V::kWidth <= job.n; i += V::kWidth) V::Store(job.out + i, f(V::Load(job.a + i), one ? same : V::Load(job.b + i)));
  if (i < job.n) V::Store(job.out + i, f(V::Load(job.a + i, job.n - i), one ? same : V::Load(job.b + i, job.n - i)), job.n - i);
}

// NaN stays NaN: Min and Max give their second operand where one is.
template <class V>
void RunMap(const MapJob& job) {
  using Reg = typename V::Reg;
  using A = Activations<V>;
  const Reg zero = V::Set(0.0f), one = V::Set(1.0f), alpha = V::Set(job.alpha), beta = V::Set(job.beta);
  switch (job.map) {
    case Map::kSigmoid: return MapEach<V>(job, [](Reg x, Reg) { return A::Sigmoid(x); });
    case Map::kTanh: return MapEach<V>(job, [](Reg x, Reg) { return A::Tanh(x); });
    case Map::kSilu: return MapEach<V>(job, [](Reg x, Reg) { return V::Div(V::Max(V::Set(-87.0f), x), A::SigmoidPart(x)); });
    case Map::kRelu: return MapEach<V>(job, [=](Reg x, Reg) { return V::Max(zero, x); });
    case Map::kLeakyRelu: return MapEach<V>(job, [=](Reg x, Reg) { return V::Fma(alpha, V::Min(zero, x), V::Max(zero, x)); });
    case Map::kElu: return MapEach<V>(job, [=](Reg x, Reg) { return V::Fma(alpha, A::ExpMinusOne(V::Min(zero, x)), V::Max(zero, x)); });
    case Map::kHardSigmoid: return MapEach<V>(job, [=](Reg x, Reg) { return V::Min(one, V::Max(zero, V::Fma(alpha, x, beta))); });
    case Map::kSoftsign: return MapEach<V>(job, [=](Reg x, Reg) { return V::Div(x, V::Add(one, V::Abs(x))); });
    case Map::kClip: return MapEach<V>(job, [=](Reg x, Reg) { return V::Min(beta, V::Max(alpha, x)); });
    case Map::kSqrt: return MapEach<V>(job, [](Reg x, Reg) { return V::Sqrt(x); });
    case Map::kAdd: return MapEach<V>(job, [](Reg a, Reg b) { return V::Add(a, b); });
    case Map::kSubtract: return MapEach<V>(job, [](Reg a, Reg b) { return V::Sub(a, b); });
    case Map::kMultiply: return MapEach<V>(job, [](Reg a, Reg b) { return V::Mul(a, b); });
    case Map::kDivide: return MapEach<V>(job, [](Reg a, Reg b) { return V::Div(a, b); });
  }
}

}  // namespace
}  // namespace lstm::core::fused
