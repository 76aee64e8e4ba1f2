// SPDX-License-Identifier: MIT
#include "server/models/model_keeper.h"
#include "server/shard/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <filesystem>

#include "tests/support/random_model.h"
#include "tests/support/shard_world.h"

// A shard without gRPC: messages in, messages out, a clock that the test turns. The models are the bundled ones.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;

class ShardTest : public ::testing::Test {
 protected:
  static std::shared_ptr<const ModelRepository> Models() {
    static const auto models = [] {
      auto loaded = LoadAllModels("models/repository", 16);
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      return *loaded;
    }();
    return models;
  }
  void SetUp() override { MakeShard({}); }
  void TearDown() override {
    std::vector<v1::SessionInfo> left;
    if (stream_ != nullptr) shard_->Detach(stream_);
    shard_->List("", SIZE_MAX, &left);
    for (const v1::SessionInfo& info : left) EXPECT_TRUE(testing::CloseByOperator(*shard_, IdOf(info.session_id())).ok());
    EXPECT_EQ(world_->budget().sessions(), 0u) << "every session gives its place back";
    EXPECT_EQ(world_->budget().bytes(), 0u) << "and every byte";
  }
  void MakeShard(const Shard::Options& options) {
    world_ = std::make_unique<testing::ShardWorld>(testing::ShardWorld::Options{.shard = options}, Models(), nullptr, &now_us_);
    shard_ = &world_->shard();
    stream_ = shard_->Attach(&sink_, "");
  }
  static SessionId IdOf(const std::string& bytes) {
    SessionId id;
    std::copy(bytes.begin(), bytes.end(), id.begin());
    return id;
  }
  v1::Response Take() {
    EXPECT_FALSE(sink_.responses.empty()) << "no response came";
    if (sink_.responses.empty()) return {};
    v1::Response first = std::move(sink_.responses.front());
    sink_.responses.pop_front();
    return first;
  }
  void Send(const v1::Request& request) {
    v1::StreamRequest message;
    *message.add_requests() = request;
    shard_->OnMessage(stream_, message);
  }
  void Open(uint32_t lane, bool simple = false, uint32_t window = 0, uint32_t ttl = 0) {
    v1::Request request;
    request.mutable_open()->set_lane(lane);
    request.mutable_open()->set_model("french");
    request.mutable_open()->set_client_nonce(std::string(16, static_cast<char>(lane)));
    request.mutable_open()->set_simple(simple);
    request.mutable_open()->set_window(window);
    request.mutable_open()->set_ttl_seconds(ttl);
    Send(request);
  }
  v1::Request Step(uint32_t lane, uint64_t seq, std::vector<int> words, uint64_t ack = 0) {
    v1::Request request;
    request.mutable_step()->set_lane(lane);
    request.mutable_step()->set_seq(seq);
    request.mutable_step()->set_ack(ack);
    v1::Tensor* tensor = request.mutable_step()->add_inputs();
    for (int word : words) tensor->add_ints(word);
    return request;
  }
  void Work() {
    while (shard_->has_work()) shard_->Work();
  }
  // The bits of a run of words in a fresh session on lane 99.
  std::string Reference(const std::vector<int>& words) {
    Open(99, true);
    Take();
    Send(Step(99, 0, words));
    Work();
    const std::string data = Take().result().outputs(0).data();
    v1::Request close;
    close.mutable_close()->set_lane(99);
    Send(close);
    Take();
    return data;
  }

  uint64_t now_us_ = 1'000'000;
  testing::Sink sink_;
  std::unique_ptr<testing::ShardWorld> world_;
  Shard* shard_ = nullptr;
  Stream* stream_ = nullptr;
};

TEST_F(ShardTest, OpenedSaysWhatTheSessionIs) {
  Open(1);
  const v1::Opened opened = Take().opened();
  EXPECT_EQ(opened.session_id().size(), 16u);
  EXPECT_EQ(opened.resume_token().size(), 32u);
  EXPECT_EQ(opened.durability(), v1::VOLATILE);
  EXPECT_EQ(opened.window(), 8u);
  EXPECT_EQ(opened.model_hash().size(), 32u);
  EXPECT_EQ(opened.version(), "1");
}

TEST_F(ShardTest, AnyCutIntoTurnsOnInterleavedLanesGivesTheSameBits) {
  const std::vector<int> words = {5, 9, 22, 3, 7, 80, 41, 2, 2, 60};
  const std::string whole = Reference(words);
  Open(1, true), Open(2, true);
  Take(), Take();
  Send(Step(1, 0, {5}));
  Send(Step(2, 0, {100, 101, 102}));
  Send(Step(1, 0, {9, 22, 3}));
  Work();
  Send(Step(2, 0, {1}));
  Send(Step(1, 0, {7, 80, 41, 2, 2, 60}));
  Work();
  std::string pieces;
  while (!sink_.responses.empty()) {
    const v1::Result result = Take().result();
    if (result.lane() == 1) pieces += result.outputs(0).data();
  }
  EXPECT_EQ(whole, pieces);
}

TEST_F(ShardTest, StepsMayFollowTheirOpenAtOnceAndEveryOneIsAnswered) {
  v1::StreamRequest message;
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_lane(1);
  open->set_model("french");
  open->set_client_nonce(std::string(16, 'n'));
  for (uint64_t seq = 1; seq <= 9; ++seq) *message.add_requests() = Step(1, seq, {4});
  shard_->OnMessage(stream_, message);
  Work();
  EXPECT_TRUE(Take().has_opened());
  const v1::Reject window = Take().reject();
  EXPECT_EQ(window.reason(), v1::WINDOW) << "the ninth of a window of eight";
  EXPECT_EQ(window.seq(), 9u);
  for (uint64_t seq = 1; seq <= 8; ++seq) EXPECT_EQ(Take().result().seq(), seq);
  EXPECT_TRUE(sink_.responses.empty());
}

TEST_F(ShardTest, ARefusedStepLeavesTheStateAndTheOthersAsTheyWere) {
  const std::string whole = Reference({5, 9});
  Open(1);
  Take();
  Send(Step(1, 1, {5}));
  Send(Step(1, 2, {129}));
  Send(Step(1, 3, {9}));
  Work();
  const v1::Reject bad = Take().reject();
  EXPECT_EQ(bad.reason(), v1::INVALID);
  EXPECT_EQ(bad.code(), 3);
  EXPECT_THAT(bad.message(), HasSubstr("129"));
  const v1::Reject gap = Take().reject();
  EXPECT_EQ(gap.reason(), v1::GAP);
  EXPECT_EQ(gap.expected_seq(), 2u);
  std::string data = Take().result().outputs(0).data();
  Send(Step(1, 2, {9}));
  Work();
  data += Take().result().outputs(0).data();
  EXPECT_EQ(data, whole);
}

TEST_F(ShardTest, ADuplicateGetsTheStoredBytes) {
  Open(1);
  Take();
  Send(Step(1, 1, {5}));
  Work();
  const v1::Result first = Take().result();
  Send(Step(1, 1, {5}));
  const v1::Result again = Take().result();
  EXPECT_TRUE(again.replayed());
  EXPECT_EQ(again.outputs(0).data(), first.outputs(0).data());
  EXPECT_EQ(again.state_digest(), first.state_digest());
  Send(Step(1, 1, {6}));
  EXPECT_EQ(Take().reject().reason(), v1::SEQ_REUSED);
  Send(Step(1, 2, {6}, 1));
  Work();
  Take();
  Send(Step(1, 1, {5}));
  EXPECT_EQ(Take().reject().reason(), v1::ALREADY_ACKED);
}

TEST_F(ShardTest, ResetAndDiscard) {
  const std::string five = Reference({5}), five_nine = Reference({5, 9});
  Open(1, true);
  Take();
  Send(Step(1, 0, {80, 81}));
  v1::Request reset = Step(1, 0, {5});
  reset.mutable_step()->set_reset_before(true);
  Send(reset);
  v1::Request what_if = Step(1, 0, {77, 78, 79});
  what_if.mutable_step()->set_discard(true);
  Send(what_if);
  Send(Step(1, 0, {9}));
  v1::Request bare;
  bare.mutable_step()->set_lane(1);
  bare.mutable_step()->set_reset_before(true);
  Send(bare);
  Send(Step(1, 0, {5}));
  Work();
  Take();
  EXPECT_EQ(Take().result().outputs(0).data(), five);
  Take();
  EXPECT_EQ(Take().result().outputs(0).data(), five_nine.substr(five.size())) << "what was discarded left no trace";
  const v1::Result alone = Take().result();
  EXPECT_EQ(alone.outputs_size(), 0) << "a reset alone";
  EXPECT_EQ(alone.seq(), 5u);
  EXPECT_EQ(Take().result().outputs(0).data(), five);
}

// Its record was another turn's before.
TEST_F(ShardTest, AResetAloneIsTheSameTurnWheneverItIsSent) {
  Open(1);
  Take();
  Send(Step(1, 1, {5, 6, 7}));
  Work();
  Take();
  v1::Request bare;
  bare.mutable_step()->set_lane(1);
  bare.mutable_step()->set_seq(2);
  bare.mutable_step()->set_ack(1);
  bare.mutable_step()->set_reset_before(true);
  Send(bare);
  EXPECT_EQ(Take().result().seq(), 2u);
  Send(Step(1, 3, {9, 10}, 1));
  Work();
  Take();
  Send(bare);
  const v1::Response again = Take();
  EXPECT_TRUE(again.result().replayed()) << again.ShortDebugString();
  EXPECT_EQ(again.result().seq(), 2u);
}

TEST_F(ShardTest, LanesAndSessions) {
  Send(Step(3, 1, {5}));
  EXPECT_EQ(Take().reject().reason(), v1::NO_SESSION);
  Open(3);
  Take();
  Open(3);
  EXPECT_EQ(Take().reject().reason(), v1::LANE_IN_USE);
  Send(Step(3, 1, {5}));
  v1::Request close;
  close.mutable_close()->set_lane(3);
  Send(close);
  Send(Step(3, 2, {5}));
  Work();
  EXPECT_EQ(Take().reject().reason(), v1::NO_SESSION) << "after Close";
  EXPECT_TRUE(Take().has_result()) << "what came before Close is answered";
  const v1::Closed closed = Take().closed();
  EXPECT_EQ(closed.applied_seq(), 1u);
  EXPECT_EQ(shard_->sessions(), 0u);
  Open(3);
  EXPECT_TRUE(Take().has_opened()) << "the lane is free again";
}

TEST_F(ShardTest, OpensAreRefusedWithTheirReason) {
  const auto refused = [&](const std::function<void(v1::Open*)>& change) {
    v1::Request request;
    v1::Open* open = request.mutable_open();
    open->set_lane(1);
    open->set_model("french");
    open->set_client_nonce(std::string(16, 'n'));
    change(open);
    Send(request);
    return Take().reject();
  };
  EXPECT_EQ(refused([](v1::Open* o) { o->set_model("nosuch"); }).reason(), v1::NOT_FOUND);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_model("../french"); }).reason(), v1::NOT_FOUND);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_version("7"); }).reason(), v1::NOT_FOUND);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_client_nonce("short"); }).reason(), v1::INVALID);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_durability(v1::PROCESS); }).reason(), v1::UNSUPPORTED);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_window(100'000); }).reason(), v1::INVALID);
  EXPECT_EQ(refused([](v1::Open* o) { o->set_ttl_seconds(4'000'000'000); }).reason(), v1::INVALID);
  EXPECT_EQ(refused([](v1::Open* o) { o->mutable_options()->add_outputs("nosuch"); }).reason(), v1::INVALID);
  EXPECT_EQ(refused([](v1::Open* o) { o->add_initial_state()->set_name("nosuch"); }).reason(), v1::INVALID);
  EXPECT_EQ(shard_->sessions(), 0u);
}

TEST_F(ShardTest, SessionsAreCappedByCountAndBytes) {
  for (uint32_t lane = 1; lane <= 100; ++lane) {
    Open(lane);
    EXPECT_TRUE(Take().has_opened());
  }
  Open(101);
  const v1::Reject full = Take().reject();
  EXPECT_EQ(full.reason(), v1::SESSIONS);
  EXPECT_GT(full.retry_after_ms(), 0u);
  Send(Step(1, 1, std::vector<int>(7000, 4)));  // the answer would be 7000 x 129 floats: above 3 MB
  Work();
  EXPECT_EQ(Take().reject().reason(), v1::INVALID);
  int taken = 0, refused = 0;
  for (uint32_t lane = 1; lane <= 100; ++lane) {
    Send(Step(lane, 1, std::vector<int>(500, 4)));
    Work();
    const v1::Response response = Take();
    taken += response.has_result();
    refused += response.has_reject() && response.reject().reason() == v1::BYTES;
  }
  EXPECT_GT(taken, 10);
  EXPECT_EQ(taken + refused, 100);
  EXPECT_GT(refused, 10);
}

TEST_F(ShardTest, ExpiryIsToldAndItsReasonRemembered) {
  Open(1, false, 0, 100);
  const v1::Opened opened = Take().opened();
  now_us_ += 75'000'000;
  shard_->RunTimers();
  EXPECT_TRUE(sink_.responses.empty() || Take().has_expiring());
  now_us_ = std::max(now_us_, shard_->next_timer_us());
  shard_->RunTimers();
  now_us_ += 200'000'000;
  shard_->RunTimers();
  ASSERT_FALSE(sink_.responses.empty());
  const v1::Response last = sink_.responses.back();
  EXPECT_EQ(last.ended().reason(), v1::EXPIRED);
  SessionId id;
  std::copy(opened.session_id().begin(), opened.session_id().end(), id.begin());
  EXPECT_THAT(std::string(shard_->Get(id).status().message()), HasSubstr("expired"));
}

TEST_F(ShardTest, UseKeepsASessionAlive) {
  Open(1, false, 0, 100);
  Take();
  for (uint64_t seq = 1; seq <= 8; ++seq) {
    now_us_ += 90'000'000;
    shard_->RunTimers();
    Send(Step(1, seq, {4}));
    Work();
  }
  EXPECT_EQ(shard_->sessions(), 1u);
}

TEST_F(ShardTest, AStreamThatVanishesLeavesABoundedAmountForABoundedTime) {
  Open(1), Open(2, true), Open(3, false, 0, 500);
  for (uint32_t lane = 1; lane <= 3; ++lane) Send(Step(lane, lane == 2 ? 0 : 1, std::vector<int>(50, 4)));
  shard_->Detach(std::exchange(stream_, nullptr));
  EXPECT_EQ(shard_->sessions(), 2u) << "nobody can come back to a simple session, and its turn is given up";
  Work();
  now_us_ += 61'000'000;
  shard_->RunTimers();
  EXPECT_EQ(shard_->sessions(), 1u) << "a volatile session outlives its stream by a minute";
  now_us_ += 500'000'000;
  shard_->RunTimers();
  EXPECT_EQ(shard_->sessions(), 0u) << "unless its client asked for more";
}

TEST_F(ShardTest, AnOperatorSeesAndClosesSessions) {
  Open(1), Open(2);
  const v1::Opened first = Take().opened();
  Take();
  Send(Step(1, 1, std::vector<int>(40, 4)));
  std::vector<v1::SessionInfo> all;
  shard_->List("", SIZE_MAX, &all);
  EXPECT_EQ(all.size(), 2u);
  SessionId id;
  std::copy(first.session_id().begin(), first.session_id().end(), id.begin());
  EXPECT_TRUE(testing::CloseByOperator(*shard_, id).ok()) << "while its turn is being computed";
  EXPECT_EQ(Take().ended().reason(), v1::CANCELLED_BY_OPERATOR);
  Work();
  EXPECT_TRUE(sink_.responses.empty());
  EXPECT_EQ(shard_->sessions(), 1u);
  EXPECT_FALSE(testing::CloseByOperator(*shard_, id).ok());
  EXPECT_TRUE(stream_->quiet());
  EXPECT_EQ(stream_->backlog_bytes(), 0u);
}

TEST_F(ShardTest, AnExpiredDeadlineRefusesUnexecuted) {
  Open(1);
  Take();
  v1::Request first = Step(1, 1, std::vector<int>(30, 4));
  Send(first);
  v1::Request second = Step(1, 2, {4});
  second.mutable_step()->set_deadline_us(10);
  Send(second);
  now_us_ += 11;
  Work();
  EXPECT_EQ(Take().result().seq(), 1u);
  const v1::Reject late = Take().reject();
  EXPECT_EQ(late.reason(), v1::DEADLINE);
  EXPECT_EQ(late.code(), 4);
}

TEST_F(ShardTest, PredictRunsBesideSessionsAndGivesTheSameBits) {
  const std::string whole = Reference({5, 9, 22});
  Open(1, true);
  Take();
  Send(Step(1, 0, std::vector<int>(20, 4)));
  v1::PredictRequest request;
  request.set_model("french");
  v1::Tensor* tensor = request.add_inputs();
  for (int id : {5, 9, 22}) tensor->add_ints(id);
  request.set_return_state(true);
  v1::PredictResponse response;
  int done = 0;
  shard_->Predict(request, &response, [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    ++done;
  });
  Work();
  EXPECT_EQ(done, 1);
  EXPECT_EQ(response.outputs(0).data(), whole);
  EXPECT_EQ(response.state_size(), 2);
  request.mutable_inputs(0)->add_ints(-4);
  shard_->Predict(request, &response, [&](const absl::Status& status) { EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument); ++done; });
  EXPECT_EQ(done, 2);
}

TEST_F(ShardTest, AForgottenPredictIsNotAnswered) {
  v1::PredictRequest request;
  request.set_model("french");
  for (int i = 0; i < 300; ++i) (i ? request.mutable_inputs(0) : request.add_inputs())->add_ints(4);
  v1::PredictResponse response;
  shard_->Predict(request, &response, [](const absl::Status&) { FAIL() << "the caller has gone"; });
  shard_->ForgetPredict(&response);
  Work();
}

TEST_F(ShardTest, TracesMakeTheCellStateVisible) {
  v1::Request request;
  request.mutable_open()->set_lane(1);
  request.mutable_open()->set_model("french");
  request.mutable_open()->set_simple(true);
  request.mutable_open()->mutable_options()->add_traces("cell.c");
  request.mutable_open()->mutable_options()->set_last_step_only(true);
  request.mutable_open()->mutable_options()->set_timings(true);
  Send(request);
  Take();
  Send(Step(1, 0, {5, 9, 22}));
  Work();
  const v1::Result result = Take().result();
  ASSERT_EQ(result.outputs_size(), 2);
  EXPECT_EQ(result.outputs(1).name(), "cell.c");
  EXPECT_EQ(result.outputs(1).shape(0), 1);
  EXPECT_EQ(result.timings().batch_rows(), 1u);
}

TEST_F(ShardTest, AnInitialStateReplacesTheModels) {
  // Two steps at once, and the second alone from the state after the first.
  v1::PredictRequest request;
  request.set_model("french");
  request.add_inputs()->add_ints(5);
  request.set_return_state(true);
  v1::PredictResponse response;
  shard_->Predict(request, &response, [](const absl::Status&) {});
  Work();
  const std::string whole = Reference({5, 9});
  v1::Request open;
  open.mutable_open()->set_lane(1);
  open.mutable_open()->set_model("french");
  open.mutable_open()->set_simple(true);
  *open.mutable_open()->mutable_initial_state() = response.state();
  Send(open);
  EXPECT_TRUE(Take().has_opened());
  Send(Step(1, 0, {9}));
  v1::Request again = Step(1, 0, {9});
  again.mutable_step()->set_reset_before(true);
  Send(again);
  Work();
  const std::string second = whole.substr(whole.size() / 2);
  EXPECT_EQ(Take().result().outputs(0).data(), second);
  EXPECT_EQ(Take().result().outputs(0).data(), second) << "reset goes back to the state given at Open";
}

TEST_F(ShardTest, DrainingRefusesNewSessionsAndLetsOthersGoOn) {
  Open(1);
  Take();
  shard_->Drain(5000);
  EXPECT_EQ(Take().draining().deadline_ms(), 5000u);
  Open(2);
  EXPECT_EQ(Take().reject().reason(), v1::DRAINING);
  Send(Step(1, 1, {4}));
  Work();
  EXPECT_TRUE(Take().has_result());
}

}  // namespace
}  // namespace lstm::server
