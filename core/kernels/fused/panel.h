// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/layout.h"

// How a batch of rows goes through the panels of a product. Included by isa_*.cc alone, each compiled for its own
// instruction set. All of it has internal linkage, and none of it calls an inline function of the standard library: of two
// copies of such a function the linker keeps one, and might hand the one made for AVX-512 to a machine without it.
namespace lstm::core::fused {
namespace {

// Runs an Op's rows through `panels` panels from the first on, tile by tile of a few rows and all sums.
template <class V, class Op, Form kForm>
class Panels : Layout<V, Op, kForm> {
  using Base = Layout<V, Op, kForm>;
  using Base::op_, Base::p_, Base::first_, Base::panels_, Base::x_steps_, Base::steps_, Base::stride_, Base::scales_stride_, Base::At, Base::Panel, Base::Waiting;

 public:
  using Base::Base;

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
    if constexpr (Op::kAlone) {
      Singles();
    } else {
      switch (p_.rows) {
        case 1: Pairs<1>(); break;
        case 2: V::kTileRows > 3 ? Pairs<2>() : Singles(); break;
        case 3: V::kTileRows > 3 ? Pairs<3>() : Singles(); break;
        default: Singles();
      }
    }
  }
  template <int kRows>
  void Pairs() const {
    const size_t pairs = panels_ / 2;
    const bool odd = panels_ % 2 != 0;
    if (odd && p_.backwards) Tile<kRows, 1, 0, false>(first_ + panels_ - 1, 0, p_.begin, p_.end, nullptr);
    for (size_t i = 0; i < pairs; ++i) Tile<kRows, 2, 0, false>(first_ + 2 * (p_.backwards ? pairs - 1 - i : i), 0, p_.begin, p_.end, nullptr);
    if (odd && !p_.backwards) Tile<kRows, 1, 0, false>(first_ + panels_ - 1, 0, p_.begin, p_.end, nullptr);
  }
  void Singles() const {
    for (size_t i = 0; i < panels_; ++i) AnyTile<0, false>(p_.rows, Panel(i), 0, p_.begin, p_.end, nullptr);
  }

  // Tiles of nearly equal height, chunk of k after chunk; the sums wait in `partial`, as exact as in a register. While the
  // first tiles run the next chunk is fetched, spread over them: memory can do no more at a time.
  void Many() const {
    if constexpr (kMayTurn) {
      if (p_.is_turned != nullptr) {
        if (!*p_.is_turned) TurnTiles();
        *p_.is_turned = true;
        return Tiles<true>();
      }
    }
    Tiles<false>();
  }

  // Factors of a tile side by side, step after step: one stream to read from, where rows that lie apart are six, which a cache may have to keep in
  // the same few places. Worth it where enough panels read them.
  static constexpr bool kMayTurn = V::kTurns && kForm == Form::kFloats && !Op::kAlone;
  void TurnTiles() const {
    const size_t tiles = (p_.rows + kHeight - 1) / kHeight;
    const size_t height = p_.rows / tiles, taller = p_.rows % tiles;
    for (size_t t = 0, row = 0; t < tiles; ++t) {
      const size_t n = height + (t < taller ? 1 : 0);
      float* const to = p_.turned + row * steps_;
      if (p_.begin < p_.x_steps) TurnRows(p_.x + row, n, p_.x_steps, to);
      if (p_.end > x_steps_) TurnRows(p_.h + row, n, p_.h_steps, to + x_steps_ * n);
      row += n;
    }
  }
  static constexpr size_t kManyTiles = 8;  // a share of the next chunk is then few enough lines to be asked for at once

  template <bool kTurned>
  void Tiles() const {
    const size_t tiles = (p_.rows + kHeight - 1) / kHeight;
    const size_t height = p_.rows / tiles, taller = p_.rows % tiles;
    const size_t chunk = Base::Chunk(kChunkBytes);
    for (size_t i = 0; i < panels_; ++i) {
      const size_t panel = Panel(i);
      size_t begin = p_.begin;
      do {
        const size_t end = p_.end - begin < chunk ? p_.end : begin + chunk;
        const float* const next = Base::Next(i, end);
        for (size_t t = 0, row = 0, ahead = 0; t < tiles; ++t) {
          const size_t n = height + (t < taller ? 1 : 0);
          [[maybe_unused]] const size_t passes = kHalves && n > static_cast<size_t>(V::kTileRows) ? 2 : 1;
          [[maybe_unused]] const float* const from = next + ahead * FloatsOf(end - begin, V::kWidth, kForm);
          if constexpr (!V::kPrefetches || Op::kAlone) {
            AnyTile<0, kTurned>(n, panel, row, begin, end, nullptr);
          } else if (kTurned && tiles >= kManyTiles) {
            Fetch(next, At(end) - At(begin), t, tiles);
            AnyTile<0, kTurned>(n, panel, row, begin, end, nullptr);
          } else if (ahead >= kSums) {
            AnyTile<0, kTurned>(n, panel, row, begin, end, nullptr);
          } else if (tiles * passes >= kSums) {
            AnyTile<1, kTurned>(n, panel, row, begin, end, from);
            ahead += passes;
          } else {
            AnyTile<2, kTurned>(n, panel, row, begin, end, from);
            ahead += 2 * passes;
          }
          row += n;
        }
        begin = end;
      } while (begin < p_.end);
    }
  }
  // The t-th tile's share of so many floats.
  LSTM_INLINE static void Fetch(const float* from, size_t floats, size_t t, size_t tiles) {
    constexpr size_t kLine = 16;
    const size_t share = (floats / tiles + kLine) / kLine * kLine, begin = t * share, end = begin + share < floats ? begin + share : floats;
    for (size_t at = begin; at < end; at += kLine) V::Prefetch(from + at);
  }

  // Where four sums a row fill the registers at three rows, six rows with two sums each read half the weights a product.
  static constexpr bool kHalves = V::kTileRows == 3 && Op::X::kCount == 4 && Op::H::kCount == 4;
  static constexpr size_t kHeight = kHalves ? 6 : V::kTileRows;

  template <int kAhead, bool kTurned>
  LSTM_INLINE void AnyTile(size_t rows, size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    switch (rows) {
      case 1: Tile<1, 1, kAhead, kTurned>(panel, row, begin, end, ahead); break;
      case 2: Tile<2, 1, kAhead, kTurned>(panel, row, begin, end, ahead); break;
      case 3: Tile<3, 1, kAhead, kTurned>(panel, row, begin, end, ahead); break;
      default:
        if constexpr (kHalves) {
          switch (rows) {
            case 4: HalfTiles<4, kAhead, kTurned>(panel, row, begin, end, ahead); break;
            case 5: HalfTiles<5, kAhead, kTurned>(panel, row, begin, end, ahead); break;
            default: HalfTiles<6, kAhead, kTurned>(panel, row, begin, end, ahead);
          }
        } else if constexpr (V::kTileRows > 3) {
          switch (rows) {
            case 4: Tile<4, 1, kAhead, kTurned>(panel, row, begin, end, ahead); break;
            case 5: Tile<5, 1, kAhead, kTurned>(panel, row, begin, end, ahead); break;
            default: Tile<6, 1, kAhead, kTurned>(panel, row, begin, end, ahead);
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
  template <int kRows, int kPanels, int kAhead, bool kTurned>
  void Tile(size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    Reg acc[kRows][kPanels * kSums];
    if (begin == 0) {
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
LSTM_UNROLL(2)
        for (int p = 0; p < kPanels; ++p) op_.Init(panel + static_cast<size_t>(p), row + static_cast<size_t>(m), &acc[m][p * kSums]);
      }
    } else {
      Resume<kRows, kPanels>(panel, row, 0, acc);
    }
    Segments<typename Op::X, typename Op::H, kRows, kPanels, kPanels * kSums, kAhead, kTurned>(panel, row, begin, end, ahead, acc);
    if (end == steps_) {
      // A second array, for this loop is not unrolled: the first one then stays in registers.
      Reg sums[kRows][kPanels * kSums];
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
LSTM_UNROLL(8)
        for (int s = 0; s < kPanels * kSums; ++s) sums[m][s] = acc[m][s];
      }
      Finish<kRows, kPanels>(panel, row, sums);
    } else {
      Suspend<kRows, kPanels>(panel, row, 0, acc);
    }
  }

  // The same, two sums of every row and then the other two.
  template <int kRows, int kAhead, bool kTurned>
  void HalfTiles(size_t panel, size_t row, size_t begin, size_t end, const float* ahead) const {
    Reg sums[kRows][4];
    HalfTile<0, kRows, kAhead, kTurned>(panel, row, begin, end, ahead, sums);
    HalfTile<2, kRows, kAhead, kTurned>(panel, row, begin, end, ahead + kAhead * FloatsOf(end - begin, V::kWidth, kForm), sums);
    if (end == steps_) Finish<kRows, 1>(panel, row, sums);
  }
  template <int kFirst, int kRows, int kAhead, bool kTurned>
  LSTM_INLINE void HalfTile(size_t panel, size_t row, size_t begin, size_t end, const float* ahead, Reg (&sums)[kRows][4]) const {
    Reg acc[kRows][2];
    if (begin == 0) {
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
        Reg all[4];
        op_.Init(panel, row + static_cast<size_t>(m), all);
        acc[m][0] = all[kFirst];
        acc[m][1] = all[kFirst + 1];
      }
    } else {
      Resume<kRows, 1>(panel, row, kFirst, acc);
    }
    Segments<HalfLanes<kFirst>, HalfLanes<kFirst>, kRows, 1, 2, kAhead, kTurned>(panel, row, begin, end, ahead, acc);
    if (end == steps_) {
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
        sums[m][kFirst] = acc[m][0];
        sums[m][kFirst + 1] = acc[m][1];
      }
    } else {
      Suspend<kRows, 1>(panel, row, kFirst, acc);
    }
  }

  template <class X, class H, int kRows, int kPanels, int kAll, int kAhead, bool kTurned>
  LSTM_INLINE void Segments(size_t panel, size_t row, size_t begin, size_t end, const float* ahead, Reg (&acc)[kRows][kAll]) const {
    const float* const w = p_.weights + panel * stride_;
    if (begin < p_.x_steps) {
      const size_t stop = end < p_.x_steps ? end : p_.x_steps;
      const float* const scales = Base::ScalesOfX(panel);
      if (begin == 0) Rescale<X, kRows, kPanels>(scales, acc, Divided());
      Sum<X, kRows, kPanels, kAhead, kTurned>(w + At(begin), p_.x + row, TurnedAt<kRows, kTurned>(row, begin), begin, stop - begin, ahead, acc);
      if (stop == p_.x_steps) Rescale<X, kRows, kPanels>(scales, acc, Multiplied());
    }
    if (end > x_steps_) {
      const size_t start = begin > x_steps_ ? begin - x_steps_ : 0;
      const float* const scales = Base::ScalesOfH(panel);
      if (start == 0) Rescale<H, kRows, kPanels>(scales, acc, Divided());
      Sum<H, kRows, kPanels, kAhead, kTurned>(w + At(x_steps_ + start), p_.h + row, TurnedAt<kRows, kTurned>(row, x_steps_ + start), start, end - x_steps_ - start, ahead, acc);
      if (end == steps_) Rescale<H, kRows, kPanels>(scales, acc, Multiplied());
    }
  }
  template <int kRows, bool kTurned>
  LSTM_INLINE const float* TurnedAt(size_t row, size_t k) const { return kTurned ? p_.turned + row * steps_ + k * kRows : nullptr; }
  template <class L, int kRows, int kPanels, int kAhead, bool kTurned, int kAll>
  LSTM_INLINE void Sum(const float* w, const float* const* rows, [[maybe_unused]] const float* turned, size_t begin, size_t steps, const float*& ahead, Reg (&acc)[kRows][kAll]) const {
    if constexpr (kForm == Form::kBytes) {
      AccumulateBytes<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, p_.far, rows, begin, steps, ahead, acc);
    } else if constexpr (kForm == Form::kPairs) {
      AccumulatePairs<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, p_.far, rows, begin, steps, ahead, acc);
    } else if constexpr (kTurned) {
      Accumulate<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, false, Turned<kRows>{turned}, steps, ahead, acc);
    } else {
      Accumulate<V, L, kRows, kPanels, kAll / kPanels, kAhead>(w, stride_, p_.far, InRows<kRows>(rows, begin), steps, ahead, acc);
    }
  }

  // Bytes alone: within a segment sums are in units of its scales.
  struct Divided {
    LSTM_INLINE Reg operator()(Reg sum, Reg scale) const { return V::Div(sum, scale); }
  };
  struct Multiplied {
    LSTM_INLINE Reg operator()(Reg sum, Reg scale) const { return V::Mul(sum, scale); }
  };
  template <class L, int kRows, int kPanels, int kAll, class F>
  LSTM_INLINE void Rescale(const float* scales, Reg (&acc)[kRows][kAll], F f) const {
    if constexpr (kForm == Form::kBytes) {
LSTM_UNROLL(2)
      for (int p = 0; p < kPanels; ++p) {
LSTM_UNROLL(4)
        for (int l = 0; l < L::kCount; ++l) {
          const Reg scale = V::Load(scales + static_cast<size_t>(p) * scales_stride_ + static_cast<size_t>(L::kFirst + l) * V::kWidth);
          const int sum = p * (kAll / kPanels) + L::kAt[l];
LSTM_UNROLL(8)
          for (int m = 0; m < kRows; ++m) acc[m][sum] = f(acc[m][sum], scale);
        }
      }
    }
  }

  template <int kRows, int kPanels, int kAll>
  LSTM_INLINE void Resume(size_t panel, size_t row, size_t first, Reg (&acc)[kRows][kAll]) const {
    constexpr int kOwn = kAll / kPanels;
LSTM_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      const float* const from = Waiting(panel + static_cast<size_t>(p), row, first);
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
LSTM_UNROLL(4)
        for (int s = 0; s < kOwn; ++s) acc[m][p * kOwn + s] = V::Load(from + static_cast<size_t>(m * 4 + s) * V::kWidth);
      }
    }
  }
  template <int kRows, int kPanels, int kAll>
  LSTM_INLINE void Suspend(size_t panel, size_t row, size_t first, const Reg (&acc)[kRows][kAll]) const {
    constexpr int kOwn = kAll / kPanels;
LSTM_UNROLL(2)
    for (int p = 0; p < kPanels; ++p) {
      float* const to = Waiting(panel + static_cast<size_t>(p), row, first);
LSTM_UNROLL(8)
      for (int m = 0; m < kRows; ++m) {
LSTM_UNROLL(4)
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
};

}  // namespace
}  // namespace lstm::core::fused
