// SPDX-License-Identifier: MIT
#include "core/program/step_program.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/kernels/kernel.h"

namespace lstm::core {
namespace {

constexpr size_t kLine = 16;  // floats in 64 bytes

size_t RoundUp(size_t n) { return (n + kLine - 1) / kLine * kLine; }

size_t Count(const Shape& shape) { return static_cast<size_t>(CheckedElementCount(shape)); }

struct ProgramScratch : StepProgram::Scratch {
  std::vector<AlignedBuffer<float>> values;  // by ValueId: [max_batch + kPaddingRows, width]; ids are as wide as floats
  std::vector<std::unique_ptr<KernelScratch>> kernels;
  std::vector<const float*> state_in;
  std::vector<float*> state_out;
};

class CompiledProgram : public StepProgram {
 public:
  absl::Status Init(std::shared_ptr<const Model> model, const Options& options) {
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
    }
    numerics_id_ = NumericsId(engine);
    return absl::OkStatus();
  }

  std::unique_ptr<Scratch> MakeScratch() const override {
    auto scratch = std::make_unique<ProgramScratch>();
    for (const Value& value : model_->values) {
      scratch->values.emplace_back(static_cast<size_t>(max_batch_ + kPaddingRows) * Count(value.shape));
    }
    for (size_t k = 0; k < kernels_.size(); ++k) {
      KernelBuffers buffers;
      for (ValueId id : model_->nodes[k].inputs) buffers.inputs.push_back(scratch->values[static_cast<size_t>(id)].data());
      buffers.output = scratch->values[static_cast<size_t>(model_->nodes[k].output)].data();
      scratch->kernels.push_back(kernels_[k]->Bind(buffers));
    }
    scratch->state_in.resize(static_cast<size_t>(max_batch_));
    scratch->state_out.resize(static_cast<size_t>(max_batch_));
    return scratch;
  }

  absl::Status Run(std::span<const StepRow> rows, Scratch& scratch_base) const override {
    auto& scratch = static_cast<ProgramScratch&>(scratch_base);
    for (size_t r = 0; r < rows.size(); ++r) {
      scratch.state_in[r] = rows[r].state_in;
      scratch.state_out[r] = rows[r].state_out;
      for (const auto& [offset, size] : state_gaps_) std::fill_n(rows[r].state_out + offset, size, 0.0f);
      for (size_t i = 0; i < inputs_.size(); ++i) {
        auto* value = reinterpret_cast<std::byte*>(scratch.values[static_cast<size_t>(model_->inputs[i].value)].data());
        std::memcpy(value + r * inputs_[i].step_bytes, rows[r].inputs[i], inputs_[i].step_bytes);
      }
    }
    for (size_t k = 0; k < kernels_.size(); ++k) {
      LSTM_RETURN_IF_ERROR(kernels_[k]->Run(static_cast<int>(rows.size()), scratch.state_in.data(),
                                            scratch.state_out.data(), *scratch.kernels[k]));
    }
    for (size_t o = 0; o < outputs_.size(); ++o) {
      const size_t bytes = outputs_[o].step_bytes;
      const Source& source = sources_[o];
      for (size_t r = 0; r < rows.size(); ++r) {
        std::byte* to = rows[r].outputs[o];
        if (to == nullptr) continue;
        if (source.state >= 0) {
          std::memcpy(to, rows[r].state_out + state_offset(source.state), bytes);
        } else {
          const auto* value = reinterpret_cast<const std::byte*>(scratch.values[static_cast<size_t>(source.value)].data());
          std::memcpy(to, value + r * bytes, bytes);
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  struct Source {  // of an output: a value, or a tensor of the new state
    ValueId value;
    StateId state;
  };

  Port PortOf(const std::string& name, ValueId id, int64_t limit) const {
    const Value& value = model_->values[static_cast<size_t>(id)];
    return {name, value.dtype, value.shape, Count(value.shape) * sizeof(float), limit};
  }

  void AddOutput(Port port, Source source) {
    outputs_.push_back(std::move(port));
    sources_.push_back(source);
  }

  void LayOutState() {
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
  absl::Status CheckStateOwners() const {
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

  std::vector<std::unique_ptr<const Kernel>> kernels_;  // by node
  std::vector<Source> sources_;                         // by output
  std::vector<std::pair<size_t, size_t>> state_gaps_;   // offset and size of the padding behind a state tensor
};

}  // namespace

absl::StatusOr<std::shared_ptr<const StepProgram>> StepProgram::Compile(std::shared_ptr<const Model> model,
                                                                        const Options& options) {
  auto program = std::make_shared<CompiledProgram>();
  LSTM_RETURN_IF_ERROR(program->Init(std::move(model), options));
  return program;
}

}  // namespace lstm::core
