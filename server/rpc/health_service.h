// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"

namespace lstm::server {

// gRPC's health, of the whole server under each of some names. Not the one that gRPC brings, which is written for its callback API:
// that has a thread which polls every connection beside the shards, so that most messages come to the wrong thread first (2.5 times the CPU
// of a lone turn). This one's calls are synchronous, which in a server with queues of its own needs no polling; one that watches
// costs a thread, and they are bounded. Thread-safe.
class HealthService final : public grpc::health::v1::Health::Service {
 public:
  explicit HealthService(std::set<std::string> names) : names_(std::move(names)) {}

  // What is said from here on, and to whoever watches; NOT_SERVING before the first.
  void Set(bool serving);
  // Who watches is sent away; the server can be shut down.
  void Close();

  grpc::Status Check(grpc::ServerContext* context, const grpc::health::v1::HealthCheckRequest* request, grpc::health::v1::HealthCheckResponse* response) override;
  grpc::Status Watch(grpc::ServerContext* context, const grpc::health::v1::HealthCheckRequest* request, grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>* writer) override;

 private:
  static constexpr int kMostWatchers = 128;

  const std::set<std::string> names_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool serving_ = false, closed_ = false;  // guarded by mutex_, as the next
  int watchers_ = 0;
};

}  // namespace lstm::server
