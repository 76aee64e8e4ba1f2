// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "lstm/v1/session.pb.h"

// What a shard counts: numbers of its own, on cache lines of their own. The shard's thread alone writes, without a lock or a
// locked instruction; anybody may read, and sees each number whole and some moment old.
namespace lstm::server {

class Count {
 public:
  void Add(uint64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  void Set(uint64_t n) { value_.store(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Upper bounds of the buckets of a time, in microseconds; above the last: without a bound.
inline constexpr std::array<uint64_t, 16> kTimeBounds = {10,     20,     50,      100,     200,     500,       1'000,     2'000,
                                                         5'000, 10'000, 20'000, 50'000, 100'000, 200'000, 500'000, 1'000'000};
inline constexpr std::array<uint64_t, 11> kRowBounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

template <size_t N>
class Buckets {
 public:
  explicit Buckets(const std::array<uint64_t, N>& bounds) : bounds_(&bounds) {}
  void Add(uint64_t value) {
    size_t i = 0;
    while (i < N && value > (*bounds_)[i]) ++i;  // most are small
    counts_[i].Add();
    sum_.Add(value);
  }
  // Of bucket i alone; the last has no bound.
  uint64_t count(size_t i) const { return counts_[i].value(); }
  uint64_t sum() const { return sum_.value(); }
  static constexpr size_t kBuckets = N + 1;
  const std::array<uint64_t, N>& bounds() const { return *bounds_; }

 private:
  const std::array<uint64_t, N>* bounds_;
  std::array<Count, N + 1> counts_;
  Count sum_;
};
using Times = Buckets<kTimeBounds.size()>;

struct alignas(64) ShardCounters {
  // As they are now.
  Count sessions, attached, parked, streams;
  // Since the start.
  Count opened, closed, expired, unparked;
  Count turns, steps;                    // of sessions, committed
  Count predicts, predict_steps;         // whole sequences, answered
  std::array<Count, v1::Reason_ARRAYSIZE> rejects;  // by reason
  Count shared_batches;  // of which other shards computed a part
  Count over_wait;  // turns that were refused for what others would have kept them waiting
  Count over_sessions, over_steps;  // what a caller was refused for its own limits: sessions or their bytes, and steps a second
  Count kernel_failures, set_aside, lost_answers;  // what must stay zero
  Times batch_us{kTimeBounds};    // one step of a batch
  Times compute_us{kTimeBounds};  // of a turn, from its beginning to its last step
  Times queue_us{kTimeBounds};    // of a turn, from its receipt to its beginning
  Times commit_us{kTimeBounds};   // of a stored turn, to its slot
  Times sync_us{kTimeBounds};     // of what waited for the disk
  Buckets<kRowBounds.size()> rows{kRowBounds};  // of a batch
};

}  // namespace lstm::server
