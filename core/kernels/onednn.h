// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/model.h"

namespace lstm::core {

// One operation of oneDNN over [N, ...] rows, made at load for a ladder of batch sizes; weights are packed once. The only
// room that knows oneDNN, 2.6 and 3.x alike. Immutable and thread-safe; every thread brings a Bound of its own.
//
// oneDNN promises nothing about the bits of a row in batches of different sizes. So every size is tried at load against
// the row alone, at several places and beside other rows: sizes that differ are not used, and where too few remain one
// size that holds in itself is used for every batch, rows padded with zeros (docs/architecture.md, "Bits").
class OneDnnOp {
 public:
  // Contiguous row-major buffers with room for max_batch + kPaddingRows rows.
  struct Buffers {
    void* x;      // [N, I]
    void* h;      // [N, R] recurrent input of cells
    void* c;      // [N, H] LSTM
    void* y;      // [N, O]: the value; of cells the new h
    void* c_new;  // [N, H] LSTM
  };

  // The primitives' arguments, bound to one set of buffers. Confined to one thread.
  class Bound;
  struct BoundDeleter {
    void operator()(Bound* bound) const;
  };
  using BoundPtr = std::unique_ptr<Bound, BoundDeleter>;

  static absl::StatusOr<std::unique_ptr<const OneDnnOp>> Lstm(const LstmOp& op, int max_batch);
  static absl::StatusOr<std::unique_ptr<const OneDnnOp>> Gru(const GruOp& op, int max_batch);
  static absl::StatusOr<std::unique_ptr<const OneDnnOp>> Rnn(const RnnOp& op, int max_batch);
  // weight [O, I] row-major, bias [O] or null.
  static absl::StatusOr<std::unique_ptr<const OneDnnOp>> Linear(const float* weight, const float* bias, int64_t out,
                                                                int64_t in, int max_batch);
  ~OneDnnOp();

  BoundPtr Bind(const Buffers& buffers) const;

  // Runs rows [0, rows), zeroing what it pads in x, h and c.
  absl::Status Run(int rows, Bound& bound) const;

  std::string Describe() const;

  // "onednn-2.6.3/avx512_core_bf16"
  static std::string Id();

  struct Impl;  // onednn_ladder.h

 private:
  explicit OneDnnOp(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lstm::core
