// SPDX-License-Identifier: MIT
#include <grpcpp/create_channel.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "bench/bench_models.h"
#include "bench/machine_limits.h"
#include "bench/served.h"
#include "bench/stream_load.h"
#include "bench/wire.h"
#include "client/cli/load_crowd.h"
#include "core/import/manifest_import.h"
#include "core/program/step_program.h"
#include "lstm/v1/prediction.grpc.pb.h"

// How long answers take: to lone messages, after a start, beside others.
namespace lstm::bench {
namespace {

constexpr uint32_t kFloats = 64;
constexpr std::chrono::seconds kQuiet(2);
constexpr size_t kQuietServers = 4;   // each by itself quiet so long, their messages one after the other
constexpr int64_t kTenMegabytes = 560;  // units
constexpr int64_t kSmall = 128;
constexpr double kLargeStepUs = 3000;

// One session on one stream, a turn at a time.
class Lone {
 public:
  Lone(const std::string& address, const std::string& model, uint32_t floats) {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::Prediction::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), own));
    context_.set_wait_for_ready(true);
    rpc_ = stub_->Stream(&context_);
    v1::Open* open = message_.add_requests()->mutable_open();
    open->set_lane(1);
    open->set_model(model);
    open->set_durability(v1::VOLATILE);
    open->set_client_nonce(std::string(16, 'n'));
    step_ = message_.add_requests()->mutable_step();
    step_->set_lane(1);
    step_->add_inputs()->set_data(std::string(floats * sizeof(float), '\0'));
    Turn();
    message_.mutable_requests()->DeleteSubrange(0, 1);
    step_ = message_.mutable_requests(0)->mutable_step();
  }
  ~Lone() { context_.TryCancel(); }

  void Turn() {
    step_->set_ack(step_->seq());
    step_->set_seq(step_->seq() + 1);
    if (!rpc_->Write(message_)) Die(rpc_->Finish().error_message());
    v1::StreamResponse answer;
    for (bool had = false; !had;) {
      if (!rpc_->Read(&answer)) Die(rpc_->Finish().error_message());
      for (const v1::Response& r : answer.responses()) {
        if (r.has_reject()) Die(r.ShortDebugString());
        had |= r.has_result();
      }
    }
  }

 private:
  std::unique_ptr<v1::Prediction::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> rpc_;
  v1::StreamRequest message_;
  v1::Step* step_ = nullptr;
};

// Paced sessions of a model, alone and beside a load that takes all it gets; latencies from when a turn was due.
Row Beside(const WireOptions& o, const Served& server, const std::string& model, uint32_t sessions, double rate, StreamLoad& other) {
  client::Connection connection;
  connection.server = server.address();
  client::CrowdOptions options;
  options.model = model;
  options.durability = v1::VOLATILE;
  options.rate = rate;
  const auto crowd = Must(client::Crowd::Make(connection, options));
  Must(crowd->Resize(sessions));
  client::Pace pace;
  pace.warm_up_s = 0.2;
  pace.seconds = o.quick ? 1.5 : 5;
  const auto run = [&] {
    const client::Paced paced = Must(crowd->Run(pace));
    if (paced.errors > 0) Die(paced.first_error);
    return paced;
  };
  std::vector<double> alone, beside, alone_p50, beside_p50, ratio, more, others;
  for (int r = 0; r < o.rounds(); ++r) {
    const client::Paced quiet = run();
    std::atomic<bool> done{false};
    std::vector<double> rates;
    std::thread saturated([&] {
      while (!done) rates.push_back(other.Run(0.3).turns_per_second);
    });
    const client::Paced busy = run();
    done = true;
    saturated.join();
    alone.push_back(quiet.p(0.99)), beside.push_back(busy.p(0.99));
    alone_p50.push_back(quiet.p(0.5)), beside_p50.push_back(busy.p(0.5));
    ratio.push_back(beside.back() / alone.back()), more.push_back((beside.back() - alone.back()) / 1e3);
    others.push_back(Median(rates));
  }
  return {{"alone_p50_us", Median(alone_p50)}, {"alone_p99_us", Median(alone)}, {"beside_p50_us", Median(beside_p50)}, {"beside_p99_us", Median(beside)},
          {"p99_ratio", Median(ratio)}, {"p99_more_ms", Median(more)}, {"other_turns_per_second", Median(others)}};
}

std::unique_ptr<StreamLoad> Saturating(const Served& server, const std::string& model, uint32_t floats, uint32_t steps) {
  const Layout layout{1, 1, 1, 2};
  std::vector<std::unique_ptr<Talk>> talks;
  talks.push_back(TalkToServer(model, layout, floats, steps));
  return std::make_unique<StreamLoad>(server.address(), server.pid(), layout, std::move(talks));
}

// Microseconds of a step of one row.
double StepUs(const Models& models, const std::string& model) {
  const auto program = Must(core::StepProgram::Compile(std::make_shared<const core::Model>(Must(core::LoadModelDirectory(models.At(model).string(), model, "1"))), {.max_batch = 1}));
  const auto scratch = program->MakeScratch();
  core::AlignedBuffer<float> state[2] = {core::AlignedBuffer<float>(program->state_floats()), core::AlignedBuffer<float>(program->state_floats())};
  std::vector<std::byte> in(program->inputs()[0].step_bytes), out(program->outputs()[0].step_bytes);
  const std::byte* ins[] = {in.data()};
  std::vector<std::byte*> outs(program->outputs().size(), nullptr);
  outs[0] = out.data();
  const auto times = Alternate({[&] {
    const core::StepRow row{state[0].data(), state[1].data(), ins, outs.data()};
    Must(program->Run({&row, 1}, *scratch));
  }}, 5);
  return Median(times[0]) * 1e6;
}

}  // namespace

std::vector<Row> LoneMessage(const WireOptions& o) {
  const size_t messages = o.quick ? 10 : 300;
  Models models;
  models.PutFree("free", kFloats);
  std::vector<Served> servers;
  std::vector<std::unique_ptr<Lone>> sessions;
  for (size_t i = 0; i < kQuietServers; ++i) sessions.push_back(std::make_unique<Lone>(servers.emplace_back(ServeModels(models.path())).address(), "free", kFloats));
  Sample sample, late;  // how late this thread itself woke: where that is much, the machine is not quiet
  const auto begin = Clock::now() + kQuiet;
  for (size_t i = 0; i < messages; ++i) {
    const auto due = begin + kQuiet * i / kQuietServers;
    std::this_thread::sleep_until(due);
    const auto sent = Clock::now();
    late.Add(sent - due);
    sessions[i % kQuietServers]->Turn();
    sample.Add(Clock::now() - sent);
  }
  return {{{"row", "lone"}, {"messages", messages}, {"p50_ms", sample.At(0.5)}, {"p99_ms", sample.At(0.99)}, {"max_ms", sample.At(1)}, {"client_late_p99_ms", late.At(0.99)}, {"client_late_max_ms", late.At(1)}}};
}

std::vector<Row> StartToFirst(const WireOptions& o) {
  Models models;
  models.PutLstm("ten", kTenMegabytes);
  Sample sample, listening;
  for (int i = 0; i < (o.quick ? 5 : 21); ++i) {
    const auto begin = Clock::now();
    const Served server = ServeModels(models.path());
    listening.Add(Clock::now() - begin);
    const Lone lone(server.address(), "ten", kTenMegabytes);
    sample.Add(Clock::now() - begin);
  }
  return {{{"row", "start"}, {"bytes", static_cast<uint64_t>(std::filesystem::file_size(models.At("ten") / "model.safetensors"))}, {"starts", sample.size()}, {"listening_p50_ms", listening.At(0.5)},
           {"p50_ms", sample.At(0.5)}, {"max_ms", sample.At(1)}}};
}

std::vector<Row> BesideLargeModel(const WireOptions& o) {
  Models models;
  // The smallest whose step takes so long; some of them are larger than the caches.
  int64_t hidden = 768;
  double us = 0;
  for (; us < kLargeStepUs; hidden += us < kLargeStepUs ? 64 : 0) {
    models.Clear();
    models.PutLstm("large", hidden);
    us = StepUs(models, "large");
  }
  models.PutLstm("small", kSmall);
  const double small_us = StepUs(models, "small");
  Served server = ServeModels(models.path());
  const auto other = Saturating(server, "large", static_cast<uint32_t>(hidden), 1);
  Row row{{"row", "large"}, {"large_step_us", us}, {"large_hidden", hidden}, {"small_step_us", small_us}};
  row.update(Beside(o, server, "small", 20, 20, *other));
  return {row};
}

std::vector<Row> BesideLongTurns(const WireOptions& o) {
  Models models;
  models.PutLstm("small", kSmall);
  Served server = ServeModels(models.path());
  const auto other = Saturating(server, "small", kSmall, 256);
  Row row{{"row", "turns"}, {"step_us", StepUs(models, "small")}};
  row.update(Beside(o, server, "small", 100, 20, *other));
  return {row};
}

}  // namespace lstm::bench
