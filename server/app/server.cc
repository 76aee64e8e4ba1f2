// SPDX-License-Identifier: MIT
#include "server/app/server.h"

#include <grpc/support/log.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/app/caller_file.h"
#include "server/app/cores.h"
#include "server/app/file_watch.h"
#include "server/app/load_models.h"
#include "server/app/model_thread.h"
#include "server/app/notify.h"
#include "server/http/rest_server.h"
#include "server/log/log.h"
#include "server/metrics/exposer.h"
#include "server/models/model_keeper.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/tls.h"
#include "server/shard/shard.h"
#include "server/store/park_log.h"
#include "server/store/slab.h"

namespace lstm::server {
namespace {

GrpcServer::Options ToServer(const ServerOptions& o) {
  GrpcServer::Options out;
  out.listen = o.listen;
  out.shards = o.shards > 0 ? o.shards : AllowedCores();
  out.loop.pin = o.pin_shards;
  out.loop.stream_budget_bytes = o.stream_budget_bytes;
  out.loop.first_message_s = o.first_message_seconds;
  out.loop.idle_stream_s = o.idle_stream_seconds;
  out.loop.shard.default_window = o.window;
  out.loop.shard.max_wait_us = uint64_t{o.max_wait_ms} * 1000;
  out.loop.shard.ttl_s = o.ttl_seconds;
  out.loop.shard.max_ttl_s = o.max_ttl_seconds;
  out.loop.shard.orphan_ttl_s = o.orphan_ttl_seconds;
  out.loop.shard.park_after_us = static_cast<uint64_t>(o.park_after_seconds * 1e6);
  out.max_sessions = o.max_sessions;
  out.max_session_bytes = o.max_session_bytes;
  out.max_message_bytes = static_cast<int>(o.max_message_bytes);
  out.max_streams_per_connection = static_cast<int>(o.max_streams_per_connection);
  out.grpc_memory_bytes = o.grpc_memory_bytes;
  if (!o.state_dir.empty()) out.suspects_file = o.state_dir + "/suspects";
  out.reflection = o.reflection || o.OnlyLocal();
  return out;
}

// What gRPC has to tell, in lines like ours.
void OfGrpc(gpr_log_func_args* said) {
  const LogLevel level = said->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarning : LogLevel::kDebug;
  LogEvent(level, said->message, {{"grpc_file", said->file}, {"grpc_line", said->line}});
}

// A fault while a turn is computed is noted for that session before the process dies as it would have.
void OnFault(int signal) {
  Shard::NoteCrash(signal);
  raise(signal);  // the default again, by SA_RESETHAND
}

void CatchFaults() {
  struct sigaction action {};
  action.sa_handler = OnFault;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(signal, &action, nullptr);
}

// Each connection is a descriptor: take all that the system gives.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

absl::StatusOr<std::unique_ptr<SessionStore>> OpenStore(const ServerOptions& options) {
  if (options.state_dir.empty()) return std::unique_ptr<SessionStore>();
  spdlog::debug("waiting for the state directory '{}'", options.state_dir);
  LSTM_ASSIGN_OR_RETURN(auto slab, Slab::Open({.directory = options.state_dir, .max_bytes = options.max_state_bytes,
                                               .wait = absl::Seconds(options.state_wait_seconds)}));
  spdlog::info("state directory '{}': start {} of it, {}", options.state_dir, slab->generation(),
               slab->survives_power_loss() ? "durability PROCESS and HOST" : "durability PROCESS (it is in memory: a loss of power takes it)");
  return std::unique_ptr<SessionStore>(std::move(slab));
}

// In the same directory, which the store holds the lock of.
absl::StatusOr<std::unique_ptr<ParkedStore>> OpenParked(const ServerOptions& options, const SessionStore* store) {
  if (store == nullptr) return std::unique_ptr<ParkedStore>();
  LSTM_ASSIGN_OR_RETURN(auto log, ParkLog::Open({.directory = options.state_dir, .instance = store->instance(), .max_bytes = options.max_parked_bytes}));
  return std::unique_ptr<ParkedStore>(std::move(log));
}

// A port that an older process, or another server, may have yet: it is tried again until it can be had. Its want stops no server.
class LatePort {
 public:
  // `start` gives what is to be told of it.
  LatePort(bool wanted, const char* what, const char* option, std::function<absl::StatusOr<std::string>()> start)
      : wanted_(wanted), what_(what), option_(option), start_(std::move(start)) {}

  bool wanted() const { return wanted_; }
  void Try() {
    if (!wanted_) return;
    const absl::StatusOr<std::string> started = start_();
    wanted_ = !started.ok();
    if (started.ok()) {
      spdlog::info("{} on http://{}", what_, *started);
    } else if (!std::exchange(told_, true)) {
      spdlog::warn("no {} yet: {} (--{} names another address)", what_, std::string(started.status().message()), option_);
    }
  }

 private:
  bool wanted_;
  const char* const what_;
  const char* const option_;
  const std::function<absl::StatusOr<std::string>()> start_;
  bool told_ = false;
};

void ReadAgain(Tls& tls) {
  if (const absl::Status read = tls.Read(); read.ok()) {
    spdlog::info("certificates were read again: new connections get them");
  } else {
    spdlog::error("{}; the certificates that were read before stay", std::string(read.message()));
  }
}

// 0: a second has passed, and none came; only where `impatient`.
int NextSignal(const sigset_t& signals, bool impatient) {
  const timespec second{.tv_sec = 1, .tv_nsec = 0};
  int signal = 0;
  if (impatient) return std::max(0, sigtimedwait(&signals, nullptr, &second));
  sigwait(&signals, &signal);
  return signal;
}

absl::Status Serve(const ServerOptions& options, const sigset_t& signals) {
  LSTM_RETURN_IF_ERROR(options.Validate());
  GrpcServer::Options server_options = ToServer(options);
  const Tls::Files tls_files{.cert = options.tls_cert, .key = options.tls_key, .client_ca = options.tls_client_ca};
  FileWatch tls_watch({tls_files.cert, tls_files.key, tls_files.client_ca.empty() ? tls_files.cert : tls_files.client_ca});
  std::shared_ptr<Tls> tls;
  if (!options.tls_cert.empty()) {
    LSTM_ASSIGN_OR_RETURN(tls, Tls::Open(tls_files));
  }
  server_options.tls = tls;
  LSTM_ASSIGN_OR_RETURN(const std::unique_ptr<CallerFile> caller_file, CallerFile::Open(options.token_file));
  if (caller_file != nullptr) server_options.callers = caller_file->callers();
  const auto begin = std::chrono::steady_clock::now();
  ModelKeeper::Notes loaded;
  auto first_look = LoadModels(options, loaded);
  LogNotes(loaded);  // also where none could be opened: they say why
  LSTM_ASSIGN_OR_RETURN(const auto keeper, std::move(first_look));
  const std::shared_ptr<const ModelRepository> models = keeper->repository();
  server_options.load_marked = [&](const std::vector<ModelMark>& marks) {
    ModelKeeper::Notes notes;
    keeper->LoadMarked(marks, notes);
    LogNotes(notes);
  };
  ModelThread model_thread(keeper.get(), options.model_poll_seconds);
  if (options.allow_admin) server_options.admin = &model_thread;
  // After the models, which take longest: an older process serves its sessions until here.
  LSTM_ASSIGN_OR_RETURN(auto store, OpenStore(options));
  LSTM_ASSIGN_OR_RETURN(auto parked, OpenParked(options, store.get()));
  std::unique_ptr<RestServer> rest;  // outlives the server, whose shards may answer to it to the last
  LSTM_ASSIGN_OR_RETURN(auto server, GrpcServer::Start(server_options, models, std::move(store), std::move(parked)));
  if (options.state_dir.empty()) {
    spdlog::warn("no --state-dir: sessions are volatile and end with this process");
  } else {
    spdlog::info("{} sessions were found in the state directory, {} of them parked", server->recovered().sessions + server->recovered().parked,
                 server->recovered().parked);
  }
  for (const std::string& failure : server->recovered().failures) spdlog::error("a stored session is set aside: {}", failure);
  for (const std::string& address : server->addresses()) spdlog::info("listening on {}", address);
  spdlog::info("ready after {} ms: {} models, {} shards, numerics {}",
               std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin).count(),
               models->open().size(), server_options.shards, models->open().front()->info.numerics_id());
  model_thread.Start([&server](const ServedModelPtr& model) { server->Forget(model); });

  std::unique_ptr<Exposer> exposer;
  const MetricSources sources{.shards = server->counters(), .budget = &server->budget(), .models = models, .callers = &server->callers(), .serving = [&server] { return server->serving(); }, .not_recovered = server->recovered().failures.size()};
  LatePort metrics(!options.metrics_listen.empty(), "metrics", "metrics-listen", [&]() -> absl::StatusOr<std::string> {
    LSTM_ASSIGN_OR_RETURN(exposer, Exposer::Start(options.metrics_listen, sources));
    return absl::StrCat(options.metrics_listen.substr(0, options.metrics_listen.rfind(':')), ":", exposer->port(), "/metrics");
  });
  RestServer::Options rest_options;
  rest_options.listen = options.http_listen;
  rest_options.max_body_bytes = options.max_message_bytes;
  rest_options.max_bodies_bytes = std::max(rest_options.max_bodies_bytes, 4 * rest_options.max_body_bytes);
  LatePort http(options.ServesHttp(), "Open Inference Protocol", "http-listen", [&]() -> absl::StatusOr<std::string> {
    LSTM_ASSIGN_OR_RETURN(rest, RestServer::Start(rest_options, &server->inference(), &server->callers()));
    return rest->address() + "/v2";
  });
  if (!options.http_listen.empty() && !options.ServesHttp()) spdlog::info("no HTTP: --tls-client-ca demands certificates, which it knows not; --http-anonymous serves it all the same");

  NotifyManager("READY=1");
  const bool watched = WatchdogWanted();
  int signal = 0;
  while (signal == 0 || signal == SIGHUP) {
    metrics.Try();
    http.Try();
    if (watched && server->serving()) NotifyManager("WATCHDOG=1");
    signal = NextSignal(signals, watched || metrics.wanted() || http.wanted() || caller_file != nullptr || tls != nullptr);
    if (signal == SIGHUP) model_thread.LookNow();
    if (caller_file != nullptr) caller_file->Look(signal == SIGHUP);
    if (tls != nullptr && (tls_watch.Changed() || signal == SIGHUP)) ReadAgain(*tls);
  }
  NotifyManager("STOPPING=1");
  model_thread.Stop();
  spdlog::info("{}: draining, {} sessions are open, streams get {} s to end", strsignal(signal), server->budget().sessions(),
               options.drain_seconds);
  if (rest) rest->Drain();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(options.drain_seconds);
  bool clean = server->Drain(options.drain_seconds * 1000);
  if (rest) clean = rest->WaitForNone(until) && clean;
  if (!clean) spdlog::warn("the drain's deadline passed: the remaining streams are cut; sessions that are volatile end");
  if (rest) rest->Stop();
  exposer.reset();  // before the state directory is let go of: the next server may wait for it, and wants the port too
  server->Stop();
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace

int RunServer(const ServerOptions& options) {
  SetUpLog(options.log_format == "json" ? LogFormat::kJson : LogFormat::kText, options.log_level);
  gpr_set_log_function(OfGrpc);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a full disk, which refuses a session and ends none
  // Blocked before any thread starts, so that sigwait alone gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  RaiseDescriptorLimit();
  CatchFaults();
  const absl::Status served = Serve(options, signals);
  if (!served.ok()) spdlog::critical("{}", std::string(served.message()));
  gpr_set_log_function(nullptr);  // its threads may outlive the logger
  return served.ok() ? 0 : 1;
}

}  // namespace lstm::server
