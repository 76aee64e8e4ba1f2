// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/sequence_run.h"
#include "core/tool/tool.h"

namespace lstm::core {

absl::Status ReplayWhole(const std::shared_ptr<const SequenceProgram>& program, const Recorded& recorded, std::vector<double>& worst) {
  constexpr size_t kBeside = 7;  // the same sequence this many times beside it must give the same bits
  std::vector<std::unique_ptr<SequenceRun>> runs;
  std::vector<Turn> turns(1 + kBeside);
  BatchEngine engine;
  const auto go = [&](size_t from, size_t to) -> absl::Status {
    for (size_t r = from; r < to; ++r) {
      if (runs[r]->Next(turns[r])) engine.Add(&turns[r]);
    }
    std::vector<Turn*> finished;
    while (!engine.idle()) {
      finished.clear();
      engine.RunBatch(finished);
      for (Turn* turn : finished) {
        if (!turn->status.ok()) return turn->status;
        SequenceRun& run = *runs[static_cast<size_t>(turn - turns.data())];
        run.Take(*turn);
        if (run.Next(*turn)) engine.Add(turn);
      }
    }
    return absl::OkStatus();
  };
  for (size_t r = 0; r < turns.size(); ++r) {
    LSTM_ASSIGN_OR_RETURN(runs.emplace_back(), SequenceRun::Make(program, static_cast<uint32_t>(recorded.steps), recorded.inputs));
  }
  LSTM_RETURN_IF_ERROR(go(0, 1));
  LSTM_RETURN_IF_ERROR(go(1, turns.size()));
  for (size_t o = 0; o < recorded.expected.size(); ++o) {
    const std::vector<std::byte> answer = runs[0]->Output(o);
    for (const auto& run : runs) {
      if (run->Output(o) != answer) return absl::InternalError(absl::StrCat("a batch of ", kBeside, " gives other bits than one sequence alone"));
    }
    const std::vector<float>& expected = recorded.expected[o];
    if (expected.empty()) continue;
    std::vector<float> values(answer.size() / sizeof(float));
    std::memcpy(values.data(), answer.data(), answer.size());
    if (values.size() != expected.size()) {
      return absl::InvalidArgumentError(absl::StrCat("output '", program->sequence().outputs[o].name, "' has ", values.size(), " values, ", expected.size(), " were recorded"));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const auto right = static_cast<double>(expected[i]);
      const double error = std::fabs(static_cast<double>(values[i]) - right) / std::max(1.0, std::fabs(right));
      worst[o] = std::isnan(error) ? INFINITY : std::max(worst[o], error);
    }
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
