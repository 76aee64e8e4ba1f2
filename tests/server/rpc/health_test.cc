// SPDX-License-Identifier: MIT
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <vector>

#include "core/base/fail_point.h"
#include "server/rpc/health_canary.h"
#include "tests/client/server_process.h"

// What gRPC's health says while shards hang, fail and go on.
namespace lstm::testing {
namespace {

using server::HealthCanary;

// Shards that answer when they are told to.
struct Shards {
  explicit Shards(size_t n) : done(n), canary(n, [this](size_t i, std::function<void(bool)> d) { done[i] = std::move(d); }, [this](bool s) { told.push_back(s); }) {}
  void Answer(size_t i, bool computed = true) { std::exchange(done[i], nullptr)(computed); }
  std::vector<std::function<void(bool)>> done;
  std::vector<bool> told;
  HealthCanary canary;
};

TEST(HealthCanaryTest, ServesOnceEveryShardHasAnswered) {
  Shards shards(2);
  shards.canary.Tick();
  shards.Answer(1);
  EXPECT_FALSE(shards.canary.serving());
  shards.Answer(0);
  EXPECT_EQ(shards.told, std::vector<bool>{true});
}

TEST(HealthCanaryTest, OneThatHangsEndsItAndGoesOn) {
  Shards shards(2);
  for (int tick = 0; tick < 20; ++tick) {
    shards.canary.Tick();
    shards.Answer(0);
    if (tick == 0) shards.Answer(1);
    // Begun at tick 1, it has been under way for a whole second, and not less, at tick 5.
    EXPECT_EQ(shards.canary.serving(), tick < 5) << tick;
  }
  shards.Answer(1);
  EXPECT_TRUE(shards.canary.serving());
  EXPECT_EQ(shards.told, (std::vector<bool>{true, false, true}));
}

TEST(HealthCanaryTest, OneThatCanNotComputeEndsIt) {
  Shards shards(1);
  shards.canary.Tick();
  shards.Answer(0);
  shards.canary.Tick();
  EXPECT_TRUE(shards.canary.serving()) << "the last one was good";
  shards.Answer(0, false);
  EXPECT_FALSE(shards.canary.serving());
  shards.canary.Tick();
  shards.Answer(0);
  EXPECT_TRUE(shards.canary.serving());
}

TEST(HealthCanaryTest, OnceClosedNothingMakesItServeAgain) {
  Shards shards(1);
  shards.canary.Tick();
  shards.canary.Close();
  shards.Answer(0);
  shards.canary.Tick();
  shards.Answer(0);
  EXPECT_FALSE(shards.canary.serving());
  EXPECT_TRUE(shards.told.empty());
}

// grpc.health.v1.Health/Watch by hand: its messages have two bytes.
class Watch {
 public:
  Watch(const std::string& address, const std::string& service) : stub_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(100));
    call_ = stub_.PrepareCall(&context_, "/grpc.health.v1.Health/Watch", &queue_);
    call_->StartCall(this);
    Wait();
    const std::string request = service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
    const grpc::Slice slice(request);
    call_->Write(grpc::ByteBuffer(&slice, 1), this);
    Wait();
    call_->WritesDone(this);
    Wait();
  }
  ~Watch() {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, this);
    Wait();
  }
  // What is said next: 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN; -1: the stream ended.
  int Next() {
    grpc::ByteBuffer answer;
    call_->Read(&answer, this);
    grpc::Slice slice;
    if (!Wait() || !answer.DumpToSingleSlice(&slice).ok() || slice.size() != 2 || slice.begin()[0] != 8) return -1;
    return slice.begin()[1];
  }

 private:
  bool Wait() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

std::atomic<bool> stall{false};
std::promise<void> go_on;

class HealthTest : public ServerTest {};

TEST_F(HealthTest, AShardThatHangsIsToldToWhoWatches) {
  Watch all(server_->addresses()[0], ""), by_name(server_->addresses()[0], "lstm.v1.Prediction"), unknown(server_->addresses()[0], "nobody");
  EXPECT_EQ(all.Next(), 1);
  EXPECT_EQ(by_name.Next(), 1);
  EXPECT_EQ(unknown.Next(), 3);

  // The thread of a shard stands still in the midst of a turn, until it is let go.
  std::shared_future<void> let_go = go_on.get_future().share();
  static std::shared_future<void> waits;
  waits = let_go;
  stall = true;
  core::fail_point_hook = [](const char* name) {
    if (std::string_view(name) == "turn.computed" && stall.exchange(false)) waits.wait();
  };
  auto stream = client_->OpenStream();
  ASSERT_TRUE(stream.ok()) << stream.status();
  auto session = Open(**stream);
  std::promise<absl::StatusOr<v1::Result>> answered;
  ASSERT_TRUE(session->Send(Words({5}), [&](absl::StatusOr<v1::Result> result) { answered.set_value(std::move(result)); }).ok());
  EXPECT_EQ(all.Next(), 2);
  EXPECT_EQ(by_name.Next(), 2);
  EXPECT_FALSE(server_->serving());
  EXPECT_FALSE(server_->inference().ready());
  go_on.set_value();
  EXPECT_EQ(all.Next(), 1);
  EXPECT_EQ(by_name.Next(), 1);
  EXPECT_TRUE(server_->inference().ready());
  const auto answer = answered.get_future().get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outputs(0).data(), Reference({5})) << "the stall changed the answer";
  core::fail_point_hook = nullptr;

  session.reset();
  (*stream).reset();
  server_->Drain(0);
  EXPECT_EQ(all.Next(), 2);
  EXPECT_EQ(by_name.Next(), 2);
}

TEST_F(HealthTest, WatchersAreBoundedAndWhoLeavesMakesRoom) {
  std::vector<std::unique_ptr<Watch>> watchers;
  const auto more = [&] { return watchers.emplace_back(std::make_unique<Watch>(server_->addresses()[0], ""))->Next(); };
  int first = 0;
  while (watchers.size() < 1000 && (first = more()) == 1) continue;
  EXPECT_EQ(first, -1) << "there is no bound";
  EXPECT_GT(watchers.size(), 100u);
  watchers.erase(watchers.begin());
  while (more() != 1) watchers.pop_back();  // noticed in a moment
}

}  // namespace
}  // namespace lstm::testing
