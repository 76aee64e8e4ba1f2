// SPDX-License-Identifier: MIT
// A large batch that two threads share, as shards do (server/shard/shared_batch.h), against one that computes it alone, turn about: by the
// clock, for it is about a core that has nothing else to do.
//
//   bench-divided [--quick] [--json]
#include <sched.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "bench/machine_limits.h"
#include "bench/row.h"
#include "server/shard/shared_batch.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::bench {
namespace {

constexpr int kRows = 64;

// A thread that takes part in each batch that it is given, as a shard does that was idle.
class Helper {
 public:
  explicit Helper(const core::StepProgram& program) : scratch_(program.MakeScratch()), thread_([this] { Loop(); }) {}
  ~Helper() {
    Give(nullptr);
    thread_.join();
  }
  void Give(std::shared_ptr<server::SharedBatch> batch) {
    batch_ = std::move(batch);
    given_.fetch_add(1, std::memory_order_release);
    given_.notify_one();
  }
  // It has let go of the batch that it was given.
  void Join() const {
    while (taken_.load(std::memory_order_acquire) != given_.load(std::memory_order_relaxed)) std::this_thread::yield();
  }

 private:
  void Loop() {
    for (uint64_t next = 0;; ++next) {
      given_.wait(next, std::memory_order_acquire);
      if (batch_ == nullptr) return;
      while (batch_->TakePart([this](const core::StepProgram*) -> core::StepProgram::Scratch& { return *scratch_; })) {}
      batch_.reset();
      taken_.store(next + 1, std::memory_order_release);
    }
  }

  std::unique_ptr<core::StepProgram::Scratch> scratch_;
  std::shared_ptr<server::SharedBatch> batch_;
  std::atomic<uint64_t> given_{0}, taken_{0};
  std::thread thread_;
};

void Compare(int64_t hidden, int samples, bool json) {
  const auto program = Must(core::StepProgram::Compile(std::make_shared<const core::Model>(testing::OneLayer("lstm", hidden, hidden, 1)), {.max_batch = kRows}));
  std::vector<std::unique_ptr<testing::Row>> sessions;
  std::vector<core::StepRow> rows;
  testing::Random random(1);
  for (int i = 0; i < kRows; ++i) {
    sessions.push_back(std::make_unique<testing::Row>(*program));
    for (float& v : sessions.back()->input[0]) v = random.Uniform();
    rows.push_back(sessions.back()->row());
  }
  const auto scratch = program->MakeScratch();
  Helper helper(*program);
  std::vector<double> alone, divided, times;
  for (int s = -2; s < samples; ++s) {  // the first two to get warm
    const auto begin = std::chrono::steady_clock::now();
    Must(program->Run(rows, *scratch));
    const auto half = std::chrono::steady_clock::now();
    const auto batch = std::make_shared<server::SharedBatch>(*program, rows, 2);
    helper.Give(batch);
    while (batch->TakePart([&](const core::StepProgram*) -> core::StepProgram::Scratch& { return *scratch; })) {}
    Must(batch->Wait());
    const auto end = std::chrono::steady_clock::now();
    helper.Join();
    if (s < 0) continue;
    alone.push_back(std::chrono::duration<double, std::micro>(half - begin).count());
    divided.push_back(std::chrono::duration<double, std::micro>(end - half).count());
    times.push_back(alone.back() / divided.back());
  }
  Emit({{"row", "divided"}, {"h", hidden}, {"b", kRows}, {"alone_us", Median(alone)}, {"divided_us", Median(divided)}, {"times_as_fast", Median(times)}}, json);
}

}  // namespace
}  // namespace lstm::bench

int main(int argc, char** argv) {
  bool quick = false, json = false;
  CLI::App app("A large batch that two threads share, against one that computes it alone", "bench-divided");
  app.add_flag("--quick", quick, "Fewer samples");
  app.add_flag("--json", json, "A JSON object a line");
  CLI11_PARSE(app, argc, argv);
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0 || CPU_COUNT(&cores) < 2) lstm::bench::Must(absl::FailedPreconditionError("two threads need two cores"));
  for (const int64_t hidden : {256, 512, 1024}) lstm::bench::Compare(hidden, quick ? 10 : 40, json);
}
