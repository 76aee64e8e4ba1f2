// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

// The innermost loops: weights of one segment of k, met by the rows of a tile. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

#define LSTM_INLINE inline __attribute__((always_inline))
// Plain C++ is kept small: unrolled it is 19 MB in each program, and no faster.
#ifdef LSTM_KEEP_SMALL
#define LSTM_UNROLL(times)
#else
#define LSTM_PRAGMA(text) _Pragma(#text)
#define LSTM_UNROLL(times) LSTM_PRAGMA(GCC unroll times)
#endif

// Which sums the vectors of one step of k belong to.
template <int... kSums>
struct Lanes {
  static constexpr int kCount = sizeof...(kSums);
  static constexpr int kAt[sizeof...(kSums) + 1] = {kSums..., 0};  // one more: there may be none
  static constexpr int kFirst = 0;       // vector of a step that is taken first
  static constexpr int kStep = kCount;   // vectors from step to step
};

// Two of the four vectors of a step.
template <int kFirstOfTwo>
struct HalfLanes : Lanes<0, 1> {
  static constexpr int kFirst = kFirstOfTwo;
  static constexpr int kStep = 4;
};

// What comes behind the weights of a step is fetched, `vectors` of them: where few rows meet weights that no cache holds, the machine's
// own fetching ahead leaves up to half of the memory's speed. kDeep: into the L2 cache too, from further off.
template <class V, int kPanels, bool kDeep>
LSTM_INLINE void FetchBehind(const float* w, size_t stride, int vectors) {
  constexpr size_t kNear = 4096 / sizeof(float), kFar = 36864 / sizeof(float);
LSTM_UNROLL(2)
  for (int p = 0; p < kPanels; ++p) {
LSTM_UNROLL(4)
    for (int v = 0; v < vectors; ++v) {
      const float* const at = w + static_cast<size_t>(p) * stride + static_cast<size_t>(v) * V::kWidth;
      V::Prefetch(at + kNear);
      if constexpr (kDeep) V::PrefetchL2(at + kFar);
    }
  }
}

// Where the factors of step k lie: in rows, or turned, those of a step side by side.
template <int kRows>
struct InRows {
  InRows(const float* const* rows, size_t begin) {
LSTM_UNROLL(8)
    for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  }
  LSTM_INLINE float At(int m, size_t k) const { return a[m][k]; }
  const float* a[kRows];
};
template <int kRows>
struct Turned {
  LSTM_INLINE float At(int m, size_t k) const { return a[k * kRows + static_cast<size_t>(m)]; }
  const float* a;
};

// At most six rows.
template <int kRows>
void TurnRows(const float* const* rows, size_t steps, float* to) {
  const InRows<kRows> from(rows, 0);
  for (size_t k = 0; k < steps; ++k, to += kRows) {
LSTM_UNROLL(8)
    for (int m = 0; m < kRows; ++m) to[m] = from.At(m, k);
  }
}
inline void TurnRows(const float* const* rows, size_t n, size_t steps, float* to) {
  switch (n) {
    case 1: return TurnRows<1>(rows, steps, to);
    case 2: return TurnRows<2>(rows, steps, to);
    case 3: return TurnRows<3>(rows, steps, to);
    case 4: return TurnRows<4>(rows, steps, to);
    case 5: return TurnRows<5>(rows, steps, to);
    default: TurnRows<6>(rows, steps, to);
  }
}

// acc += row m's factor k * w[k] for `steps` k's; kPanels neighbouring panels, `stride` floats apart, side by side.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead, class Factors>  // kAhead: vectors fetched ahead a step
LSTM_INLINE void Accumulate(const float* w, size_t stride, [[maybe_unused]] bool far, const Factors& a, size_t steps, const float*& ahead,
                            typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  w += L::kFirst * V::kWidth;
LSTM_UNROLL(2)
  for (size_t k = 0; k < steps; ++k, w += L::kStep * V::kWidth) {
    if constexpr (kAhead > 0) {  // with AVX2 half a cache line
      V::Prefetch(ahead);
      ahead += kAhead * V::kWidth;
    } else if constexpr (kRows > 1) {  // one alone is at the limit without
      if (far) FetchBehind<V, kPanels, true>(w, stride, L::kCount);
    }
    if constexpr (L::kCount < kRows && kPanels == 1) {  // the fewer wait in registers
      typename V::Reg weight[L::kCount];
LSTM_UNROLL(4)
      for (int l = 0; l < L::kCount; ++l) weight[l] = V::Load(w + static_cast<size_t>(l) * V::kWidth);
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
        const typename V::Reg factor = V::Set(a.At(m, k));
LSTM_UNROLL(4)
        for (int l = 0; l < L::kCount; ++l) acc[m][L::kAt[l]] = V::Fma(factor, weight[l], acc[m][L::kAt[l]]);
      }
    } else {
      typename V::Reg factor[kRows];
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) factor[m] = V::Set(a.At(m, k));
LSTM_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) {
LSTM_UNROLL(4)
        for (int l = 0; l < L::kCount; ++l) {
          const typename V::Reg weight = V::Load(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * V::kWidth);
          const int sum = p * kSums + L::kAt[l];
LSTM_UNROLL(8)
          for (int m = 0; m < kRows; ++m) acc[m][sum] = V::Fma(factor[m], weight, acc[m][sum]);
        }
      }
    }
  }
}

// One step of k with weights that are widened first, `widen(panel, lane)` one vector of them. With 16 registers, two sums of six rows leave
// four: two weights and a factor, where six factors would push sums out to memory.
template <class V, class L, int kRows, int kPanels, int kSums, class Widen>
LSTM_INLINE void WidenedStep(Widen widen, const float* const (&a)[kRows], size_t k, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  if constexpr (V::kTileRows == 3 && L::kCount < kRows && kPanels == 1) {
    typename V::Reg weight[L::kCount];
LSTM_UNROLL(4)
    for (int l = 0; l < L::kCount; ++l) weight[l] = widen(0, l);
LSTM_UNROLL(8)
    for (int m = 0; m < kRows; ++m) {
      const typename V::Reg factor = V::Set(a[m][k]);
LSTM_UNROLL(4)
      for (int l = 0; l < L::kCount; ++l) acc[m][L::kAt[l]] = V::Fma(factor, weight[l], acc[m][L::kAt[l]]);
    }
  } else {
LSTM_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
LSTM_UNROLL(4)
      for (int l = 0; l < L::kCount; ++l) {
        const typename V::Reg weight = widen(p, l);
        const int sum = p * kSums + L::kAt[l];
LSTM_UNROLL(8)
        for (int m = 0; m < kRows; ++m) acc[m][sum] = V::Fma(V::Set(a[m][k]), weight, acc[m][sum]);
      }
    }
  }
}

// The same over pairs of steps. One step of a pair after the other, so that only half of the widened weights wait in registers.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead>
LSTM_INLINE void AccumulatePairs(const float* w, size_t stride, [[maybe_unused]] bool far, const float* const* rows, size_t begin, size_t steps,
                                 const float*& ahead, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  const float* a[kRows];
LSTM_UNROLL(8)
  for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  w += L::kFirst * V::kWidth;
  const auto step = [&](auto widen, size_t k) __attribute__((always_inline)) {
    const auto one = [&](int p, int l) __attribute__((always_inline)) {
      return widen(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * V::kWidth);
    };
    WidenedStep<V, L, kRows, kPanels, kSums>(one, a, k, acc);
  };
  const auto even = [](const float* pairs) __attribute__((always_inline)) { return V::Even(pairs); };
  const auto odd = [](const float* pairs) __attribute__((always_inline)) { return V::Odd(pairs); };
  for (size_t k = 0; k + 1 < steps; k += 2, w += L::kStep * V::kWidth) {
    if constexpr (kAhead > 0) {
      V::Prefetch(ahead);
      ahead += kAhead * V::kWidth;
    } else if (far) {
      FetchBehind<V, kPanels, false>(w, stride, L::kCount);
    }
    step(even, k);
    step(odd, k + 1);
  }
  if (steps % 2 != 0) step(even, steps - 1);
}

// The same over bytes, each widened to a float: sums of whole numbers, in units of their scale.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead>
LSTM_INLINE void AccumulateBytes(const float* w, size_t stride, [[maybe_unused]] bool far, const float* const* rows, size_t begin, size_t steps,
                                 const float*& ahead, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  constexpr size_t kUnit = V::kWidth / 4;
  const float* a[kRows];
LSTM_UNROLL(8)
  for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  w += L::kFirst * kUnit;
LSTM_UNROLL(2)
  for (size_t k = 0; k < steps; ++k, w += L::kStep * kUnit) {
    if constexpr (kAhead > 0) {
      V::Prefetch(ahead);
      ahead += kAhead * kUnit;
    } else if (far) {
      FetchBehind<V, kPanels, false>(w, stride, 1);
    }
    const auto one = [&](int p, int l) __attribute__((always_inline)) {
      return V::Bytes(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * kUnit);
    };
    WidenedStep<V, L, kRows, kPanels, kSums>(one, a, k, acc);
  }
}

}  // namespace
}  // namespace lstm::core::fused
