// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <malloc.h>

#include <iostream>

#include "server/shard/resting.h"
#include "tests/support/session_fixture.h"

// Volatile sessions that nobody uses rest in little more memory than their state, and nobody can tell. tests/sim rests them at random moments.
namespace lstm::server {
namespace {

constexpr uint64_t kSecond = 1'000'000;

class RestTest : public testing::SessionFixture {
 protected:
  testing::ShardWorld::Options Options(size_t shards) override {
    auto options = SessionFixture::Options(shards);
    options.shard.park_after_us = 60 * kSecond;
    options.callers = &callers_;
    return options;
  }
  v1::Opened OpenFor(uint32_t ttl_s, char nonce = 'n') {
    v1::Request request = OpenRequest(nonce, v1::VOLATILE);
    request.mutable_open()->set_ttl_seconds(ttl_s);
    Send(request);
    Settle();
    return Take().opened();
  }
  size_t resting() const {
    size_t n = 0;
    for (size_t i = 0; i < world_->shards(); ++i) n += world_->shard(i).resting();
    return n;
  }
  server::Callers callers_;
};

TEST_F(RestTest, OneThatRestedGoesOnWithTheSameBits) {
  OpenFor(900);
  std::string out = Data(Run(1, 5));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  EXPECT_EQ(world_->shard().sessions(), 1u);
  out += Data(Run(2, 6, 1));
  EXPECT_EQ(resting(), 0u);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  out += Data(Run(3, 7, 2));
  out += Data(Run(4, 8, 3));
  EXPECT_TRUE(out == Undisturbed({5, 6, 7, 8}));
}

TEST_F(RestTest, AnswersThatWereNotAcknowledgedAreStillThere) {
  OpenFor(900);
  const std::string first = Data(Run(1, 5)), second = Data(Run(2, 6)), third = Data(Run(3, 7, 1));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  const v1::Result again = Run(2, 6);
  EXPECT_TRUE(again.replayed());
  EXPECT_TRUE(Data(again) == second);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  EXPECT_TRUE(Data(Run(3, 7)) == third);
  Send(Step(3, 8));  // another input under the same seq
  EXPECT_EQ(Take().reject().reason(), v1::SEQ_REUSED);
  Send(Step(1, 5));
  EXPECT_EQ(Take().reject().reason(), v1::ALREADY_ACKED);
}

TEST_F(RestTest, ItIsResumedOnAnotherStreamOfAnotherShard) {
  const v1::Opened opened = OpenFor(900);
  const v1::Result first = Run(1, 5);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  const v1::Response resumed = Resumed(Resume(opened, 1, first.state_digest()), 1);
  ASSERT_TRUE(resumed.has_resumed()) << resumed.ShortDebugString();
  EXPECT_EQ(resumed.resumed().epoch(), 2u);
  EXPECT_EQ(Take(0).kind_case(), v1::Response::kFenced);
  EXPECT_TRUE(Data(first) + Data(Run(2, 6, 1, 1)) == Undisturbed({5, 6}));
  Wait(61);
  ASSERT_EQ(world_->shard(1).resting(), 1u);
  EXPECT_TRUE(Data(first) + Data(Run(2, 6, 1, 1)) == Undisturbed({5, 6}));  // replayed out of the rest
}

TEST_F(RestTest, AnOpenThatIsRepeatedHasIt) {
  const v1::Opened opened = OpenFor(900);
  Run(1, 5);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  Lose();
  ASSERT_EQ(resting(), 1u);
  v1::Request again = OpenRequest('n', v1::VOLATILE);
  again.mutable_open()->set_ttl_seconds(900);
  Send(again);
  Settle();
  EXPECT_EQ(Take().opened().session_id(), opened.session_id());
  Run(2, 6, 1);
  Wait(61);
  ASSERT_EQ(resting(), 1u);  // and its nonce is void
  Lose();
  Send(again);
  Settle();
  EXPECT_NE(Take().opened().session_id(), opened.session_id());
}

TEST_F(RestTest, ItsOwnInitialStateAndItsOptionsStay) {
  v1::Request request = OpenRequest('n', v1::VOLATILE);
  for (const auto& spec : Models()->Find("french", "").value()->info.state()) {
    v1::Tensor* state = request.mutable_open()->add_initial_state();
    state->set_name(spec.name());
    uint64_t n = 1;
    for (const auto d : spec.shape()) n *= static_cast<uint64_t>(d);
    for (uint64_t i = 0; i < n; ++i) state->add_floats(0.25f);
  }
  request.mutable_open()->mutable_options()->set_timings(true);
  Send(request);
  Settle();
  ASSERT_TRUE(Take().has_opened());
  const std::string first = Data(Run(1, 5));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  v1::Request anew = Step(2, 5, 1);
  anew.mutable_step()->set_reset_before(true);
  Send(anew);
  Settle();
  const v1::Result result = Take().result();
  EXPECT_TRUE(Data(result) == first);
  EXPECT_TRUE(result.has_timings());
}

TEST_F(RestTest, ItsClientIsWarnedAndToldOfItsEnd) {
  OpenFor(300);
  Run(1, 5);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  for (int i = 0; i < 250 && Quiet(); ++i) Wait(1);
  const v1::Response warned = Take();
  ASSERT_TRUE(warned.has_expiring()) << warned.ShortDebugString();
  EXPECT_LE(warned.expiring().in_ms(), 30'000u);
  for (int i = 0; i < 40 && Quiet(); ++i) Wait(1);
  EXPECT_EQ(Take().ended().reason(), v1::EXPIRED);
  EXPECT_EQ(world_->shard().sessions(), 0u);
}

TEST_F(RestTest, AnOrphanEndsAfterItsTime) {
  const v1::Opened opened = OpenFor(0);
  Run(1, 5);
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  Lose();
  ASSERT_EQ(resting(), 1u);
  for (int i = 0; i < 130; ++i) Wait(1);
  EXPECT_EQ(world_->shard().sessions(), 0u);
  EXPECT_EQ(world_->budget().sessions(), 0u);
  EXPECT_EQ(world_->budget().bytes(), 0u);
  const v1::Response gone = Resumed(Resume(opened, 1));
  EXPECT_EQ(gone.reject().reason(), v1::EXPIRED) << gone.ShortDebugString();
}

TEST_F(RestTest, ASimpleOneEndsWithItsStream) {
  v1::Request request = OpenRequest('n', v1::VOLATILE);
  request.mutable_open()->set_simple(true);
  request.mutable_open()->clear_client_nonce();
  Send(request);
  Settle();
  ASSERT_TRUE(Take().has_opened());
  const std::string first = Data(Run(0, 5));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  EXPECT_TRUE(first + Data(Run(0, 6)) == Undisturbed({5, 6}));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  Lose();
  EXPECT_EQ(world_->shard().sessions(), 0u);
  EXPECT_EQ(world_->budget().bytes(), 0u);
}

TEST_F(RestTest, AnOperatorSeesAndClosesIt) {
  const v1::Opened opened = OpenFor(900);
  Run(1, 5);
  const v1::SessionInfo before = *world_->shard().Get(IdOf(opened));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  std::vector<v1::SessionInfo> list;
  EXPECT_EQ(world_->shard().List("french", 10, &list), 1u);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(resting(), 1u);
  EXPECT_LT(list[0].bytes(), before.bytes());
  list[0].set_bytes(before.bytes());
  list[0].set_idle_ms(before.idle_ms());
  EXPECT_EQ(list[0].SerializeAsString(), before.SerializeAsString());
  EXPECT_TRUE(testing::CloseByOperator(world_->shard(), IdOf(opened)).ok());
  EXPECT_EQ(Take().ended().reason(), v1::CANCELLED_BY_OPERATOR);
  EXPECT_EQ(world_->budget().bytes(), 0u);
}

TEST_F(RestTest, ItIsForkedAndExportedAsIfItWereAwake) {
  const v1::Opened opened = OpenFor(900);
  const std::string first = Data(Run(1, 5));
  Wait(61);
  ASSERT_EQ(resting(), 1u);
  v1::ForkSessionRequest fork;
  fork.set_session_id(opened.session_id());
  fork.set_resume_token(opened.resume_token());
  fork.set_client_nonce(std::string(16, 'f'));
  fork.set_at_seq(1);
  v1::ForkSessionResponse branch;
  absl::Status status = absl::UnknownError("not called");
  world_->shard().Fork(fork, "", &branch, [&](const absl::Status& s) { status = s; });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(first + Data(Run(2, 6, 1)) == Undisturbed({5, 6}));
}

TEST_F(RestTest, WhatItCostsAtRestIsItsStateAnd512Bytes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's allocator counts nothing";
#endif
  constexpr size_t kSessions = 20'000;
  auto options = Options(1);
  options.max_sessions = kSessions;
  options.max_bytes = uint64_t{4} << 30;
  testing::ShardWorld world(options, Models(), nullptr, &now_us_);
  testing::Sink sink;
  server::Stream* const stream = world.shard().Attach(&sink, "");
  const auto used = [] { return mallinfo2().uordblks + mallinfo2().hblkhd; };
  const size_t before = used();
  for (uint32_t lane = 1; lane <= kSessions; ++lane) {
    v1::StreamRequest message;
    v1::Request* open = message.add_requests();
    *open = OpenRequest('n', v1::VOLATILE);
    open->mutable_open()->set_lane(lane);
    open->mutable_open()->set_ttl_seconds(900);
    open->mutable_open()->mutable_client_nonce()->replace(0, 4, reinterpret_cast<const char*>(&lane), 4);
    *message.add_requests() = Step(1, 5);
    message.mutable_requests(1)->mutable_step()->set_lane(lane);
    world.shard().OnMessage(stream, message);
    world.Settle();
    v1::StreamRequest touch;
    touch.add_requests()->mutable_touch()->set_lane(lane);
    touch.mutable_requests(0)->mutable_touch()->set_ack(1);
    world.shard().OnMessage(stream, touch);
    sink.responses.clear();
  }
  now_us_ += 61 * kSecond;
  while (world.shard().resting() < kSessions) {
    const size_t rested = world.shard().resting();
    world.shard().RunTimers();
    ASSERT_GT(world.shard().resting(), rested);
    now_us_ += 2'000;
  }
  const double each = static_cast<double>(used() - before) / kSessions;
  const double state = static_cast<double>(Models()->Find("french", "").value()->program->state_floats() * sizeof(float));
  RecordProperty("bytes", std::to_string(each - state));
  std::cout << each - state << " bytes beside the state\n";
  EXPECT_LE(each, state + 512);
  EXPECT_LE(world.budget().bytes(), static_cast<uint64_t>(kSessions * (state + 640)));
}

}  // namespace
}  // namespace lstm::server
