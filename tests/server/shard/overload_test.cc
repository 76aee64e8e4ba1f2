// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "server/models/model_keeper.h"
#include "tests/support/shard_world.h"

// More work than there is time for: who waits for whom, and what is refused. Time is counted in batches, and by a clock that moves on by as much at
// each look.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;

constexpr size_t kBatch = 16;
constexpr uint32_t kWindow = 256;

class OverloadTest : public ::testing::Test {
 protected:
  static std::shared_ptr<const ModelRepository> Models() {
    static const auto models = *LoadAllModels("models/repository", kBatch);
    return models;
  }
  // Every call of Work computes one batch, unless much waits.
  void Start(uint64_t max_wait_us, uint64_t tick_us, uint64_t most_slice_us = 0) {
    testing::ShardWorld::Options options{.shard = {.slice_us = 0, .most_slice_us = most_slice_us, .max_wait_us = max_wait_us}, .max_sessions = 1000, .max_bytes = 64u << 20};
    options.clock = [this, tick_us] { return now_us_ += tick_us; };
    world_ = std::make_unique<testing::ShardWorld>(options, Models(), nullptr, &now_us_);
    for (size_t i = 0; i < sinks_.size(); ++i) streams_[i] = shard().Attach(&sinks_[i], "");
  }
  Shard& shard() { return world_->shard(); }

  void Open(size_t stream, uint32_t lane, bool simple = false, const char* model = "french") {
    v1::StreamRequest message;
    v1::Open* open = message.add_requests()->mutable_open();
    open->set_lane(lane);
    open->set_model(model);
    open->set_client_nonce(std::string(8, static_cast<char>('a' + stream)) + std::string(7, static_cast<char>(lane >> 8)) + static_cast<char>(lane));
    open->set_window(kWindow);
    open->set_simple(simple);
    shard().OnMessage(streams_[stream], message);
    ASSERT_TRUE(sinks_[stream].responses.back().has_opened()) << sinks_[stream].responses.back().ShortDebugString();
    sinks_[stream].responses.pop_back();
  }
  static void Add(v1::StreamRequest& message, uint32_t lane, uint64_t seq, int steps) {
    v1::Step* step = message.add_requests()->mutable_step();
    step->set_lane(lane);
    step->set_seq(seq);
    step->set_steps(static_cast<uint32_t>(steps));
    v1::Tensor* tensor = step->add_inputs();
    for (int i = 0; i < steps; ++i) tensor->add_ints((static_cast<int>(seq) * 7 + i) % 60);
  }
  void Send(size_t stream, uint32_t lane, uint64_t seq, int steps) {
    v1::StreamRequest message;
    Add(message, lane, seq, steps);
    shard().OnMessage(streams_[stream], message);
  }
  // What has come on a stream since the last look.
  std::vector<v1::Response> Take(size_t stream) {
    std::vector<v1::Response> out(sinks_[stream].responses.begin(), sinks_[stream].responses.end());
    sinks_[stream].responses.clear();
    return out;
  }
  size_t Batches() {
    const auto& times = shard().counters().batch_us;
    size_t all = 0;
    for (size_t i = 0; i < times.kBuckets; ++i) all += times.count(i);
    return all;
  }
  size_t Finish() {
    size_t batches = 0;
    for (; shard().has_work(); ++batches) shard().Work();
    return batches;
  }

  uint64_t now_us_ = 1'000'000'000;
  std::array<testing::Sink, 2> sinks_;  // the hog's, and the others'
  std::array<Stream*, 2> streams_{};
  std::unique_ptr<testing::ShardWorld> world_;
};

TEST_F(OverloadTest, AFullWindowOfLongTurnsTakesOneRowOfEachBatch) {
  Start(0, 0);
  Open(0, 1);
  for (uint64_t seq = 1; seq <= kWindow; ++seq) Send(0, 1, seq, 16);
  for (uint32_t lane = 1; lane <= 8; ++lane) Open(1, lane);
  shard().Work();
  for (uint32_t lane = 1; lane <= 8; ++lane) Send(1, lane, 1, 3);
  for (int batch = 0; batch < 2; ++batch) shard().Work();
  EXPECT_TRUE(sinks_[1].responses.empty());
  shard().Work();
  EXPECT_EQ(Take(1).size(), 8u) << "three steps take three batches, whatever waits elsewhere";
  EXPECT_EQ(Take(0).size(), 1u) << "the hog has had a block of its first turn, while it was alone, and a row of each batch since";
  EXPECT_LT(Finish(), kWindow * 16 - 16 - 3);
}

TEST_F(OverloadTest, WhereABatchHasNotRoomForAllEachIsComputedAsOften) {
  Start(0, 0);
  constexpr uint32_t kOthers = 99;
  Open(0, 1);
  for (uint64_t seq = 1; seq <= kWindow; ++seq) Send(0, 1, seq, 1);
  for (uint32_t lane = 1; lane <= kOthers; ++lane) {
    Open(1, lane);
    for (uint64_t seq = 1; seq <= 20; ++seq) Send(1, lane, seq, 1);
  }
  std::map<uint32_t, int> answers;  // by lane; 0: the hog
  for (int batch = 1; batch <= 100; ++batch) {
    shard().Work();
    answers[0] += static_cast<int>(Take(0).size());
    for (const v1::Response& response : Take(1)) ++answers[response.result().lane()];
    if (batch * kBatch < kOthers + 1) continue;
    const auto [least, most] = std::minmax_element(answers.begin(), answers.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    ASSERT_EQ(answers.size(), kOthers + 1);
    ASSERT_LE(most->second - least->second, 1) << "after " << batch << " batches";
  }
  EXPECT_EQ(answers[0], 100 * static_cast<int>(kBatch) / static_cast<int>(kOthers + 1));
}

TEST_F(OverloadTest, ALongMessageIsTakenInPartsAndAnswersOfOthersComeBetween) {
  Start(0, 0);
  Open(0, 1);
  Open(1, 1);
  v1::StreamRequest flood;
  for (uint64_t i = 0; i < 100'000; ++i) Add(flood, 1, 1000 + i, 1);  // GAP, each of them
  int next = 0, parts = 0;
  for (; next < flood.requests_size(); ++parts) {
    const int before = next;
    size_t share = Shard::kRoundShare;
    next = shard().OnPart(streams_[0], flood, next, &share);
    ASSERT_GT(next, before);
    ASSERT_LE(static_cast<size_t>(next - before), Shard::kRoundShare / 4) << "what is refused takes more of it";
    ASSERT_EQ(Take(0).size(), static_cast<size_t>(next - before));
    Send(1, 1, static_cast<uint64_t>(parts) + 1, 1);
    shard().Work();
    const std::vector<v1::Response> answers = Take(1);
    ASSERT_EQ(answers.size(), 1u);
    ASSERT_TRUE(answers[0].has_result() || answers[0].reject().reason() == v1::WINDOW || answers[0].reject().reason() == v1::GAP);
  }

  v1::StreamRequest large;  // few requests, many bytes: a round's share of those
  for (uint64_t i = 0; i < 100; ++i) Add(large, 1, 1000 + i, 4096);
  size_t share = Shard::kRoundShare;
  const int taken = shard().OnPart(streams_[0], large, 0, &share);
  EXPECT_GE(taken, 1);
  EXPECT_LT(static_cast<size_t>(taken) * large.requests(0).ByteSizeLong(), (Shard::kRoundShare << 10) + large.requests(0).ByteSizeLong());
  EXPECT_EQ(share, 0u);
  EXPECT_EQ(shard().OnPart(streams_[0], large, taken, &share), taken) << "nothing is left of it";
  Take(0);
}

TEST_F(OverloadTest, WhatWouldWaitTooLongIsRefusedAtOnceAndNothingOfItIsApplied) {
  Start(1000, 100);
  constexpr uint32_t kLanes = 50;
  for (uint32_t lane = 1; lane <= kLanes; ++lane) Open(1, lane);
  for (uint64_t seq = 1; seq <= 8; ++seq) Send(1, 1, seq, 1);  // a row costs 100 microseconds by this clock
  Finish();
  ASSERT_EQ(Take(1).size(), 8u);
  const uint64_t bytes = world_->budget().bytes();
  const uint64_t rejected = shard().counters().rejects[v1::RETRY].value();

  uint32_t admitted = 0;
  for (uint32_t lane = 2; lane <= kLanes; ++lane) {
    const uint64_t before = world_->budget().bytes();
    Send(1, lane, 1, 3);  // too few for a block
    const std::vector<v1::Response> said = Take(1);  // nothing was computed in between
    if (said.empty()) {
      ++admitted;
      ASSERT_EQ(admitted, lane - 1) << "one that is admitted after another was refused";
      continue;
    }
    ASSERT_EQ(said.size(), 1u);
    EXPECT_EQ(said[0].reject().reason(), v1::RETRY);
    EXPECT_EQ(said[0].reject().seq(), 1u);
    EXPECT_GE(said[0].reject().retry_after_ms(), 1u);
    EXPECT_THAT(said[0].reject().message(), HasSubstr("nothing was applied, send it again"));
    EXPECT_EQ(world_->budget().bytes(), before);
  }
  EXPECT_EQ(admitted, 4u) << "three steps beside three others take 900 microseconds of others' rows, beside four 1,200";
  EXPECT_EQ(shard().counters().over_wait.value(), kLanes - 1 - admitted);
  EXPECT_EQ(shard().counters().rejects[v1::RETRY].value() - rejected, kLanes - 1 - admitted);

  EXPECT_EQ(Finish(), 3u) << "those who were admitted share their batches";
  std::string bits;
  for (const v1::Response& response : Take(1)) bits = response.result().outputs(0).data();
  Send(1, kLanes, 1, 3);  // the same seq again, now that there is time
  Finish();
  const std::vector<v1::Response> again = Take(1);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].result().outputs(0).data(), bits);
  EXPECT_GT(world_->budget().bytes(), bytes) << "its answer is kept";
}

TEST_F(OverloadTest, WhoQueuesMuchIsRefusedForItAndTheOthersAreNot) {
  Start(5000, 100);
  Open(0, 1);
  Open(1, 1);
  Send(1, 1, 1, 1);
  Finish();
  Take(1);
  for (uint64_t seq = 1; seq <= 64; ++seq) Send(0, 1, seq, 16);
  EXPECT_TRUE(Take(0).empty()) << "alone it waits for nobody but itself";
  Send(1, 1, 2, 8);
  EXPECT_TRUE(Take(1).empty()) << "it shares each batch with the hog's row, not with its queue";
  Send(0, 1, 65, 16);
  const std::vector<v1::Response> said = Take(0);
  ASSERT_EQ(said.size(), 1u) << "1,040 steps, each beside another's";
  EXPECT_EQ(said[0].reject().reason(), v1::RETRY);
  for (int batch = 0; batch < 8; ++batch) shard().Work();
  EXPECT_EQ(Take(1).size(), 1u);
  Finish();
  EXPECT_EQ(Take(0).size(), 64u);
}

// What is computed in pieces costs all of them, however many looks at new messages lie between: else too much would be admitted.
TEST_F(OverloadTest, AllPiecesCountAsTheTimeOfWhatTheyEndWith) {
  constexpr uint64_t kTick = 100;
  Start(0, kTick);
  Open(1, 1, false, "shakespeare");
  Send(1, 1, 1, 16);
  const size_t calls = Finish();
  EXPECT_GT(calls, Batches()) << "the block is not in pieces";
  EXPECT_GE(shard().counters().batch_us.sum(), calls * kTick);
  EXPECT_EQ(Take(1).size(), 1u);
}

// A look at the network for each message alone is time that is taken from those who are served.
TEST_F(OverloadTest, WhereMuchWaitsTheNetworkIsLookedAtLessOften) {
  constexpr uint64_t kTick = 100, kMost = 500;
  constexpr uint32_t kLanes = 40;
  Start(0, kTick, kMost);
  for (uint32_t lane = 1; lane <= kLanes; ++lane) Open(1, lane);
  Send(1, 1, 1, 3);
  EXPECT_EQ(Finish(), 3u) << "little waits: a look after each batch";
  for (uint32_t lane = 1; lane <= kLanes; ++lane) Send(1, lane, lane == 1 ? 2 : 1, 64);
  for (int i = 0; i < 5; ++i) {
    const uint64_t before = now_us_;
    const size_t batches = Batches();
    shard().Work();
    EXPECT_GT(Batches() - batches, 1u);
    EXPECT_LE(now_us_ - before, kMost + 2 * kTick);
  }
  Finish();
  EXPECT_EQ(Take(1).size(), kLanes + 1);
}

TEST_F(OverloadTest, BesideOneLongTurnTheNetworkIsLookedAtAsOftenAsEver) {
  constexpr uint64_t kTick = 100, kMost = 500;
  Start(0, kTick, kMost);
  Open(1, 1);
  Send(1, 1, 1, 3);
  EXPECT_EQ(Finish(), 3u);
  Send(1, 1, 2, 640);
  const uint64_t before = now_us_;
  shard().Work();
  EXPECT_LE(now_us_ - before, 3 * kTick) << "a step or a block, and no more";
  Finish();
  EXPECT_EQ(Take(1).size(), 2u);
}

TEST_F(OverloadTest, ASimpleSessionIsMadeToWaitInstead) {
  Start(1, 1000);
  for (uint32_t lane = 1; lane <= 20; ++lane) Open(1, lane, true);
  Send(1, 1, 0, 4);
  Finish();
  Take(1);
  for (uint32_t lane = 1; lane <= 20; ++lane) Send(1, lane, 0, 4);
  EXPECT_TRUE(Take(1).empty());
  Finish();
  EXPECT_EQ(Take(1).size(), 20u);
}

}  // namespace
}  // namespace lstm::server
