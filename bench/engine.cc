// SPDX-License-Identifier: MIT
// The engine that makes batches of turns, without protocol and network: steps a second of one core by sessions and by the largest
// batch, and what a lone session gains by many steps in a turn. Times are of this thread's CPU; what is compared is measured turn about.
//
//   bench-engine [--quick] [--json]
#include <CLI/CLI.hpp>
#include <deque>

#include "bench/machine_limits.h"
#include "bench/row.h"
#include "core/engine/batch_engine.h"
#include "tests/support/random_model.h"

namespace lstm::bench {
namespace {

using core::AlignedBuffer;

struct Options {
  std::vector<int64_t> hidden = {64, 256, 1024};
  std::vector<size_t> sessions = {1, 8, 64, 512};
  std::vector<int> batch = {1, 8, 64};
  int samples = 15;
  double sample_s = 0.03;
  bool json = false, quick = false;
};

std::shared_ptr<const core::StepProgram> Program(int64_t hidden, int batch) {
  return Must(core::StepProgram::Compile(std::make_shared<const core::Model>(testing::OneLayer("lstm", hidden, hidden, 1)), {.max_batch = batch}));
}

// Sessions that always have a turn of `steps` steps in the engine, as the server's shards keep them.
class Fed {
 public:
  Fed(std::shared_ptr<const core::StepProgram> program, size_t sessions, uint32_t steps) : program_(std::move(program)) {
    const size_t in = program_->inputs()[0].step_bytes * steps, out = program_->outputs()[0].step_bytes * steps;
    testing::Random random(1);
    for (size_t s = 0; s < sessions; ++s) {
      One& one = sessions_.emplace_back();
      for (auto& row : one.rows) row = AlignedBuffer<float>(program_->state_floats());
      std::copy(program_->initial_state().begin(), program_->initial_state().end(), one.rows[2].data());
      one.input = AlignedBuffer<float>(in / sizeof(float));
      for (float& v : one.input.span()) v = random.Uniform();
      one.output.resize(out);
      one.turn.program = program_.get();
      one.turn.steps = steps;
      one.turn.inputs = {reinterpret_cast<const std::byte*>(one.input.data())};
      one.turn.outputs.assign(program_->outputs().size(), nullptr);
      one.turn.outputs[0] = one.output.data();
      Begin(one);
    }
  }
  // Microseconds of CPU for a step.
  double Measure(double seconds) {
    uint64_t steps = 0;
    const double begin = ThreadSeconds();
    double now = begin;
    while (now - begin < seconds) {
      for (int i = 0; i < 4; ++i) steps += engine_.RunBatch(finished_);
      for (core::Turn* turn : finished_) {
        Must(turn->status);
        Begin(*reinterpret_cast<One*>(turn));
      }
      finished_.clear();
      now = ThreadSeconds();
    }
    return (now - begin) / static_cast<double>(steps) * 1e6;
  }

 private:
  struct One {
    core::Turn turn;  // first: what the engine gives back is the session
    AlignedBuffer<float> rows[3], input;
    std::vector<std::byte> output;
  };
  // From the state that the last turn left, into the two other rows.
  void Begin(One& one) {
    core::Turn& turn = one.turn;
    const float* const from = turn.new_state != nullptr ? turn.new_state : one.rows[2].data();
    size_t next = 0;
    for (auto& row : one.rows) {
      if (row.data() != from) turn.scratch[next++] = row.data();
    }
    turn.state = from;
    turn.new_state = nullptr;
    turn.done = 0;
    engine_.Add(&turn);
  }

  const std::shared_ptr<const core::StepProgram> program_;
  std::deque<One> sessions_;
  core::BatchEngine engine_;
  std::vector<core::Turn*> finished_;
};

void BySessions(const Options& o) {
  for (const int64_t h : o.hidden) {
    for (const int batch : o.batch) {
      const auto program = Program(h, batch);
      for (const size_t sessions : o.sessions) {
        Fed fed(program, sessions, 1);
        fed.Measure(o.sample_s);
        std::vector<double> us;
        for (int s = 0; s < o.samples; ++s) us.push_back(fed.Measure(o.sample_s));
        const double step = Median(us);
        Emit({{"row", "engine"}, {"h", h}, {"max_batch", batch}, {"sessions", sessions}, {"cpu_us_per_step", step}, {"steps_per_cpu_second", 1e6 / step}}, o.json);
      }
    }
  }
}

void ManySteps(const Options& o) {
  for (const int64_t h : {256, 1024}) {
    const auto program = Program(h, 64);
    Fed one(program, 1, 1), many(program, 1, 64);
    one.Measure(o.sample_s), many.Measure(o.sample_s);
    std::vector<double> single, turn, gain;
    for (int s = 0; s < 2 * o.samples; ++s) {
      single.push_back(one.Measure(o.sample_s));
      turn.push_back(many.Measure(o.sample_s));
      gain.push_back(single.back() / turn.back());
    }
    Emit({{"row", "lone_turns"}, {"h", h}, {"t1_us", Median(single)}, {"t64_us", Median(turn)}, {"gain", Median(gain)}}, o.json);
  }
}

}  // namespace
}  // namespace lstm::bench

int main(int argc, char** argv) {
  lstm::bench::Options o;
  CLI::App app("The engine that makes batches of turns: steps a second, and many steps in a turn", "bench-engine");
  app.option_defaults()->always_capture_default();
  app.add_option("--hidden", o.hidden, "Sizes of the layer")->delimiter(',');
  app.add_option("--sessions", o.sessions, "Live sessions")->delimiter(',');
  app.add_option("--batch", o.batch, "Rows of the largest batch")->delimiter(',');
  app.add_flag("--quick", o.quick, "Fewer samples");
  app.add_flag("--json", o.json, "A JSON object a line");
  CLI11_PARSE(app, argc, argv);
  if (o.quick) o.samples = 3;
  lstm::bench::BySessions(o);
  lstm::bench::ManySteps(o);
}
