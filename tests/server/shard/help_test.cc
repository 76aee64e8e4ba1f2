// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/shard/shared_batch.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"
#include "tests/support/shard_world.h"

// Batches of which another shard takes a part: the answers are those of one shard, to the last bit.
namespace lstm::server {
namespace {

constexpr size_t kSessions = 64;
constexpr int64_t kIn = 64, kHidden = 256;

std::shared_ptr<const core::StepProgram> Program() {
  static const auto program = testing::MustCompile(testing::LstmStack(kIn, kHidden, 1, 7), kSessions);
  return program;
}

class HelpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto served = std::make_shared<ServedModel>();
    served->name = "stack";
    served->version = "1";
    served->program = Program();
    served->info.set_model_hash(served->program->model().hash);
    testing::ShardWorld::Options options;
    options.shards = 2;
    options.max_bytes = 64u << 20;
    options.clock = [this] { return now_us_ += slower_ ? ++tick_us_ : 0; };
    world_ = std::make_unique<testing::ShardWorld>(options, std::make_shared<const ModelRepository>(std::vector<ServedModelPtr>{served}), nullptr, &now_us_);
    stream_ = world_->shard().Attach(&sink_, "");
    v1::StreamRequest message;
    for (uint32_t lane = 1; lane <= kSessions; ++lane) {
      v1::Open* open = message.add_requests()->mutable_open();
      open->set_lane(lane);
      open->set_model("stack");
      open->set_client_nonce(std::string(16, static_cast<char>(lane)));
    }
    world_->shard().OnMessage(stream_, message);
    world_->Settle();
    sink_.responses.clear();
  }
  void TearDown() override { world_->shard().Detach(stream_); }

  // The answers of one step of all sessions.
  std::vector<std::string> Step(uint64_t seq) {
    v1::StreamRequest message;
    for (uint32_t lane = 1; lane <= kSessions; ++lane) {
      v1::Step* step = message.add_requests()->mutable_step();
      step->set_lane(lane);
      step->set_seq(seq);
      step->set_ack(seq - 1);
      testing::Random random(seq * 1000 + lane);
      v1::Tensor* x = step->add_inputs();
      for (int64_t i = 0; i < kIn; ++i) x->add_floats(random.Uniform());
    }
    world_->shard().OnMessage(stream_, message);
    while (world_->shard().has_work()) world_->shard().Work();
    std::vector<std::string> out(kSessions);
    for (const v1::Response& r : sink_.responses) {
      EXPECT_TRUE(r.has_result()) << r.ShortDebugString();
      if (r.has_result()) out[r.result().lane() - 1] = r.result().outputs(0).data() + r.result().state_digest();
    }
    EXPECT_EQ(sink_.responses.size(), kSessions);
    sink_.responses.clear();
    return out;
  }
  uint64_t shared() { return world_->shard().counters().shared_batches.value(); }

  uint64_t now_us_ = 1'000'000'000, tick_us_ = 0;
  bool slower_ = false;  // what is done next always takes longer than what was done before
  testing::Sink sink_;
  std::unique_ptr<testing::ShardWorld> world_;
  Stream* stream_ = nullptr;
};

TEST_F(HelpTest, AnIdleShardTakesAPartAndNoBitChanges) {
  std::vector<std::vector<std::string>> alone;
  for (uint64_t seq = 1; seq <= 5; ++seq) alone.push_back(Step(seq));
  EXPECT_EQ(shared(), 0u);
  TearDown();
  SetUp();
  for (uint64_t seq = 1; seq <= 5; ++seq) {
    world_->SetIdle(1, true);
    EXPECT_EQ(Step(seq), alone[seq - 1]) << "step " << seq;
    EXPECT_EQ(shared(), seq);
  }
}

TEST_F(HelpTest, WhoComesLateFindsNothingToDo) {
  const auto first = Step(1);
  TearDown();
  SetUp();
  world_->SetIdle(1, false);
  EXPECT_EQ(Step(1), first);
  EXPECT_EQ(shared(), 0u);
  EXPECT_TRUE(world_->RunTask());
  EXPECT_FALSE(world_->RunTask());
  EXPECT_FALSE(world_->shard(1).has_work());
}

TEST_F(HelpTest, WhoHadToWaitDividesNoneOfTheNext) {
  world_->SetIdle(1, true);
  slower_ = true;
  Step(1);
  EXPECT_EQ(shared(), 1u);
  slower_ = false;
  uint64_t seq = 2;
  for (; seq <= 256; ++seq) {
    world_->SetIdle(1, true);
    Step(seq);
    ASSERT_EQ(shared(), 1u) << "step " << seq;
  }
  for (; seq <= 258; ++seq) {  // then again, as long as it helps
    world_->SetIdle(1, true);
    Step(seq);
    ASSERT_EQ(shared(), seq - 255) << "step " << seq;
  }
}

TEST_F(HelpTest, SmallBatchesAreNotDivided) {
  world_->SetIdle(1, true);
  v1::StreamRequest message;
  v1::Step* step = message.add_requests()->mutable_step();
  step->set_lane(1);
  step->add_inputs()->set_data(std::string(kIn * sizeof(float), '\0'));
  world_->shard().OnMessage(stream_, message);
  while (world_->shard().has_work()) world_->shard().Work();
  EXPECT_EQ(shared(), 0u);
  EXPECT_FALSE(world_->RunTask());
}

TEST(SharedBatchTest, ManyThreadsComputeEachPartOnce) {
  const auto program = Program();
  std::vector<std::unique_ptr<testing::Row>> alone, together;
  std::vector<core::StepRow> rows;
  testing::Random random(1);
  const auto scratch = program->MakeScratch();
  for (size_t i = 0; i < kSessions; ++i) {
    alone.push_back(std::make_unique<testing::Row>(*program));
    together.push_back(std::make_unique<testing::Row>(*program));
    for (float& v : alone.back()->input[0]) v = random.Uniform();
    together.back()->input[0] = alone.back()->input[0];
    rows.push_back(together.back()->row());
    const core::StepRow one = alone.back()->row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
  }
  for (const size_t parts : {size_t{1}, size_t{2}, size_t{7}, kSessions}) {
    for (const auto& row : together) std::fill(row->next.span().begin(), row->next.span().end(), -7.0f);
    const auto batch = std::make_shared<SharedBatch>(*program, rows, parts);
    std::atomic<size_t> taken{0};
    std::vector<std::thread> others;
    for (int t = 0; t < 3; ++t) {
      others.emplace_back([&, batch] {
        const auto own = program->MakeScratch();
        while (batch->TakePart([&](const core::StepProgram*) -> core::StepProgram::Scratch& { return *own; })) ++taken;
      });
    }
    while (batch->TakePart([&](const core::StepProgram*) -> core::StepProgram::Scratch& { return *scratch; })) ++taken;
    ASSERT_TRUE(batch->Wait().ok());
    EXPECT_FALSE(batch->open());
    for (size_t i = 0; i < kSessions; ++i) {
      ASSERT_EQ(std::memcmp(together[i]->next.data(), alone[i]->next.data(), alone[i]->next.size() * sizeof(float)), 0) << "row " << i << " of " << parts << " parts";
      ASSERT_EQ(together[i]->output[0], alone[i]->output[0]);
    }
    for (std::thread& other : others) other.join();
    EXPECT_EQ(taken, parts);
  }
}

}  // namespace
}  // namespace lstm::server
