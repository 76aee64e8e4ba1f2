// SPDX-License-Identifier: MIT
#include "server/rpc/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <openssl/rand.h>

#include <chrono>
#include <cstdlib>
#include <set>
#include <utility>

#include "core/base/status_macros.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/clock.h"
#include "server/rpc/health_canary.h"
#include "server/rpc/health_service.h"
#include "server/rpc/inference_calls.h"
#include "server/rpc/load_spread.h"
#include "server/rpc/stream_call.h"
#include "server/rpc/unary_calls.h"
#include "server/store/recovery.h"

namespace lstm::server {
namespace {

constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kClientPingsNoSoonerMs = 10'000;
// The whole server, and its services by name, as gRPC's health has it.
constexpr const char* kHealthNames[] = {"", "lstm.v1.Prediction", "inference.GRPCInferenceService"};

void FillRandom(uint8_t* out, size_t n) {
  // Without randomness ids and tokens could be guessed: nothing may go on.
  if (RAND_bytes(out, static_cast<int>(n)) != 1) std::abort();
}

// The reflection library puts itself into every server of a process that links it: taken out again where it is not wanted.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

void Configure(grpc::ServerBuilder& builder, const GrpcServer::Options& options) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(-1);  // answers are bounded before they are computed
  builder.SetResourceQuota(grpc::ResourceQuota("lstm").Resize(options.grpc_memory_bytes));
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);  // for health and reflection; it does not poll, since the shards do
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
  builder.AddChannelArgument("grpc.http2.bdp_probe", 0);  // else a stuck stream costs megabytes
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kClientPingsNoSoonerMs);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, options.handshake_ms);
  // Without a call, whatever it says to pings.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, static_cast<int>(options.loop.idle_stream_s * 1000));
  // gRPC unpacks a message before it looks at its size: a megabyte would become a gigabyte.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

// A call without a stream is held by its connection.
class ConnectionHolder : public Holder {
 public:
  ConnectionHolder(const Acceptor* acceptor, std::string peer) : acceptor_(acceptor), peer_(std::move(peer)) {}
  bool gone() const override { return !acceptor_->IsConnected(peer_); }

 private:
  const Acceptor* const acceptor_;
  const std::string peer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const Options& options, std::shared_ptr<const ModelRepository> models,
                                                              std::unique_ptr<SessionStore> store, std::unique_ptr<ParkedStore> parked) {
  std::unique_ptr<GrpcServer> self(new GrpcServer);
  self->callers_ = options.callers != nullptr ? options.callers : std::make_shared<const Callers>(options.admin != nullptr);
  self->store_ = std::move(store);
  self->parked_ = std::move(parked);
  if (self->store_ && !options.suspects_file.empty()) {
    LSTM_ASSIGN_OR_RETURN(self->suspects_, Suspects::Open(options.suspects_file));
  }
  LSTM_ASSIGN_OR_RETURN(self->acceptor_, Acceptor::Bind(options.listen));
  self->budget_ = std::make_unique<MemoryBudget>(options.max_sessions, options.max_session_bytes);
  self->service_ = std::make_unique<v1::Prediction::AsyncService>();
  self->health_ = std::make_unique<HealthService>(std::set<std::string>(std::begin(kHealthNames), std::end(kHealthNames)));
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  Configure(builder, options);
  self->tls_ = options.tls;  // gRPC reads its files as long as it lives
  self->acceptor_->Register(builder, options.tls != nullptr ? options.tls->credentials() : grpc::InsecureServerCredentials());
  builder.RegisterService(self->service_.get());
  builder.RegisterService(self->health_.get());
  self->inference_service_ = std::make_unique<inference::GRPCInferenceService::AsyncService>();
  builder.RegisterService(self->inference_service_.get());
  GrpcServer* raw = self.get();
  self->spread_ = std::make_unique<LoadSpread>(options.shards, [raw](size_t i) {
    ShardLoop* loop = raw->loops_[i].get();
    loop->Post([raw, loop] { StreamCall::Arm(loop, raw->service_.get()); });
  });
  self->inference_spread_ = std::make_unique<LoadSpread>(options.shards, [raw](size_t i) {
    raw->loops_[i]->Post([raw, i] { InferenceStreamCall::Arm(raw->CallsOf(i)); });
  });
  ShardServices services{.models = models, .budget = self->budget_.get(), .directory = &self->directory_, .store = self->store_.get(), .parked = self->parked_.get(), .suspects = self->suspects_.get(), .callers = self->callers_.get(),
                         .peers = raw, .clock = MonotonicMicros, .unix_clock = UnixMicros, .random = FillRandom};
  if (self->store_) {
    services.instance = self->store_->instance();
  } else {
    FillRandom(services.instance.data(), services.instance.size());
  }
  for (size_t i = 0; i < options.shards; ++i) {
    self->loops_.push_back(std::make_unique<ShardLoop>(i, options.loop, services, self->spread_.get(), builder.AddCompletionQueue()));
  }
  self->inference_ = std::make_unique<InferenceFront>(
      InferenceFront::Options{.ttl_s = options.loop.shard.ttl_s, .max_sessions = options.max_sessions, .admin = options.admin}, services);
  for (const auto& loop : self->loops_) loop->AfterWork([sequences = self->inference_->AddShard(&loop->shard())] { sequences->Flush(); });
  self->Recover(options);
  self->server_ = builder.BuildAndStart();
  if (!self->server_) return absl::InternalError("gRPC did not start; see the log for its reason");
  for (const auto& loop : self->loops_) {
    loop->Start([raw, loop = loop.get(), models] {
      ArmUnaryCalls(loop, raw->service_.get(), models, &raw->loops_, &raw->directory_);
      ArmInferenceCalls(raw->CallsOf(loop->index()));
    });
  }
  self->canary_ = std::make_unique<HealthCanary>(
      options.shards,
      [raw](size_t i, std::function<void(bool)> done) {
        ShardLoop* loop = raw->loops_[i].get();
        loop->Post([loop, done = std::move(done)] { loop->shard().Canary(done); });
      },
      [raw](bool serving) {
        raw->inference_->SetServing(serving);
        raw->health_->Set(serving);
      });
  self->canary_->Start();  // so that who connects finds it serving
  self->spread_->Start();
  self->inference_spread_->Start();
  self->acceptor_->Start();
  return self;
}

GrpcServer::~GrpcServer() { Stop(); }

void GrpcServer::Recover(const Options& options) {
  if (!store_) return;
  size_t next = 0;
  const Recovery found = TakeLatest(store_.get(), parked_.get());
  if (options.load_marked) {
    std::set<ModelMark> marks;
    for (const Recovery::Model& model : found.models) marks.insert(MarkOf(model.name, model.version, model.hash));
    for (const ParkedStore::Found& parked : found.parked) marks.insert(parked.about.model);
    options.load_marked({marks.begin(), marks.end()});
  }
  for (const ParkedStore::Found& parked : found.parked) loops_[next++ % loops_.size()]->shard().Recover(parked);
  recovered_.parked = found.parked.size();
  for (const std::span<std::byte> slot : found.slots) {
    const absl::Status status = loops_[next++ % loops_.size()]->shard().Recover(slot);
    if (status.ok()) {
      ++recovered_.sessions;
    } else {
      recovered_.failures.push_back(std::string(status.message()));
    }
  }
}

InferenceCalls GrpcServer::CallsOf(size_t shard) {
  return {.loop = loops_[shard].get(), .spread = inference_spread_.get(), .service = inference_service_.get(), .front = inference_.get(),
          .holder_of = [this](const std::string& peer) { return std::make_shared<ConnectionHolder>(acceptor_.get(), peer); }};
}

bool GrpcServer::Send(size_t to, std::function<void(Shard&)> task) {
  ShardLoop* loop = loops_[to].get();
  return loop->Post([loop, task = std::move(task)] { task(loop->shard()); });
}

std::optional<size_t> GrpcServer::TakeIdle() {
  for (size_t i = 0; i < loops_.size(); ++i) {
    if (loops_[i]->TakeIdle()) return i;
  }
  return std::nullopt;
}

void GrpcServer::Forget(const ServedModelPtr& model) {
  for (const auto& loop : loops_) {
    loop->Post([this, loop = loop.get(), model] {
      loop->shard().Forget(*model);
      inference_->Forget(loop->index(), *model);
    });
  }
}

bool GrpcServer::serving() const { return canary_->serving(); }

std::vector<const ShardCounters*> GrpcServer::counters() const {
  std::vector<const ShardCounters*> out;
  for (const auto& loop : loops_) out.push_back(&loop->shard().counters());
  return out;
}

const std::vector<std::string>& GrpcServer::addresses() const { return acceptor_->addresses(); }

bool GrpcServer::Drain(uint32_t deadline_ms) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
  canary_->Close();
  inference_->Drain();
  acceptor_->Stop();
  for (const auto& loop : loops_) {
    loop->Post([loop = loop.get(), deadline_ms] { loop->shard().Drain(deadline_ms); });
  }
  const bool none = spread_->WaitForNone(until);
  const bool all = inference_spread_->WaitForNone(until) && none;
  for (const auto& loop : loops_) {
    if (!all) loop->Post([loop = loop.get()] { loop->ExplainCalls(); });
  }
  return all;
}

void GrpcServer::Stop() {
  if (!server_) return;
  canary_->Close();
  health_->Close();
  acceptor_->Stop();
  // In this order: the server, whose cancelled calls come back through the queues; then the queues.
  server_->Shutdown(std::chrono::system_clock::now());
  for (const auto& loop : loops_) loop->Shutdown();
  for (const auto& loop : loops_) loop->Join();
  server_.reset();
  inference_.reset();  // gives its streams back to the shards
  // After the loops, which write to them; before them in memory, for their threads post to them. The store's lock is the last.
  parked_.reset();
  store_.reset();
}

}  // namespace lstm::server
