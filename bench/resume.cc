// SPDX-License-Identifier: MIT
// How soon a session goes on: after its connection is cut, and after the server is killed and started again. The real server
// as a child process with a state directory, the real client library; both, and whatever else the machine does, share its cores.
//
//   bench-resume [--drops N] [--kills N] [--sessions N] [--clients N] [--streams N] [--state-dir DIR]     from the root of the sources
#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <future>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/measure.h"
#include "bench/row.h"
#include "client/cpp/client.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "tests/chaos/process.h"

namespace lstm {
namespace {

using std::chrono::milliseconds;

constexpr double kDropBarMs = 10, kKillBarMs = 1000;
constexpr milliseconds kHeld(150);  // a connection that holds for less is not made again at once (client/cpp/backoff.h)

struct Options {
  size_t drops = 1000, kills = 5, sessions = 10'000, clients = 4, streams = 4;
  std::string state_dir = "/tmp";
  bool json = false;
};

v1::Step Reading() {
  v1::Step step;
  v1::Tensor* input = step.add_inputs();
  for (int i = 0; i < 6; ++i) input->add_floats(0.5f);
  return step;
}

v1::Open Wanted() {
  v1::Open open;
  open.set_model("telemetry");
  open.set_durability(v1::PROCESS);
  return open;
}

std::unique_ptr<client::Client> Connect(const std::string& address, std::atomic<size_t>* lost) {
  client::ConnectOptions options;
  options.address = address;
  options.on_event = [lost](const client::StreamEvent& event) { *lost += event.kind == client::StreamEvent::Kind::kLost; };
  return bench::Must(client::Client::Connect(options));
}

// One after the other: the connection is cut under a session with `under_way` turns on their way, and one more is sent. From
// the cut to the answer of that one, in milliseconds.
bench::Sample Drops(const testing::Server& server, size_t drops, size_t under_way) {
  std::atomic<size_t> lost{0};
  const auto client = Connect(server.address(), &lost);
  const auto stream = bench::Must(client->OpenStream());
  const auto session = bench::Must(stream->Open(Wanted()));
  bench::Must(session->Step(Reading()));
  std::minstd_rand random(1);
  bench::Sample sample;
  while (sample.size() < drops) {
    std::this_thread::sleep_for(kHeld + std::chrono::microseconds(random() % 5000));
    for (size_t k = 0; k < under_way; ++k) bench::Must(session->Send(Reading(), [](auto result) { bench::Must(std::move(result)); }));
    std::promise<bench::Clock::time_point> answered;
    const auto cut = bench::Clock::now();
    bench::CutConnectionsTo(server.port());
    bench::Must(session->Send(Reading(), [&](auto result) {
      bench::Must(std::move(result));
      answered.set_value(bench::Clock::now());
    }));
    sample.Add(answered.get_future().get() - cut);
  }
  if (lost != drops) bench::Die(std::to_string(drops) + " cuts, and " + std::to_string(lost) + " connections were lost");
  return sample;
}

// The same without the library: a new connection at once, and on it Resume and the next Step in one message.
bench::Sample Resumes(const testing::Server& server, size_t drops) {
  std::atomic<size_t> lost{0};
  const auto client = Connect(server.address(), &lost);
  const auto stream = bench::Must(client->OpenStream());
  auto session = bench::Must(stream->Open(Wanted()));
  v1::Resume resume;
  resume.ParseFromString(bench::Must(session->Save()));
  session->Release();
  session.reset();
  resume.set_lane(1);
  bench::Sample sample;
  grpc::ChannelArguments own;
  own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  while (sample.size() < drops) {
    const auto begin = bench::Clock::now();
    const auto stub = v1::Prediction::NewStub(grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), own));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    const auto rpc = stub->Stream(&context);
    v1::StreamRequest message;
    *message.add_requests()->mutable_resume() = resume;
    v1::Step* step = message.add_requests()->mutable_step();
    *step = Reading();
    step->set_lane(1);
    step->set_seq(resume.have_seq() + 1);
    rpc->Write(message);
    v1::StreamResponse answer;
    const uint64_t had = resume.have_seq();
    while (resume.have_seq() == had) {
      if (!rpc->Read(&answer)) bench::Die(rpc->Finish().error_message());
      for (const v1::Response& response : answer.responses()) {
        if (response.has_reject()) bench::Die(response.ShortDebugString());
        if (!response.has_result()) continue;
        resume.set_have_seq(response.result().seq());
        resume.set_have_digest(response.result().state_digest());
      }
    }
    sample.Add(bench::Clock::now() - begin);
    context.TryCancel();
    rpc->Finish();
  }
  return sample;
}

bool Report(const char* what, const bench::Sample& sample, bool json) {
  const bool holds = sample.At(0.99) <= kDropBarMs;
  if (json) {
    bench::Emit({{"row", "drop"}, {"how", what}, {"drops", sample.size()}, {"p50_ms", sample.At(0.5)}, {"p99_ms", sample.At(0.99)}, {"max_ms", sample.At(1)}, {"p99_bar_ms", kDropBarMs}}, true);
    return holds;
  }
  std::printf("| %s | %zu | %.2f | %.2f | %.2f | %.0f%% of %.0f ms | %s |\n", what, sample.size(), sample.At(0.5), sample.At(0.99), sample.At(1),
              sample.At(0.99) / kDropBarMs * 100, kDropBarMs, holds ? "yes" : "no");
  std::fflush(stdout);
  return holds;
}

// Sessions spread over the streams of several clients, each with some turns answered.
class Crowd {
 public:
  Crowd(const testing::Server& server, const Options& options) : sessions_(options.sessions), answered_(options.sessions) {
    for (size_t c = 0; c < options.clients; ++c) {
      clients_.push_back(Connect(server.address(), &lost_));
      for (size_t s = 0; s < options.streams; ++s) streams_.push_back(bench::Must(clients_.back()->OpenStream()));
    }
    std::vector<std::future<void>> parts;
    for (size_t s = 0; s < streams_.size(); ++s) {
      parts.push_back(std::async(std::launch::async, [this, s] {
        for (size_t i = s; i < sessions_.size(); i += streams_.size()) sessions_[i] = bench::Must(streams_[s]->Open(Wanted()));
      }));
    }
    for (auto& part : parts) part.get();
    for (int turn = 0; turn < 3; ++turn) {
      Send();
      Wait();
    }
  }

  // A turn of every session.
  void Send() {
    left_ = std::make_unique<std::latch>(static_cast<std::ptrdiff_t>(sessions_.size()));
    for (size_t i = 0; i < sessions_.size(); ++i) {
      bench::Must(sessions_[i]->Send(Reading(), [this, i](auto result) {
        bench::Must(std::move(result));
        answered_[i] = bench::Clock::now();
        left_->count_down();
      }));
    }
  }
  void Wait() { left_->wait(); }
  bench::Sample Since(bench::Clock::time_point begin) const {
    bench::Sample sample;
    for (const auto at : answered_) sample.Add(at - begin);
    return sample;
  }
  size_t lost() const { return lost_; }
  size_t streams() const { return streams_.size(); }

 private:
  std::atomic<size_t> lost_{0};
  std::vector<std::unique_ptr<client::Client>> clients_;
  std::vector<std::unique_ptr<client::Stream>> streams_;
  std::vector<std::unique_ptr<client::Session>> sessions_;
  std::vector<bench::Clock::time_point> answered_;
  std::unique_ptr<std::latch> left_;
};

// One turn of every session. With `kill` the server is killed first, and the turns wait for the one that is started at once.
bool Round(testing::Server& server, Crowd& crowd, const Options& options, bool kill) {
  auto begin = bench::Clock::now();
  const auto killed = begin;
  if (kill) server.Kill();
  auto sender = std::async(std::launch::async, [&crowd] { crowd.Send(); });
  if (kill) {
    if (!server.Start()) bench::Die(server.log());
    begin = bench::Clock::now();
  }
  const double server_began = bench::CpuSeconds(server.process().pid()), own_began = bench::CpuSeconds(getpid());
  sender.get();
  crowd.Wait();
  const auto us_each = [&](double seconds) { return seconds / static_cast<double>(options.sessions) * 1e6; };
  const double server_cpu = us_each(bench::CpuSeconds(server.process().pid()) - server_began), own_cpu = us_each(bench::CpuSeconds(getpid()) - own_began);
  const bench::Sample sample = crowd.Since(begin);
  const bool holds = !kill || sample.At(1) <= kKillBarMs;
  if (options.json) {
    bench::Emit({{"row", kill ? "kill" : "undisturbed"}, {"sessions", options.sessions}, {"until_it_listens_ms", bench::Ms(begin - killed)}, {"p50_ms", sample.At(0.5)}, {"p99_ms", sample.At(0.99)},
                 {"last_ms", sample.At(1)}, {"last_from_kill_ms", crowd.Since(killed).At(1)}, {"server_cpu_us", server_cpu}, {"client_cpu_us", own_cpu}, {"last_bar_ms", kKillBarMs}}, true);
    return holds;
  }
  std::printf("| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.1f | %.1f |", kill ? "killed" : "undisturbed", bench::Ms(begin - killed), sample.At(0), sample.At(0.5),
              sample.At(0.99), sample.At(1), crowd.Since(killed).At(1), server_cpu, own_cpu);
  kill ? std::printf(" %.0f%% of %.0f ms | %s |\n", sample.At(1) / kKillBarMs * 100, kKillBarMs, holds ? "yes" : "no") : std::printf(" | |\n");
  std::fflush(stdout);
  return holds;
}

int Main(const Options& options) {
  const std::string directory = options.state_dir + "/lstm-bench-" + std::to_string(getpid());
  bool all = true;
  {
    testing::Server server(LSTM_BENCH_SERVER, directory);
    if (!server.Start()) bench::Die(server.log());
    if (!options.json) std::printf("| from the cut of a connection to the first new answer, ms | drops | p50 | p99 | max | p99 to the bar | holds |\n|---|---|---|---|---|---|---|\n");
    all &= Report("the library, nothing under way", Drops(server, options.drops, 0), options.json);
    all &= Report("the library, 4 turns under way", Drops(server, options.drops, 4), options.json);
    all &= Report("connect, Resume and Step by hand, at once", Resumes(server, options.drops), options.json);
    Crowd crowd(server, options);
    if (!options.json) {
      std::printf("\n%zu sessions on %zu streams of %zu clients, each with a turn that waits\n\n", options.sessions, crowd.streams(), options.clients);
      std::printf("| server | until it listens, ms | from there: first | p50 | p99 | last | last from the kill | server CPU us/session | client CPU | last to the bar | holds |\n"
                  "|---|---|---|---|---|---|---|---|---|---|---|\n");
    }
    Round(server, crowd, options, false);
    for (size_t k = 0; k < options.kills; ++k) all &= Round(server, crowd, options, true);
  }
  std::filesystem::remove_all(directory);
  return all ? 0 : 2;
}

}  // namespace
}  // namespace lstm

int main(int argc, char** argv) {
  lstm::Options options;
  CLI::App app("How soon sessions go on after a cut connection and after a kill -9.");
  app.add_option("--drops", options.drops, "connections cut, for each row");
  app.add_option("--kills", options.kills, "times that the server is killed");
  app.add_option("--sessions", options.sessions)->check(CLI::PositiveNumber);
  app.add_option("--clients", options.clients)->check(CLI::PositiveNumber);
  app.add_option("--streams", options.streams, "of each client")->check(CLI::PositiveNumber);
  app.add_flag("--json", options.json, "a JSON object a line");
  app.add_option("--state-dir", options.state_dir, "where the state directory is made");
  CLI11_PARSE(app, argc, argv);
  return lstm::Main(options);
}
