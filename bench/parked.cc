// SPDX-License-Identifier: MIT
// What a volatile session costs that nobody uses: a shard with so many of them on one stream, each with one step taken and acknowledged; resident memory
// of the process, before and after, and what it takes to wake one by its next step.
//
//   bench-parked [MODEL] [SESSIONS] [--json]     MODEL: of models/repository, default shakespeare; SESSIONS: default 1000000
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "bench/row.h"
#include "server/models/model_keeper.h"
#include "tests/support/shard_world.h"

namespace lstm {
namespace {

constexpr uint32_t kTogether = 1000;  // are opened, used, and laid to rest before the next are
constexpr uint64_t kMicros = 1'000'000;
constexpr uint32_t kTtlSeconds = 86'400;

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  statm >> size >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

v1::Request Step(uint32_t lane, uint64_t seq) {
  v1::Request request;
  request.mutable_step()->set_lane(lane);
  request.mutable_step()->set_seq(seq);
  request.mutable_step()->set_ack(seq - 1);
  request.mutable_step()->add_inputs()->add_ints(7);
  return request;
}

int Main(const std::string& name, uint32_t sessions, bool json) {
  auto models = server::LoadAllModels("models/repository", 64);
  if (!models.ok()) return std::cerr << models.status().message() << "\n", 1;
  const auto model = (*models)->Find(name, "");
  if (!model.ok()) return std::cerr << model.status().message() << "\n", 1;
  const double state_bytes = static_cast<double>((*model)->program->state_floats() * sizeof(float));
  uint64_t now_us = 1;
  testing::ShardWorld world({.shards = 1, .shard = {.max_ttl_s = kTtlSeconds}, .max_sessions = sessions, .max_bytes = uint64_t{1} << 40}, *models, nullptr, &now_us);
  server::Shard& shard = world.shard();
  testing::Sink sink;
  server::Stream* const stream = shard.Attach(&sink, "");
  const auto run = [&](uint32_t first, uint32_t last, uint64_t seq, bool open) {
    for (uint32_t lane = first; lane < last; ++lane) {
      v1::StreamRequest message;
      if (open) {
        v1::Open* request = message.add_requests()->mutable_open();
        request->set_lane(lane);
        request->set_model(name);
        request->set_ttl_seconds(kTtlSeconds);
        std::string nonce(16, 'n');
        nonce.replace(0, sizeof(lane), reinterpret_cast<const char*>(&lane), sizeof(lane));
        request->set_client_nonce(nonce);
      }
      *message.add_requests() = Step(lane, seq);
      shard.OnMessage(stream, message);
    }
    while (shard.has_work()) shard.Work();
    v1::StreamRequest touch;
    for (uint32_t lane = first; lane < last; ++lane) {
      touch.add_requests()->mutable_touch()->set_lane(lane);
      touch.mutable_requests()->rbegin()->mutable_touch()->set_ack(seq);
    }
    shard.OnMessage(stream, touch);
    for (const v1::Response& r : sink.responses) {
      if (!r.has_result() && !r.has_opened()) std::cerr << r.ShortDebugString() << "\n", std::exit(1);
    }
    sink.responses.clear();
  };
  const auto rest_all = [&](size_t all) {
    now_us += 61 * kMicros;
    while (shard.resting() < all) {
      shard.RunTimers();
      now_us += 2'000;
    }
  };
  run(1, 101, 1, true);  // what is allocated once, is
  rest_all(100);
  const double before = ResidentBytes();
  for (uint32_t first = 101; first <= sessions; first += kTogether) {
    const uint32_t last = std::min(first + kTogether, sessions + 1);
    run(first, last, 1, true);
    rest_all(last - 1);
  }
  const double each = (ResidentBytes() - before) / (sessions - 100);
  const double charged = static_cast<double>(world.budget().bytes()) / sessions;

  const uint32_t awake = std::min<uint32_t>(sessions, 20 * kTogether);
  double begin = Seconds();
  run(1, awake + 1, 2, false);
  const double waking = Seconds() - begin;
  begin = Seconds();
  run(1, awake + 1, 3, false);
  const double live = Seconds() - begin;
  bench::Emit({{"row", "parked"}, {"model", name}, {"sessions", sessions}, {"state_bytes", state_bytes}, {"bytes_beside_state", each - state_bytes}, {"charged_beside_state", charged - state_bytes},
               {"wake_us", (waking - live) / awake * 1e6}},
              json);
  return each <= state_bytes + 512 ? 0 : 2;
}

}  // namespace
}  // namespace lstm

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool json = std::erase(words, "--json") > 0;
  const long sessions = words.size() > 1 ? std::atol(words[1].c_str()) : 1'000'000;
  if (sessions < 1000 || sessions > 100'000'000) return std::cerr << "SESSIONS is " << words[1] << ", expected 1000 to 100000000\n", 1;
  return lstm::Main(!words.empty() ? words[0] : "shakespeare", static_cast<uint32_t>(sessions), json);
}
