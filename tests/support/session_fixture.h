// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "core/base/fail_point.h"
#include "server/models/model_keeper.h"
#include "tests/support/memory_parked.h"
#include "tests/support/shard_world.h"

namespace lstm::testing {

// Two real shards over a store in memory that outlives them, a stream to each, and the bundled models; the test sends, turns
// and kills.
class SessionFixture : public ::testing::Test {
 protected:
  static std::shared_ptr<const server::ModelRepository> Models() {
    static const auto models = *server::LoadAllModels("models/repository", 16);
    return models;
  }
  void SetUp() override { Start(); }
  void TearDown() override { core::fail_point_hook = nullptr; }

  void Start(size_t shards = 2) {
    world_ = std::make_unique<ShardWorld>(Options(shards), Models(), &store_, &now_us_);
    for (size_t i = 0; i < shards; ++i) streams_[i] = world_->shard(i).Attach(&sinks_[i], "");
  }
  virtual ShardWorld::Options Options(size_t shards) { return {.shards = shards, .shard = {}, .seed = ++starts_, .parked = &parked_}; }
  void Kill() {
    world_.reset();
    store_.Reopen();
    parked_.Reopen();
    for (Sink& sink : sinks_) sink.responses.clear();
    Start();
  }
  void Send(const v1::Request& request, size_t shard = 0) {
    v1::StreamRequest message;
    *message.add_requests() = request;
    world_->shard(shard).OnMessage(streams_[shard], message);
  }
  void Lose(size_t shard = 0) {  // the connection
    world_->shard(shard).Detach(streams_[shard]);
    sinks_[shard].responses.clear();
    streams_[shard] = world_->shard(shard).Attach(&sinks_[shard], "");
  }
  // All that can be done without a new message, the disk included.
  void Settle() {
    do world_->Settle();
    while (store_.Complete() || parked_.Complete());
    world_->Settle();
  }
  void Wait(uint64_t seconds) {
    now_us_ += seconds * 1'000'000;
    for (size_t i = 0; i < world_->shards(); ++i) world_->shard(i).RunTimers();
    Settle();
  }
  static server::SessionId IdOf(const v1::Opened& opened) {
    server::SessionId id;
    std::copy(opened.session_id().begin(), opened.session_id().end(), id.begin());
    return id;
  }
  v1::Response Take(size_t shard = 0) {
    EXPECT_FALSE(sinks_[shard].responses.empty()) << "no response came";
    if (sinks_[shard].responses.empty()) return {};
    v1::Response first = std::move(sinks_[shard].responses.front());
    sinks_[shard].responses.pop_front();
    return first;
  }
  bool Quiet(size_t shard = 0) const { return sinks_[shard].responses.empty(); }

  static v1::Request OpenRequest(char nonce = 'n', v1::Durability durability = v1::DURABILITY_UNSPECIFIED) {
    v1::Request request;
    request.mutable_open()->set_lane(1);
    request.mutable_open()->set_model("french");
    request.mutable_open()->set_client_nonce(std::string(16, nonce));
    request.mutable_open()->set_durability(durability);
    return request;
  }
  v1::Opened Open(char nonce = 'n', v1::Durability durability = v1::DURABILITY_UNSPECIFIED) {
    Send(OpenRequest(nonce, durability));
    Settle();
    return Take().opened();
  }
  static v1::Request Step(uint64_t seq, int word, uint64_t ack = 0) {
    v1::Request request;
    request.mutable_step()->set_lane(1);
    request.mutable_step()->set_seq(seq);
    request.mutable_step()->set_ack(ack);
    request.mutable_step()->add_inputs()->add_ints(word);
    return request;
  }
  v1::Result Run(uint64_t seq, int word, uint64_t ack = 0, size_t shard = 0) {
    Send(Step(seq, word, ack), shard);
    Settle();
    return Take(shard).result();
  }
  static v1::Request Resume(const v1::Opened& opened, uint64_t have_seq, const std::string& digest = "", uint64_t replay_from = 0) {
    v1::Request request;
    v1::Resume* resume = request.mutable_resume();
    resume->set_lane(1);
    resume->set_session_id(opened.session_id());
    resume->set_resume_token(opened.resume_token());
    resume->set_have_seq(have_seq);
    resume->set_have_digest(digest);
    resume->set_replay_from(replay_from);
    return request;
  }
  v1::Response Resumed(const v1::Request& resume, size_t shard = 0) {
    Send(resume, shard);
    Settle();
    return Take(shard);
  }
  // The outputs of an undisturbed run of these words, one after another.
  std::string Undisturbed(const std::vector<int>& words) {
    MemoryStore store;
    ShardWorld world({}, Models(), &store, &now_us_);
    Sink sink;
    server::Stream* stream = world.shard().Attach(&sink, "");
    v1::StreamRequest message;
    *message.add_requests() = OpenRequest('u', v1::VOLATILE);
    for (size_t i = 0; i < words.size(); ++i) *message.add_requests() = Step(i + 1, words[i], i);
    world.shard().OnMessage(stream, message);
    world.Settle();
    std::string out;
    for (const v1::Response& r : sink.responses) out += r.has_result() ? r.result().outputs(0).data() : "";
    return out;
  }
  static std::string Data(const v1::Result& result) { return result.outputs_size() > 0 ? result.outputs(0).data() : "none"; }

  uint64_t starts_ = 0;  // no two worlds make the same ids
  uint64_t now_us_ = 1'000'000'000;
  MemoryStore store_;
  MemoryParked parked_;
  std::array<Sink, 4> sinks_;
  std::array<server::Stream*, 4> streams_{};
  std::unique_ptr<ShardWorld> world_;
};

}  // namespace lstm::testing
