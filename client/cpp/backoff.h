// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>

namespace lstm::client {

// low to high, both included.
inline uint32_t Uniform(uint32_t low, uint32_t high) {
  thread_local std::minstd_rand random(std::random_device{}());
  return std::uniform_int_distribution<uint32_t>(low, high)(random);
}

// How long a stream stays away before it is made again. Not thread-safe; no clock of its own.
//
// A connection that had held is made again at once: as a rule the server lives, and where it does not, to be refused costs
// little. All other attempts are spread, so that a server that comes back is not met by all its clients at once, and so that
// connections which are lost as soon as they are made do not become a loop.
class Backoff {
 public:
  static constexpr std::chrono::milliseconds kHeld{100};

  // The connection was one: an answer came over it, and then it held for so long.
  void Had(std::chrono::steady_clock::duration held) {
    at_once_ = held >= kHeld ? kAtOnce : 0;
    attempt_ = 0;
  }

  // Before the next attempt. `told`: the server said to all its clients that they should go, so that none comes at once.
  std::chrono::microseconds Next(bool told = false) {
    if (told) at_once_ = 0;
    if (at_once_ > 0) {
      const bool first = at_once_-- == kAtOnce;
      return std::chrono::microseconds(first ? Uniform(kFirstLowUs, kFirstHighUs) : Uniform(kAtOnceLowUs, kAtOnceHighUs));
    }
    const uint32_t attempt = attempt_++;
    if (attempt == 0) return std::chrono::milliseconds(Uniform(kQuickMs, kFirstMs));
    const uint32_t longest = std::min(kLastMs, kFirstMs << std::min(attempt, 10u));
    return std::chrono::milliseconds(Uniform(longest / 2, longest));
  }

 private:
  // A moment, for a call knows of its end before its channel does. Where that came too soon, the attempt goes the way of the old connection: hence
  // more than one.
  static constexpr uint32_t kAtOnce = 3, kFirstLowUs = 300, kFirstHighUs = 1000, kAtOnceLowUs = 1000, kAtOnceHighUs = 3000;
  static constexpr uint32_t kQuickMs = 20, kFirstMs = 100, kLastMs = 5000;
  uint32_t at_once_ = 0, attempt_ = 0;
};

}  // namespace lstm::client
