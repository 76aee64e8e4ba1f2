// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lstm::client {

using Clock = std::chrono::steady_clock;

// The value below which the part `p` of them lies; 0 of none.
double Percentile(const std::vector<float>& sorted, double p);

// What came of a paced run. Latencies are from the moment a turn was due.
struct Paced {
  size_t sessions = 0;
  uint64_t turns = 0;   // answered, of those that count
  uint64_t errors = 0;
  std::string first_error;
  uint64_t answered = 0;  // since the warm-up, whenever they were due
  double seconds = 0;   // from the first due turn that counts to the last answer
  std::vector<float> latencies_us;  // sorted
  std::vector<float> late_us;       // sorted: how long after it was due the client itself sent a turn
  bool stopped = false;             // before its time: the bar could not be kept any more
  uint64_t closed = 0, cut = 0;     // sessions replaced, by a Close and by a cut connection
  uint64_t abandoned = 0;           // turns whose connection was cut before their answers

  double p(double part) const { return Percentile(latencies_us, part); }
};

// What all sessions together saw. Thread-safe.
class LoadTally {
 public:
  void Reset(size_t expected, double bar_us);
  void Sent() { unanswered_.fetch_add(1, std::memory_order_relaxed); }
  // `counts`: not of the warm-up.
  void Answered(Clock::time_point due, const absl::Status& status, bool counts);
  void Abandoned(uint64_t turns) { unanswered_ -= turns; }
  void Failed(const absl::Status& status);

  uint64_t unanswered() const { return unanswered_.load(); }
  uint64_t answered() const { return answered_.load(); }
  uint64_t beyond_bar() const { return beyond_bar_.load(); }
  uint64_t errors() const { return errors_.load(); }
  void Take(Paced& paced);

 private:
  std::atomic<uint64_t> unanswered_{0}, answered_{0}, beyond_bar_{0}, errors_{0};
  double bar_us_ = 0;
  std::mutex mutex_;
  std::vector<float> latencies_us_;
  std::string first_error_;
};

}  // namespace lstm::client
