// SPDX-License-Identifier: MIT
#include "core/check/input_squares.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

constexpr double kLeastPart = 1e-3;  // of the average

StateId HiddenOf(const Op& op) {
  if (const auto* lstm = std::get_if<LstmOp>(&op)) return lstm->hidden;
  if (const auto* gru = std::get_if<GruOp>(&op)) return gru->hidden;
  const auto* rnn = std::get_if<RnnOp>(&op);
  return rnn != nullptr ? rnn->hidden : -1;
}

int64_t GroupsOf(const Op& op) {
  const auto* conv = std::get_if<Conv1dOp>(&op);
  return conv != nullptr ? conv->groups : 1;
}

int64_t TapsOf(const RoundedMatrix& matrix) { return matrix.values->shape.size() == 3 ? matrix.values->shape[2] : 1; }

void AddSquares(std::span<const float> values, std::vector<double>& sums, uint64_t& count) {
  for (size_t i = 0; i < values.size(); ++i) sums[i % sums.size()] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  count += values.size() / sums.size();
}

std::vector<float> StepOf(const std::vector<std::byte>& all, size_t bytes, uint64_t t) {
  std::vector<float> out(bytes / sizeof(float));
  std::memcpy(out.data(), all.data() + t * bytes, bytes);
  return out;
}

}  // namespace

InputSquares::Meets InputSquares::MeetsOf(const StepProgram& program, const RoundedMatrix& matrix) {
  const Model& model = program.model();
  const Node& node = model.nodes[matrix.node];
  Meets meets;
  meets.sums.resize(matrix.width() / static_cast<size_t>(TapsOf(matrix)) * static_cast<size_t>(GroupsOf(node.op)));
  if (absl::EndsWith(matrix.name, ".projection")) return meets;
  if (absl::EndsWith(matrix.name, ".recurrent")) {
    meets.state = HiddenOf(node.op);
    return meets;
  }
  const ValueId value = node.inputs[0];
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    if (model.inputs[i].value == value) meets.input = i;
  }
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    if (model.nodes[n].output == value) meets.output = program.declared_outputs() + n;
  }
  return meets;
}

InputSquares::InputSquares(std::shared_ptr<const StepProgram> program) : program_(std::move(program)), matrices_(RoundedMatrices(program_->model())) {
  std::vector<size_t> wanted;
  for (const RoundedMatrix& matrix : matrices_) {
    meets_.push_back(MeetsOf(*program_, matrix));
    if (meets_.back().output != kNone) wanted.push_back(meets_.back().output);
  }
  walk_ = std::make_unique<Walk>(*program_, wanted);
}

void InputSquares::Add(const std::vector<std::vector<std::byte>>& inputs, uint64_t t, bool before) {
  for (Meets& meets : meets_) {
    if (before) {
      if (meets.state >= 0) AddSquares(walk_->state(meets.state), meets.sums, meets.count);
    } else if (meets.output != kNone) {
      AddSquares(walk_->output(meets.output), meets.sums, meets.count);
    } else if (meets.input != kNone) {
      AddSquares(StepOf(inputs[meets.input], program_->inputs()[meets.input].step_bytes, t), meets.sums, meets.count);
    }
  }
}

absl::Status InputSquares::Run(const std::vector<std::vector<std::byte>>& inputs, uint64_t steps) {
  walk_->Restart();
  for (uint64_t t = 0; t < steps; ++t) {
    Add(inputs, t, /*before=*/true);
    LSTM_RETURN_IF_ERROR(walk_->Step(inputs, t));
    Add(inputs, t, /*before=*/false);
  }
  for (size_t m = 0; m < matrices_.size(); ++m) {
    const auto finite = [](double sum) { return std::isfinite(sum); };
    if (std::all_of(meets_[m].sums.begin(), meets_[m].sums.end(), finite)) continue;
    return absl::InvalidArgumentError(absl::StrCat("what '", matrices_[m].name, "' meets in these steps is not finite"));
  }
  return absl::OkStatus();
}

std::vector<double> InputSquares::Row(size_t m, int64_t row) const {
  const RoundedMatrix& matrix = matrices_[m];
  const Meets& meets = meets_[m];
  const double total = std::accumulate(meets.sums.begin(), meets.sums.end(), 0.0);
  if (total <= 0) return std::vector<double>(matrix.width(), 1.0);
  const auto count = static_cast<double>(meets.count);
  const double least = kLeastPart * total / count / static_cast<double>(meets.sums.size());
  const auto taps = static_cast<size_t>(TapsOf(matrix));
  const int64_t rows_of_group = matrix.rows() / GroupsOf(program_->model().nodes[matrix.node].op);
  const size_t first = static_cast<size_t>(row / rows_of_group) * (matrix.width() / taps);  // channel of the row's group
  std::vector<double> out;
  for (size_t column = 0; column < matrix.width(); ++column) out.push_back(std::max(least, meets.sums[first + column / taps] / count));
  return out;
}

}  // namespace lstm::core
