// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/kernels/onednn.h"

// Private to onednn*.cc: primitives of one operation for several batch sizes, and the proof that they agree.
namespace lstm::core {

// The batch sizes that are made; any other number of rows is padded up to the next.
inline constexpr int kLadder[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};

const dnnl::engine& OneDnnEngine();

// Runs `body`, in which oneDNN may throw, with one thread a call: a step is far too short to share between threads, and a
// shard owns its core.
absl::Status OneDnnGuarded(const std::function<void()>& body);

// The primitive for one batch size.
struct Rung {
  int rows = 0;
  dnnl::primitive primitive;
  std::vector<std::pair<int, dnnl::memory>> constants;  // weights and bias, by argument
  dnnl::memory::desc x, h, c, y, h_new, c_new;          // h to c_new: cells alone
  dnnl::memory::desc scratchpad;
  std::string implementation;  // oneDNN's name for it
};

struct OneDnnOp::Impl {
  int max_batch = 0;
  int64_t in = 0, recurrent = 0, cell = 0, out = 0;  // widths of x, h, c and y in floats; 0: not there
  std::vector<Rung> rungs;                           // ascending, never empty
  std::string note;                                  // what the proof found

  int top() const { return rungs.back().rows; }
  int room() const { return max_batch + kLadder[std::size(kLadder) - 1]; }
  const Rung& Smallest(int rows) const;
  BoundPtr Bind(const Buffers& buffers) const;
  absl::Status Run(int rows, Bound& bound) const;
};

// Runs probe rows alone and in batches, and leaves in `impl` the batch sizes that give every row the bits it has alone;
// where hardly any does, the one size that gives a row the same bits at every place.
absl::Status ProveBatches(OneDnnOp::Impl& impl);

}  // namespace lstm::core
