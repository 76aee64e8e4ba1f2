// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <chrono>
#include <functional>
#include <mutex>
#include <vector>

namespace lstm::server {

// Spreads streams over the shards: gRPC gives a new stream to any queue that asks for one, so a shard asks only while no
// other has fewer streams. Thread-safe.
class LoadSpread {
 public:
  // `ask(i)`: shard i shall ask for a stream; called without the lock, from any thread.
  LoadSpread(size_t shards, std::function<void(size_t)> ask) : ask_(std::move(ask)), shards_(shards) {}

  // A request of shard `i` was used up by a stream.
  void Opened(size_t i) { Change(i, +1, true); }
  void Closed(size_t i) { Change(i, -1, false); }
  // Every shard asks.
  void Start();

  // Waits until no stream is left; false at the deadline.
  bool WaitForNone(std::chrono::steady_clock::time_point deadline);

 private:
  struct Load {
    int streams = 0;
    bool asking = false;
  };
  void Change(size_t i, int by, bool used_request);

  const std::function<void(size_t)> ask_;
  std::mutex mutex_;
  std::condition_variable none_;
  std::vector<Load> shards_;  // guarded by mutex_
  int streams_ = 0;           // guarded by mutex_
};

}  // namespace lstm::server
