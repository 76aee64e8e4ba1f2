// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

// The client's bookkeeping of one session (docs/protocol.md, "What a client does") as a pure state machine: no threads,
// clock, randomness or gRPC. Not thread-safe: its owner locks.
//
//   opening --Opened--> live --Lost--> resuming --Resumed--> live --Closed--> closed
//   and to ended(status) from everywhere.
//
// Every turn is answered exactly once and in order of Send: with its Result, or with why there will be none. Turns are kept
// until they are answered. Those that the server refuses for the moment are sent again once all that is outstanding is
// answered; one that is refused for good fails, and with it those behind it, none of which was applied.
//
// The owner carries out what each call adds to `Actions`, in order, and gives no response of a connection after it
// called Lost for it. Requests that it drops because the connection is gone are no loss, if it calls Lost then.
class SessionLog {
 public:
  enum class Phase { kOpening, kResuming, kLive, kClosed, kEnded };
  struct Answer {
    uint64_t seq;  // of a turn that failed: free again
    bool missed;   // to a turn that another process sent before this one took the session up
    absl::StatusOr<v1::Result> result;
  };
  struct Actions {
    std::vector<v1::Request> requests;  // for the connection, in order
    std::vector<Answer> answers;        // to be handed over, in order
    std::optional<uint32_t> pause_ms;   // call Retry after about this long; jitter is the owner's
  };

  // A session to be opened as `open` says; it has its nonce and its holder already, unless it is simple. `keep_turns`: that many answered
  // turns which are not yet durable are kept with their digests, to be computed again by a server that lost them (R8).
  explicit SessionLog(v1::Open open, size_t keep_turns = 0);
  // A session that lives on the server, from what Save gave. INVALID_ARGUMENT where that is none. The answers that were
  // missed come first, before any of this process.
  static absl::StatusOr<SessionLog> FromSaved(const std::string& saved, size_t keep_turns = 0, uint64_t holder = 0);

  // The handle as a message. INVALID_ARGUMENT where it is none.
  static absl::StatusOr<v1::Resume> Parse(const std::string& saved);

  // A connection is there: Open or Resume goes out on `lane`, which must be free on it.
  void Connected(uint32_t lane, Actions& out);
  // The connection is gone. Only a simple session ends by that, with `why`: it cannot be resumed.
  void Lost(const absl::Status& why, Actions& out);
  // The pause that was asked for is over. Does nothing where it is not wanted any more.
  void Retry(Actions& out);
  // A response of this lane. A Result's tensors are moved out of it.
  void Take(v1::Response& response, Actions& out);
  // Queues a turn and gives its seq; sent at once where that may be, else later. REQUIRES: room().
  uint64_t Send(v1::Step step, Actions& out);
  // Closes the session on the server, once every turn is answered. No Send after it.
  void Close(Actions& out);
  // The owner will not wait any longer: the session ends with `why`. (A VOLATILE one that waits for Closed is closed.)
  void GiveUp(const absl::Status& why, Actions& out);

  // A serialized v1::Resume, with all that FromSaved needs. It HOLDS THE SECRET TOKEN: who has it has the session.
  // FAILED_PRECONDITION before the session is open and once it has ended.
  absl::StatusOr<std::string> Save() const;

  Phase phase() const { return phase_; }
  bool over() const { return phase_ == Phase::kClosed || phase_ == Phase::kEnded; }
  // A turn may be sent.
  bool room() const;
  // Turns without an answer, missed ones included.
  size_t unanswered() const { return turns_.size() - Kept() + failed_.size(); }
  bool missing() const { return turns_.size() > Kept() && turns_[Kept()].missed; }
  uint64_t have_seq() const { return have_seq_; }
  // Why it ended; OK in every other phase.
  const absl::Status& status() const { return status_; }
  // The last refusal of an Open or a Resume that may succeed later; OK where it has succeeded.
  const absl::Status& refusal() const { return refusal_; }
  // What the server granted; of a session taken up, as Resumed tells it.
  const v1::Opened& opened() const { return opened_; }
  bool simple() const { return open_.simple(); }

 private:
  struct Turn {
    v1::Step step;
    std::string digest;    // of the state after it, once it is answered
    bool missed = false;   // somebody else's: its input is not known
    bool refused = false;  // for the moment, on this connection
  };

  SessionLog() = default;
  size_t Kept() const { return static_cast<size_t>(have_seq_ + 1 - base_); }
  uint64_t Next() const { return base_ + turns_.size(); }
  Turn& At(uint64_t seq) { return turns_[static_cast<size_t>(seq - base_)]; }
  uint32_t Window() const;
  void Attach(Actions& out);
  void OnOpened(const v1::Opened& opened, Actions& out);
  void OnResumed(const v1::Resumed& resumed, Actions& out);
  void OnResult(v1::Result& result, Actions& out);
  void OnReject(const v1::Reject& reject, Actions& out);
  void OnAttachRefused(const v1::Reject& reject, Actions& out);
  void FailFrom(uint64_t seq, const absl::Status& status);
  void Trim();
  void Go(uint64_t answer, uint64_t send, Actions& out);
  void Settle(Actions& out);
  void End(Phase phase, const absl::Status& status, const absl::Status& of_turns, Actions& out);
  void Fail(const absl::Status& status, Actions& out) { End(Phase::kEnded, status, status, out); }

  v1::Open open_;      // opened here
  v1::Opened opened_;  // id and token are in it
  size_t keep_turns_ = 0;
  Phase phase_ = Phase::kOpening;
  bool known_ = false;      // the seqs of new turns are known: opened, or taken up
  bool connected_ = false;
  bool pausing_ = false, closing_ = false, close_sent_ = false;
  uint32_t lane_ = 0, attempts_ = 0, pause_ms_ = 0;
  uint64_t attached_ = 0, attached_before_ = 0;  // Opens and Resumes sent; those before the last that succeeded
  uint64_t have_seq_ = 0, durable_seq_ = 0;
  std::string have_digest_;
  absl::Status status_, refusal_;

  // Turns of the seqs from base_: those up to have_seq_ are answered and kept, the others wait for their answer.
  std::deque<Turn> turns_;
  uint64_t base_ = 1;
  std::vector<absl::Status> failed_;  // turns behind them, which will fail once those in front are answered
  // On this connection: the seqs in [answer_, send_) are owed an answer, or refused for the moment. Up to due_ they come by
  // themselves, behind Resumed. answer_ <= have_seq_ while turns are computed again.
  uint64_t answer_ = 1, send_ = 1, due_ = 0;
  size_t refused_ = 0;
  size_t ghosts_ = 0;  // failed turns whose own refusal is still to come; nothing is sent until then, so that none is mistaken
};

}  // namespace lstm::client
