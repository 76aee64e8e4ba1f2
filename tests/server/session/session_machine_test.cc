// SPDX-License-Identifier: MIT
#include "server/session/session_machine.h"

#include <gtest/gtest.h>

namespace lstm::server {
namespace {

using Position = SessionMachine::Position;

constexpr InputDigest Digest(uint64_t n) { return {n, ~n}; }

class SessionMachineTest : public ::testing::Test {
 protected:
  void Queue(uint64_t seq, uint64_t deadline = 0) {
    ASSERT_EQ(machine_.Classify(seq, 0).position, Position::kFresh);
    machine_.Admit(seq, Digest(seq), deadline);
  }
  void Apply() {
    ASSERT_TRUE(machine_.Begin(0, refused_).has_value());
    machine_.Commit();
  }
  SessionMachine machine_{{.window = 3}};
  std::vector<Refused> refused_;
};

TEST_F(SessionMachineTest, R2TurnsAreAppliedInOrderOneAtATime) {
  Queue(1), Queue(2);
  EXPECT_EQ(machine_.Begin(0, refused_), 1u);
  EXPECT_EQ(machine_.Begin(0, refused_), std::nullopt) << "one turn at most is being computed";
  EXPECT_EQ(machine_.Commit(), 1u);
  EXPECT_EQ(machine_.applied(), 1u);
  EXPECT_EQ(machine_.Begin(0, refused_), 2u);
}

TEST_F(SessionMachineTest, R3ADuplicateIsReplayedJoinedOrRefused) {
  Queue(1), Apply(), Queue(2);
  EXPECT_EQ(machine_.Classify(1, 0).position, Position::kDuplicate);
  EXPECT_EQ(machine_.MatchDuplicate(1, Digest(1)), SessionMachine::Match::kReplay);
  EXPECT_EQ(machine_.MatchDuplicate(1, Digest(9)), SessionMachine::Match::kReused);
  EXPECT_EQ(machine_.MatchDuplicate(2, Digest(2)), SessionMachine::Match::kJoined);
  EXPECT_EQ(machine_.MatchDuplicate(2, Digest(9)), SessionMachine::Match::kReused);
  ASSERT_TRUE(machine_.Begin(0, refused_).has_value());
  EXPECT_EQ(machine_.Commit(), 2u) << "R0: both Steps get the answer";
}

TEST_F(SessionMachineTest, R4AnAcknowledgedSeqIsGone) {
  Queue(1), Apply();
  machine_.Acknowledge(1);
  const auto place = machine_.Classify(1, 0);
  EXPECT_EQ(place.position, Position::kRefused);
  EXPECT_EQ(place.why, Refusal::kAlreadyAcked);
}

TEST_F(SessionMachineTest, R5AGapNamesTheExpectedSeq) {
  Queue(1);
  const auto place = machine_.Classify(3, 0);
  EXPECT_EQ(place.position, Position::kRefused);
  EXPECT_EQ(place.why, Refusal::kGap);
  EXPECT_EQ(place.expected_seq, 2u);
  EXPECT_EQ(machine_.Classify(0, 0).why, Refusal::kGap) << "0 is a seq in simple sessions alone";
}

TEST_F(SessionMachineTest, R5aARefusedTurnCancelsWhatWaitsBehindIt) {
  Queue(1), Queue(2), Queue(3);
  ASSERT_TRUE(machine_.Begin(0, refused_).has_value());
  machine_.Abort(Refusal::kRetry, refused_);
  ASSERT_EQ(refused_.size(), 3u);
  EXPECT_EQ(refused_[0].why, Refusal::kRetry);
  EXPECT_EQ(refused_[2].seq, 3u);
  EXPECT_EQ(refused_[2].why, Refusal::kGap);
  EXPECT_EQ(refused_[2].expected_seq, 1u);
  EXPECT_EQ(machine_.last(), 0u);
  EXPECT_EQ(machine_.Classify(1, 0).position, Position::kFresh);
}

TEST_F(SessionMachineTest, R6TheWindowCountsWhatIsNotAcknowledged) {
  Queue(1), Apply(), Queue(2), Queue(3);
  EXPECT_EQ(machine_.Classify(4, 0).why, Refusal::kWindow);
  EXPECT_EQ(machine_.Classify(4, 1).position, Position::kFresh) << "R7: the ack of the same message counts first";
}

TEST_F(SessionMachineTest, R7AnAckNeverPassesWhatWasApplied) {
  Queue(1), Apply(), Queue(2);
  machine_.Acknowledge(99);
  EXPECT_EQ(machine_.acked(), 1u);
  machine_.Acknowledge(0);
  EXPECT_EQ(machine_.acked(), 1u);
}

TEST_F(SessionMachineTest, R10AnExpiredTurnIsRefusedUnexecutedWithWhatWaitsBehind) {
  Queue(1, 100), Queue(2);
  EXPECT_EQ(machine_.Begin(101, refused_), std::nullopt);
  ASSERT_EQ(refused_.size(), 2u);
  EXPECT_EQ(refused_[0].why, Refusal::kDeadline);
  EXPECT_EQ(refused_[1].why, Refusal::kGap);
  Queue(1, 100);
  EXPECT_EQ(machine_.Begin(100, refused_), 1u) << "in time";
}

TEST_F(SessionMachineTest, DetachForgetsWhatWaitsAndAnswersNobody) {
  Queue(1), Queue(2);
  ASSERT_TRUE(machine_.Begin(0, refused_).has_value());
  machine_.Detach();
  EXPECT_EQ(machine_.last(), 1u);
  EXPECT_EQ(machine_.Commit(), 0u);
  EXPECT_EQ(machine_.applied(), 1u);
}

TEST(SimpleSessionTest, ZeroIsTheNextAndTheWindowDoesNotRefuse) {
  SessionMachine machine({.window = 1, .simple = true});
  for (uint64_t i = 1; i <= 5; ++i) {
    const auto place = machine.Classify(0, 0);
    ASSERT_EQ(place.position, Position::kFresh);
    EXPECT_EQ(place.seq, i);
    machine.Admit(place.seq, Digest(i), 0);
  }
  EXPECT_EQ(machine.waiting(), 5u);
}

}  // namespace
}  // namespace lstm::server
