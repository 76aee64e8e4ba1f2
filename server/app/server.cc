// SPDX-License-Identifier: MIT
#include "server/app/server.h"

#include <pthread.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/models/model_repository.h"
#include "server/rpc/grpc_server.h"

namespace lstm::server {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path, const char* option) {
  if (path.empty()) return std::string();
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("--", option, ": '", path, "' cannot be read"));
  return text.str();
}

absl::StatusOr<GrpcServer::Options> ToServer(const ServerOptions& o) {
  GrpcServer::Options out;
  out.listen = o.listen;
  out.shards = o.shards > 0 ? o.shards : std::max(1u, std::thread::hardware_concurrency());
  out.loop.pin = o.pin_shards;
  out.loop.stream_budget_bytes = o.stream_budget_bytes;
  out.loop.idle_stream_s = o.idle_stream_seconds;
  out.loop.shard.default_window = o.window;
  out.loop.shard.ttl_s = o.ttl_seconds;
  out.loop.shard.max_ttl_s = o.max_ttl_seconds;
  out.loop.shard.orphan_ttl_s = o.orphan_ttl_seconds;
  out.max_sessions = o.max_sessions;
  out.max_session_bytes = o.max_session_bytes;
  out.max_message_bytes = static_cast<int>(o.max_message_bytes);
  out.max_streams_per_connection = static_cast<int>(o.max_streams_per_connection);
  out.grpc_memory_bytes = o.grpc_memory_bytes;
  out.reflection = o.reflection || o.OnlyLocal();
  LSTM_ASSIGN_OR_RETURN(out.tls_cert, ReadFile(o.tls_cert, "tls-cert"));
  LSTM_ASSIGN_OR_RETURN(out.tls_key, ReadFile(o.tls_key, "tls-key"));
  LSTM_ASSIGN_OR_RETURN(out.tls_client_ca, ReadFile(o.tls_client_ca, "tls-client-ca"));
  return out;
}

// Each connection is a descriptor: take all that the system gives.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::StatusOr<std::shared_ptr<const ModelRepository>> LoadModels(const ServerOptions& options) {
  std::vector<ModelRepository::Failure> failures;
  LSTM_ASSIGN_OR_RETURN(auto models, ModelRepository::Load(options.models, static_cast<int>(options.max_batch), failures));
  for (const auto& failure : failures) {
    spdlog::error("model {} version {} was not loaded: {}", failure.name, failure.version,
                  std::string(failure.status.message()));
  }
  for (const ServedModelPtr& model : models->all()) {
    spdlog::info("model {} version {}: {} parameters, {} bytes of state a session", model->name, model->version,
                 model->info.parameters(), model->info.state_bytes());
    for (const std::string& line : model->info.engines()) spdlog::info("  {}", line);
  }
  if (models->all().empty()) return absl::NotFoundError(absl::StrCat("no model could be loaded from '", options.models, "'"));
  return models;
}

absl::Status Serve(const ServerOptions& options, const sigset_t& signals) {
  LSTM_RETURN_IF_ERROR(options.Validate());
  LSTM_ASSIGN_OR_RETURN(const GrpcServer::Options server_options, ToServer(options));
  const auto begin = std::chrono::steady_clock::now();
  LSTM_ASSIGN_OR_RETURN(auto models, LoadModels(options));
  LSTM_ASSIGN_OR_RETURN(auto server, GrpcServer::Start(server_options, models));
  if (options.state_dir.empty()) {
    spdlog::warn("no --state-dir: sessions are volatile and end with this process");
  } else {
    spdlog::warn("--state-dir is noted, but this version keeps sessions in memory: they are volatile and end with this process");
  }
  for (const std::string& address : server->addresses()) spdlog::info("listening on {}", address);
  spdlog::info("ready after {} ms: {} models, {} shards, numerics {}",
               std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin).count(),
               models->all().size(), server_options.shards, models->all().front()->info.numerics_id());

  int signal = 0;
  sigwait(&signals, &signal);
  spdlog::info("{}: draining, {} sessions are open, streams get {} s to end", strsignal(signal), server->budget().sessions(),
               options.drain_seconds);
  const bool clean = server->Drain(options.drain_seconds * 1000);
  if (!clean) spdlog::warn("the drain's deadline passed: the remaining streams are cut, {} sessions with them", server->budget().sessions());
  server->Stop();
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace

int RunServer(const ServerOptions& options) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("server"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  signal(SIGPIPE, SIG_IGN);
  // Blocked before any thread starts, so that sigwait alone gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  RaiseDescriptorLimit();
  const absl::Status served = Serve(options, signals);
  if (!served.ok()) spdlog::critical("{}", std::string(served.message()));
  return served.ok() ? 0 : 1;
}

}  // namespace lstm::server
