// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/input.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model, version;
  uint32_t sessions = 64, streams = 4, steps_per_turn = 1;
  double rate = 50, seconds = 5;
  bool json = false;
};

// What all sessions together saw. Thread-safe.
struct Tally {
  std::mutex mutex;
  std::vector<float> latencies_us;
  std::atomic<uint64_t> turns{0}, errors{0}, unanswered{0};
  std::string first_error;

  void Answered(Clock::time_point due, const absl::Status& status) {
    --unanswered;
    const std::lock_guard<std::mutex> lock(mutex);
    if (status.ok()) {
      ++turns;
      latencies_us.push_back(std::chrono::duration<float, std::micro>(Clock::now() - due).count());
    } else {
      ++errors;
      if (first_error.empty()) first_error = std::string(status.message());
    }
  }
};

v1::Step RandomTurn(const v1::ModelInfo& model, uint32_t steps, std::minstd_rand& random) {
  v1::Step step;
  step.set_steps(steps);
  for (const v1::TensorSpec& spec : model.inputs()) {
    v1::Tensor* tensor = step.add_inputs();
    tensor->set_name(spec.name());
    for (int64_t i = 0; i < steps * ElementsOf(spec); ++i) {
      if (spec.type() == v1::FLOAT32) {
        tensor->add_floats(std::uniform_real_distribution<float>(-1, 1)(random));
      } else {
        tensor->add_ints(static_cast<int64_t>(random()) % std::max<int64_t>(spec.limit(), 1));
      }
    }
  }
  return step;
}

double Percentile(const std::vector<float>& sorted, double p) {
  if (sorted.empty()) return 0;
  return static_cast<double>(sorted[std::min(sorted.size() - 1, static_cast<size_t>(p * static_cast<double>(sorted.size())))]);
}

absl::Status Run(const Connection& connection, const Options& options) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ModelInfo model, client->GetModel(options.model, options.version));
  std::vector<std::unique_ptr<Stream>> streams;
  for (uint32_t i = 0; i < options.streams; ++i) {
    LSTM_ASSIGN_OR_RETURN(auto stream, client->OpenStream());
    streams.push_back(std::move(stream));
  }
  const absl::Duration timeout = connection.patience();
  std::vector<std::unique_ptr<Session>> sessions;
  for (uint32_t i = 0; i < options.sessions; ++i) {
    v1::Open open;
    open.set_model(options.model);
    open.set_version(options.version);
    open.set_window(64);
    LSTM_ASSIGN_OR_RETURN(auto session, streams[i % options.streams]->Open(std::move(open), timeout));
    sessions.push_back(std::move(session));
  }

  // Open loop: turn k of session s is due at (k + s / sessions) / rate, whatever became of those before it, and its latency
  // counts from then: a server that stalls cannot hide what it kept waiting.
  Tally tally;
  std::minstd_rand random(1);
  const double period = 1 / options.rate;
  const auto begin = Clock::now() + std::chrono::milliseconds(50);
  const auto total = static_cast<uint64_t>(options.seconds * options.rate) * options.sessions;
  auto shown = begin;
  for (uint64_t n = 0; n < total; ++n) {
    const auto due = begin + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double>(static_cast<double>(n) * period / options.sessions));
    std::this_thread::sleep_until(due);
    ++tally.unanswered;
    const absl::Status sent = sessions[n % options.sessions]->Send(
        RandomTurn(model, options.steps_per_turn, random),
        [&tally, due](absl::StatusOr<v1::Result> result) { tally.Answered(due, result.status()); }, timeout);
    if (!sent.ok()) {
      tally.Answered(due, sent);
      break;
    }
    if (Clock::now() - shown > std::chrono::seconds(1)) {
      shown = Clock::now();
      std::cerr << absl::StrFormat("\r%d of %d turns ", tally.turns.load(), total) << std::flush;
    }
  }
  for (auto& session : sessions) session->Close(timeout).IgnoreError();
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  sessions.clear();  // no callback comes after this
  streams.clear();
  std::cerr << "\r" << std::string(40, ' ') << "\r";

  std::vector<float>& l = tally.latencies_us;
  std::sort(l.begin(), l.end());
  const double steps = static_cast<double>(tally.turns) * options.steps_per_turn;
  if (options.json) {
    std::cout << nlohmann::ordered_json{{"sessions", options.sessions}, {"rate", options.rate}, {"turns", tally.turns.load()},
                                        {"steps_per_second", steps / elapsed}, {"p50_us", Percentile(l, 0.5)}, {"p90_us", Percentile(l, 0.9)},
                                        {"p99_us", Percentile(l, 0.99)}, {"p999_us", Percentile(l, 0.999)}, {"max_us", l.empty() ? 0.f : l.back()},
                                        {"errors", tally.errors.load()}}
                     .dump()
              << "\n";
  } else {
    std::cout << absl::StrFormat("%d sessions on %d streams, %g turns/s each, %d steps a turn: %d turns, %.0f steps/s\n", options.sessions,
                                 options.streams, options.rate, options.steps_per_turn, tally.turns.load(), steps / elapsed)
              << absl::StrFormat("latency from the moment a turn was due: p50 %.2f ms, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f; %d errors\n",
                                 Percentile(l, 0.5) / 1e3, Percentile(l, 0.9) / 1e3, Percentile(l, 0.99) / 1e3, Percentile(l, 0.999) / 1e3,
                                 l.empty() ? 0.0 : static_cast<double>(l.back()) / 1e3, tally.errors.load());
  }
  if (tally.errors > 0) return absl::AbortedError(absl::StrFormat("%d turns failed; the first: %s", tally.errors.load(), tally.first_error));
  return absl::OkStatus();
}

}  // namespace

void AddLoadCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("load", "Pace many sessions and measure latency");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "Name of the model")->required();
  command->add_option("--version", o->version, "Version of the model; default: the newest");
  command->add_option("--sessions", o->sessions, "Live sessions")->check(CLI::Range(1u, 1000000u))->capture_default_str();
  command->add_option("--streams", o->streams, "Streams that carry them")->check(CLI::Range(1u, 10000u))->capture_default_str();
  command->add_option("--rate", o->rate, "Turns a second of each session")->check(CLI::Range(0.001, 1e6))->capture_default_str();
  command->add_option("--seconds", o->seconds, "How long")->check(CLI::Range(0.1, 86400.0))->capture_default_str();
  command->add_option("--steps-per-turn", o->steps_per_turn, "Time steps in a turn")->check(CLI::Range(1u, 4096u))->capture_default_str();
  command->add_flag("--json", o->json, "The result as JSON");
  command->callback([&connection, &result, o] { result = Run(connection, *o); });
}

}  // namespace lstm::client
