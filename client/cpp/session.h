// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/session_log.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

class Stream;

// One session on a lane of a stream. Thread-safe; turns are applied in the order of their Send calls. Must not outlive its
// stream.
//
// The session survives what the connection suffers, and, where it is not VOLATILE, the death of the server: the stream
// connects again, and every turn gets its answer exactly once, in order, with the bits of an undisturbed run. In the
// meantime everything waits. It ends for good, and every wait with it, where the server does not have it any more
// (NOT_FOUND, DATA_LOSS, see error.h), where another stream took it (IsFenced), or where the stream gives up.
class Session {
 public:
  // Called once for every turn, in order, on a thread of the stream, one at a time: it must not block, nor destroy the
  // session. A Result's outputs are whole.
  using Done = std::function<void(absl::StatusOr<v1::Result>)>;
  // The same for answers to turns of another process that had the session before.
  using Missed = std::function<void(v1::Result)>;

  // Closes the session on the server, unless it was released; where the connection is down at this moment, the session is
  // left to its TTL. Never waits. No callback comes afterwards, not even of unanswered turns.
  ~Session();

  // Queues a turn: `step` says inputs and options, never lane, seq or ack. Waits while the window is full, at most
  // `timeout`: DEADLINE_EXCEEDED then, and the turn was not sent. Other errors: why the session ended.
  absl::Status Send(v1::Step step, Done done, absl::Duration timeout = absl::Seconds(30));

  // Sends one turn and waits for its answer, at most `timeout`, reconnecting included. After DEADLINE_EXCEEDED the turn may
  // still be applied.
  absl::StatusOr<v1::Result> Step(v1::Step step, absl::Duration timeout = absl::Seconds(30));

  // Waits until every turn is answered, then closes the session on the server.
  absl::Status Close(absl::Duration timeout = absl::Seconds(30));

  // A handle with which this or another process can take the session up after the answers that came so far
  // (Stream::Resume). It HOLDS THE SECRET TOKEN: keep it as you keep a password.
  absl::StatusOr<std::string> Save() const;
  // Lets go of the session: it sends nothing and takes no answer from here on, and stays on the server until its TTL, for who has the
  // handle. A Save after it is the last word: what was saved before may be older than what was acknowledged since.
  void Release();

  // What was granted: as it was when Open or Resume returned.
  const v1::Opened& opened() const { return opened_; }

 private:
  friend class Stream;
  using Clock = std::chrono::steady_clock;

  Session(Stream* stream, uint32_t lane, SessionLog log, Missed missed);
  absl::Status WaitOpen(absl::Duration timeout);
  // From the stream, which lets one of them run at a time.
  void OnConnected();
  void OnLost(const absl::Status& why);
  void OnResponse(v1::Response& response);
  void OnRetry();
  void OnGivenUp(const absl::Status& why);
  bool MayMove() const;  // to another server, without a loss
  void LimitPause(SessionLog::Actions& actions);
  void Perform(SessionLog::Actions& actions, std::unique_lock<std::mutex>& lock);

  Stream* const stream_;
  const uint32_t lane_;
  const Missed missed_;
  v1::Opened opened_;  // set before Open or Resume returns

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  SessionLog log_;            // guarded by mutex_, as all below
  std::deque<Done> waiting_;  // of the turns without an answer that were sent here
  Clock::time_point since_ = Clock::now();   // it has not been live
  std::optional<Clock::time_point> refused_;  // the first time since then
  bool handing_ = false;      // answers are being handed over
  bool released_ = false;
};

}  // namespace lstm::client
