// SPDX-License-Identifier: MIT
#include "server/inference/front.h"

#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "server/inference/describe.h"

namespace lstm::server {
InferenceFront::InferenceFront(const Options& options, const ShardServices& services) : options_(options), services_(services) {}

Sequences* InferenceFront::AddShard(Shard* shard) {
  const size_t index = sequences_.size();
  sequences_.push_back(std::make_unique<Sequences>(shard, services_, [this, index](const InferJobPtr& job, const absl::Status& status) {
    if (job->shard == InferJob::kNoShard || job->shard == index) return job->done(status);
    services_.peers->Send(job->shard, [job, status](Shard&) { job->done(status); });
  }));
  return sequences_.back().get();
}

void InferenceFront::Infer(const InferJobPtr& job) {
  job->received_us = services_.clock();
  auto parameters = ReadParameters(job->request);
  if (!parameters.ok()) return job->done(parameters.status());
  job->parameters = *std::move(parameters);
  const std::string& model = job->request.model_name();
  if (!IsModelName(model)) return job->done(services_.models->Find(model, "").status());
  size_t home = job->shard;
  if (!job->parameters.sequence.empty()) {
    job->key = absl::StrCat(job->principal.size(), ".", model.size(), ".", job->principal, model, job->parameters.sequence);
    home = absl::HashOf(job->key) % sequences_.size();
  } else if (home == InferJob::kNoShard) {
    home = next_whole_.fetch_add(1, std::memory_order_relaxed) % sequences_.size();
  }
  if (home == job->shard) return sequences_[home]->Take(job);
  const bool sent = services_.peers->Send(home, [sequences = sequences_[home].get(), job](Shard&) { sequences->Take(job); });
  if (!sent) job->done(absl::UnavailableError("the server is going away; ask another, or again in a moment"));
}

void InferenceFront::Cancel(const InferJobPtr& job) {
  job->cancelled.store(true, std::memory_order_relaxed);
  if (job->shard < sequences_.size() && job->key.empty()) sequences_[job->shard]->GiveUp(job);
}

void InferenceFront::ServerMetadata(inference::ServerMetadataResponse* response) const { DescribeServer(options_.admin != nullptr, response); }

absl::Status InferenceFront::ModelReady(const std::string& name, const std::string& version) const {
  return services_.models->Find(name, version).status();
}

absl::Status InferenceFront::ModelMetadata(const std::string& name, const std::string& version, inference::ModelMetadataResponse* response) const {
  const auto info = services_.models->Describe(name, version);
  if (info.ok()) DescribeModel(*info, response);
  return info.status();
}

absl::Status InferenceFront::ModelConfig(const std::string& name, const std::string& version, inference::ModelConfig* config) const {
  const auto info = services_.models->Describe(name, version);
  if (info.ok()) DescribeConfig(*info, options_.ttl_s, options_.max_sessions, config);
  return info.status();
}

void InferenceFront::RepositoryIndex(bool ready_alone, inference::RepositoryIndexResponse* response) const {
  DescribeIndex(services_.models->open(), ready_alone ? std::vector<ServedModelPtr>() : services_.models->pinned(), response);
}

void InferenceFront::Gather(size_t next, const std::shared_ptr<CountsByModel>& counts, const std::function<void()>& then) {
  for (; next < sequences_.size(); ++next) {
    const bool sent = services_.peers->Send(next, [this, next, counts, then](Shard&) {
      sequences_[next]->AddCounts(counts.get());
      Gather(next + 1, counts, then);
    });
    if (sent) return;  // else that shard has ended
  }
  then();
}

void InferenceFront::ModelStatistics(const std::string& name, const std::string& version, StatisticsDone done) {
  if (!name.empty()) {
    const absl::Status there = services_.models->Find(name, version).status();
    if (!there.ok()) return done(there, {});
  }
  auto counts = std::make_shared<CountsByModel>();
  Gather(0, counts, [this, counts, name, version, done = std::move(done)] {
    inference::ModelStatisticsResponse response;
    for (const ServedModelPtr& model : services_.models->open()) {
      if ((!name.empty() && model->name != name) || (!version.empty() && model->version != version)) continue;
      inference::ModelStatistics* stats = response.add_model_stats();
      stats->set_name(model->name);
      stats->set_version(model->version);
      (*counts)[{model->name, model->version}].Fill(stats);
    }
    done(absl::OkStatus(), std::move(response));
  });
}

absl::Status InferenceFront::MayAdminister(bool by_admin) const {
  if (options_.admin == nullptr) {
    return absl::PermissionDeniedError("models are not loaded and unloaded by call here: the server was started without --allow-admin; ask its operator");
  }
  if (!by_admin) return absl::PermissionDeniedError("models are loaded and unloaded by callers alone whom the server's operator has marked as admin; ask one of them");
  return absl::OkStatus();
}

void InferenceFront::LoadModel(const inference::RepositoryModelLoadRequest& request, bool by_admin, ModelAdmin::Done done) {
  if (const absl::Status may = MayAdminister(by_admin); !may.ok()) return done(may);
  if (!request.parameters().empty()) {
    return done(absl::UnimplementedError("parameters of a load are not offered: put the files into the model repository"));
  }
  options_.admin->Load(request.model_name(), std::move(done));
}

void InferenceFront::UnloadModel(const inference::RepositoryModelUnloadRequest& request, bool by_admin, ModelAdmin::Done done) {
  if (const absl::Status may = MayAdminister(by_admin); !may.ok()) return done(may);
  options_.admin->Unload(request.model_name(), std::move(done));  // nothing depends on a model: unload_dependents asks for nothing
}

}  // namespace lstm::server
