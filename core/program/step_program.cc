// SPDX-License-Identifier: MIT
#include "core/program/step_program.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <set>
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
  Straight straight = Straighten(*model_);
  orders_ = std::move(straight.orders);
  SharedProducts products;
  for (const Node& node : straight.nodes) {
    auto kernel = MakeKernel({model_.get(), &node, max_batch_, &state_offsets_, engine, &products});
    if (!kernel.ok()) {
      return absl::Status(kernel.status().code(), absl::StrCat("layer '", node.name, "': ", kernel.status().message()));
    }
    engines_.push_back(absl::StrCat(node.name, ": ", OpName(node.op), ", ", (*kernel)->Describe()));
    kernels_.push_back(*std::move(kernel));
    costs_.push_back(CostOf(node));
    step_cost_ += costs_.back();
  }
  PlanBlocks();
  PlanRooms();
  PlanParts(engine);
  numerics_id_ = NumericsId(engine);
  return absl::OkStatus();
}

StepProgram::Port CompiledProgram::PortOf(const std::string& name, ValueId id, int64_t limit) const {
  const Value& value = model_->values[static_cast<size_t>(id)];
  return {name, value.dtype, value.shape, Count(value.shape) * sizeof(float), limit};
}

// Weights that it meets, as often as it does.
uint64_t CompiledProgram::CostOf(const Node& node) const {
  const auto elements = [&](ValueId id) -> uint64_t { return Count(model_->values[static_cast<size_t>(id)].shape); };
  if (const auto* linear = std::get_if<LinearOp>(&node.op)) return WeightsOf(node) * (elements(node.inputs[0]) / static_cast<uint64_t>(linear->weight->shape[1]));
  const uint64_t weights = WeightsOf(node);
  return weights > 0 ? weights : elements(node.output);
}

uint64_t CompiledProgram::WeightsOf(const Node& node) {
  const auto size = [](const ConstantPtr& c) -> uint64_t { return c == nullptr ? 0 : c->values.size(); };
  if (const auto* lstm = std::get_if<LstmOp>(&node.op)) return size(lstm->weight) + size(lstm->recurrent) + size(lstm->projection);
  if (const auto* gru = std::get_if<GruOp>(&node.op)) return size(gru->weight) + size(gru->recurrent);
  if (const auto* rnn = std::get_if<RnnOp>(&node.op)) return size(rnn->weight) + size(rnn->recurrent);
  if (const auto* conv = std::get_if<Conv1dOp>(&node.op)) return size(conv->weight);
  if (const auto* linear = std::get_if<LinearOp>(&node.op)) return size(linear->weight);
  return 0;
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

// Each value gets the narrowest room that is free while it lives; what a batch touches stays small, and in the cache.
void CompiledProgram::PlanRooms() {
  const std::vector<Node>& nodes = model_->nodes;
  std::vector<size_t> last_use(model_->values.size(), 0);
  for (size_t k = 0; k < nodes.size(); ++k) {
    last_use[static_cast<size_t>(nodes[k].output)] = k;
    for (ValueId id : nodes[k].inputs) last_use[static_cast<size_t>(id)] = k;
  }
  std::vector<std::vector<size_t>> die_at(nodes.size() + 1);  // a stage of a sequence may have none
  for (size_t v = 0; v < last_use.size(); ++v) die_at[last_use[v]].push_back(v);
  std::vector<size_t> free;
  room_of_.resize(model_->values.size());
  const auto enter = [&](ValueId id) {
    const size_t width = Count(model_->values[static_cast<size_t>(id)].shape);
    // The narrowest that holds it, else the widest, which grows.
    const auto better = [&](size_t a, size_t b) {
      const bool fits_a = room_widths_[a] >= width, fits_b = room_widths_[b] >= width;
      return fits_a != fits_b ? fits_a : fits_a ? room_widths_[a] < room_widths_[b] : room_widths_[a] > room_widths_[b];
    };
    auto best = std::min_element(free.begin(), free.end(), better);
    size_t room = room_widths_.size();
    if (best == free.end()) {
      room_widths_.push_back(width);
    } else {
      room = *best;
      free.erase(best);
      room_widths_[room] = std::max(room_widths_[room], width);
    }
    room_of_[static_cast<size_t>(id)] = room;
  };
  for (const core::Port& port : model_->inputs) enter(port.value);
  for (size_t k = 0; k < nodes.size(); ++k) {
    enter(nodes[k].output);
    for (size_t v : die_at[k]) free.push_back(room_of_[v]);
  }
  made_by_.resize(nodes.size());
  std::vector<size_t> maker(model_->values.size(), nodes.size());
  for (size_t k = 0; k < nodes.size(); ++k) maker[static_cast<size_t>(nodes[k].output)] = k;
  for (size_t o = 0; o < sources_.size(); ++o) {
    if (sources_[o].state >= 0) {
      of_state_.push_back(o);
    } else {
      const size_t k = maker[static_cast<size_t>(sources_[o].value)];
      (k < nodes.size() ? made_by_[k] : as_read_).push_back(o);
    }
  }
}

// Where the weights stay in the L2 cache and the values of a whole batch would push them out, a batch is computed in parts.
void CompiledProgram::PlanParts(Engine engine) {
  constexpr size_t kLeastRows = 8;  // fewer read weights too often
  const long cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
  const size_t bytes = cache > 0 ? static_cast<size_t>(cache) : size_t{1} << 20;
  uint64_t weights = 0;
  std::set<const Constant*> seen;
  for (const Node& node : model_->nodes) {
    const auto* linear = std::get_if<LinearOp>(&node.op);
    if (linear == nullptr || seen.insert(linear->weight.get()).second) weights += WeightsOf(node) * sizeof(float);
  }
  const size_t row = std::accumulate(room_widths_.begin(), room_widths_.end(), size_t{1}) * sizeof(float);
  part_rows_ = static_cast<size_t>(max_batch_);
  if (engine == Engine::kFused && weights < bytes) part_rows_ = std::min(part_rows_, std::max(kLeastRows, bytes / 4 / row));
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

absl::StatusOr<bool> StepProgram::Continue(Scratch& scratch) const {
  LSTM_RETURN_IF_ERROR(Run(scratch.begun, scratch));
  return true;
}

absl::StatusOr<std::shared_ptr<const StepProgram>> StepProgram::Compile(std::shared_ptr<const Model> model,
                                                                        const Options& options) {
  auto program = std::make_shared<CompiledProgram>();
  LSTM_RETURN_IF_ERROR(program->Init(std::move(model), options));
  return program;
}

}  // namespace lstm::core
