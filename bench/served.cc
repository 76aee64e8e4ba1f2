// SPDX-License-Identifier: MIT
#include "bench/served.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "bench/measure.h"
#include "client/cli/http_get.h"
#include "client/cli/metrics_text.h"

namespace lstm::bench {
namespace {

std::vector<size_t> Allowed() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<size_t> out;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) Die("the cores of this process cannot be had");
  for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) out.push_back(cpu);
  }
  return out;
}

void Allow(const std::vector<size_t>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const size_t cpu : cpus) CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) Die("no thread can be held on its cores");
}

// Those that the process had when it began; Allowed() shrinks.
const std::vector<size_t>& AllCores() {
  static const std::vector<size_t> cores = Allowed();
  return cores;
}

std::string Behind(const std::string& text, const std::string& words, const char* end) {
  const size_t at = text.find(words);
  if (at == std::string::npos) return "";
  const size_t begin = at + words.size();
  return text.substr(begin, text.find_first_of(end, begin) - begin);
}

}  // namespace

OnCores::OnCores(const std::vector<size_t>& cores) {
  const std::vector<size_t>& all = AllCores();
  before_ = Allowed();
  std::vector<size_t> cpus;
  for (const size_t core : cores) cpus.push_back(all[core % all.size()]);
  Allow(cpus);
}

OnCores::~OnCores() { Allow(before_); }

Served::Served(const std::vector<std::string>& command, const std::vector<size_t>& cores) {
  {
    const OnCores there(cores);
    child_ = std::make_unique<testing::Child>(command);
  }
  if (!child_->WaitForText("listening on ")) Die("a server did not start:\n" + child_->said());
  address_ = Behind(child_->said(), "listening on ", " \n");
}

double Served::Metric(const std::string& name) {
  if (metrics_.empty()) {
    if (!child_->WaitForText("metrics on ")) Die("the server has no metrics:\n" + child_->said());
    metrics_ = Behind(child_->said(), "metrics on http://", "/");
  }
  const auto metrics = Must(client::Metrics::Parse(Must(client::HttpGet(metrics_, "/metrics", absl::Seconds(10)))));
  if (!metrics.Has(name)) Die("the server has no metric " + name);
  return metrics.Sum(name);
}

Served ServeModels(const std::string& models, int shards, const std::vector<std::string>& more) {
  std::vector<std::string> command = {LSTM_BENCH_SERVER, "--listen", "127.0.0.1:0", "--http-listen", "", "--metrics-listen", "127.0.0.1:0", "--model-poll-seconds", "0",
                                      "--models", models, "--shards", std::to_string(shards)};
  command.insert(command.end(), more.begin(), more.end());
  std::vector<size_t> cores;
  for (size_t core = 0; core < static_cast<size_t>(shards); ++core) cores.push_back(kServerCore + core);
  return Served(command, cores);
}

}  // namespace lstm::bench
