// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace lstm::server {

// What one caller has of the server, all shards together, and may have at most. Thread-safe, without a lock.
class Account {
 public:
  struct Limits {  // 0: none
    uint64_t sessions = 0;
    uint64_t session_bytes = 0;
    double steps_per_second = 0;
  };

  explicit Account(std::string name) : name_(std::move(name)) {}
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  // What is there already stays, even above them.
  void SetLimits(const Limits& limits);

  // RESOURCE_EXHAUSTED names the limit and what to do.
  absl::Status HasRoom(uint64_t bytes) const;      // for a session; takes nothing
  absl::Status TakeSession(uint64_t bytes);
  void ForceSession(uint64_t bytes);               // for one that was promised before
  void GiveSession(uint64_t bytes);

  // 0: they may be computed, and are charged. Else the microseconds after which something may be again; nothing is charged.
  // A turn that is larger than what is left goes through, and those after it wait the longer for it: else the largest never would.
  uint64_t TakeSteps(uint64_t steps, uint64_t now_us);
  // RESOURCE_EXHAUSTED, for such a time.
  absl::Status TooFast(uint64_t wait_us) const;

  uint64_t sessions() const { return sessions_.load(std::memory_order_relaxed); }
  uint64_t session_bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  absl::Status Over(uint64_t sessions, uint64_t bytes) const;

  const std::string name_;
  std::atomic<uint64_t> max_sessions_{0}, max_bytes_{0};
  std::atomic<double> rate_{0};
  std::atomic<uint64_t> sessions_{0}, bytes_{0};
  std::atomic<uint64_t> paid_until_ns_{0};  // the instant that all steps so far are paid for; in the future: in debt
};

}  // namespace lstm::server
