// SPDX-License-Identifier: MIT
// What becomes of a server that is offered ten times what it can do, and of those who share it with a session that sends a thousand times as much.
// The real server as a child, one shard on the first core; what loads it, by the bare protocol, on the others.
//
//   bench-overload [--quick] [--model NAME] [--steps T] [--seconds S]     from the root of the sources
//
// A Markdown table, and behind it a line for each figure that has a bar: name, value, bar, holds or missed.
#include <grpcpp/create_channel.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "bench/measure.h"
#include "bench/swarm.h"
#include "tests/chaos/process.h"

namespace lstm::bench {
namespace {

constexpr double kTimes = 10, kMore = 1.1, kHogTimes = 1000;  // kMore: the machine may be faster during the overload than before it
constexpr double kGoodputBar = 0.9, kLatencyBar = 3, kRefusalBarMs = 5, kMemoryBar = 1.02, kHogBar = 1.5;
constexpr uint32_t kNormal = 99;  // sessions beside the hog
constexpr int kHogRounds = 5;
constexpr double kUnloaded = 0.05, kNormalLoad = 0.1;  // of capacity

struct Options {
  std::string model = "shakespeare";
  uint32_t steps = 64, sessions = 512;
  double seconds = 60;
  bool quick = false;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The server's shard pins itself to the first core; what loads it is kept off that one.
void LeaveFirst(const cpu_set_t& allowed) {
  cpu_set_t wanted = allowed;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_CLR(cpu, &wanted);
    break;
  }
  if (CPU_COUNT(&wanted) > 0) sched_setaffinity(0, sizeof(wanted), &wanted);
}

class ServerProcess {
 public:
  ServerProcess(const cpu_set_t& allowed, double max_wait_ms) {
    sched_setaffinity(0, sizeof(allowed), &allowed);  // for the child
    child_ = std::make_unique<testing::Child>(std::vector<std::string>{LSTM_BENCH_SERVER, "--listen", "127.0.0.1:0", "--http-listen", "", "--metrics-listen", "", "--models", "models/repository", "--shards", "1",
                                                                       "--max-wait-ms", std::to_string(static_cast<int>(std::ceil(max_wait_ms)))});
    LeaveFirst(allowed);
    const auto line = child_->WaitForText(testing::kListening);
    if (!line) Die("the server did not start: " + child_->said());
    address_ = line->substr(line->rfind(' ') + 1);
  }
  std::shared_ptr<grpc::Channel> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1);
    return grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments);
  }
  v1::ModelInfo Model(const std::string& name) const {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    v1::GetModelResponse response;
    request.set_name(name);
    const grpc::Status status = v1::Prediction::NewStub(Connect())->GetModel(&context, request, &response);
    if (!status.ok()) Die(status.error_message());
    return response.model();
  }
  double ResidentMb() const {
    std::ifstream statm("/proc/" + std::to_string(child_->pid()) + "/statm");
    double size = 0, resident = 0;
    statm >> size >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
  }

 private:
  std::unique_ptr<testing::Child> child_;
  std::string address_;
};

int missed = 0;
std::string lines;
void Judge(const char* name, double value, double bar, bool holds) {
  char line[160];
  std::snprintf(line, sizeof(line), "%s %.4g %.4g %s\n", name, value, bar, holds ? "holds" : "missed");
  lines += line;
  missed += holds ? 0 : 1;
}
void Row(const char* what, const std::string& measured, const std::string& bar) { std::printf("| %s | %s | %s |\n", what, measured.c_str(), bar.c_str()); }
template <typename... Values>
std::string Text(const char* format, Values... values) {
  char text[200];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

// Of what loads the server, since the last look: near the cores that it has, its own waits are what is measured.
class Busy {
 public:
  std::string Look() {
    const double cpu = Cpu();
    const auto now = Clock::now();
    const double share = (cpu - cpu_) / std::chrono::duration<double>(now - at_).count();
    cpu_ = cpu;
    at_ = now;
    return Text("%.2f cores", share);
  }

 private:
  static double Cpu() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  }
  double cpu_ = Cpu();
  Clock::time_point at_ = Clock::now();
};

// The rate at which most is answered.
double BestRate(Swarm& swarm, double about, double seconds) {
  double best = 0, most = 0;
  for (const double times : {0.7, 0.85, 1.0, 1.2, 1.5, 2.0}) {
    const double answered = swarm.Run(times * about, seconds).rate();
    if (answered <= most) continue;
    most = answered;
    best = times * about;
  }
  return best;
}

void Overload(const Options& o, const cpu_set_t& allowed, double& max_wait_ms) {
  const double part = o.quick ? 1 : 3, seconds = o.quick ? 5 : o.seconds;
  const Swarm::Options swarm_options{.model = o.model, .sessions = o.sessions, .steps = o.steps};
  Swarm::Figures unloaded;
  double about = 0;
  {
    const ServerProcess server(allowed, 0);
    Swarm swarm(server.Connect(), server.Model(o.model), swarm_options);
    about = swarm.Run(0, part).rate();  // every session at once, and the largest batches
    unloaded = swarm.Run(kUnloaded * about, 2 * part);
  }
  const double alone_ms = unloaded.answers.At(0.99);
  max_wait_ms = std::ceil(1.5 * alone_ms);
  const ServerProcess server(allowed, max_wait_ms);
  Swarm swarm(server.Connect(), server.Model(o.model), swarm_options);
  // Before the overload and behind it, for longer than the look for the rate: the best of so many short looks is the machine's best moment.
  const double best = BestRate(swarm, about, part), before_it = swarm.Run(best, 5 * part).rate();
  swarm.Run(kMore * kTimes * before_it, part);  // until the memory is what it needs
  std::vector<double> resident;
  std::promise<void> over;
  Busy busy;
  std::thread watch([&, end = over.get_future()] {
    do resident.push_back(server.ResidentMb());
    while (end.wait_for(std::chrono::milliseconds(250)) == std::future_status::timeout);
  });
  const Swarm::Figures loaded = swarm.Run(kMore * kTimes * before_it, seconds);
  const std::string generator = busy.Look();
  over.set_value();
  watch.join();
  const double behind_it = swarm.Run(best, 5 * part).rate(), peak = (before_it + behind_it) / 2;

  const size_t half = resident.size() / 2;
  const double before = *std::max_element(resident.begin(), resident.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(half, 1)));
  const double grown = *std::max_element(resident.begin() + static_cast<std::ptrdiff_t>(half), resident.end()) / before;
  const double goodput = loaded.rate() / peak, latency = loaded.answers.At(0.99) / alone_ms, refusal = loaded.refusals.At(0.99);
  const double reached = static_cast<double>(loaded.due - loaded.unsent) / seconds / peak;
  Row("capacity: the most that is answered, turns/s, before and behind", Text("%.0f and %.0f", before_it, behind_it), "");
  Row("the same with the largest batches and no limit to waiting", Text("%.0f", about), "");
  Row("offered, of capacity", Text("%.1f times", reached), "10 times");
  Row("answered, of capacity", Text("%.1f %%", 100 * goodput), "90 %");
  Row("p99 of a turn that is answered", Text("%.2f ms; unloaded %.2f", loaded.answers.At(0.99), alone_ms), "3 times");
  Row("of it in the shard", Text("%.2f ms; unloaded %.2f", loaded.inside.At(0.99), unloaded.inside.At(0.99)), "");
  Row("p99 of a refusal", Text("%.2f ms (%.0f a second)", refusal, static_cast<double>(loaded.refused) / seconds), "5 ms");
  Row("memory, second half against first", Text("%.0f MB, %.2f times", before, grown), "1.02 times");
  Row("CPU of what loads the server", generator, "");
  Judge("overload_offered_times", reached, 0.95 * kTimes, reached >= 0.95 * kTimes);
  Judge("overload_goodput", goodput, kGoodputBar, goodput >= kGoodputBar);
  Judge("overload_admitted_p99_times", latency, kLatencyBar, latency <= kLatencyBar);
  Judge("overload_refusal_p99_ms", refusal, kRefusalBarMs, refusal <= kRefusalBarMs);
  Judge("overload_memory_times", grown, kMemoryBar, grown <= kMemoryBar);
}

void HogBesideOthers(const Options& o, const cpu_set_t& allowed, double max_wait_ms) {
  const double seconds = o.quick ? 1 : o.seconds / 10;
  const ServerProcess server(allowed, max_wait_ms);
  const v1::ModelInfo model = server.Model(o.model);
  Swarm swarm(server.Connect(), model, {.model = o.model, .sessions = kNormal, .steps = 1});
  const double capacity = swarm.Run(0, o.quick ? 1 : 3).rate(), rate = kNormalLoad * capacity;
  std::vector<double> without, with, moves;
  Sample inside[2];
  Busy busy;
  std::string generator;
  double times = 0, share = 0;
  for (int round = 0; round < kHogRounds; ++round) {  // turn about: both meet the same moods of the machine
    const Swarm::Figures quiet = swarm.Run(rate, seconds);
    without.push_back(quiet.answers.At(0.99));
    inside[0].Add(quiet.inside);
    Hog hog(server.Connect(), model, 1);
    hog.Begin(kHogTimes * rate / kNormal);
    busy.Look();
    const Swarm::Figures beside = swarm.Run(rate, seconds);
    generator = busy.Look();
    with.push_back(beside.answers.At(0.99));
    moves.push_back(with.back() / without.back());
    inside[1].Add(beside.inside);
    times = static_cast<double>(hog.sent()) / seconds / (rate / kNormal);
    share = static_cast<double>(hog.answered()) / static_cast<double>(hog.answered() + beside.answered);
  }
  const double moved = Median(moves);
  Row("a session that sends a thousand times as much as each of 99 others", Text("%.0f times were sent, %.0f %% of all answers are its own", times, 100 * share), "1,000 times");
  Row("p99 of the others", Text("%.2f ms; without it %.2f; times, a round each: %s", Median(with), Median(without), absl::StrJoin(moves, " ", [](std::string* out, double m) { out->append(Text("%.2f", m)); }).c_str()), "1.5 times");
  Row("of it in the shard", Text("%.2f ms; without it %.2f", inside[1].At(0.99), inside[0].At(0.99)), "");
  Row("CPU of what loads the server", generator, "");
  Judge("hog_times", times, 0.9 * kHogTimes, times >= 0.9 * kHogTimes);
  Judge("hog_others_p99_times", moved, kHogBar, moved <= kHogBar);
}

}  // namespace
}  // namespace lstm::bench

int main(int argc, char** argv) {
  using namespace lstm::bench;
  Options o;
  CLI::App app("A server under ten times the load that it can carry.");
  app.add_option("--model", o.model, "Of models/repository")->capture_default_str();
  app.add_option("--steps", o.steps, "Of a turn under overload")->check(CLI::Range(1u, 4096u))->capture_default_str();
  app.add_option("--sessions", o.sessions, "That offer them")->check(CLI::Range(2u, 100'000u))->capture_default_str();
  app.add_option("--seconds", o.seconds, "Of the overload")->check(CLI::Range(1.0, 86'400.0))->capture_default_str();
  app.add_flag("--quick", o.quick, "Seconds instead of minutes: whether it runs, not what it measures");
  CLI11_PARSE(app, argc, argv);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof(allowed), &allowed);
  std::printf("| %s, turns of %u steps, %u sessions, one core | measured | bar |\n| --- | --- | --- |\n", o.model.c_str(), o.steps, o.sessions);
  double max_wait_ms = 0;
  Overload(o, allowed, max_wait_ms);
  HogBesideOthers(o, allowed, max_wait_ms);
  std::printf("\n%s", lines.c_str());
  return missed == 0 ? 0 : 1;
}
