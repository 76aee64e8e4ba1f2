// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "server/session/session_machine.h"

// Seeded histories of one session: a client that pipelines, repeats, skips, reuses numbers, acknowledges when it likes, goes
// away and comes back, and sends again after a refusal, and an owner whose turns are late, fail or give no number. A seed replays exactly. What must
// hold is written down here once more, apart from the machine: the model below knows nothing of its insides.
#ifndef LSTM_HISTORIES
#define LSTM_HISTORIES 20000
#endif

namespace lstm::server {
namespace {

class History {
 public:
  explicit History(uint64_t seed) : random_(seed), machine_({.window = 1 + static_cast<uint32_t>(random_() % 5)}) {}

  ::testing::AssertionResult Run() {
    for (int step = 0; step < 120 && error_.empty(); ++step) {
      now_ += random_() % 3;
      if (random_() % 31 == 0) {
        Disconnect();
      } else {
        Act();
      }
      Check();
    }
    for (int i = 0; i < 50 && error_.empty() && (computing_ || machine_.waiting() > 0); ++i) {
      Compute();
      Finish();
      Check();
    }
    if (error_.empty() && !owed_.empty()) error_ = "Steps were left without an answer";
    return error_.empty() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << error_;
  }

 private:
  void Act() {
    switch (random_() % 10) {
      case 0: case 1: case 2: case 3: SendNext(); break;
      case 4: SendOdd(); break;
      case 5: Touch(); break;
      case 6: case 7: case 8: Compute(); break;
      default: Finish(); break;
    }
  }

  struct Sent {
    uint64_t input;
    uint64_t deadline;
  };

  void Fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

  void Touch() {
    const uint64_t ack = random_() % (consumed_ + 3);
    machine_.Acknowledge(ack);
    acked_ = std::max(acked_, std::min(ack, applied_));
  }

  void SendNext() {
    const uint64_t seq = machine_.last() + 1;
    const uint64_t deadline = random_() % 8 == 0 ? now_ + random_() % 3 : 0;
    Send(seq, ++input_, random_() % 2 ? consumed_ : 0, deadline);
  }
  // Repeats, reused numbers, gaps, acknowledged numbers, acks of the future.
  void SendOdd() {
    const uint64_t seq = random_() % (machine_.last() + 4);
    const uint64_t input = random_() % 2 && waiting_.contains(seq) ? waiting_[seq].input
                           : random_() % 2 && answers_.contains(seq) ? answers_[seq]
                                                                     : ++input_;
    Send(seq, input, random_() % (consumed_ + 5), 0);
  }

  void Send(uint64_t seq, uint64_t input, uint64_t ack, uint64_t deadline) {
    acked_ = std::max(acked_, std::min(ack, applied_));
    const uint64_t last = applied_ + waiting_.size();
    const auto place = machine_.Classify(seq, ack);
    if (machine_.acked() != acked_) return Fail("R7: the ack was not applied as it should");
    if (place.seq != seq) return Fail("the machine changed a seq");
    const auto refused = [&](Refusal why, const char* rule) {
      if (place.position != SessionMachine::Position::kRefused || place.why != why) Fail(rule);
    };
    if (seq == 0) return refused(Refusal::kGap, "R5: 0 is no seq");
    if (seq <= acked_) return refused(Refusal::kAlreadyAcked, "R4");
    if (seq <= last) {
      if (place.position != SessionMachine::Position::kDuplicate) return Fail("R3: a duplicate was not seen");
      const auto match = machine_.MatchDuplicate(seq, {input, 0});
      const bool answered = seq <= applied_;
      const uint64_t first = answered ? answers_[seq] : waiting_[seq].input;
      const auto expected = first != input ? SessionMachine::Match::kReused : answered ? SessionMachine::Match::kReplay : SessionMachine::Match::kJoined;
      if (match != expected) return Fail("R3: a duplicate was taken wrongly");
      if (match == SessionMachine::Match::kJoined) ++owed_[seq];
      return;
    }
    if (seq > last + 1) {
      refused(Refusal::kGap, "R5");
      if (place.expected_seq != last + 1) Fail("R5: another seq was expected");
      return;
    }
    if (seq > acked_ + machine_.options().window) return refused(Refusal::kWindow, "R6");
    if (place.position != SessionMachine::Position::kFresh) return Fail("a fresh turn was refused");
    if (random_() % 10 == 0) return;  // its content is bad: a Reject, and nothing is queued
    machine_.Admit(seq, {input, 0}, deadline);
    waiting_[seq] = {input, deadline};
    ++owed_[seq];
  }

  void Compute() {
    std::vector<Refused> refused;
    const auto begun = machine_.Begin(now_, refused);
    if (computing_ && begun) return Fail("R2: two turns at a time");
    if (computing_) return;
    if (begun) {
      if (*begun != applied_ + 1 || !waiting_.contains(*begun)) return Fail("R2: another turn than the next was begun");
      const uint64_t deadline = waiting_[*begun].deadline;
      if (deadline != 0 && deadline < now_) return Fail("R10: an expired turn was begun");
      computing_ = true;
      return;
    }
    if (!waiting_.empty() && refused.empty()) return Fail("nothing is computed though a turn waits");
    TakeRefused(refused, Refusal::kDeadline);
  }

  void Finish() {
    if (!computing_) return;
    computing_ = false;
    const uint64_t seq = applied_ + 1;
    if (random_() % 8 == 0) {
      std::vector<Refused> refused;
      machine_.Abort(Refusal::kRetry, refused);
      if (refused.empty()) return Fail("R9: a failed turn was not refused");
      return TakeRefused(refused, Refusal::kRetry);
    }
    const uint32_t copies = machine_.Commit();
    if (copies != owed_[seq]) return Fail("R0: a Step gets one answer, no more and no fewer");
    owed_.erase(seq);
    answers_[seq] = waiting_[seq].input;
    waiting_.erase(seq);
    applied_ = consumed_ = seq;
  }

  // R1: what waits is forgotten, what is being computed goes on, and nobody is answered.
  void Disconnect() {
    machine_.Detach();
    waiting_.erase(waiting_.upper_bound(applied_ + (computing_ ? 1 : 0)), waiting_.end());
    owed_.clear();
  }

  // All that waited goes: the first for its reason, the others as gaps behind it.
  void TakeRefused(const std::vector<Refused>& refused, Refusal why) {
    uint64_t seq = applied_ + 1;
    for (const Refused& r : refused) {
      if (r.seq != seq || !waiting_.contains(seq)) return Fail("a refusal names another turn");
      if (r.why != (seq == applied_ + 1 ? why : Refusal::kGap)) return Fail("a refusal gives another reason");
      if (r.why == Refusal::kGap && r.expected_seq != applied_ + 1) return Fail("R5a: another seq was expected");
      if (r.copies != owed_[seq]) return Fail("R0: a Step gets one Reject, no more and no fewer");
      owed_.erase(seq);
      waiting_.erase(seq++);
    }
    if (!refused.empty() && !waiting_.empty()) Fail("R5a: turns still wait behind a refused one");
  }

  void Check() {
    if (machine_.applied() != applied_) Fail("R2, R9: applied() is not what was committed");
    if (machine_.acked() > machine_.applied()) Fail("R7: more acknowledged than applied");
    if (machine_.last() > machine_.acked() + machine_.options().window) Fail("R6: more than the window is kept");
    if (machine_.waiting() != waiting_.size()) Fail("the queue is not what was admitted");
    if (machine_.acked() != acked_) Fail("R7: acked() is not what was acknowledged");
  }

  std::mt19937_64 random_;
  SessionMachine machine_;
  uint64_t now_ = 1, input_ = 0, applied_ = 0, acked_ = 0, consumed_ = 0;
  bool computing_ = false;
  std::map<uint64_t, Sent> waiting_;      // by seq
  std::map<uint64_t, uint64_t> answers_;  // by seq: the input
  std::map<uint64_t, uint32_t> owed_;     // by seq: Steps without an answer
  std::string error_;
};

TEST(SessionSimulationTest, EveryHistoryKeepsTheRules) {
  for (uint64_t seed = 1; seed <= LSTM_HISTORIES; ++seed) ASSERT_TRUE(History(seed).Run()) << "seed " << seed;
}

}  // namespace
}  // namespace lstm::server
