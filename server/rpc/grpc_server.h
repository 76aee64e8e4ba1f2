// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/models/model_repository.h"
#include "server/rpc/shard_loop.h"

namespace grpc {
class Server;
}

namespace lstm::server {

class Acceptor;
class LoadSpread;

// The whole server as one object: listeners, gRPC, and a loop for each shard. Start, Drain and Stop are for one thread.
class GrpcServer {
 public:
  struct Options {
    std::vector<std::string> listen;
    size_t shards = 1;
    ShardLoop::Options loop;
    uint64_t max_sessions = 100'000;
    uint64_t max_session_bytes = uint64_t{2} << 30;
    int max_message_bytes = 4 << 20;
    int max_streams_per_connection = 4096;
    size_t grpc_memory_bytes = size_t{512} << 20;  // ResourceQuota: a soft fence around gRPC's own buffers
    bool reflection = true;
    // PEM, as text; all empty: plain text. With `tls_client_ca` clients must show a certificate signed by it.
    std::string tls_cert, tls_key, tls_client_ca;
  };

  // Binds, builds and starts. INVALID_ARGUMENT or FAILED_PRECONDITION where an address cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options,
                                                           std::shared_ptr<const ModelRepository> models);
  ~GrpcServer();

  // Health turns NOT_SERVING, no connection and no session is accepted, streams are told, and those that end by
  // themselves within `deadline_ms` lose nothing. True where all did. May block.
  bool Drain(uint32_t deadline_ms);
  // Ends what is left. May block.
  void Stop();

  const std::vector<std::string>& addresses() const;
  const MemoryBudget& budget() const { return *budget_; }

 private:
  GrpcServer() = default;

  std::unique_ptr<MemoryBudget> budget_;
  std::unique_ptr<LoadSpread> spread_;
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<v1::Prediction::AsyncService> service_;
  std::vector<std::unique_ptr<ShardLoop>> loops_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace lstm::server
