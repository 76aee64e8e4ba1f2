// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lstm::server {

// Everything that can be set, with its default. Flags, the environment (LSTM_MAX_SESSIONS for --max-sessions) and the config
// file (proto/lstm/config/v1/config.proto) have the same names and win over each other in this order.
struct ServerOptions {
  std::vector<std::string> listen = {"127.0.0.1:8001"};
  std::string http_listen = "127.0.0.1:8000";     // empty: no HTTP
  bool http_beyond_loopback = false;
  bool http_anonymous = false;  // HTTP too where clients of gRPC must show certificates
  std::string metrics_listen = "127.0.0.1:8002";  // empty: no metrics
  bool metrics_beyond_loopback = false;
  std::string models;
  std::vector<std::string> version_policy = {"latest:1"};
  double model_poll_seconds = 5;  // 0: only on SIGHUP
  uint32_t max_live_versions = 4;
  bool allow_admin = false;  // models are loaded and unloaded by whoever can call
  std::string state_dir;
  uint64_t max_state_bytes = uint64_t{16} << 30;
  uint64_t max_parked_bytes = uint64_t{16} << 30;
  double park_after_seconds = 60;
  uint32_t state_wait_seconds = 30;
  uint32_t shards = 0;  // 0: one for each core that the process may use
  bool pin_shards = true;
  uint64_t max_sessions = 100'000;
  uint64_t max_session_bytes = uint64_t{2} << 30;
  uint32_t window = 8;
  uint32_t max_wait_ms = 0;  // 0: no turn is refused for its wait
  uint32_t ttl_seconds = 900;
  uint32_t max_ttl_seconds = 86'400;
  uint32_t orphan_ttl_seconds = 60;
  uint64_t stream_budget_bytes = 4u << 20;
  uint32_t first_message_seconds = 5;
  uint32_t idle_stream_seconds = 300;
  uint32_t max_message_bytes = 4u << 20;
  uint32_t max_streams_per_connection = 4096;
  uint64_t grpc_memory_bytes = uint64_t{512} << 20;
  uint32_t max_batch = 64;
  std::string engine = "auto";
  uint32_t drain_seconds = 10;
  bool reflection = false;
  bool behind_proxy = false;
  std::string tls_cert, tls_key, tls_client_ca;  // files
  std::string token_file;  // empty: callers need no token
  std::string log_level = "info";
  std::string log_format = "text";
  std::string new_token;  // print a token for a caller of this name, serve nothing
  bool probe = false;  // ask the server that these settings describe, serve nothing
  bool check_config = false;  // check them and what they name, serve nothing

  // INVALID_ARGUMENT names the option, what was expected and what came.
  absl::Status Validate() const;
  // All that Validate would say, one after the other.
  std::vector<absl::Status> Faults() const;
  // HTTP can not ask for certificates: where gRPC does, it is served on request alone.
  bool ServesHttp() const { return !http_listen.empty() && (tls_client_ca.empty() || http_anonymous); }
  // True where every address is of this machine alone.
  bool OnlyLocal() const;
};

// What the command line asks for.
struct CommandLine {
  ServerOptions options;
  bool exit = false;  // help or version was printed, or the line was wrong
  int exit_code = 0;
};

// Reads flags, the environment and the file that --config names. Prints help, version and errors itself.
CommandLine ParseCommandLine(int argc, char** argv);

// Sets what the text (a lstm.config.v1.ServerConfig) sets. INVALID_ARGUMENT gives line and column.
absl::Status ReadConfig(const std::string& text, ServerOptions& options);

}  // namespace lstm::server
