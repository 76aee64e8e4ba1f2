// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/load_crowd.h"
#include "client/cli/load_search.h"
#include "client/cli/server_cpu.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kWarmUpSeconds = 0.5;
constexpr uint64_t kFewestTurns = 2000;     // of a probe: its p99 is then the 20th largest
constexpr double kLongestProbeSeconds = 60;  // whatever that takes
constexpr double kMs = 1e-3;

struct Options : CrowdOptions {
  uint32_t sessions = 64, max_sessions = 100'000;
  double seconds = 5, p99_ms = 10, precision = 0.05;
  std::string metrics;
  bool search = false, json = false;
};

// A run and what it cost the server.
struct Measured {
  Paced paced;
  absl::StatusOr<double> cpu_us = absl::UnknownError("");
  double steps_per_second = 0;

  // Each turn late that was late in the client already is the client's fault.
  bool client_late(double bar_us) const { return Percentile(paced.late_us, 0.99) > bar_us / 2; }
};

absl::StatusOr<Measured> Measure(Crowd& crowd, const Options& options, ServerCpu& cpu, Pace pace) {
  pace.measured = [&cpu] { cpu.Begin(); };
  Measured out;
  LSTM_ASSIGN_OR_RETURN(out.paced, crowd.Run(pace));
  out.cpu_us = cpu.PerStep(out.paced.answered, out.paced.answered * options.steps_per_turn);
  out.steps_per_second = static_cast<double>(out.paced.turns) * options.steps_per_turn / out.paced.seconds;
  return out;
}

std::string CpuText(const Measured& m, const ServerCpu& cpu) {
  return m.cpu_us.ok() ? absl::StrFormat("server: %.2f us of CPU a step (%s)", *m.cpu_us, cpu.source())
                       : absl::StrCat("server: CPU a step is not known: ", m.cpu_us.status().message());
}

void AddTo(Json& json, const Measured& m, const ServerCpu& cpu) {
  const Paced& p = m.paced;
  json.update(Json{{"turns", p.turns}, {"steps_per_second", m.steps_per_second}, {"p50_us", p.p(0.5)}, {"p90_us", p.p(0.9)}, {"p99_us", p.p(0.99)}, {"p999_us", p.p(0.999)},
                   {"max_us", p.p(1)}, {"client_late_p99_us", Percentile(p.late_us, 0.99)}, {"errors", p.errors}});
  json["server_cpu_us_per_step"] = m.cpu_us.ok() ? Json(*m.cpu_us) : Json();
  json["server_cpu_of"] = m.cpu_us.ok() ? cpu.source() : std::string(m.cpu_us.status().message());
  if (p.closed + p.cut > 0) json.update(Json{{"closed", p.closed}, {"cut", p.cut}, {"abandoned", p.abandoned}});
}

std::string LatencyText(const Paced& p) {
  return absl::StrFormat("p50 %.2f ms, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f", p.p(0.5) * kMs, p.p(0.9) * kMs, p.p(0.99) * kMs, p.p(0.999) * kMs, p.p(1) * kMs);
}

std::string ChurnText(const Paced& p) {
  if (p.closed + p.cut == 0) return "";
  return absl::StrFormat("sessions replaced: %d closed, %d cut off with %d turns under way\n", p.closed, p.cut, p.abandoned);
}

absl::Status Once(Crowd& crowd, const Options& options, ServerCpu& cpu) {
  LSTM_RETURN_IF_ERROR(crowd.Resize(options.sessions));
  Pace pace{.seconds = options.seconds};
  pace.progress = [](uint64_t done, uint64_t all) { std::cerr << absl::StrFormat("\r%d of %d turns ", done, all) << std::flush; };
  LSTM_ASSIGN_OR_RETURN(const Measured m, Measure(crowd, options, cpu, pace));
  std::cerr << "\r" << std::string(40, ' ') << "\r";
  if (options.json) {
    Json json{{"sessions", options.sessions}, {"rate", options.rate}};
    AddTo(json, m, cpu);
    std::cout << json.dump() << "\n";
  } else {
    std::cout << absl::StrFormat("%d sessions on %d streams, %g turns/s each, %d steps a turn: %d turns, %.0f steps/s\n", options.sessions, options.streams, options.rate,
                                 options.steps_per_turn, m.paced.turns, m.steps_per_second)
              << "latency from the moment a turn was due: " << LatencyText(m.paced) << absl::StrFormat("; %d errors\n", m.paced.errors) << ChurnText(m.paced) << CpuText(m, cpu)
              << "\n";
  }
  if (m.paced.errors > 0) return absl::AbortedError(absl::StrFormat("%d turns failed; the first: %s", m.paced.errors, m.paced.first_error));
  return absl::OkStatus();
}

absl::Status SearchMost(Crowd& crowd, const Options& options, ServerCpu& cpu) {
  const double bar_us = options.p99_ms / kMs;
  Json probes = Json::array();
  std::optional<Measured> last, failed;
  const auto probe = [&](uint32_t sessions, bool longer) -> absl::StatusOr<bool> {
    const double turns_a_second = sessions * options.rate;
    Pace pace{.warm_up_s = kWarmUpSeconds, .seconds = std::min(std::max(options.seconds, kFewestTurns / turns_a_second), std::max(kLongestProbeSeconds, options.seconds)), .p99_bar_us = bar_us};
    if (longer) pace.seconds *= 2;
    std::string why;
    Json json{{"sessions", sessions}};
    if (const absl::Status opened = crowd.Resize(sessions); !opened.ok()) {
      // A cap of the server's is an answer, a server that is gone none.
      if (!absl::IsResourceExhausted(opened) && !absl::IsUnavailable(opened)) return opened;
      if (crowd.size() == 0) return opened;
      why = absl::StrCat("not opened: ", opened.message());
    } else {
      LSTM_ASSIGN_OR_RETURN(Measured m, Measure(crowd, options, cpu, pace));
      if (m.paced.errors > 0) why = m.paced.first_error;
      else if (m.paced.stopped) why = "more than 1 % are late already";
      else if (m.paced.p(0.99) > bar_us) why = absl::StrFormat("p99 is %.2f ms", m.paced.p(0.99) * kMs);
      if (!why.empty() && m.client_late(bar_us)) why += "; the client itself was late";
      AddTo(json, m, cpu);
      (why.empty() ? last : failed) = std::move(m);
    }
    const bool holds = why.empty();
    std::cerr << absl::StrFormat("%8d sessions: %s\n", sessions, holds ? absl::StrFormat("p99 %.2f ms, %.0f steps/s: hold", last->paced.p(0.99) * kMs, last->steps_per_second) : why);
    json["holds"] = holds;
    if (!holds) json["why"] = why;
    probes.push_back(std::move(json));
    return holds;
  };
  LSTM_ASSIGN_OR_RETURN(const Found found, Search({options.sessions, std::max(options.sessions, options.max_sessions), options.precision}, probe));
  // What kept it from more: where the client was late itself, less can be said of the server.
  const bool client = failed && failed->client_late(bar_us);
  if (options.json) {
    Json json{{"model", options.model}, {"rate", options.rate}, {"steps_per_turn", options.steps_per_turn}, {"p99_bar_ms", options.p99_ms}, {"sessions", found.holds}};
    json["fails_at"] = found.fails ? Json(*found.fails) : Json();
    json["client_is_the_limit"] = client;
    if (found.holds > 0) AddTo(json, *last, cpu);
    json["probes"] = std::move(probes);
    std::cout << json.dump() << "\n";
  } else if (found.holds > 0) {
    std::cout << absl::StrFormat("%d live sessions with %g turns/s each, %d steps a turn, keep p99 within %g ms", found.holds, options.rate, options.steps_per_turn, options.p99_ms)
              << (found.fails ? absl::StrFormat("; %d do not", *found.fails) : "; more was not tried") << absl::StrFormat(". %.0f steps/s\n", last->steps_per_second)
              << "latency from the moment a turn was due: " << LatencyText(last->paced) << "\n" << ChurnText(last->paced) << CpuText(*last, cpu) << "\n";
    if (client) std::cout << "this client was late itself where it failed: the server may hold more\n";
  }
  if (found.holds == 0) return absl::AbortedError(absl::StrFormat("not even one session keeps p99 within %g ms", options.p99_ms));
  return absl::OkStatus();
}

absl::Status Run(const Connection& connection, const Options& options) {
  if (options.abrupt > 0 && options.churn <= 0) return absl::InvalidArgumentError("--abrupt is a part of --churn, which is not set");
  LSTM_ASSIGN_OR_RETURN(auto crowd, Crowd::Make(connection, options));
  ServerCpu cpu(connection.server, options.metrics);
  return options.search ? SearchMost(*crowd, options, cpu) : Once(*crowd, options, cpu);
}

}  // namespace

void AddLoadCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("load", "Pace many sessions and measure latency, or find how many the server holds");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "Name of the model")->required();
  command->add_option("--version", o->version, "Version of the model; default: the newest");
  command->add_option("--sessions", o->sessions, "Live sessions; with --search: where to begin")->check(CLI::Range(1u, 1000000u))->capture_default_str();
  command->add_option("--streams", o->streams, "Streams that carry them")->check(CLI::Range(1u, 10000u))->capture_default_str();
  command->add_option("--rate", o->rate, "Turns a second of each session")->check(CLI::Range(0.001, 1e6))->capture_default_str();
  command->add_option("--seconds", o->seconds, "How long; with --search: each probe, the last one twice as long")->check(CLI::Range(0.1, 86400.0))->capture_default_str();
  command->add_option("--steps-per-turn", o->steps_per_turn, "Time steps in a turn")->check(CLI::Range(1u, 4096u))->capture_default_str();
  CLI::Option* const search = command->add_flag("--search", o->search, "Find the most live sessions whose p99 keeps within --p99, by doubling and bisection");
  command->add_option("--p99", o->p99_ms, "Milliseconds from the moment a turn is due to its answer, for 99 % of them")->check(CLI::Range(0.001, 1e6))->capture_default_str()->needs(search);
  command->add_option("--precision", o->precision, "Of the number found")->check(CLI::Range(0.001, 1.0))->capture_default_str()->needs(search);
  command->add_option("--max-sessions", o->max_sessions, "No more than these are tried")->check(CLI::Range(1u, 1000000u))->capture_default_str()->needs(search);
  command->add_option("--churn", o->churn, "Sessions a second, of all together, that are closed and replaced by new ones")->check(CLI::Range(0.0, 1e5))->capture_default_str();
  command->add_option("--abrupt", o->abrupt, "The part of these whose connection is cut instead; they have one each")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_option("--metrics", o->metrics, "Where a server of another machine has its metrics, for its CPU time: HOST:PORT")->type_name("ADDR");
  AddDurabilityOption(*command, o->durability);
  command->add_flag("--json", o->json, "The result as JSON");
  command->callback([&connection, &result, o] { result = Run(connection, *o); });
}

}  // namespace lstm::client
