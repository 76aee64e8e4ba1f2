// SPDX-License-Identifier: MIT
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// Sixteen floats of AVX-512F. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

struct Avx512 {
  using Reg = __m512;
  static constexpr size_t kWidth = 16;
  static constexpr int kTileRows = 6;  // 6 * 4 sums of 32 registers
  static constexpr bool kPrefetches = true;
  static constexpr size_t kStreamRows = 24;
  static constexpr bool kTurns = true;  // 64 rows at H 512 and more: 1.03 to 1.06 times as fast (Zen 5)

  static __mmask16 Mask(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static __m512i Bits(Reg a) { return _mm512_castps_si512(a); }
  static Reg Floats(__m512i a) { return _mm512_castsi512_ps(a); }
  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg Load(const float* p, size_t n) { return _mm512_maskz_loadu_ps(Mask(n), p); }  // touches n floats alone
  static void Store(float* p, Reg v) { _mm512_storeu_ps(p, v); }
  static void Store(float* p, Reg v, size_t n) { _mm512_mask_storeu_ps(p, Mask(n), v); }
  // The weights of two steps out of a vector of pairs.
  static Reg Even(const float* pairs) { return Floats(_mm512_slli_epi32(Bits(Load(pairs)), 16)); }
  static Reg Odd(const float* pairs) { return Floats(_mm512_and_epi32(Bits(Load(pairs)), _mm512_set1_epi32(static_cast<int>(0xffff0000u)))); }
  // Sixteen whole numbers of a byte.
  static Reg Bytes(const float* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
  static Reg Set(float f) { return _mm512_set1_ps(f); }
  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg Sqrt(Reg a) { return _mm512_sqrt_ps(a); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg Min(Reg a, Reg b) { return _mm512_min_ps(a, b); }  // a < b ? a : b, so b where either is NaN
  static Reg Max(Reg a, Reg b) { return _mm512_max_ps(a, b); }  // a > b ? a : b
  static Reg Abs(Reg a) { return Floats(_mm512_and_epi32(Bits(a), _mm512_set1_epi32(0x7fffffff))); }
  static Reg WithSignOf(Reg positive, Reg sign) {
    const __m512i bit = _mm512_andnot_epi32(_mm512_set1_epi32(0x7fffffff), Bits(sign));
    return Floats(_mm512_or_epi32(Bits(positive), bit));
  }
  // 2^n, where the low bits of t's mantissa hold n.
  static Reg PowerOfTwo(Reg t) { return Floats(_mm512_slli_epi32(_mm512_add_epi32(Bits(t), _mm512_set1_epi32(127)), 23)); }
  // Inlined by force: else g++ takes a function that does nothing but this for one without effect, and drops the call.
  __attribute__((always_inline)) static inline void Prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  __attribute__((always_inline)) static inline void PrefetchL2(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }
};

}  // namespace
}  // namespace lstm::core::fused
