// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/panel.h"

// How a batch of rows goes through weights that no cache holds. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

// One sum of all rows after another: every weight is read once, by all rows, while those that come later are fetched into the L2 cache
// at an even pace, so that memory and multipliers work at the same time. Tiles of few rows would read a weight once each, and wait.
template <class V, class Op, Form kForm>
class Streams : Layout<V, Op, kForm> {
  using Base = Layout<V, Op, kForm>;
  using Base::op_, Base::p_, Base::panels_, Base::x_steps_, Base::steps_, Base::stride_, Base::At, Base::Panel, Base::Waiting;

 public:
  using Base::Base;
  // Fewer rows do as well in one tile.
  static bool Takes(const Product& p) { return p.far && p.rows > 6 && p.rows <= V::kStreamRows; }

  void Run() const {
    switch ((p_.rows + 3) / 4) {
      case 2: return All<8>();
      case 3: return All<12>();
      case 4: return All<16>();
      case 5: return All<20>();
      default: return All<24>();
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kSums = Op::kSums;
  static constexpr size_t kChunkBytes = 65536;  // of weights: a quarter of what an L2 cache has at least
  static constexpr size_t kUnit = kForm == Form::kBytes ? V::kWidth / 4 : V::kWidth;  // floats that a vector of weights takes up

  // Sums at a time: eight chains alone would wait for each other.
  template <int kRows>
  static constexpr int kTogether = kRows == 8 && kSums % 2 == 0 && Op::X::kCount == kSums && Op::H::kCount == kSums ? 2 : 1;

  // kRows rows: the last of them stands in for those that are missing.
  size_t Row(int m) const { return static_cast<size_t>(m) < p_.rows ? static_cast<size_t>(m) : p_.rows - 1; }

  template <int kRows>
  void All() const {
    if (p_.begin < p_.x_steps) Turn<kRows>(p_.x, p_.x_steps, p_.turned);
    if (p_.end > x_steps_) Turn<kRows>(p_.h, p_.h_steps, p_.turned + x_steps_ * kRows);
    const size_t chunk = Base::Chunk(kChunkBytes);
    for (size_t i = 0; i < panels_; ++i) {
      size_t begin = p_.begin;
      do {
        const size_t end = p_.end - begin < chunk ? p_.end : begin + chunk;
        const float* ahead = Base::Next(i, end);  // a segment has as many vectors a step as passes
        for (int s = 0; s < kSums; s += kTogether<kRows>) Pass<kRows>(s, Panel(i), begin, end, ahead);
        begin = end;
      } while (begin < p_.end);
      if (p_.end == steps_) Finish(Panel(i));
    }
  }

  // [row][k] to [k][row]: one pointer for all factors of a step.
  template <int kRows>
  void Turn(const float* const* rows, size_t steps, float* to) const {
    const float* from[kRows];
    for (int m = 0; m < kRows; ++m) from[m] = rows[Row(m)];
    for (size_t k = 0; k < steps; ++k, to += kRows) {
      for (int m = 0; m < kRows; ++m) to[m] = from[m][k];
    }
  }

  // Which vector of a step belongs to a sum; -1: none.
  template <class L>
  static int VectorOf(int sum) {
    for (int l = 0; l < L::kCount; ++l) {
      if (L::kAt[l] == sum) return l;
    }
    return -1;
  }

  template <int kRows>
  void Pass(int s, size_t panel, size_t begin, size_t end, const float*& ahead) const {
    Reg acc[kTogether<kRows>][kRows];
LSTM_UNROLL(24)
    for (int m = 0; m < kRows; ++m) {
      Reg all[kSums];
      if (begin == 0) op_.Init(panel, Row(m), all);
LSTM_UNROLL(2)
      for (int t = 0; t < kTogether<kRows>; ++t) acc[t][m] = begin == 0 ? all[s + t] : V::Load(Waiting(panel, Row(m), static_cast<size_t>(s + t)));
    }
    const float* const w = p_.weights + panel * stride_;
    if (const int v = VectorOf<typename Op::X>(s); v >= 0 && begin < p_.x_steps) {
      const size_t stop = end < p_.x_steps ? end : p_.x_steps;
      const float* const scales = Base::ScalesOfX(panel);
      if (begin == 0) Rescale<kRows, true>(scales, v, acc);
      Sum<typename Op::X, kRows>(w + At(begin) + static_cast<size_t>(v) * kUnit, p_.turned + begin * kRows, stop - begin, ahead, acc);
      if (stop == p_.x_steps) Rescale<kRows, false>(scales, v, acc);
    }
    if (const int v = VectorOf<typename Op::H>(s); v >= 0 && end > x_steps_) {
      const size_t start = begin > x_steps_ ? begin : x_steps_;
      const float* const scales = Base::ScalesOfH(panel);
      if (start == x_steps_) Rescale<kRows, true>(scales, v, acc);
      Sum<typename Op::H, kRows>(w + At(start) + static_cast<size_t>(v) * kUnit, p_.turned + start * kRows, end - start, ahead, acc);
      if (end == steps_) Rescale<kRows, false>(scales, v, acc);
    }
LSTM_UNROLL(24)
    for (int m = 0; m < kRows; ++m) {
      if (static_cast<size_t>(m) >= p_.rows) continue;
LSTM_UNROLL(2)
      for (int t = 0; t < kTogether<kRows>; ++t) V::Store(Waiting(panel, static_cast<size_t>(m), static_cast<size_t>(s + t)), acc[t][m]);
    }
  }

  template <class L, int kRows, int kAtOnce>
  LSTM_INLINE void Sum(const float* w, const float* factors, size_t steps, const float*& ahead, Reg (&acc)[kAtOnce][kRows]) const {
    const auto step = [&](auto widen) __attribute__((always_inline)) {
      Reg weight[kAtOnce];
LSTM_UNROLL(2)
      for (int t = 0; t < kAtOnce; ++t) weight[t] = widen(w + static_cast<size_t>(t) * kUnit);
LSTM_UNROLL(24)
      for (int m = 0; m < kRows; ++m) {
LSTM_UNROLL(2)
        for (int t = 0; t < kAtOnce; ++t) acc[t][m] = V::Fma(V::Set(factors[m]), weight[t], acc[t][m]);
      }
      factors += kRows;
    };
    const auto fetch = [&]() __attribute__((always_inline)) {
LSTM_UNROLL(2)
      for (int t = 0; t < kAtOnce; ++t, ahead += kUnit) V::PrefetchL2(ahead);
    };
    const auto first = [](const float* at) __attribute__((always_inline)) { return Weight(at); };
    for (size_t k = 0; k + 1 < steps; k += 2, w += L::kCount * kUnit) {
      fetch();
      step(first);
      if constexpr (kForm == Form::kPairs) {
        step([](const float* at) __attribute__((always_inline)) { return V::Odd(at); });
      } else {
        w += L::kCount * kUnit;
        fetch();
        step(first);
      }
    }
    if (steps % 2 != 0) step(first);
  }
  // Of a step of its own, or the first of a pair.
  LSTM_INLINE static Reg Weight(const float* w) {
    if constexpr (kForm == Form::kBytes) {
      return V::Bytes(w);
    } else if constexpr (kForm == Form::kPairs) {
      return V::Even(w);
    } else {
      return V::Load(w);
    }
  }

  template <int kRows, bool kEnter, int kAtOnce>
  LSTM_INLINE void Rescale([[maybe_unused]] const float* scales, [[maybe_unused]] int vector, [[maybe_unused]] Reg (&acc)[kAtOnce][kRows]) const {
    if constexpr (kForm == Form::kBytes) {
      for (int t = 0; t < kAtOnce; ++t) {
        const Reg scale = V::Load(scales + static_cast<size_t>(vector + t) * V::kWidth);
LSTM_UNROLL(24)
        for (int m = 0; m < kRows; ++m) acc[t][m] = kEnter ? V::Div(acc[t][m], scale) : V::Mul(acc[t][m], scale);
      }
    }
  }

  void Finish(size_t panel) const {
    constexpr size_t kBeside = 4;
    for (size_t row = 0; row < p_.rows; row += kBeside) {
      const size_t n = p_.rows - row < kBeside ? p_.rows - row : kBeside;
      Reg sums[kBeside][kSums];
      for (size_t m = 0; m < n; ++m) {
        for (int s = 0; s < kSums; ++s) sums[m][s] = V::Load(Waiting(panel, row + m, static_cast<size_t>(s)));
        op_.Finish(panel, row + m, sums[m]);
      }
      if constexpr (requires { &Op::FinishLate; }) {
        for (size_t m = 0; m < n; ++m) op_.FinishLate(panel, row + m, sums[m]);
      }
    }
  }
};

}  // namespace
}  // namespace lstm::core::fused
