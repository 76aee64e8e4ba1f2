// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lstm::server {

// Whether the server serves: a step of its own, the canary, is sent through every shard four times a second, by the way that all
// steps go. The answer is yes while none has been under way for a second, and the last one of each shard was computed.
//
// A second is four ticks of this thread: a process that was stopped as a whole and goes on is not taken for one that hangs.
class HealthCanary {
 public:
  // Begins a step on a shard; `done(computed)` once, on any thread, perhaps never.
  using Begin = std::function<void(size_t shard, std::function<void(bool computed)> done)>;
  // Told what has changed, under a lock: first when all shards have answered once.
  using Tell = std::function<void(bool serving)>;

  HealthCanary(size_t shards, Begin begin, Tell tell) : begin_(std::move(begin)), tell_(std::move(tell)), shards_(shards) {}
  ~HealthCanary() { Close(); }

  // Sends the first steps and waits until they are back, but not longer than a second; from then on a thread ticks.
  void Start();
  // NOT_SERVING from here on, whatever happens. What is under way may still come back.
  void Close();
  bool serving() const;

  // What the thread does every quarter of a second; for tests, which have no thread.
  void Tick();

 private:
  static constexpr int kTicksOfPatience = 4;
  struct One {
    bool under_way = false, computed = false;
    int ticks = 0;  // that it has been under way
  };
  void OnDone(size_t shard, bool computed);
  void Judge();  // with the lock held

  const Begin begin_;
  const Tell tell_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<One> shards_;  // guarded by mutex_, as the next
  bool serving_ = false, closed_ = false;
  std::thread thread_;
};

}  // namespace lstm::server
