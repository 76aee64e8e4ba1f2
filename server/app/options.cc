// SPDX-License-Identifier: MIT
#include "server/app/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/engine.h"
#include "core/base/status_macros.h"
#include "lstm/config/v1/config.pb.h"
#include "server/auth/text_proto.h"
#include "server/http/rest_server.h"
#include "server/metrics/exposer.h"
#include "server/models/version_policy.h"
#include "server/rpc/acceptor.h"

namespace lstm::server {
namespace {

void Describe(CLI::App& app, ServerOptions& o, std::string& config) {
  app.option_defaults()->always_capture_default();
  app.add_option("--config", config, "Config file: text protobuf with these names; flags and environment win over it")->type_name("FILE");
  app.add_option("--listen", o.listen, "Address to serve on: HOST:PORT (port 0: any free one) or unix:PATH; may be repeated")
      ->type_name("ADDR")
      ->allow_extra_args(false);
  app.add_option("--http-listen", o.http_listen, "Address for the Open Inference Protocol over plain HTTP: IPV4:PORT or [IPV6]:PORT; an empty text: none. Where --tls-client-ca is given: none without --http-anonymous")
      ->type_name("ADDR");
  app.add_flag("--http-beyond-loopback", o.http_beyond_loopback, "Serve HTTP beyond this machine too, to whoever asks");
  app.add_flag("--http-anonymous", o.http_anonymous, "Serve HTTP, which knows no certificates, although --tls-client-ca demands them of gRPC's clients");
  app.add_option("--metrics-listen", o.metrics_listen, "Address for Prometheus' metrics over plain HTTP, GET /metrics: IPV4:PORT or [IPV6]:PORT; an empty text: none")
      ->type_name("ADDR");
  app.add_flag("--metrics-beyond-loopback", o.metrics_beyond_loopback, "Serve metrics beyond this machine too, to whoever asks");
  app.add_option("--models", o.models, "Model repository: DIR/<model>/<version>/model.textproto with its weights beside it")
      ->type_name("DIR");
  app.add_option("--version-policy", o.version_policy, "Which versions can be opened: [MODEL=]latest:N, [MODEL=]all or [MODEL=]specific:N,N,...; may be repeated, once for each model")
      ->type_name("POLICY")
      ->allow_extra_args(false);
  app.add_option("--model-poll-seconds", o.model_poll_seconds, "Seconds between looks at the model repository for versions that come and go; 0: only on SIGHUP");
  app.add_option("--max-live-versions", o.max_live_versions, "Versions of a model that may be loaded at a time, those among them that only their sessions need");
  app.add_flag("--allow-admin", o.allow_admin, "Let callers load and unload models: RepositoryModelLoad and RepositoryModelUnload of the Open Inference Protocol; with --token-file those alone that it marks as admin");
  app.add_option("--state-dir", o.state_dir, "Keep sessions here, so that they survive the end of this process; on a disk also the loss of power, where Open asks. Default: sessions are volatile")
      ->type_name("DIR");
  app.add_option("--max-state-bytes", o.max_state_bytes, "Bytes that the state directory may grow to");
  app.add_option("--max-parked-bytes", o.max_parked_bytes, "Bytes that the log of parked sessions may grow to, in the state directory");
  app.add_option("--park-after-seconds", o.park_after_seconds, "A stored session that is not used so long is parked: it leaves memory, and comes back when it is used. A volatile one is packed into its state and some 400 bytes");
  app.add_option("--state-wait-seconds", o.state_wait_seconds, "Seconds to wait for another server to let go of the state directory");
  app.add_option("--shards", o.shards, "Threads that compute and serve, one a core; 0: one for each core that the process may use (affinity, cgroup quota)");
  app.add_option("--pin-shards", o.pin_shards, "Pin each shard to its core");
  app.add_option("--max-sessions", o.max_sessions, "Sessions that may be open at a time");
  app.add_option("--max-session-bytes", o.max_session_bytes, "Bytes of state, waiting inputs and kept answers, all sessions together");
  app.add_option("--window", o.window, "Unacknowledged turns of a session, where Open does not say");
  app.add_option("--max-wait-ms", o.max_wait_ms, "Refuse a turn at once (RETRY) that other sessions would keep waiting for more milliseconds than this; 0: none, windows and memory are the bounds");
  app.add_option("--ttl-seconds", o.ttl_seconds, "Seconds a session outlives its last use, where Open does not say");
  app.add_option("--max-ttl-seconds", o.max_ttl_seconds, "Most seconds that an Open may ask for");
  app.add_option("--orphan-ttl-seconds", o.orphan_ttl_seconds, "Seconds a volatile session outlives its stream, where Open set no TTL");
  app.add_option("--stream-budget-bytes", o.stream_budget_bytes, "Bytes of a stream that wait to be computed or sent; above, it is not read");
  app.add_option("--first-message-seconds", o.first_message_seconds, "Seconds until a stream of lstm.v1.Prediction is closed on which no message came");
  app.add_option("--idle-stream-seconds", o.idle_stream_seconds, "Seconds until a stream without a session is closed, or a connection without a call");
  app.add_option("--max-message-bytes", o.max_message_bytes, "Bytes of the largest message that is received");
  app.add_option("--max-streams-per-connection", o.max_streams_per_connection, "Calls open at a time on one connection");
  app.add_option("--grpc-memory-bytes", o.grpc_memory_bytes, "Bytes that gRPC's own buffers may take; a soft limit");
  app.add_option("--max-batch", o.max_batch, "Rows of the largest batch");
  app.add_option("--engine", o.engine, "What computes the layers: fused (this server's own kernels), onednn, or auto: fused where the machine has AVX2 or better. A stored session goes on with the engine it began with, or by consent");
  app.add_option("--drain-seconds", o.drain_seconds, "Seconds that streams get to end by themselves after SIGTERM");
  app.add_flag("--reflection", o.reflection, "Offer gRPC reflection beyond this machine too; on loopback and unix sockets it is always on");
  app.add_flag("--behind-proxy", o.behind_proxy, "Listen beyond this machine without TLS: a proxy in front keeps strangers out");
  app.add_option("--tls-cert", o.tls_cert, "Server certificate (PEM)")->type_name("FILE");
  app.add_option("--tls-key", o.tls_key, "Its key (PEM)")->type_name("FILE");
  app.add_option("--tls-client-ca", o.tls_client_ca, "Demand client certificates signed by this CA (PEM)")->type_name("FILE");
  app.add_option("--token-file", o.token_file, "Serve callers of this file alone (text protobuf, proto/lstm/config/v1/callers.proto): their hashed tokens, which of them are admins, and what each may have. Read again when it changes")->type_name("FILE");
  app.add_option("--log-level", o.log_level, "trace, debug, info, warning, error or off");
  app.add_option("--log-format", o.log_format, "Of the lines on standard error: text, or json, an object a line");
  for (CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (option->get_lnames().empty() || name == "help" || name == "version") continue;
    option->envname("LSTM_" + absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}})));
  }
  app.add_option("--new-token", o.new_token, "Print a new token and the line of --token-file for a caller of this name, and exit")->type_name("NAME");
  app.add_flag("--check-config", o.check_config, "Check these settings and all that they name: the models (loaded and tried), directories, certificates, addresses; print what would be served and every fault, and exit: 0 there is none, 1 there is. Nothing is listened on, nothing is written");
  app.add_flag("--probe", o.probe, "Ask the server that these settings describe whether it serves, and exit: 0 it does, 1 it does not");
}

absl::Status InRange(const char* name, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", name, " is ", value, ", expected ", least, " to ", most));
}

absl::Status CheckOther(const char* option, const std::string& other, const std::string& http_listen) {
  if (other != http_listen || absl::EndsWith(other, ":0")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--http-listen and --", option, " are both '", other, "': HTTP needs an address of its own"));
}

// With no room beyond what the policy keeps a new version could never be loaded beside them.
absl::Status CheckPolicy(const VersionPolicy& policy, uint32_t max_live) {
  if (!policy.specific.empty() && policy.specific.size() > max_live) {
    return absl::InvalidArgumentError(absl::StrCat("--version-policy has ", policy.specific.size(), " versions of a model, but --max-live-versions is ", max_live));
  }
  if (policy.specific.empty() && policy.latest != VersionPolicy::kAll && policy.latest >= max_live) {
    return absl::InvalidArgumentError(absl::StrCat("--version-policy has latest:", policy.latest, ", expected less than --max-live-versions, which is ", max_live));
  }
  return absl::OkStatus();
}

}  // namespace

bool ServerOptions::OnlyLocal() const {
  return std::all_of(listen.begin(), listen.end(), [](const std::string& a) { return Acceptor::IsLocal(a); });
}

absl::Status ServerOptions::Validate() const {
  const std::vector<absl::Status> faults = Faults();
  return faults.empty() ? absl::OkStatus() : faults.front();
}

std::vector<absl::Status> ServerOptions::Faults() const {
  std::vector<absl::Status> faults;
  const auto check = [&faults](const absl::Status& status) {
    if (!status.ok()) faults.push_back(status);
  };
  if (models.empty()) check(absl::InvalidArgumentError("--models DIR is missing: the directory with the models to serve"));
  if (listen.empty()) check(absl::InvalidArgumentError("--listen is empty, expected HOST:PORT or unix:PATH"));
  if (!OnlyLocal() && tls_cert.empty() && !behind_proxy) {
    check(absl::InvalidArgumentError(
        "--listen names an address beyond this machine: give --tls-cert and --tls-key (and --tls-client-ca or --token-file to "
        "know the clients), or --behind-proxy where a proxy keeps strangers out"));
  }
  if (tls_cert.empty() != tls_key.empty()) check(absl::InvalidArgumentError("--tls-cert and --tls-key belong together"));
  if (!tls_client_ca.empty() && tls_cert.empty()) check(absl::InvalidArgumentError("--tls-client-ca needs --tls-cert and --tls-key"));
  check(InRange("shards", shards, 0, 256));
  if (!metrics_listen.empty()) {
    const absl::Status understood = Exposer::Check(metrics_listen);
    if (!understood.ok()) check(absl::InvalidArgumentError(absl::StrCat("--metrics-listen is ", understood.message())));
    if (understood.ok() && !Exposer::IsLocal(metrics_listen) && !metrics_beyond_loopback) {
      check(absl::InvalidArgumentError(absl::StrCat("--metrics-listen is '", metrics_listen, "', which is beyond this machine: say --metrics-beyond-loopback to serve metrics to whoever asks")));
    }
  }
  if (!http_listen.empty()) {
    const absl::Status understood = RestServer::Check(http_listen);
    if (!understood.ok()) check(absl::InvalidArgumentError(absl::StrCat("--http-listen is ", understood.message())));
    if (understood.ok() && !RestServer::IsLocal(http_listen) && !http_beyond_loopback) {
      check(absl::InvalidArgumentError(absl::StrCat("--http-listen is '", http_listen, "', which is beyond this machine: say --http-beyond-loopback to serve it to whoever asks")));
    }
    if (understood.ok() && !RestServer::IsLocal(http_listen) && !token_file.empty() && !behind_proxy) {
      check(absl::InvalidArgumentError(absl::StrCat("--http-listen is '", http_listen, "', over which tokens would travel in the clear: say --behind-proxy where a proxy with TLS is in front")));
    }
    for (const std::string& other : listen) check(CheckOther("listen", other, http_listen));
    check(CheckOther("metrics-listen", metrics_listen, http_listen));
  }
  check(InRange("max-live-versions", max_live_versions, 2, 1000));
  const absl::StatusOr<VersionPolicies> policies = ParseVersionPolicies(version_policy);
  check(policies.status());
  if (policies.ok()) {
    check(CheckPolicy(policies->common, max_live_versions));
    for (const auto& [name, policy] : policies->by_model) check(CheckPolicy(policy, max_live_versions));
  }
  if (!(model_poll_seconds == 0 || (model_poll_seconds >= 0.01 && model_poll_seconds <= 86'400))) {
    check(absl::InvalidArgumentError(absl::StrCat("--model-poll-seconds is ", model_poll_seconds, ", expected 0, or 0.01 to 86400")));
  }
  check(InRange("max-sessions", max_sessions, 1, 100'000'000));
  check(InRange("max-session-bytes", max_session_bytes, 1u << 20, uint64_t{1} << 50));
  check(InRange("max-state-bytes", max_state_bytes, 1u << 20, uint64_t{1} << 50));
  check(InRange("max-parked-bytes", max_parked_bytes, 1u << 20, uint64_t{1} << 50));
  if (!(park_after_seconds >= 0.001 && park_after_seconds <= 30 * 86'400)) {
    check(absl::InvalidArgumentError(absl::StrCat("--park-after-seconds is ", park_after_seconds, ", expected 0.001 to 2592000")));
  }
  check(InRange("state-wait-seconds", state_wait_seconds, 0, 86'400));
  check(InRange("window", window, 1, 256));
  check(InRange("ttl-seconds", ttl_seconds, 1, max_ttl_seconds));
  check(InRange("max-ttl-seconds", max_ttl_seconds, 1, 30 * 86'400));
  check(InRange("orphan-ttl-seconds", orphan_ttl_seconds, 1, max_ttl_seconds));
  check(InRange("stream-budget-bytes", stream_budget_bytes, 1u << 16, uint64_t{1} << 32));
  check(InRange("max-wait-ms", max_wait_ms, 0, 3'600'000));
  check(InRange("first-message-seconds", first_message_seconds, 1, 86'400));
  check(InRange("idle-stream-seconds", idle_stream_seconds, 1, 86'400));
  check(InRange("max-message-bytes", max_message_bytes, 1u << 10, 1u << 30));
  check(InRange("max-streams-per-connection", max_streams_per_connection, 1, 1'000'000));
  check(InRange("grpc-memory-bytes", grpc_memory_bytes, 16u << 20, uint64_t{1} << 50));
  check(InRange("max-batch", max_batch, 1, 1024));
  if (!core::EngineFromName(engine)) {
    check(absl::InvalidArgumentError(absl::StrCat("--engine is '", engine, "', expected auto, onednn or fused")));
  }
  check(InRange("drain-seconds", drain_seconds, 0, 86'400));
  const char* const levels[] = {"trace", "debug", "info", "warning", "error", "off"};
  if (std::find(std::begin(levels), std::end(levels), log_level) == std::end(levels)) {
    check(absl::InvalidArgumentError("--log-level is none of trace, debug, info, warning, error and off"));
  }
  if (log_format != "text" && log_format != "json") check(absl::InvalidArgumentError("--log-format is neither text nor json"));
  return faults;
}

absl::Status ReadConfig(const std::string& text, ServerOptions& o) {
  config::v1::ServerConfig config;
  LSTM_RETURN_IF_ERROR(ParseText(text, "config file", &config));
  if (config.listen_size() > 0) o.listen.assign(config.listen().begin(), config.listen().end());
  if (!config.models().empty()) o.models = config.models();
  if (config.version_policy_size() > 0) o.version_policy.assign(config.version_policy().begin(), config.version_policy().end());
  if (!config.state_dir().empty()) o.state_dir = config.state_dir();
#define LSTM_TAKE(field) \
  if (config.has_##field()) o.field = config.field()
  LSTM_TAKE(http_listen);
  LSTM_TAKE(http_beyond_loopback);
  LSTM_TAKE(http_anonymous);
  LSTM_TAKE(metrics_listen);
  LSTM_TAKE(metrics_beyond_loopback);
  LSTM_TAKE(model_poll_seconds);
  LSTM_TAKE(max_live_versions);
  LSTM_TAKE(allow_admin);
  LSTM_TAKE(max_state_bytes);
  LSTM_TAKE(max_parked_bytes);
  LSTM_TAKE(park_after_seconds);
  LSTM_TAKE(state_wait_seconds);
  LSTM_TAKE(shards);
  LSTM_TAKE(pin_shards);
  LSTM_TAKE(max_sessions);
  LSTM_TAKE(max_session_bytes);
  LSTM_TAKE(window);
  LSTM_TAKE(ttl_seconds);
  LSTM_TAKE(max_ttl_seconds);
  LSTM_TAKE(orphan_ttl_seconds);
  LSTM_TAKE(stream_budget_bytes);
  LSTM_TAKE(max_wait_ms);
  LSTM_TAKE(first_message_seconds);
  LSTM_TAKE(idle_stream_seconds);
  LSTM_TAKE(max_message_bytes);
  LSTM_TAKE(max_streams_per_connection);
  LSTM_TAKE(grpc_memory_bytes);
  LSTM_TAKE(max_batch);
  LSTM_TAKE(engine);
  LSTM_TAKE(drain_seconds);
  LSTM_TAKE(reflection);
  LSTM_TAKE(behind_proxy);
  LSTM_TAKE(tls_cert);
  LSTM_TAKE(tls_key);
  LSTM_TAKE(tls_client_ca);
  LSTM_TAKE(token_file);
  LSTM_TAKE(log_level);
  LSTM_TAKE(log_format);
#undef LSTM_TAKE
  return absl::OkStatus();
}

CommandLine ParseCommandLine(int argc, char** argv) {
  CommandLine line;
  const char* const about = "Serves recurrent networks: per-step predictions over gRPC, the state of every session kept.";
  std::string config;
  const auto parse = [&](CLI::App& app) {
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      line.exit = true;
      line.exit_code = app.exit(e) == 0 ? 0 : 2;
    }
  };
  CLI::App first(about, "lstm-server");
  first.set_version_flag("--version", LSTM_VERSION);
  Describe(first, line.options, config);
  parse(first);
  if (line.exit || config.empty()) return line;

  // With a config file: defaults, then the file, then the flags once more over it.
  std::ifstream file(config);
  std::stringstream text;
  text << file.rdbuf();
  line.options = ServerOptions();
  const absl::Status read = file ? ReadConfig(text.str(), line.options)
                                 : absl::NotFoundError(absl::StrCat("config file '", config, "' cannot be read"));
  if (!read.ok()) {
    std::cerr << read.message() << "\n";
    line.exit = true;
    line.exit_code = 2;
    return line;
  }
  CLI::App second(about, "lstm-server");
  Describe(second, line.options, config);
  parse(second);
  return line;
}

}  // namespace lstm::server
