// SPDX-License-Identifier: MIT
#pragma once

#include <immintrin.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "bench/measure.h"

// What one core can do at all: the yard-sticks of bench-kernels.
namespace lstm::bench {

// Of this thread: what others do beside it does not count.
inline double ThreadSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

inline double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Seconds a call of each, in `samples` samples of at least 1.5 ms, taken in turns; before each sample a call that is not
// counted, which brings the caches back from the others.
inline std::vector<std::vector<double>> Alternate(const std::vector<std::function<void()>>& calls, int samples) {
  std::vector<int> repeats;
  for (const auto& call : calls) {
    call();
    const double begin = ThreadSeconds();
    call();
    call();
    repeats.push_back(std::max(1, static_cast<int>(1.5e-3 / std::max(1e-8, (ThreadSeconds() - begin) / 2))));
  }
  std::vector<std::vector<double>> out(calls.size());
  for (int s = 0; s < samples; ++s) {
    for (size_t c = 0; c < calls.size(); ++c) {
      calls[c]();
      const double begin = ThreadSeconds();
      for (int i = 0; i < repeats[c]; ++i) calls[c]();
      out[c].push_back((ThreadSeconds() - begin) / repeats[c]);
    }
  }
  return out;
}

inline bool HasAvx512() { return __builtin_cpu_supports("avx512f") != 0; }
inline const char* VectorName() { return HasAvx512() ? "AVX-512" : "AVX2"; }

__attribute__((target("avx2,fma"))) inline float FmaAvx2(int n) {
  __m256 a[12];
  for (int i = 0; i < 12; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 b = _mm256_set1_ps(0.999f);
  for (int k = 0; k < n; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) a[i] = _mm256_fmadd_ps(a[i], b, b);
  }
  for (int i = 1; i < 12; ++i) a[0] = _mm256_add_ps(a[0], a[i]);
  return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) inline float FmaAvx512(int n) {
  __m512 a[12];
  for (int i = 0; i < 12; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 b = _mm512_set1_ps(0.999f);
  for (int k = 0; k < n; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) a[i] = _mm512_fmadd_ps(a[i], b, b);
  }
  for (int i = 1; i < 12; ++i) a[0] = _mm512_add_ps(a[0], a[i]);
  alignas(64) float out[16];
  _mm512_store_ps(out, a[0]);
  return out[0];
}

// As many multiply-adds as one core can do.
constexpr int kPeakSteps = 10000;
inline void ComputePeak() {
  volatile float sink = 0;
  sink = HasAvx512() ? FmaAvx512(kPeakSteps) : FmaAvx2(kPeakSteps);
  static_cast<void>(sink);
}
inline double PeakFlop() { return 2.0 * 12 * (HasAvx512() ? 16 : 8) * kPeakSteps; }

__attribute__((target("avx2"))) inline float ReadAll(const float* p, size_t floats) {
  __m256 a[8];
  for (auto& v : a) v = _mm256_setzero_ps();
  const size_t half = floats / 128 * 64;  // two streams hide memory better than one
  for (size_t i = 0; i < half; i += 32) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      a[j] = _mm256_or_ps(a[j], _mm256_load_ps(p + i + j * 8));
      a[j + 4] = _mm256_or_ps(a[j + 4], _mm256_load_ps(p + half + i + j * 8));
    }
  }
  for (int j = 1; j < 8; ++j) a[0] = _mm256_or_ps(a[0], a[j]);
  return _mm256_cvtss_f32(a[0]);
}

__attribute__((target("avx512f"))) inline float ReadAllWide(const float* p, size_t floats) {
  __m512i a[4];
  for (auto& v : a) v = _mm512_setzero_si512();
  const size_t half = floats / 128 * 64;
  for (size_t i = 0; i < half; i += 32) {
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      a[j] = _mm512_or_epi32(a[j], _mm512_load_si512(p + i + j * 16));
      a[j + 2] = _mm512_or_epi32(a[j + 2], _mm512_load_si512(p + half + i + j * 16));
    }
  }
  for (int j = 1; j < 4; ++j) a[0] = _mm512_or_epi32(a[0], a[j]);
  alignas(64) float out[16];
  _mm512_store_si512(out, a[0]);
  return out[0];
}

// Floats on huge pages where they are large: what reads fastest.
class LargeBuffer {
 public:
  explicit LargeBuffer(size_t floats) : size_(floats) {
    constexpr size_t kHuge = size_t{2} << 20;
    const size_t bytes = (floats * sizeof(float) + kHuge - 1) / kHuge * kHuge;
    data_.reset(static_cast<float*>(std::aligned_alloc(kHuge, bytes)));
    if (data_ == nullptr) Die("out of memory");
    madvise(data_.get(), bytes, MADV_HUGEPAGE);
    std::memset(data_.get(), 0, bytes);
  }
  const float* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  size_t size_;
};

// Reads a buffer from end to end: out of L1, L2, L3 or memory, as it fits.
inline void ReadThrough(const LargeBuffer& buffer) {
  volatile float sink = 0;
  sink = HasAvx512() ? ReadAllWide(buffer.data(), buffer.size()) : ReadAll(buffer.data(), buffer.size());
  static_cast<void>(sink);
}

}  // namespace lstm::bench
