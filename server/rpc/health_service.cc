// SPDX-License-Identifier: MIT
#include "server/rpc/health_service.h"

#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// How late it may be noticed that a client has gone: a synchronous call is not told.
constexpr std::chrono::milliseconds kSlice(250);

}  // namespace

void HealthService::Set(bool serving) {
  const std::lock_guard<std::mutex> lock(mutex_);
  serving_ = serving;
  changed_.notify_all();
}

void HealthService::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

grpc::Status HealthService::Check(grpc::ServerContext*, const HealthCheckRequest* request, HealthCheckResponse* response) {
  if (!names_.contains(request->service())) return {grpc::StatusCode::NOT_FOUND, "no such service"};
  const std::lock_guard<std::mutex> lock(mutex_);
  response->set_status(serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  return grpc::Status::OK;
}

grpc::Status HealthService::Watch(grpc::ServerContext* context, const HealthCheckRequest* request, grpc::ServerWriter<HealthCheckResponse>* writer) {
  const bool known = names_.contains(request->service());
  std::unique_lock<std::mutex> lock(mutex_);
  if (watchers_ == kMostWatchers) return {grpc::StatusCode::RESOURCE_EXHAUSTED, absl::StrCat("health is watched by ", kMostWatchers, " others; use Check")};
  ++watchers_;
  std::optional<HealthCheckResponse::ServingStatus> told;
  bool written = true;
  while (written && !context->IsCancelled()) {
    const auto now = !known ? HealthCheckResponse::SERVICE_UNKNOWN : serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
    if (told != now) {
      told = now;
      HealthCheckResponse response;
      response.set_status(now);
      lock.unlock();
      written = writer->Write(response);
      lock.lock();
    } else if (closed_) {
      break;
    } else {
      changed_.wait_for(lock, kSlice);
    }
  }
  --watchers_;
  return closed_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is going away") : grpc::Status::CANCELLED;
}

}  // namespace lstm::server
