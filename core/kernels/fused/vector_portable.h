// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// Sixteen floats in plain C++: slow where the machine has no FMA, but the same bits everywhere. Its width and tiles are
// those of AVX-512, so that tests of this code are tests of the way AVX-512 goes through panels and tails.
namespace lstm::core::fused {
namespace {

struct Portable {
  static constexpr size_t kWidth = 16;
  static constexpr int kTileRows = 6;
  static constexpr bool kPrefetches = false;
  static constexpr size_t kStreamRows = 24;
  static constexpr bool kTurns = false;
  struct Reg {
    float v[kWidth];
  };

  // Not inlined: hundreds of copies of loops of sixteen take the compiler a quarter of an hour.
  template <typename F>
  __attribute__((noinline)) static Reg Each(F f) {
    Reg out;
    for (size_t i = 0; i < kWidth; ++i) out.v[i] = f(i);
    return out;
  }
  static uint32_t Bits(float f) {
    uint32_t u;
    std::memcpy(&u, &f, sizeof(u));
    return u;
  }
  static float Float(uint32_t u) {
    float f;
    std::memcpy(&f, &u, sizeof(f));
    return f;
  }
  static Reg Load(const float* p) { return Load(p, kWidth); }
  static Reg Load(const float* p, size_t n) {
    return Each([&](size_t i) { return i < n ? p[i] : 0.0f; });
  }
  static void Store(float* p, const Reg& v) { Store(p, v, kWidth); }
  static void Store(float* p, const Reg& v, size_t n) {
    for (size_t i = 0; i < n; ++i) p[i] = v.v[i];
  }
  // The weights of two steps out of a vector of pairs.
  static Reg Even(const float* pairs) {
    return Each([&](size_t i) { return Float(Bits(pairs[i]) << 16); });
  }
  static Reg Odd(const float* pairs) {
    return Each([&](size_t i) { return Float(Bits(pairs[i]) & 0xffff0000u); });
  }
  // Whole numbers of a byte.
  static Reg Bytes(const float* p) {
    return Each([bytes = reinterpret_cast<const signed char*>(p)](size_t i) { return static_cast<float>(bytes[i]); });
  }
  static Reg Set(float f) {
    return Each([&](size_t) { return f; });
  }
  static Reg Add(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] + b.v[i]; });
  }
  static Reg Sub(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] - b.v[i]; });
  }
  static Reg Mul(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] * b.v[i]; });
  }
  static Reg Div(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] / b.v[i]; });
  }
  static Reg Sqrt(const Reg& a) {
    return Each([&](size_t i) { return __builtin_sqrtf(a.v[i]); });
  }
  static Reg Fma(const Reg& a, const Reg& b, const Reg& c) {
    return Each([&](size_t i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static Reg Min(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Reg Max(const Reg& a, const Reg& b) {
    return Each([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Reg Abs(const Reg& a) {
    return Each([&](size_t i) { return Float(Bits(a.v[i]) & 0x7fffffffu); });
  }
  static Reg WithSignOf(const Reg& positive, const Reg& sign) {
    return Each([&](size_t i) { return Float(Bits(positive.v[i]) | (Bits(sign.v[i]) & 0x80000000u)); });
  }
  static Reg PowerOfTwo(const Reg& t) {
    return Each([&](size_t i) { return Float((Bits(t.v[i]) + 127u) << 23); });
  }
  static void Prefetch(const float*) {}
  static void PrefetchL2(const float*) {}
};

}  // namespace
}  // namespace lstm::core::fused
