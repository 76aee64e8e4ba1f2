// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/jobs.h"

// How a batch of rows goes through the panels of a product. Included by isa_*.cc alone, each compiled for its own
// instruction set. All of it has internal linkage, and none of it calls an inline function of the standard library: of two
// copies of such a function the linker keeps one, and might hand the one made for AVX-512 to a machine without it.
namespace lstm::core::fused {
namespace {

#define LSTM_INLINE inline __attribute__((always_inline))

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

// acc += rows[m][begin + k] * w[k] for `steps` k's; kPanels neighbouring panels, `stride` floats apart, side by side.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead>  // kAhead: vectors fetched ahead a step
LSTM_INLINE void Accumulate(const float* w, size_t stride, const float* const* rows, size_t begin, size_t steps,
                            const float*& ahead, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  const float* a[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  w += L::kFirst * V::kWidth;
#pragma GCC unroll 2
  for (size_t k = 0; k < steps; ++k, w += L::kStep * V::kWidth) {
    if constexpr (kAhead > 0) {  // with AVX2 half a cache line
      V::Prefetch(ahead);
      ahead += kAhead * V::kWidth;
    }
    if constexpr (L::kCount < kRows && kPanels == 1) {  // the fewer wait in registers
      typename V::Reg weight[L::kCount];
#pragma GCC unroll 4
      for (int l = 0; l < L::kCount; ++l) weight[l] = V::Load(w + static_cast<size_t>(l) * V::kWidth);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const typename V::Reg factor = V::Set(a[m][k]);
#pragma GCC unroll 4
        for (int l = 0; l < L::kCount; ++l) acc[m][L::kAt[l]] = V::Fma(factor, weight[l], acc[m][L::kAt[l]]);
      }
    } else {
      typename V::Reg factor[kRows];
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) factor[m] = V::Set(a[m][k]);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
        for (int l = 0; l < L::kCount; ++l) {
          const typename V::Reg weight = V::Load(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * V::kWidth);
          const int sum = p * kSums + L::kAt[l];
#pragma GCC unroll 8
          for (int m = 0; m < kRows; ++m) acc[m][sum] = V::Fma(factor[m], weight, acc[m][sum]);
        }
      }
    }
  }
}

// The same over pairs of steps. One step of a pair after the other, so that only half of the widened weights wait in registers.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead>
LSTM_INLINE void AccumulatePairs(const float* w, size_t stride, const float* const* rows, size_t begin, size_t steps,
                                 const float*& ahead, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  const float* a[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  w += L::kFirst * V::kWidth;
  const auto step = [&](auto widen, size_t k) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int l = 0; l < L::kCount; ++l) {
        const typename V::Reg weight = widen(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * V::kWidth);
        const int sum = p * kSums + L::kAt[l];
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) acc[m][sum] = V::Fma(V::Set(a[m][k]), weight, acc[m][sum]);
      }
    }
  };
  const auto even = [](const float* pairs) __attribute__((always_inline)) { return V::Even(pairs); };
  const auto odd = [](const float* pairs) __attribute__((always_inline)) { return V::Odd(pairs); };
  for (size_t k = 0; k + 1 < steps; k += 2, w += L::kStep * V::kWidth) {
    if constexpr (kAhead > 0) {
      V::Prefetch(ahead);
      ahead += kAhead * V::kWidth;
    }
    step(even, k);
    step(odd, k + 1);
  }
  if (steps % 2 != 0) step(even, steps - 1);
}

// The same over bytes: each is widened, and scaled to the weight that it stands for.
template <class V, class L, int kRows, int kPanels, int kSums, int kAhead>
LSTM_INLINE void AccumulateBytes(const float* w, size_t stride, const float* scales, size_t scales_stride, const float* const* rows, size_t begin, size_t steps,
                                 const float*& ahead, typename V::Reg (&acc)[kRows][kPanels * kSums]) {
  constexpr size_t kUnit = V::kWidth / 4;
  const float* a[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) a[m] = rows[m] + begin;
  typename V::Reg scale[kPanels * L::kCount];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
    for (int l = 0; l < L::kCount; ++l) scale[p * L::kCount + l] = V::Load(scales + static_cast<size_t>(p) * scales_stride + static_cast<size_t>(L::kFirst + l) * V::kWidth);
  }
  w += L::kFirst * kUnit;
#pragma GCC unroll 2
  for (size_t k = 0; k < steps; ++k, w += L::kStep * kUnit) {
    if constexpr (kAhead > 0) {
      V::Prefetch(ahead);
      ahead += kAhead * kUnit;
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int l = 0; l < L::kCount; ++l) {
        const typename V::Reg weight = V::Mul(V::Bytes(w + static_cast<size_t>(p) * stride + static_cast<size_t>(l) * kUnit), scale[p * L::kCount + l]);
        const int sum = p * kSums + L::kAt[l];
#pragma GCC unroll 8
        for (int m = 0; m < kRows; ++m) acc[m][sum] = V::Fma(V::Set(a[m][k]), weight, acc[m][sum]);
      }
    }
  }
}

// Runs an Op's rows through `panels` panels. An Op has
//   kSums                 sums of a panel (vectors)
//   X, H                  Lanes of the first and the second segment
//   product               what jobs.h says; weights and bias begin with the first of these panels
//   Init(panel, row, Reg*), Finish(panel, row, Reg*), and perhaps FinishLate(panel, row, const Reg*), which runs when all
//   rows of a tile have finished: one long chain of dependent operations a row is two short ones, of which more overlap
template <class V, class Op, Form kForm>
class Panels {
 public:
  Panels(const Op& op, size_t panels)
      : op_(op), p_(op.product), panels_(panels), x_steps_(StepsOfX(p_.x_steps, kForm)), steps_(x_steps_ + p_.h_steps), stride_(At(steps_)),
        scales_stride_(static_cast<size_t>((p_.x_steps > 0 ? Op::X::kCount : 0) + (p_.h_steps > 0 ? Op::H::kCount : 0)) * V::kWidth) {}

  void Run() const {
    if (p_.rows <= static_cast<size_t>(V::kTileRows)) {
      Few();
    } else {
      Many();
    }
  }

 private:
  using Reg = typename V::Reg;
  static constexpr int kSums = Op::kSums;
  static constexpr size_t kChunkBytes = 16384;  // of weights that all rows meet while they are in the L1 cache

  // One tile takes all rows: every weight is read once. Two panels at once where registers allow, since one has too few
  // sums to keep the multipliers busy, and two streams hide memory better than one.
  void Few() const {
    switch (p_.rows) {
      case 1: Pairs<1>(); break;
      case 2: V::kTileRows > 3 ? Pairs<2>() : Singles(); break;
      case 3: V::kTileRows > 3 ? Pairs<3>() : Singles(); break;
      default: Singles();
    }
  }
  template <int kRows>
  void Pairs() const {
    const size_t pairs = panels_ / 2;
    const bool odd = panels_ % 2 != 0;
    if (odd && p_.backwards) Tile<kRows, 1, 0>(panels_ - 1, 0, p_.begin, p_.end, nullptr);
    for (size_t i = 0; i < pairs; ++i) Tile<kRows, 2, 0>(2 * (p_.backwards ? pairs - 1 - i : i), 0, p_.begin, p_.end, nullptr);
    if (odd && !p_.backwards) Tile<kRows, 1, 0>(panels_ - 1, 0, p_.begin, p_.end, nullptr);
  }
  void Singles() const {
    for (size_t i = 0; i < panels_; ++i) AnyTile<0>(p_.rows, Panel(i), 0, p_.begin, p_.end, nullptr);
  }

  // Tiles of nearly equal height, chunk of k after chunk; the sums wait in `partial`, as exact as in a register. While the
  // first tiles run the next chunk is fetched, spread over them: memory can do no more at a time.
  void Many() const {
    const size_t tiles = (p_.rows + kHeight - 1) / kHeight;
    const size_t height = p_.rows / tiles, taller = p_.rows % tiles;
    const size_t chunks = (stride_ * sizeof(float) + kChunkBytes - 1) / kChunkBytes;
    const size_t chunk = StepsOfX(chunks == 0 ? 1 : (steps_ + chunks - 1) / chunks, kForm);
    for (size_t i = 0; i < panels_; ++i) {
      const size_t panel = Panel(i), panel_after = i + 1 < panels_ ? Panel(i + 1) : panel;
      size_t begin = p_.begin;
      do {
        const size_t end = p_.end - begin < chunk ? p_.end : begin + chunk;
        const float* const next = p_.weights + (end < p_.end ? panel * stride_ + At(end) : panel_after * stride_ + At(p_.begin));
        for (size_t t = 0, row = 0, ahead = 0; t < tiles; ++t) {
          const size_t n = height + (t < taller ? 1 : 0);
          const size_t passes = kHalves && n > static_cast<size_t>(V::kTileRows) ? 2 : 1;
          const float* const from = next + ahead * FloatsOf(end - begin, V::kWidth, kForm);
          if (ahead >= kSums) {
            AnyTile<0>(n, panel, row, begin, end, nullptr);
          } else if (tiles * passes >= kSums) {
            AnyTile<1>(n, panel, row, begin, end, from);
            ahead += passes;
          } else {
            AnyTile<2>(n, panel, row, begin, end, from);
            ahead += 2 * passes;
          }
          row += n;
        }
        begin = end;
      } while (begin < p_.end);
    }
  }
  // Where four sums a row fill the registers at three rows, six rows with two sums each read half the weights a product.
  static constexpr bool kHalves = V::kTileRows == 3 && Op::X::kCount == 4 && Op::H::kCount == 4;
  static constexpr size_t kHeight = kHalves ? 6 : V::kTileRows;

  size_t Panel(size_t i) const { return p_.backwards ? panels_ - 1 - i : i; }

  // Where step k begins in a panel.
  size_t At(size_t k) const {
    return k < x_steps_ ? FloatsOf(k, V::kWidth, kForm) * Op::X::kCount
                        : FloatsOf(x_steps_, V::kWidth, kForm) * Op::X::kCount + FloatsOf(k - x_steps_, V::kWidth, kForm) * Op::H::kCount;
  }

  template <int kAhead>
  LSTM_INLINE void AnyTile(size_t rows, size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    switch (rows) {
      case 1: Tile<1, 1, kAhead>(panel, row, begin, end, ahead); break;
      case 2: Tile<2, 1, kAhead>(panel, row, begin, end, ahead); break;
      case 3: Tile<3, 1, kAhead>(panel, row, begin, end, ahead); break;
      default:
        if constexpr (kHalves) {
          switch (rows) {
            case 4: HalfTiles<4, kAhead>(panel, row, begin, end, ahead); break;
            case 5: HalfTiles<5, kAhead>(panel, row, begin, end, ahead); break;
            default: HalfTiles<6, kAhead>(panel, row, begin, end, ahead);
          }
        } else if constexpr (V::kTileRows > 3) {
          switch (rows) {
            case 4: Tile<4, 1, kAhead>(panel, row, begin, end, ahead); break;
            case 5: Tile<5, 1, kAhead>(panel, row, begin, end, ahead); break;
            default: Tile<6, 1, kAhead>(panel, row, begin, end, ahead);
          }
        }
    }
  }

  template <int kRows, int kPanels, class F>
  LSTM_INLINE static void ForEach(F f, size_t panel) {
    for (int m = 0; m < kRows; ++m) {
      for (int p = 0; p < kPanels; ++p) f(m, p, panel + static_cast<size_t>(p));
    }
  }

  // k in [begin, end) of kRows rows and kPanels panels.
  template <int kRows, int kPanels, int kAhead>
  void Tile(size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    Reg acc[kRows][kPanels * kSums];
    if (begin == 0) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) op_.Init(panel + static_cast<size_t>(p), row + static_cast<size_t>(m), &acc[m][p * kSums]);
      }
    } else {
      Resume<kRows, kPanels>(panel, row, 0, acc);
    }
    Segments<typename Op::X, typename Op::H, kRows, kPanels, kPanels * kSums, kAhead>(panel, row, begin, end, ahead, acc);
    if (end == steps_) {
      // A second array, for this loop is not unrolled: the first one then stays in registers.
      Reg sums[kRows][kPanels * kSums];
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
        for (int s = 0; s < kPanels * kSums; ++s) sums[m][s] = acc[m][s];
      }
      Finish<kRows, kPanels>(panel, row, sums);
    } else {
      Suspend<kRows, kPanels>(panel, row, 0, acc);
    }
  }

  // The same, two sums of every row and then the other two.
  template <int kRows, int kAhead>
  void HalfTiles(size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    Reg sums[kRows][4];
    HalfTile<0, kRows, kAhead>(panel, row, begin, end, ahead, sums);
    HalfTile<2, kRows, kAhead>(panel, row, begin, end, ahead + kAhead * FloatsOf(end - begin, V::kWidth, kForm), sums);
    if (end == steps_) Finish<kRows, 1>(panel, row, sums);
  }
  template <int kFirst, int kRows, int kAhead>
  LSTM_INLINE void HalfTile(size_t panel, size_t row, size_t begin, size_t end, const float* ahead, Reg (&sums)[kRows][4]) const {
    Reg acc[kRows][2];
    if (begin == 0) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        Reg all[4];
        op_.Init(panel, row + static_cast<size_t>(m), all);
        acc[m][0] = all[kFirst];
        acc[m][1] = all[kFirst + 1];
      }
    } else {
      Resume<kRows, 1>(panel, row, kFirst, acc);
    }
    Segments<HalfLanes<kFirst>, HalfLanes<kFirst>, kRows, 1, 2, kAhead>(panel, row, begin, end, ahead, acc);
    if (end == steps_) {
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        sums[m][kFirst] = acc[m][0];
        sums[m][kFirst + 1] = acc[m][1];
      }
    } else {
      Suspend<kRows, 1>(panel, row, kFirst, acc);
    }
  }

  template <class X, class H, int kRows, int kPanels, int kAll, int kAhead>
  LSTM_INLINE void Segments(size_t panel, size_t row, size_t begin, size_t end, const float* ahead, Reg (&acc)[kRows][kAll]) const {
    const float* const w = p_.weights + panel * stride_;
    const float* const scales = kForm == Form::kBytes ? p_.scales + panel * scales_stride_ : nullptr;
    if (begin < p_.x_steps) {
      const size_t stop = end < p_.x_steps ? end : p_.x_steps;
      Sum<X, kRows, kPanels, kAhead>(w + At(begin), scales, p_.x + row, begin, stop - begin, ahead, acc);
    }
    if (end > x_steps_) {
      const size_t start = begin > x_steps_ ? begin - x_steps_ : 0;
      Sum<H, kRows, kPanels, kAhead>(w + At(x_steps_ + start), kForm == Form::kBytes && p_.x_steps > 0 ? scales + Op::X::kCount * V::kWidth : scales, p_.h + row, start, end - x_steps_ - start, ahead, acc);
    }
  }
  template <class L, int kRows, int kPanels, int kAhead, int kAll>
  LSTM_INLINE void Sum(const float* w, [[maybe_unused]] const float* scales, const float* const* rows, size_t begin, size_t steps, const float*& ahead, Reg (&acc)[kRows][kAll]) const {
    if constexpr (kForm == Form::kBytes) {
      AccumulateBytes<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, scales, scales_stride_, rows, begin, steps, ahead, acc);
    } else if constexpr (kForm == Form::kPairs) {
      AccumulatePairs<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, rows, begin, steps, ahead, acc);
    } else {
      Accumulate<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, rows, begin, steps, ahead, acc);
    }
  }

  // Sums come from and go to `partial` or `sums`, those of a row from `first` on.
  LSTM_INLINE float* Waiting(size_t panel, size_t row, size_t first) const {
    return (p_.sums != nullptr ? p_.sums + panel * p_.sums_stride : p_.partial) + (row * 4 + first) * V::kWidth;
  }
  template <int kRows, int kPanels, int kAll>
  LSTM_INLINE void Resume(size_t panel, size_t row, size_t first, Reg (&acc)[kRows][kAll]) const {
    constexpr int kOwn = kAll / kPanels;
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const float* const from = Waiting(panel + static_cast<size_t>(p), row, first);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
        for (int s = 0; s < kOwn; ++s) acc[m][p * kOwn + s] = V::Load(from + static_cast<size_t>(m * 4 + s) * V::kWidth);
      }
    }
  }
  template <int kRows, int kPanels, int kAll>
  LSTM_INLINE void Suspend(size_t panel, size_t row, size_t first, const Reg (&acc)[kRows][kAll]) const {
    constexpr int kOwn = kAll / kPanels;
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      float* const to = Waiting(panel + static_cast<size_t>(p), row, first);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
        for (int s = 0; s < kOwn; ++s) V::Store(to + static_cast<size_t>(m * 4 + s) * V::kWidth, acc[m][p * kOwn + s]);
      }
    }
  }

  template <int kRows, int kPanels>
  LSTM_INLINE void Finish(size_t panel, size_t row, Reg (&sums)[kRows][kPanels * kSums]) const {
    ForEach<kRows, kPanels>([&](int m, int p, size_t at) { op_.Finish(at, row + static_cast<size_t>(m), &sums[m][p * kSums]); }, panel);
    if constexpr (requires { &Op::FinishLate; }) {
      ForEach<kRows, kPanels>([&](int m, int p, size_t at) { op_.FinishLate(at, row + static_cast<size_t>(m), &sums[m][p * kSums]); }, panel);
    }
  }

  const Op& op_;
  const Product& p_;
  const size_t panels_, x_steps_, steps_, stride_, scales_stride_;
};

}  // namespace
}  // namespace lstm::core::fused
