// SPDX-License-Identifier: MIT
#include "client/cpp/hold.h"

#include <gtest/gtest.h>

#include <vector>

namespace lstm::client {
namespace {

constexpr std::chrono::microseconds kSoon(10);

struct Turn {
  uint32_t lane;
  uint64_t seq;
};

v1::StreamRequest Message(const std::vector<Turn>& turns) {
  v1::StreamRequest message;
  for (const Turn& turn : turns) {
    message.add_requests()->mutable_step()->set_lane(turn.lane);
    message.mutable_requests()->rbegin()->mutable_step()->set_seq(turn.seq);
  }
  message.add_requests()->mutable_touch()->set_lane(99);
  return message;
}

class HoldTest : public ::testing::Test {
 protected:
  bool Holds() const { return hold_.holds(now_ + kSoon); }
  Hold hold_;
  Hold::Clock::time_point now_ = Hold::Clock::time_point(std::chrono::hours(1));
};

TEST_F(HoldTest, NothingWaitsWhereTheServerAnswers) {
  for (uint64_t seq = 1; seq < 10; ++seq) {
    EXPECT_FALSE(Holds());
    hold_.Wrote(Message({{1, seq}}), now_);
    EXPECT_FALSE(Holds());
    hold_.Answered(1, seq);
  }
}

TEST_F(HoldTest, WithTwoOutTheNextWaitsForTheLastTurnOfOne) {
  hold_.Wrote(Message({{1, 1}, {2, 1}}), now_);
  hold_.Wrote(Message({{3, 1}, {4, 1}}), now_);
  EXPECT_TRUE(Holds());
  hold_.Answered(1, 1);
  hold_.Answered(3, 1);
  EXPECT_TRUE(Holds());
  hold_.Answered(2, 1);
  EXPECT_FALSE(Holds());
}

TEST_F(HoldTest, ARefusalIsAnAnswer) {
  hold_.Wrote(Message({{1, 1}}), now_);
  hold_.Wrote(Message({{1, 2}}), now_);
  v1::Response response;
  response.mutable_reject()->set_lane(1);
  response.mutable_reject()->set_seq(1);
  hold_.Answered(response);
  EXPECT_FALSE(Holds());
}

TEST_F(HoldTest, NoneWaitsLongerThanTheLimit) {
  hold_.Wrote(Message({{1, 1}}), now_);
  hold_.Wrote(Message({{1, 2}}), now_);
  EXPECT_TRUE(hold_.holds(now_ + Hold::kLongest - kSoon));
  EXPECT_FALSE(hold_.holds(now_ + Hold::kLongest));
  EXPECT_EQ(hold_.until(), now_ + Hold::kLongest);
  now_ += Hold::kLongest;
  hold_.Wrote(Message({{2, 1}}), now_);
  EXPECT_TRUE(Holds());
}

TEST_F(HoldTest, TurnsOfALaneThatEndedAreForgottenWithTheNextAnswer) {
  hold_.Wrote(Message({{1, 5}}), now_);
  hold_.Wrote(Message({{1, 6}}), now_);
  hold_.Wrote(Message({{2, 1}}), now_);
  hold_.Answered(2, 1);
  EXPECT_FALSE(Holds());
  hold_.Wrote(Message({{2, 2}}), now_);
  EXPECT_FALSE(Holds());
}

TEST_F(HoldTest, MessagesWithoutTurnsDoNotCountAndALostConnectionForgetsAll) {
  for (int i = 0; i < 5; ++i) hold_.Wrote(Message({}), now_);
  EXPECT_FALSE(Holds());
  hold_.Wrote(Message({{1, 1}}), now_);
  hold_.Wrote(Message({{1, 2}}), now_);
  hold_.Clear();
  EXPECT_FALSE(Holds());
}

}  // namespace
}  // namespace lstm::client
