// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

class Stream;

// One session on a lane of a stream. Thread-safe; turns are applied in the order of their Send calls. Must not outlive its
// stream.
//
// The library counts and acknowledges, and sends again what the server refused for the moment (RETRY, BYTES, WINDOW):
// after a pause with jitter, once all outstanding turns are answered, in order. A turn that is refused for good fails, and
// with it those that were sent behind it, none of which was applied.
class Session {
 public:
  // Called once for every turn, in order, on the stream's reading thread: it must not
  // block, nor destroy the session. A Result's outputs are whole.
  using Done = std::function<void(absl::StatusOr<v1::Result>)>;

  ~Session();

  // Queues a turn: `step` says inputs and options, never lane, seq or ack. Waits while the window is full, at most
  // `timeout`: DEADLINE_EXCEEDED then, and the turn was not sent. Other errors: why the session ended.
  absl::Status Send(v1::Step step, Done done, absl::Duration timeout = absl::Seconds(30));

  // Sends one turn and waits for its answer, at most `timeout`. After DEADLINE_EXCEEDED the turn may still be applied.
  absl::StatusOr<v1::Result> Step(v1::Step step, absl::Duration timeout = absl::Seconds(30));

  // Waits until every turn is answered, then closes the session on the server.
  absl::Status Close(absl::Duration timeout = absl::Seconds(30));

  const v1::Opened& opened() const { return opened_; }

 private:
  friend class Stream;
  struct Turn {
    v1::Step step;  // kept until it is answered: it may have to be sent again
    Done done;
    bool answered = false;  // refused for the moment: to be sent again
  };

  Session(Stream* stream, uint32_t lane) : stream_(stream), lane_(lane) {}
  // From the stream, on its reading thread.
  void OnOpened(const v1::Opened& opened);
  void OnResult(v1::Result& result);
  void OnReject(const v1::Reject& reject);
  void OnEnd(const absl::Status& status, bool closed);
  void FailFrom(size_t index, const absl::Status& status, std::unique_lock<std::mutex>& lock);
  void Resend(uint32_t after_ms);
  void SendStep(const v1::Step& step);

  Stream* const stream_;
  const uint32_t lane_;
  v1::Opened opened_;  // set before Open returns

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Turn> turns_;    // sent and not answered; seqs from first_seq_
  uint64_t first_seq_ = 1;    // guarded by mutex_, as all below
  uint64_t consumed_seq_ = 0;
  size_t ghosts_ = 0;  // failed turns whose refusal by the server is still to come
  bool is_open_ = false, closed_ = false;
  absl::Status ended_;
};

}  // namespace lstm::client
