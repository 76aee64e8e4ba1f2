// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/chaos/plan.h"

namespace lstm::testing {

// Clients of one address, each with streams, whose seats run session after session of the plans until they are told to stop,
// and hold every answer against the undisturbed run: the same bits, each once, in order, none missing. Now and then a seat
// saves its session, lets go of it with turns under way, and takes it up again on another stream. Thread-safe.
class Crowd {
 public:
  struct Options {
    std::string address;
    size_t clients = 4, streams = 2, seats = 8;  // streams of each client, seats of each stream
    bool host = true;                            // a quarter of the sessions HOST; the others PROCESS
    bool hand_over = true;
    absl::Duration keepalive = absl::Seconds(20);
    uint64_t seed = 1;
  };
  Crowd(const Options& options, const std::vector<Plan>& plans);
  ~Crowd();

  // No more sessions are opened; waits until those that are open are through and closed. Once there was a violation nothing
  // is waited for.
  void Finish();

  // The next session that is opened gets room for this many bytes of answers: for a size of slot that the store has not yet.
  void WantRoom(uint64_t answer_bytes) { room_ = answer_bytes; }

  uint64_t answers() const { return answers_; }
  uint64_t replayed() const { return replayed_; }
  uint64_t sessions() const { return sessions_; }
  uint64_t handed_over() const { return handed_over_; }
  uint64_t lost() const { return lost_; }        // connections that a stream lost
  // Every stream that a seat is on is without its connection; one that nobody is on does not report the loss.
  bool AllDown() const;
  size_t streams() const { return streams_.size(); }
  bool failed() const { return failed_; }
  void Violated(const std::string& what);
  // Empty where everything was kept.
  std::string violations() const;

 private:
  struct Seat;
  void Run(Seat& seat);
  bool OneSession(Seat& seat);
  void Take(Seat& seat, uint64_t seq, const absl::StatusOr<v1::Result>& result);

  const Options options_;
  const std::vector<Plan>& plans_;
  std::vector<std::unique_ptr<client::Client>> clients_;
  std::vector<std::unique_ptr<client::Stream>> streams_;
  std::vector<std::unique_ptr<Seat>> seats_;
  std::atomic<uint64_t> answers_{0}, replayed_{0}, sessions_{0}, handed_over_{0}, lost_{0}, mended_{0}, room_{0};
  std::atomic<bool> stopping_{false}, failed_{false};
  mutable std::mutex mutex_;
  std::vector<std::string> violations_;  // guarded by mutex_
};

}  // namespace lstm::testing
