// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>

#include "lstm/v1/session.pb.h"

namespace lstm::client {

// When requests wait for others to go with them. A message costs both sides more than the turns in it, so under load those that come while two
// messages with turns are out without an answer share the next one: as many as the server is slow. Where it answers at once, nothing waits.
// Confined to one thread, or guarded by its owner.
class Hold {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kMostOut = 2;                        // one that is computed, one that waits for it
  static constexpr std::chrono::milliseconds kLongest{4};  // since the last message: one slow session holds up the others of its stream no longer

  // A message was written.
  void Wrote(const v1::StreamRequest& message, Clock::time_point now) {
    for (int i = message.requests_size(); i-- > 0;) {
      if (!message.requests(i).has_step()) continue;
      out_.push_back({message.requests(i).step().lane(), message.requests(i).step().seq()});
      written_at_ = now;
      return;
    }
  }
  // An answer came. True: the last one of a message. Those before it count as answered too: a lane may end, and its answers never come.
  bool Answered(uint32_t lane, uint64_t seq) {
    for (size_t i = out_.size(); i-- > 0;) {
      if (out_[i].lane != lane || out_[i].seq > seq) continue;
      out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(i + 1));
      return true;
    }
    return false;
  }
  bool Answered(const v1::Response& response) {
    return (response.has_result() && Answered(response.result().lane(), response.result().seq())) ||
           (response.has_reject() && Answered(response.reject().lane(), response.reject().seq()));
  }
  // The connection is gone.
  void Clear() { out_.clear(); }

  // What is queued waits, until an answer comes or `until`.
  bool holds(Clock::time_point now) const { return out_.size() >= kMostOut && now < until(); }
  Clock::time_point until() const { return written_at_ + kLongest; }

 private:
  struct Turn {
    uint32_t lane;
    uint64_t seq;
  };
  std::deque<Turn> out_;  // the last turn of each message that is out
  Clock::time_point written_at_;
};

}  // namespace lstm::client
