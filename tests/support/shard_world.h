// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "server/shard/shard.h"
#include "server/store/recovery.h"
#include "tests/support/memory_store.h"

namespace lstm::testing {

inline absl::Status CloseByOperator(server::Shard& shard, const server::SessionId& id) {
  absl::Status status;
  uint64_t applied = 0;
  shard.CloseByOperator(id, &applied, [&](const absl::Status& s) { status = s; });
  return status;
}

// Responses of one stream, as a test takes them.
class Sink : public server::ResponseSink {
 public:
  v1::Response* Next(size_t) override { return &responses.emplace_back(); }
  void Settled() override { ++settled; }
  std::deque<v1::Response> responses;
  int settled = 0;
};

// A server without gRPC or threads: shards, what they share, and the tasks between them, all turned by the test. Its store
// outlives it, as a state directory does.
class ShardWorld : private server::ShardPeers {
 public:
  struct Options {
    size_t shards = 1;
    server::Shard::Options shard;
    uint64_t max_sessions = 100, max_bytes = 8u << 20;
    uint64_t seed = 1;
    server::Suspects* suspects = nullptr;
    server::ParkedStore* parked = nullptr;
    const server::Callers* callers = nullptr;
    std::function<uint64_t()> clock = {};  // instead of *now_us
  };
  ShardWorld(const Options& options, std::shared_ptr<const server::ModelRepository> models, server::SessionStore* store, const uint64_t* now_us)
      : budget_(options.max_sessions, options.max_bytes), random_(options.seed) {
    services_ = {.models = std::move(models), .budget = &budget_, .directory = &directory_, .store = store, .parked = options.parked, .suspects = options.suspects, .callers = options.callers, .peers = this,
                                   .instance = {'t', 'e', 's', 't'}, .clock = options.clock ? options.clock : [now_us] { return *now_us; },
                                   .unix_clock = [now_us] { return static_cast<int64_t>(*now_us); },
                                   .random = [this](uint8_t* out, size_t n) { while (n-- > 0) *out++ = static_cast<uint8_t>(random_()); }};
    for (size_t i = 0; i < options.shards; ++i) shards_.push_back(std::make_unique<server::Shard>(i, options.shard, services_));
    if (store == nullptr) return;
    size_t next = 0;
    const server::Recovery found = server::TakeLatest(store, options.parked);
    for (const auto& parked : found.parked) shards_[next++ % shards_.size()]->Recover(parked);
    for (const auto slot : found.slots) {
      const absl::Status recovered = shards_[next++ % shards_.size()]->Recover(slot);
      if (!recovered.ok()) failures_.push_back(recovered);
    }
  }
  ~ShardWorld() override { tasks_.clear(); }

  server::Shard& shard(size_t i = 0) { return *shards_[i]; }
  size_t shards() const { return shards_.size(); }
  server::MemoryBudget& budget() { return budget_; }
  const server::ShardServices& services() const { return services_; }
  const std::vector<absl::Status>& failures() const { return failures_; }

  // This shard says that it waits for something to do, until it is asked. What it is asked is done at once, or as a task.
  void SetIdle(size_t shard, bool at_once) {
    idle_ = shard;
    at_once_ = at_once;
  }

  // The oldest task between shards is done; false: there is none.
  bool RunTask() {
    if (tasks_.empty()) return false;
    auto [to, task] = std::move(tasks_.front());
    tasks_.pop_front();
    task(*shards_[to]);
    return true;
  }
  // Until nothing is left to do but what the disk has to.
  void Settle() {
    for (bool more = true; more;) {
      more = RunTask();
      for (const auto& shard : shards_) {
        for (; shard->has_work(); more = true) shard->Work();
      }
    }
  }
  size_t parked() const {
    size_t n = 0;
    for (const auto& shard : shards_) n += shard->parked();
    return n;
  }
  size_t sessions() const {
    size_t n = 0;
    for (const auto& shard : shards_) n += shard->sessions();
    return n;
  }

 private:
  bool Send(size_t to, std::function<void(server::Shard&)> task) override {
    if (std::exchange(at_once_, false)) return task(*shards_[to]), true;
    tasks_.emplace_back(to, std::move(task));
    return true;
  }
  server::MemoryBudget budget_;
  server::SessionDirectory directory_;
  std::mt19937_64 random_;
  std::vector<absl::Status> failures_;
  server::ShardServices services_;
  std::optional<size_t> TakeIdle() override { return std::exchange(idle_, std::nullopt); }

  std::optional<size_t> idle_;
  bool at_once_ = false;
  std::deque<std::pair<size_t, std::function<void(server::Shard&)>>> tasks_;
  std::vector<std::unique_ptr<server::Shard>> shards_;
};

}  // namespace lstm::testing
