// SPDX-License-Identifier: MIT
// What it costs that a session survives the end of the process: one shard under saturation, without a network, VOLATILE
// against PROCESS in the same run, turn about; CPU time of the thread, and how long turns wait for their answers. The network's
// cost would only make the ratio smaller.
//
//   bench-durability [STATE_DIR] [ROUNDS] [--json]     STATE_DIR: where the slab lies, default /dev/shm
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "bench/row.h"
#include "server/store/slab.h"
#include "server/store/slot.h"
#include "tests/support/random_model.h"
#include "tests/support/shard_world.h"

namespace lstm {
namespace {

constexpr int kSessions = 8;
constexpr double kWaitBarUs = 20;
constexpr double kSeconds = 0.05;  // of each measurement: short ones and many, turn about, so that both meet the same moods of the machine

double ThreadSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", std::string(value.status().message()).c_str());
    std::exit(1);
  }
  return *std::move(value);
}

std::shared_ptr<const server::ModelRepository> Repository(int64_t hidden) {
  auto served = std::make_shared<server::ServedModel>();
  served->name = "stack";
  served->version = "1";
  served->program = Must(core::StepProgram::Compile(std::make_shared<const core::Model>(testing::LstmStack(64, hidden, 2, 1)), {.max_batch = 64}));
  served->info.set_model_hash(served->program->model().hash);
  return std::make_shared<const server::ModelRepository>(std::vector<server::ServedModelPtr>{served});
}

double TakeP99(std::vector<double>& values) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(values.size() * 99 / 100);
  std::nth_element(values.begin(), at, values.end());
  const double p99 = *at;
  values.clear();
  return p99;
}

// What the CRC of a turn's answer takes that is made step by step while the turn is computed, which no commit's stopwatch sees.
double SumUs(size_t step_bytes, uint32_t steps) {
  const std::vector<std::byte> answer(step_bytes * steps, std::byte{1});
  std::vector<double> times;
  for (int sample = 0; sample < 500; ++sample) {
    server::AnswerCrc crc;
    const auto begin = std::chrono::steady_clock::now();
    for (uint32_t k = 1; k < steps; ++k) crc.Extend(answer, k * step_bytes);
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
  }
  return TakeP99(times);
}

// Sessions of one durability that are fed as fast as the shard takes it, `ahead` turns of `steps` at a time.
class Load {
 public:
  Load(server::Shard& shard, v1::Durability durability, uint32_t steps, uint32_t ahead) : shard_(shard), steps_(steps), ahead_(ahead) {
    stream_ = shard_.Attach(&sink_, "");
    v1::StreamRequest message;
    for (uint32_t lane = 1; lane <= kSessions; ++lane) {
      v1::Open* open = message.add_requests()->mutable_open();
      open->set_lane(lane);
      open->set_model("stack");
      open->set_window(ahead);
      open->set_durability(durability);
      std::string nonce(16, static_cast<char>(lane));
      nonce[1] = static_cast<char>(durability);
      nonce[2] = static_cast<char>(steps);
      open->set_client_nonce(nonce);
      open->set_answer_bytes(4u << 20);
    }
    shard_.OnMessage(stream_, message);
    const auto opened = std::count_if(sink_.responses.begin(), sink_.responses.end(), [](const auto& r) { return r.has_opened(); });
    if (opened != kSessions) std::fprintf(stderr, "%ld sessions opened: %s\n", static_cast<long>(opened), sink_.responses.back().ShortDebugString().c_str()), std::exit(1);
    sink_.responses.clear();
    for (uint32_t k = 0; k < ahead; ++k) {
      for (uint32_t lane = 1; lane <= kSessions; ++lane) {
        v1::Step* step = turns_.add_requests()->mutable_step();
        step->set_lane(lane);
        step->set_steps(steps);
        step->add_inputs()->set_data(std::string(steps * 64 * sizeof(float), '\0'));
      }
    }
  }
  ~Load() { shard_.Detach(stream_); }

  // Nanoseconds of CPU per step.
  double Measure() {
    uint64_t done = 0;
    const double begin = ThreadSeconds();
    double now = begin;
    while (now - begin < kSeconds) {
      for (uint32_t k = 0; k < ahead_; ++k) {
        for (int i = 0; i < kSessions; ++i) {
          v1::Step* step = turns_.mutable_requests(static_cast<int>(k) * kSessions + i)->mutable_step();
          step->set_seq(seq_ + k + 1);
          step->set_ack(seq_);
        }
      }
      seq_ += ahead_;
      const uint64_t commits = shard_.counters().commit_us.sum();
      const auto sent = std::chrono::steady_clock::now();
      shard_.OnMessage(stream_, turns_);
      while (shard_.has_work()) shard_.Work();
      waits_.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - sent).count());
      commits_.push_back(static_cast<double>(shard_.counters().commit_us.sum() - commits));
      for (const v1::Response& r : sink_.responses) {
        if (!r.has_result()) std::fprintf(stderr, "%s\n", r.ShortDebugString().c_str()), std::exit(1);
      }
      sink_.responses.clear();
      done += uint64_t{ahead_} * kSessions * steps_;
      now = ThreadSeconds();
    }
    return (now - begin) / static_cast<double>(done) * 1e9;
  }
  // Microseconds from a message to the last of its answers, by the turns of a session that it holds: the 99th percentile since the
  // last call.
  double WaitP99() { return TakeP99(waits_) / ahead_; }
  // Of it, what the commits to the slots took: what the store adds, without the mood of the kernels.
  double CommitP99() { return TakeP99(commits_) / ahead_; }

 private:
  server::Shard& shard_;
  const uint32_t steps_, ahead_;
  server::Stream* stream_;
  testing::Sink sink_;
  v1::StreamRequest turns_;
  uint64_t seq_ = 0;
  std::vector<double> waits_, commits_;
};

// Slots for all sessions at hand, so that the shard needs no other thread.
void MakeRoom(server::Slab& slab, size_t bytes) {
  std::vector<std::span<std::byte>> slots;
  while (slots.size() < kSessions) {
    auto slot = slab.Allocate(bytes);
    if (slot.ok()) {
      slots.push_back(*slot);
      continue;
    }
    std::promise<absl::Status> grown;
    slab.Grow(bytes, [&](const absl::Status& status) { grown.set_value(status); });
    if (const absl::Status status = grown.get_future().get(); !status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str()), std::exit(1);
  }
  for (const auto slot : slots) slab.Free(slot);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

int Main(const std::string& parent, int rounds, bool json) {
  const std::string directory = parent + "/lstm-bench-" + std::to_string(getpid());
  bool all = true;
  if (!json) std::printf("| model | turns | VOLATILE ns/step | PROCESS ns/step | cost | bar | p99 of a turn, VOLATILE us | PROCESS us | longer by | its commits and CRCs | bar | holds |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const auto& [hidden, bar] : {std::pair<int64_t, double>{128, 5}, {512, 2}, {1024, 1}}) {
    for (const auto& [steps, ahead] : {std::pair<uint32_t, uint32_t>{1, 1}, {16, 8}}) {
      auto slab = Must(server::Slab::Open({.directory = directory}));
      uint64_t now_us = 1;
      testing::ShardWorld::Options options;
      options.max_sessions = 1000;
      options.max_bytes = uint64_t{4} << 30;
      MakeRoom(*slab, (4u << 20) + 100'000);
      options.clock = [] { return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count()); };
      testing::ShardWorld world(options, Repository(hidden), slab.get(), &now_us);
      std::vector<double> plain, stored, cost;
      std::vector<double> plain_wait, stored_wait, longer;
      double commit = 0;
      {
        Load with(world.shard(), v1::PROCESS, steps, ahead), without(world.shard(), v1::VOLATILE, steps, ahead);
        with.Measure(), without.Measure();
        with.WaitP99(), without.WaitP99(), with.CommitP99();
        for (int r = 0; r < rounds; ++r) {
          plain.push_back(without.Measure());
          stored.push_back(with.Measure());
          cost.push_back((stored.back() / plain.back() - 1) * 100);
          plain_wait.push_back(without.WaitP99());
          stored_wait.push_back(with.WaitP99());
          longer.push_back(stored_wait.back() - plain_wait.back());
        }
        commit = with.CommitP99() + kSessions * SumUs(static_cast<size_t>(hidden) * sizeof(float), steps);
      }
      const double median = Median(cost);
      const double wait = Median(longer);
      const bool holds = median <= bar && commit <= kWaitBarUs;
      all = all && holds;
      if (json) {
        bench::Emit({{"row", "durability"}, {"h", hidden}, {"steps", steps}, {"ahead", ahead}, {"volatile_ns", Median(plain)}, {"process_ns", Median(stored)}, {"cost_percent", median},
                     {"cost_bar_percent", bar}, {"volatile_p99_us", Median(plain_wait)}, {"process_p99_us", Median(stored_wait)}, {"longer_us", wait}, {"commits_us", commit}, {"commits_bar_us", kWaitBarUs}}, true);
      } else {
        std::printf("| 2 x %ld | T = %u, %u ahead | %.0f | %.0f | %.2f %% | %.0f %% | %.1f | %.1f | %.1f | %.1f | %.0f | %s |\n", static_cast<long>(hidden), steps, ahead,
                    Median(plain), Median(stored), median, bar, Median(plain_wait), Median(stored_wait), wait, commit, kWaitBarUs, holds ? "yes" : "no");
      }
      std::fflush(stdout);
      std::filesystem::remove_all(directory);
    }
  }
  return all ? 0 : 2;
}

}  // namespace
}  // namespace lstm

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool json = std::erase(words, "--json") > 0;
  return lstm::Main(!words.empty() ? words[0] : "/dev/shm", words.size() > 1 ? std::atoi(words[1].c_str()) : 61, json);
}
