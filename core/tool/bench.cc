// SPDX-License-Identifier: MIT
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/tool/tool.h"

namespace lstm::core {
namespace {

struct Options {
  std::string directory;
  std::vector<int> batches = {1, 8, 64};
  double seconds = 0.5;
  bool json = false;
  Engine engine = Engine::kAuto;
};

// CPU time of this process: what else the machine does is not counted, only felt in its caches.
double CpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Sessions that are fed noise, each its own, step after step: their states go where such states go.
class Sessions {
 public:
  Sessions(const StepProgram& program, int rows) : program_(program), scratch_(program.MakeScratch()) {
    constexpr size_t kSteps = 16;  // of recorded noise, over and over
    std::mt19937 random(5);
    std::normal_distribution<float> noise(0, 1);
    const size_t inputs = program.inputs().size();
    for (int r = 0; r < rows; ++r) {
      states_.push_back({AlignedBuffer<float>(program.state_floats()), AlignedBuffer<float>(program.state_floats())});
      for (size_t o = 0; o < program.outputs().size(); ++o) {
        outputs_.emplace_back(o < program.declared_outputs() ? program.outputs()[o].step_bytes : 0);
      }
    }
    for (size_t t = 0; t < kSteps; ++t) {
      auto& step = input_pointers_.emplace_back();
      for (size_t k = 0; k < static_cast<size_t>(rows) * inputs; ++k) {
        const auto& port = program.inputs()[k % inputs];
        auto& floats = inputs_.emplace_back(port.step_bytes / sizeof(float));
        for (float& v : floats.span()) {
          if (port.dtype == DType::kF32) v = noise(random);
          if (port.dtype == DType::kI32)
            v = std::bit_cast<float>(
                static_cast<int32_t>(random() % static_cast<uint32_t>(std::clamp<int64_t>(port.limit, 1, 1 << 30))));
        }
        step.push_back(reinterpret_cast<const std::byte*>(floats.data()));
      }
    }
    for (auto& output : outputs_) output_pointers_.push_back(output.empty() ? nullptr : output.data());
    Restart();
  }

  absl::Status Step() {
    const auto& inputs = input_pointers_[step_++ % input_pointers_.size()];
    rows_.clear();
    for (size_t r = 0; r < states_.size(); ++r) {
      rows_.push_back({states_[r].first.data(), states_[r].second.data(), inputs.data() + r * program_.inputs().size(),
                       output_pointers_.data() + r * program_.outputs().size()});
    }
    LSTM_RETURN_IF_ERROR(program_.Run(rows_, *scratch_));
    for (auto& [state, next] : states_) std::swap(state, next);
    return absl::OkStatus();
  }

  // Noise may drive a model where its numbers are no numbers any more; such steps cost other than real ones.
  bool Finite() const {
    return std::all_of(states_.begin(), states_.end(), [](const auto& s) {
      return std::all_of(s.first.span().begin(), s.first.span().end(), [](float v) { return std::isfinite(v); });
    });
  }
  void Restart() {
    for (auto& [state, next] : states_)
      std::copy(program_.initial_state().begin(), program_.initial_state().end(), state.data());
  }

 private:
  const StepProgram& program_;
  const std::unique_ptr<StepProgram::Scratch> scratch_;
  std::vector<std::pair<AlignedBuffer<float>, AlignedBuffer<float>>> states_;
  std::vector<AlignedBuffer<float>> inputs_;
  std::vector<std::vector<const std::byte*>> input_pointers_;  // [steps][rows * inputs]
  std::vector<std::vector<std::byte>> outputs_;
  std::vector<std::byte*> output_pointers_;
  std::vector<StepRow> rows_;
  size_t step_ = 0;
};

struct Cost {
  int batch;
  double median, best;  // seconds of one step of one session
};

absl::StatusOr<Cost> Measure(const StepProgram& program, int batch, double seconds) {
  constexpr int kRounds = 10;
  Sessions sessions(program, batch);
  int runs = 1;
  for (double spent = 0; spent < seconds / kRounds; runs *= 2) {  // and warm
    const double start = CpuSeconds();
    for (int k = 0; k < runs; ++k) LSTM_RETURN_IF_ERROR(sessions.Step());
    spent = CpuSeconds() - start;
    if (runs > 1 << 28) break;
  }
  runs = std::max(1, runs / 2);
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; ++round) {
    if (!sessions.Finite()) sessions.Restart();
    const double start = CpuSeconds();
    for (int k = 0; k < runs; ++k) LSTM_RETURN_IF_ERROR(sessions.Step());
    rounds.push_back((CpuSeconds() - start) / runs / batch);
  }
  std::sort(rounds.begin(), rounds.end());
  return Cost{batch, (rounds[kRounds / 2 - 1] + rounds[kRounds / 2]) / 2, rounds[0]};
}

absl::Status Run(const Options& options) {
  const int largest = *std::max_element(options.batches.begin(), options.batches.end());
  LSTM_ASSIGN_OR_RETURN(const Loaded loaded,
                        LoadProgram(options.directory, {.max_batch = largest, .engine = options.engine}, nullptr));
  const auto& program = loaded.steps;
  if (!program) {
    return absl::FailedPreconditionError(absl::StrCat("there are no steps to measure: ", loaded.model->not_streamable));
  }
  if (!options.json) {
    std::cout << "numerics " << program->numerics_id() << "\nlayers\n";
    for (const std::string& line : program->engines()) std::cout << "  " << line << "\n";
    std::cout << "\nCPU of one step of one session: median of 10 rounds, and the best\n  batch  us a step       best   "
                 " steps/s of one core\n";
  }
  nlohmann::ordered_json out = {{"numerics_id", program->numerics_id()},
                                {"layers", program->engines()},
                                {"batches", nlohmann::ordered_json::array()}};
  for (const int batch : options.batches) {
    LSTM_ASSIGN_OR_RETURN(const Cost cost, Measure(*program, batch, options.seconds));
    if (!options.json)
      std::cout << absl::StrFormat("  %5d  %9.3f  %9.3f  %21.0f\n", cost.batch, cost.median * 1e6, cost.best * 1e6,
                                   1 / cost.median)
                << std::flush;
    out["batches"].push_back({{"batch", cost.batch}, {"median_us", cost.median * 1e6}, {"best_us", cost.best * 1e6}});
  }
  if (options.json) std::cout << out.dump(1) << "\n";
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command =
      app.add_subcommand("bench", "What a step costs: CPU for each batch size, and what computes each layer");
  auto o = std::make_shared<Options>();
  command->add_option("DIR", o->directory, "Directory with model.textproto and the weights, or an ONNX file")
      ->required();
  command->add_option("--batch", o->batches, "Sessions that are computed together")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", o->seconds, "CPU time spent on each")
      ->check(CLI::Range(0.001, 600.0))
      ->capture_default_str();
  command->add_flag("--json", o->json, "As JSON");
  AddEngineOption(*command, o->engine);
  command->callback([&result, o] { result = Run(*o); });
}

}  // namespace lstm::core
