// SPDX-License-Identifier: MIT
#include "core/program/step_program.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/program/compiled_program.h"

// How a program is made; compiled_run.cc has how it runs.
namespace lstm::core {
namespace {

constexpr size_t kLine = 16;  // floats in 64 bytes

size_t RoundUp(size_t n) { return (n + kLine - 1) / kLine * kLine; }

size_t Count(const Shape& shape) { return static_cast<size_t>(CheckedElementCount(shape)); }

}  // namespace

absl::Status CompiledProgram::Init(std::shared_ptr<const Model> model, const Options& options) {
  if (options.max_batch < 1 || options.max_batch > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("max_batch is ", options.max_batch, ", expected 1 to 1024"));
  }
  model_ = std::move(model);
  max_batch_ = options.max_batch;
  const Engine engine = ResolveEngine(options.engine);
  LayOutState();
  LSTM_RETURN_IF_ERROR(CheckStateOwners());
  for (const core::Port& port : model_->inputs) {
    inputs_.push_back(PortOf(port.name, port.value, port.limit));
    inputs_.back().wire = port.wire;
  }
  for (const core::Port& port : model_->outputs) AddOutput(PortOf(port.name, port.value, 0), {port.value, -1});
  for (const Node& node : model_->nodes) {
    AddOutput(PortOf(model_->values[static_cast<size_t>(node.output)].name, node.output, 0), {node.output, -1});
  }
  for (size_t s = 0; s < model_->state.size(); ++s) {
    const StateTensor& state = model_->state[s];
    AddOutput({state.name, DType::kF32, state.shape, Count(state.shape) * sizeof(float), 0}, {-1, static_cast<StateId>(s)});
  }
  for (const Node& node : model_->nodes) {
    auto kernel = MakeKernel({model_.get(), &node, max_batch_, &state_offsets_, engine});
    if (!kernel.ok()) {
      return absl::Status(kernel.status().code(), absl::StrCat("layer '", node.name, "': ", kernel.status().message()));
    }
    engines_.push_back(absl::StrCat(node.name, ": ", OpName(node.op), ", ", (*kernel)->Describe()));
    kernels_.push_back(*std::move(kernel));
    costs_.push_back(CostOf(node));
    step_cost_ += costs_.back();
  }
  PlanBlocks();
  numerics_id_ = NumericsId(engine);
  return absl::OkStatus();
}

StepProgram::Port CompiledProgram::PortOf(const std::string& name, ValueId id, int64_t limit) const {
  const Value& value = model_->values[static_cast<size_t>(id)];
  return {name, value.dtype, value.shape, Count(value.shape) * sizeof(float), limit};
}

// Weights that it meets, as often as it does.
uint64_t CompiledProgram::CostOf(const Node& node) const {
  const auto size = [](const ConstantPtr& c) -> uint64_t { return c == nullptr ? 0 : c->values.size(); };
  const auto elements = [&](ValueId id) -> uint64_t { return Count(model_->values[static_cast<size_t>(id)].shape); };
  if (const auto* lstm = std::get_if<LstmOp>(&node.op)) return size(lstm->weight) + size(lstm->recurrent) + size(lstm->projection);
  if (const auto* gru = std::get_if<GruOp>(&node.op)) return size(gru->weight) + size(gru->recurrent);
  if (const auto* rnn = std::get_if<RnnOp>(&node.op)) return size(rnn->weight) + size(rnn->recurrent);
  if (const auto* conv = std::get_if<Conv1dOp>(&node.op)) return size(conv->weight);
  if (const auto* linear = std::get_if<LinearOp>(&node.op)) {
    return size(linear->weight) * (elements(node.inputs[0]) / static_cast<uint64_t>(linear->weight->shape[1]));
  }
  return elements(node.output);
}

void CompiledProgram::LayOutState() {
  size_t end = 0;
  for (const StateTensor& state : model_->state) {
    const size_t size = Count(state.shape);
    state_offsets_.push_back(end);
    end += RoundUp(size);
    if (end > state_offsets_.back() + size) {
      state_gaps_.emplace_back(state_offsets_.back() + size, end - state_offsets_.back() - size);
    }
  }
  initial_state_ = AlignedBuffer<float>(end);
  for (size_t s = 0; s < model_->state.size(); ++s) {
    std::copy(model_->state[s].initial.begin(), model_->state[s].initial.end(), initial_state_.data() + state_offsets_[s]);
  }
}

// Every state tensor is written by exactly one op: else a new state row would hold bytes of an older session.
absl::Status CompiledProgram::CheckStateOwners() const {
  std::vector<int> owners(model_->state.size(), 0);
  auto own = [&](StateId id) {
    if (id >= 0) ++owners[static_cast<size_t>(id)];
  };
  for (const Node& node : model_->nodes) {
    if (const auto* lstm = std::get_if<LstmOp>(&node.op)) {
      own(lstm->hidden);
      own(lstm->cell);
    } else if (const auto* gru = std::get_if<GruOp>(&node.op)) {
      own(gru->hidden);
    } else if (const auto* rnn = std::get_if<RnnOp>(&node.op)) {
      own(rnn->hidden);
    } else if (const auto* conv = std::get_if<Conv1dOp>(&node.op)) {
      own(conv->context);
    } else if (const auto* write = std::get_if<StateWriteOp>(&node.op)) {
      own(write->state);
    }
  }
  for (size_t s = 0; s < owners.size(); ++s) {
    if (owners[s] != 1) {
      return absl::InvalidArgumentError(absl::StrCat("state tensor '", model_->state[s].name, "' is written by ",
                                                     owners[s], " layers, expected one"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const StepProgram>> StepProgram::Compile(std::shared_ptr<const Model> model,
                                                                        const Options& options) {
  auto program = std::make_shared<CompiledProgram>();
  LSTM_RETURN_IF_ERROR(program->Init(std::move(model), options));
  return program;
}

}  // namespace lstm::core
