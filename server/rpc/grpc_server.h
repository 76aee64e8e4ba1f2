// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "inference/grpc_service.grpc.pb.h"
#include "server/inference/front.h"
#include "server/models/model_repository.h"
#include "server/rpc/shard_loop.h"
#include "server/rpc/tls.h"

namespace grpc {
class Server;
}

namespace lstm::server {

class Acceptor;
class HealthCanary;
class HealthService;
class LoadSpread;
struct InferenceCalls;

// The whole server as one object: listeners, gRPC, a loop for each shard, and the store of their sessions. Start, Drain and
// Stop are for one thread.
class GrpcServer : private ShardPeers {
 public:
  struct Options {
    std::vector<std::string> listen;
    size_t shards = 1;
    ShardLoop::Options loop;
    uint64_t max_sessions = 100'000;
    uint64_t max_session_bytes = uint64_t{2} << 30;
    int max_message_bytes = 4 << 20;
    int max_streams_per_connection = 4096;
    int handshake_ms = 5'000;  // for a connection to say what HTTP/2 and TLS begin with
    size_t grpc_memory_bytes = size_t{512} << 20;  // ResourceQuota: a soft fence around gRPC's own buffers
    bool reflection = true;
    ModelAdmin* admin = nullptr;  // null: models are not loaded and unloaded by call; else it outlives the server
    // Who may call. Null: everybody; whoever shows a certificate is an admin where `admin` is given.
    std::shared_ptr<const Callers> callers;
    // Called once, before sessions of the store are taken over, with the marks of the models that they began on: what is not
    // loaded is loaded then.
    std::function<void(const std::vector<ModelMark>&)> load_marked;
    std::string suspects_file;  // with a store: where sessions are noted that end the process
    std::shared_ptr<const Tls> tls;  // null: plain text
  };

  // What the store held.
  struct Recovered {
    size_t sessions = 0, parked = 0;
    std::vector<std::string> failures;  // what cannot be served, and why
  };

  // Takes the sessions of the store over, binds, builds and starts. `store` null: sessions are volatile; `parked` null: none is parked, and
  // it comes with a store only. INVALID_ARGUMENT or
  // FAILED_PRECONDITION where an address cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options, std::shared_ptr<const ModelRepository> models,
                                                           std::unique_ptr<SessionStore> store, std::unique_ptr<ParkedStore> parked = nullptr);
  ~GrpcServer() override;

  // Health turns NOT_SERVING, no connection and no session is accepted, streams are told, and those that end by
  // themselves within `deadline_ms` lose nothing. True where all did. May block.
  bool Drain(uint32_t deadline_ms);
  // Has every shard let go of what it keeps for computing with `model`, soon; each drops a copy of the pointer when it has.
  // REQUIRES: no session is on it and none can come. Thread-safe until Stop.
  void Forget(const ServedModelPtr& model);
  // Ends what is left. May block.
  void Stop();

  const std::vector<std::string>& addresses() const;
  const MemoryBudget& budget() const { return *budget_; }
  // For other faces of the Open Inference Protocol than gRPC; lives as long as the server.
  InferenceFront& inference() { return *inference_; }
  const Callers& callers() const { return *callers_; }
  const Recovered& recovered() const { return recovered_; }
  // As gRPC's health says it. Thread-safe.
  bool serving() const;
  // Of each shard, to be read on any thread while the server lives.
  std::vector<const ShardCounters*> counters() const;

 private:
  GrpcServer() = default;
  bool Send(size_t to, std::function<void(Shard&)> task) override;
  std::optional<size_t> TakeIdle() override;
  InferenceCalls CallsOf(size_t shard);
  void Recover(const Options& options);

  std::shared_ptr<const Callers> callers_;
  std::shared_ptr<const Tls> tls_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<ParkedStore> parked_;
  std::unique_ptr<Suspects> suspects_;
  SessionDirectory directory_;
  Recovered recovered_;
  std::unique_ptr<MemoryBudget> budget_;
  std::unique_ptr<LoadSpread> spread_, inference_spread_;
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<v1::Prediction::AsyncService> service_;
  std::unique_ptr<inference::GRPCInferenceService::AsyncService> inference_service_;
  std::vector<std::unique_ptr<ShardLoop>> loops_;
  std::unique_ptr<HealthService> health_;
  std::unique_ptr<HealthCanary> canary_;
  std::unique_ptr<InferenceFront> inference_;  // its sequences are on streams of the shards
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace lstm::server
