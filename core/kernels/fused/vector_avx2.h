// SPDX-License-Identifier: MIT
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// Eight floats of AVX2 and FMA. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

struct Avx2 {
  using Reg = __m256;
  static constexpr size_t kWidth = 8;
  static constexpr int kTileRows = 3;  // 3 * 4 sums, 3 factors and a weight: all 16 registers
  static constexpr bool kPrefetches = true;
  static constexpr size_t kStreamRows = 0;  // none: 16 registers hold no sums of so many rows beside each other; tiles are 1.1 to 1.6 times as fast (Zen 3)
  static constexpr bool kTurns = true;  // 1.05 to 1.15 times as fast (Zen 3)

  static __m256i Mask(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg Load(const float* p, size_t n) { return _mm256_maskload_ps(p, Mask(n)); }  // touches n floats alone
  static void Store(float* p, Reg v) { _mm256_storeu_ps(p, v); }
  static void Store(float* p, Reg v, size_t n) { _mm256_maskstore_ps(p, Mask(n), v); }
  // The weights of two steps out of a vector of pairs.
  static Reg Even(const float* pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(Load(pairs)), 16)); }
  static Reg Odd(const float* pairs) { return _mm256_and_ps(Load(pairs), _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u)))); }
  // Eight whole numbers of a byte.
  static Reg Bytes(const float* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))); }
  static Reg Set(float f) { return _mm256_set1_ps(f); }
  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg Sqrt(Reg a) { return _mm256_sqrt_ps(a); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg Min(Reg a, Reg b) { return _mm256_min_ps(a, b); }  // a < b ? a : b, so b where either is NaN
  static Reg Max(Reg a, Reg b) { return _mm256_max_ps(a, b); }  // a > b ? a : b
  static Reg Abs(Reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Reg WithSignOf(Reg positive, Reg sign) {
    return _mm256_or_ps(positive, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
  }
  // 2^n, where the low bits of t's mantissa hold n.
  static Reg PowerOfTwo(Reg t) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127)), 23));
  }
  // Inlined by force: else g++ takes a function that does nothing but this for one without effect, and drops the call.
  __attribute__((always_inline)) static inline void Prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  __attribute__((always_inline)) static inline void PrefetchL2(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
};

}  // namespace
}  // namespace lstm::core::fused
