// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/base/ring_buffer.h"

namespace lstm::server {

// 128 bits over all that decides the answer to a Step: steps, tensors, reset_before, discard; never ack or deadline.
struct InputDigest {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const InputDigest&, const InputDigest&) = default;
};

// Why the machine refuses a turn; the front maps it to lstm.v1.Reason.
enum class Refusal { kGap, kWindow, kAlreadyAcked, kSeqReused, kDeadline, kRetry, kNonFinite, kInvalid };

// A queued turn that will not be computed. Each of the `copies` Steps that asked for it gets this Reject.
struct Refused {
  uint64_t seq;
  Refusal why;
  uint64_t expected_seq;  // with kGap: where to send again from
  uint32_t copies;
};

// The protocol's rules for one session (docs/protocol.md: R0 to R10), as a pure state machine: no threads, clock, files,
// payloads or gRPC types. Confined to the session's shard.
//
//   K = acked() <= A = applied() <= last()
//
// Seqs in (K, A] are answered and cached, seqs in (A, last()] wait, the first of them perhaps being computed. The owner
// keeps one record per seq in (K, last()], in that order: after any call it drops records from the front up to acked()
// and from the back down to last().
//
// A Step goes through Classify (position alone; its ack is applied first, R7), then, with its content checked and
// digested, through Admit or MatchDuplicate:
//   kFresh      -> Admit(...): it waits as last(); or, where the content is bad, nothing: the Step gets its Reject
//   kDuplicate  -> MatchDuplicate(seq, digest)
//   kRefused    -> a Reject with `why`
class SessionMachine {
 public:
  struct Options {
    uint32_t window = 8;   // W >= 1
    bool simple = false;   // seq 0 is the next; no WINDOW; every answer counts as acknowledged when it is handed over
    bool operator==(const Options&) const = default;
  };
  enum class Position { kFresh, kDuplicate, kRefused };
  struct Classified {
    Position position;
    uint64_t seq;           // the Step's, or the next one where a simple session sent 0
    Refusal why;            // with kRefused
    uint64_t expected_seq;  // with kRefused and kGap
  };
  enum class Match {
    kReplay,   // answered: send the stored bytes again, marked as replayed
    kJoined,   // waiting: one more copy of its answer is due
    kReused,   // another input under the same seq: Reject kSeqReused
  };

  enum class Reconciled { kAgreed, kLost, kAlreadyAcked };

  explicit SessionMachine(const Options& options) : options_(options) {}

  // As a stored record says: `answered` are the digests of the seqs in (acked, applied]; the session began at `base`.
  void Restore(uint64_t epoch, uint64_t base, uint64_t applied, uint64_t acked, const std::vector<InputDigest>& answered);

  // R1: another attachment takes the session. The epoch rises; what waits or is computed for the older one is forgotten.
  void Attach();

  // R8: what the client holds against what is stored. `agrees`: have_seq is applied() and its digest is the state's, or
  // the client sent none. With kAgreed, have_seq counts as an acknowledgement.
  Reconciled Reconcile(uint64_t have_seq, bool agrees, uint64_t replay_from);

  // R1: a second Open (Fork, Import) with the same nonce may attach: nothing was acknowledged since.
  bool nonce_valid() const;

  // R7, then R3 to R6. `seq` 0 is the next in a simple session, kGap otherwise.
  Classified Classify(uint64_t seq, uint64_t ack);

  // Queues the fresh turn that was just classified: it becomes last(). `deadline_us` is an instant of the owner's clock;
  // 0: none. REQUIRES: seq == last() + 1.
  void Admit(uint64_t seq, const InputDigest& digest, uint64_t deadline_us);

  Match MatchDuplicate(uint64_t seq, const InputDigest& digest);

  // Starts the next turn, if one waits and none is being computed. Turns whose deadline passed before `now_us` are refused
  // instead, each with all that waits behind it (R10, R5a); they are appended to `refused`.
  std::optional<uint64_t> Begin(uint64_t now_us, std::vector<Refused>& refused);

  // The turn being computed is committed: applied() moves on by one. Returns the copies of its answer that are due.
  // REQUIRES: computing().
  uint32_t Commit();

  // The turn being computed is refused, and all that waits behind it is cancelled (R5a). Appended to `refused` in order
  // of seq, the turn itself first. REQUIRES: computing().
  void Abort(Refusal why, std::vector<Refused>& refused);

  // Touch, or an answer handed to gRPC in a simple session: K = max(K, min(seq, A)).
  void Acknowledge(uint64_t seq);

  // The stream is gone: nothing that waits will be computed, and no answer to it is sent. A turn being computed goes on;
  // its Commit then returns 0 copies.
  void Detach();

  uint64_t epoch() const { return epoch_; }
  uint64_t acked() const { return acked_; }
  uint64_t applied() const { return applied_; }
  uint64_t last() const { return applied_ + waiting_.size(); }
  uint32_t waiting() const { return static_cast<uint32_t>(waiting_.size()); }  // the computing one included
  bool computing() const { return computing_; }
  const Options& options() const { return options_; }

 private:
  struct Waiting {
    InputDigest digest;
    uint64_t deadline_us;
    uint32_t copies;
  };
  // Refuses waiting_[0] with `why` and cancels all behind it.
  void CancelFrom(Refusal why, std::vector<Refused>& refused);

  Options options_;
  uint64_t epoch_ = 1;
  uint64_t base_ = 0;
  uint64_t acked_ = 0;
  uint64_t applied_ = 0;
  core::RingBuffer<InputDigest> answered_;  // of the seqs in (K, A]
  core::RingBuffer<Waiting> waiting_;       // of the seqs in (A, last()]
  bool computing_ = false;  // waiting_[0]
};

}  // namespace lstm::server
