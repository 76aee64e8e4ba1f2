// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/accumulate.h"
#include "core/kernels/fused/jobs.h"

// Where the weights and sums of a product lie. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

// Where things lie. An Op has
//   kSums                 sums of a panel (vectors)
//   kAlone                there is one panel, what a wide layer has left: a few rows and vectors, not worth code of their own
//   X, H                  Lanes of the first and the second segment
//   product               what jobs.h says; weights and bias begin with the first of these panels
//   Init(panel, row, Reg*), Finish(panel, row, Reg*), and perhaps FinishLate(panel, row, const Reg*), which runs when all
//   rows of a tile have finished: one long chain of dependent operations a row is two short ones, of which more overlap
template <class V, class Op, Form kForm>
struct Layout {
  Layout(const Op& op, size_t first, size_t panels)
      : op_(op), p_(op.product), first_(first), panels_(panels), x_steps_(StepsOfX(p_.x_steps, kForm)), steps_(x_steps_ + p_.h_steps), stride_(At(steps_)),
        scales_stride_(static_cast<size_t>((p_.x_steps > 0 ? Op::X::kCount : 0) + (p_.h_steps > 0 ? Op::H::kCount : 0)) * V::kWidth) {}

  size_t Panel(size_t i) const { return first_ + (p_.backwards ? panels_ - 1 - i : i); }

  // Where step k begins in a panel.
  size_t At(size_t k) const {
    return k < x_steps_ ? FloatsOf(k, V::kWidth, kForm) * Op::X::kCount
                        : FloatsOf(x_steps_, V::kWidth, kForm) * Op::X::kCount + FloatsOf(k - x_steps_, V::kWidth, kForm) * Op::H::kCount;
  }
  // Steps of k of a chunk of so many bytes or a little more.
  size_t Chunk(size_t bytes) const {
    const size_t chunks = (stride_ * sizeof(float) + bytes - 1) / bytes;
    return StepsOfX(chunks == 0 ? 1 : (steps_ + chunks - 1) / chunks, kForm);
  }
  // What is read after [.., end) of the i-th panel.
  const float* Next(size_t i, size_t end) const {
    return p_.weights + (end < p_.end ? Panel(i) * stride_ + At(end) : Panel(i + 1 < panels_ ? i + 1 : i) * stride_ + At(p_.begin));
  }

  // Sums come from and go to `partial` or `sums`, those of a row from `first` on.
  LSTM_INLINE float* Waiting(size_t panel, size_t row, size_t first) const {
    return (p_.sums != nullptr ? p_.sums + panel * p_.sums_stride : p_.partial) + (row * 4 + first) * V::kWidth;
  }

  // Bytes alone: a segment's first scales.
  LSTM_INLINE const float* ScalesOfX(size_t panel) const { return kForm == Form::kBytes ? p_.scales + panel * scales_stride_ : nullptr; }
  LSTM_INLINE const float* ScalesOfH(size_t panel) const {
    return kForm == Form::kBytes ? ScalesOfX(panel) + static_cast<size_t>(p_.x_steps > 0 ? Op::X::kCount : 0) * V::kWidth : nullptr;
  }

  const Op& op_;
  const Product& p_;
  const size_t first_, panels_, x_steps_, steps_, stride_, scales_stride_;
};

}  // namespace
}  // namespace lstm::core::fused
