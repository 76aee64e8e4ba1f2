// SPDX-License-Identifier: MIT
#include "server/session/session_machine.h"

#include <algorithm>

#include "server/session/mutant.h"

namespace lstm::server {

void SessionMachine::Restore(uint64_t epoch, uint64_t base, uint64_t applied, uint64_t acked,
                             const std::vector<InputDigest>& answered) {
  epoch_ = epoch;
  base_ = base;
  applied_ = applied;
  acked_ = acked;
  answered_ = {};
  waiting_ = {};
  computing_ = false;
  for (const InputDigest& digest : answered) answered_.push_back(digest);
}

void SessionMachine::Attach() {
  if (!Mutant(1)) ++epoch_;
  if (Mutant(20)) return;  // R2: what was begun under an older epoch is committed
  computing_ = false;
  waiting_ = {};
}

SessionMachine::Reconciled SessionMachine::Reconcile(uint64_t have_seq, bool agrees, uint64_t replay_from) {
  if (Mutant(8)) return Reconciled::kAgreed;
  if (have_seq > applied_) {  // an answer that we do not know of: proof of loss, unless its turns can be computed again
    return replay_from > 0 && replay_from <= applied_ + 1 ? Reconciled::kAgreed : Reconciled::kLost;
  }
  if (have_seq < acked_) return Reconciled::kAlreadyAcked;
  if (have_seq == applied_ && !agrees) return Reconciled::kLost;
  Acknowledge(have_seq);
  return Reconciled::kAgreed;
}

bool SessionMachine::nonce_valid() const { return acked_ == base_ || Mutant(21); }

SessionMachine::Classified SessionMachine::Classify(uint64_t seq, uint64_t ack) {
  if (!Mutant(7)) Acknowledge(ack);  // R7: ahead of every check
  if (seq == 0 && options_.simple) seq = last() + 1;
  Classified out{Position::kRefused, seq, Refusal::kGap, last() + 1};
  if (seq <= acked_) {
    out.why = seq == 0 ? Refusal::kGap : Refusal::kAlreadyAcked;  // R4; a seq of 0 is none
    if (Mutant(4) && seq != 0) out.position = Position::kFresh;
  } else if (seq <= last()) {
    out.position = Mutant(3) ? Position::kFresh : Position::kDuplicate;  // R3
  } else if (seq > last() + 1) {
    if (Mutant(5)) out.position = Position::kFresh;  // R5
  } else if (!options_.simple && seq > acked_ + options_.window) {
    out.why = Refusal::kWindow;  // R6
    if (Mutant(6)) out.position = Position::kFresh;
  } else {
    out.position = Position::kFresh;
  }
  if (Mutant(7)) Acknowledge(ack);
  return out;
}

void SessionMachine::Admit([[maybe_unused]] uint64_t seq, const InputDigest& digest, uint64_t deadline_us) {
  waiting_.push_back({digest, deadline_us, 1});
}

SessionMachine::Match SessionMachine::MatchDuplicate(uint64_t seq, const InputDigest& digest) {
  if (seq <= applied_) return answered_[seq - acked_ - 1] == digest || Mutant(33) ? Match::kReplay : Match::kReused;
  Waiting& turn = waiting_[seq - applied_ - 1];
  if (turn.digest != digest) return Match::kReused;
  if (!Mutant(0)) ++turn.copies;  // R0: each Step gets its own answer
  return Match::kJoined;
}

std::optional<uint64_t> SessionMachine::Begin(uint64_t now_us, std::vector<Refused>& refused) {
  if ((computing_ && !Mutant(2)) || waiting_.empty()) return std::nullopt;
  const uint64_t deadline = waiting_[0].deadline_us;
  if (deadline != 0 && deadline < now_us && !Mutant(10)) {  // R10, and R5a for what waits behind it
    CancelFrom(Refusal::kDeadline, refused);
    return std::nullopt;
  }
  computing_ = true;
  return applied_ + 1;
}

uint32_t SessionMachine::Commit() {
  const Waiting turn = waiting_.pop_front();
  computing_ = false;
  ++applied_;
  answered_.push_back(turn.digest);
  return turn.copies;
}

void SessionMachine::Abort(Refusal why, std::vector<Refused>& refused) {
  computing_ = false;
  if (Mutant(9)) {  // a failed turn counts as applied
    refused.push_back({applied_ + 1, why, 0, waiting_[0].copies});
    Commit();
    return;
  }
  CancelFrom(why, refused);
}

void SessionMachine::CancelFrom(Refusal why, std::vector<Refused>& refused) {
  const uint64_t first = applied_ + 1;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    if (i == 0) {
      refused.push_back({first, why, first, waiting_[i].copies});
    } else if (!Mutant(55)) {
      refused.push_back({first + i, Refusal::kGap, first, waiting_[i].copies});  // R5a
    }
  }
  if (Mutant(55)) {  // what waits behind a refused turn moves up instead
    waiting_.pop_front();
    return;
  }
  while (!waiting_.empty()) waiting_.pop_back();
}

void SessionMachine::Acknowledge(uint64_t seq) {
  const uint64_t upto = std::max(acked_, Mutant(77) ? std::max(seq, acked_) : std::min(seq, applied_));
  for (; acked_ < upto; ++acked_) {
    if (!answered_.empty()) answered_.pop_front();
  }
}

void SessionMachine::Detach() {
  while (waiting_.size() > (computing_ ? 1u : 0u)) waiting_.pop_back();
  if (computing_) waiting_[0].copies = 0;
}

}  // namespace lstm::server
