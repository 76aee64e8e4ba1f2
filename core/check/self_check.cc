// SPDX-License-Identifier: MIT
#include "core/check/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/aligned_buffer.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

// Those that kernels are made for.
constexpr int kSizes[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024};

// A batch of equal rows: the initial state, every number of every input the same.
class Batch {
 public:
  Batch(const StepProgram& program, bool any_state) : program_(program), any_state_(any_state), scratch_(program.MakeScratch()), begin_(program.state_floats()) {
    const auto rows = static_cast<size_t>(program.max_batch());
    state_ = AlignedBuffer<float>(rows * program.state_floats());
    for (const auto& port : program.inputs()) inputs_.emplace_back(port.step_bytes / sizeof(float));
    for (const auto& input : inputs_) input_pointers_.push_back(reinterpret_cast<const std::byte*>(input.data()));
    for (size_t o = 0; o < program.declared_outputs(); ++o) outputs_.emplace_back(rows * program.outputs()[o].step_bytes / sizeof(float));
    output_pointers_.assign(rows * program.outputs().size(), nullptr);
    for (size_t r = 0; r < rows; ++r) {
      for (size_t o = 0; o < outputs_.size(); ++o) {
        output_pointers_[r * program.outputs().size() + o] = reinterpret_cast<std::byte*>(outputs_[o].data()) + r * program.outputs()[o].step_bytes;
      }
    }
  }

  void Fill(float number) {
    std::copy(program_.initial_state().begin(), program_.initial_state().end(), begin_.data());
    if (any_state_) std::fill(begin_.span().begin(), begin_.span().end(), number);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const bool ids = program_.inputs()[i].dtype == DType::kI32;  // id 0 is all zero bits
      std::fill(inputs_[i].span().begin(), inputs_[i].span().end(), ids ? 0.0f : number);
    }
  }

  absl::Status Run(size_t rows) {
    std::vector<StepRow> batch;
    for (size_t r = 0; r < rows; ++r) {
      batch.push_back({begin_.data(), state_.data() + r * program_.state_floats(), input_pointers_.data(),
                       output_pointers_.data() + r * program_.outputs().size()});
    }
    return program_.Run(batch, *scratch_);
  }

  // What a row came to: its new state, then its outputs.
  std::vector<float> Row(size_t r) const {
    std::vector<float> out(state_.data() + r * program_.state_floats(), state_.data() + (r + 1) * program_.state_floats());
    for (size_t o = 0; o < outputs_.size(); ++o) {
      const size_t floats = program_.outputs()[o].step_bytes / sizeof(float);
      out.insert(out.end(), outputs_[o].data() + r * floats, outputs_[o].data() + (r + 1) * floats);
    }
    return out;
  }

 private:
  const StepProgram& program_;
  const bool any_state_;
  const std::unique_ptr<StepProgram::Scratch> scratch_;
  AlignedBuffer<float> begin_;
  AlignedBuffer<float> state_;
  std::vector<AlignedBuffer<float>> inputs_, outputs_;
  std::vector<const std::byte*> input_pointers_;
  std::vector<std::byte*> output_pointers_;  // [rows, outputs]
};

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

}  // namespace

absl::Status SelfCheck(const StepProgram& program, bool any_state) {
  Batch batch(program, any_state);
  std::optional<std::vector<float>> alone;
  // A model may have no answer to zeros, one that takes a logarithm for one.
  for (const float number : {0.5f, 0.0f, 1.0f}) {
    batch.Fill(number);
    LSTM_RETURN_IF_ERROR(batch.Run(1));
    if (std::vector<float> row = batch.Row(0); AllFinite(row)) {
      alone = std::move(row);
      break;
    }
  }
  if (!alone) return absl::InternalError("self-check: the first step gives numbers that are not finite");
  for (const int size : kSizes) {
    const int rows = std::min(size, program.max_batch());
    LSTM_RETURN_IF_ERROR(batch.Run(static_cast<size_t>(rows)));
    for (const int r : {0, rows / 2, rows - 1}) {
      const std::vector<float> row = batch.Row(static_cast<size_t>(r));
      if (std::memcmp(row.data(), alone->data(), row.size() * sizeof(float)) != 0) {
        return absl::InternalError(absl::StrCat("self-check: row ", r, " of a batch of ", rows, " gives other bits than alone"));
      }
    }
    if (size >= program.max_batch()) break;
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
