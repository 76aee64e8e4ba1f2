// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/accumulate.h"
#include "core/kernels/fused/jobs.h"

// Layer normalisation of a row. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

constexpr size_t kNormLanes = 32;  // element i is added in lane i % 32

template <class V>
struct LaneSums {
  static constexpr size_t kRegs = kNormLanes / V::kWidth;
  typename V::Reg of[kRegs];

  LaneSums() {
    for (size_t r = 0; r < kRegs; ++r) of[r] = V::Set(0.0f);
  }
  // Sixteen lanes of two times sixteen, then halves upon halves.
  float Total() const {
    float lanes[16];
    for (size_t r = 0; r < kRegs / 2; ++r) V::Store(lanes + r * V::kWidth, V::Add(of[r], of[r + kRegs / 2]));
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};

// The i-th vector of n elements: what is beyond them is zero, and not touched.
template <class V>
LSTM_INLINE typename V::Reg LoadOf(const float* x, size_t i, size_t n) {
  return i + V::kWidth <= n ? V::Load(x + i) : V::Load(x + i, n - i);
}
template <class V>
LSTM_INLINE void StoreOf(float* out, size_t i, size_t n, typename V::Reg v) {
  i + V::kWidth <= n ? V::Store(out + i, v) : V::Store(out + i, v, n - i);
}

// Two passes, for one that sums squares loses what a large mean leaves of them.
template <class V>
void RunNorm(const NormJob& job) {
  using Reg = typename V::Reg;
  constexpr size_t kRegs = LaneSums<V>::kRegs;
  const size_t n = job.n;
  const Reg count = V::Set(static_cast<float>(n));
  LaneSums<V> sums;
  for (size_t i = 0; i < n; i += kNormLanes) {
LSTM_UNROLL(4)
    for (size_t r = 0; r < kRegs; ++r) {
      if (i + r * V::kWidth < n) sums.of[r] = V::Add(sums.of[r], LoadOf<V>(job.x, i + r * V::kWidth, n));
    }
  }
  const Reg mean = V::Div(V::Set(sums.Total()), count);
  LaneSums<V> squares;
  for (size_t i = 0; i < n; i += kNormLanes) {
LSTM_UNROLL(4)
    for (size_t r = 0; r < kRegs; ++r) {
      const size_t at = i + r * V::kWidth;
      if (at >= n) continue;
      StoreOf<V>(job.out, at, n, V::Sub(LoadOf<V>(job.x, at, n), mean));
      const Reg apart = LoadOf<V>(job.out, at, n);  // zero beyond the row
      squares.of[r] = V::Add(squares.of[r], V::Mul(apart, apart));
    }
  }
  const Reg variance = V::Div(V::Set(squares.Total()), count);
  const Reg inverse = V::Div(V::Set(1.0f), V::Sqrt(V::Add(variance, V::Set(job.epsilon))));
  for (size_t i = 0; i < n; i += V::kWidth) {
    Reg y = V::Mul(LoadOf<V>(job.out, i, n), inverse);
    if (job.scale != nullptr) y = V::Mul(y, LoadOf<V>(job.scale, i, n));
    if (job.bias != nullptr) y = V::Add(y, LoadOf<V>(job.bias, i, n));
    StoreOf<V>(job.out, i, n, y);
  }
}

}  // namespace
}  // namespace lstm::core::fused
