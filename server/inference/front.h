// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/inference/infer_job.h"
#include "server/inference/sequences.h"
#include "server/models/model_admin.h"
#include "server/models/model_repository.h"

namespace lstm::server {

// The Open Inference Protocol without a wire: what gRPC and HTTP have in common (docs/open_inference.md). Thread-safe but for
// what says otherwise; the messages are those of the protocol.
//
// A sequence lives on the shard that its principal, model and id hash to; requests that arrive elsewhere are sent there.
class InferenceFront {
 public:
  struct Options {
    uint32_t ttl_s = 900;  // of a sequence without a request
    uint64_t max_sessions = 100'000;
    ModelAdmin* admin = nullptr;  // null: models are not loaded and unloaded by call
  };
  InferenceFront(const Options& options, const ShardServices& services);

  // Before the shards run: the sequences of the next one, whose thread is to call Flush on them.
  Sequences* AddShard(Shard* shard);

  // On the thread of the shard: lets go of what was counted of a model that nothing uses any more.
  void Forget(size_t shard, const ServedModel& model) { sequences_[shard]->Forget(model); }

  // On the thread of job->shard, where it has one. The answer goes to job->done, perhaps at once.
  void Infer(const InferJobPtr& job);
  // The client has gone: done may still be called, and what was not begun is not.
  void Cancel(const InferJobPtr& job);

  void ServerMetadata(inference::ServerMetadataResponse* response) const;
  bool ready() const { return serving_.load(std::memory_order_relaxed) && !draining_.load(std::memory_order_relaxed) && !services_.models->open().empty(); }
  // NOT_FOUND names what there is.
  absl::Status ModelReady(const std::string& name, const std::string& version) const;
  absl::Status ModelMetadata(const std::string& name, const std::string& version, inference::ModelMetadataResponse* response) const;
  absl::Status ModelConfig(const std::string& name, const std::string& version, inference::ModelConfig* config) const;
  void RepositoryIndex(bool ready_alone, inference::RepositoryIndexResponse* response) const;
  // `done` on any thread.
  using StatisticsDone = std::function<void(const absl::Status&, inference::ModelStatisticsResponse)>;
  void ModelStatistics(const std::string& name, const std::string& version, StatisticsDone done);
  // `done` on any thread. PERMISSION_DENIED where it is not enabled, or the caller is no admin.
  void LoadModel(const inference::RepositoryModelLoadRequest& request, bool by_admin, ModelAdmin::Done done);
  void UnloadModel(const inference::RepositoryModelUnloadRequest& request, bool by_admin, ModelAdmin::Done done);

  // What the server's health is: where steps do not go through it is not ready either.
  void SetServing(bool serving) { serving_.store(serving, std::memory_order_relaxed); }
  // From now on the server is not ready.
  void Drain() { draining_.store(true, std::memory_order_relaxed); }

 private:
  absl::Status MayAdminister(bool by_admin) const;
  void Gather(size_t next, const std::shared_ptr<CountsByModel>& counts, const std::function<void()>& then);

  const Options options_;
  const ShardServices services_;
  std::vector<std::unique_ptr<Sequences>> sequences_;
  std::atomic<bool> draining_{false}, serving_{true};
  std::atomic<size_t> next_whole_{0};
};

}  // namespace lstm::server
