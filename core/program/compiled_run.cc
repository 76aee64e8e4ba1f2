// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/aligned_buffer.h"
#include "core/base/status_macros.h"
#include "core/program/compiled_program.h"

// How a program runs: a step of many rows at once, or many steps of few rows, layer after layer.
namespace lstm::core {

static_assert(StepProgram::kMaxBlockRows <= kMaxManyRows);

namespace {

constexpr uint64_t kAllOfIt = ~uint64_t{0} >> 1;  // of what pieces may cost
constexpr uint64_t kRowsOfReading = 4;            // fewer rows take as long, or longer: what they wait for is the weights

}  // namespace

struct CompiledProgram::RunScratch : Scratch {
  std::vector<AlignedBuffer<float>> rooms;  // [rows + kPaddingRows, width]; ids are as wide as floats
  std::vector<float*> values;               // by ValueId: where its rows begin
  std::vector<std::unique_ptr<KernelScratch>> kernels;
  std::vector<const float*> state_in;
  std::vector<float*> state_out;
  size_t output_count = 0;                  // no row wants more
  size_t first = 0, node = 0, piece = 0;    // of what has begun: where it goes on
};

// Of many steps each value has a room of its own, for units take their turns in another order than nodes.
std::unique_ptr<CompiledProgram::RunScratch> CompiledProgram::Bind(bool many_steps) const {
  const size_t rows = many_steps ? static_cast<size_t>(max_batch_) : part_rows_;
  auto scratch = std::make_unique<RunScratch>();
  const auto add_room = [&](size_t width) { scratch->rooms.emplace_back((rows + kPaddingRows) * width); };
  if (!many_steps) std::for_each(room_widths_.begin(), room_widths_.end(), add_room);
  for (size_t v = 0; v < model_->values.size(); ++v) {
    if (many_steps) add_room(static_cast<size_t>(CheckedElementCount(model_->values[v].shape)));
    scratch->values.push_back(scratch->rooms[many_steps ? v : room_of_[v]].data());
  }
  SharedScratch shared;
  for (size_t k = 0; k < kernels_.size(); ++k) {
    KernelBuffers buffers;
    for (ValueId id : model_->nodes[k].inputs) buffers.inputs.push_back(scratch->values[static_cast<size_t>(id)]);
    buffers.output = scratch->values[static_cast<size_t>(model_->nodes[k].output)];
    buffers.many_steps = many_steps;
    buffers.shared = &shared;
    scratch->kernels.push_back(kernels_[k]->Bind(buffers));
  }
  scratch->state_in.resize(rows);
  scratch->state_out.resize(rows);
  return scratch;
}

void CompiledProgram::Load(std::span<const StepRow> rows, RunScratch& scratch) const {
  scratch.output_count = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    scratch.output_count = std::max(scratch.output_count, rows[r].output_count);
    scratch.state_in[r] = rows[r].state_in;
    scratch.state_out[r] = rows[r].state_out;
    for (const auto& [offset, size] : state_gaps_) std::fill_n(rows[r].state_out + offset, size, 0.0f);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      auto* value = reinterpret_cast<std::byte*>(scratch.values[static_cast<size_t>(model_->inputs[i].value)]);
      std::memcpy(value + r * inputs_[i].step_bytes, rows[r].inputs[i], inputs_[i].step_bytes);
    }
  }
}

void CompiledProgram::Store(std::span<const size_t> outputs, std::span<const StepRow> rows, const RunScratch& scratch) const {
  for (size_t o : outputs) {
    if (o >= scratch.output_count) continue;
    const size_t bytes = outputs_[o].step_bytes;
    const Source& source = sources_[o];
    for (size_t r = 0; r < rows.size(); ++r) {
      std::byte* to = o < rows[r].output_count ? rows[r].outputs[o] : nullptr;
      if (to == nullptr) continue;
      if (source.state >= 0) {
        std::memcpy(to, rows[r].state_out + state_offset(source.state), bytes);
      } else {
        const auto* value = reinterpret_cast<const std::byte*>(scratch.values[static_cast<size_t>(source.value)]) + r * bytes;
        if (const Order& order = orders_[static_cast<size_t>(source.value)]) {
          for (size_t i = 0; i < order->size(); ++i) std::memcpy(to + i * sizeof(float), value + static_cast<size_t>((*order)[i]) * sizeof(float), sizeof(float));
        } else {
          std::memcpy(to, value, bytes);
        }
      }
    }
  }
}

void CompiledProgram::StoreAll(std::span<const StepRow> rows, const RunScratch& scratch) const {
  Store(as_read_, rows, scratch);
  for (const std::vector<size_t>& outputs : made_by_) Store(outputs, rows, scratch);
  Store(of_state_, rows, scratch);
}

std::unique_ptr<StepProgram::Scratch> CompiledProgram::MakeScratch() const { return Bind(false); }

absl::Status CompiledProgram::Run(std::span<const StepRow> rows, Scratch& scratch) const {
  Begin(rows, scratch);
  return Go(kAllOfIt, static_cast<RunScratch&>(scratch)).status();
}

void CompiledProgram::Begin(std::span<const StepRow> rows, Scratch& scratch_base) const {
  auto& scratch = static_cast<RunScratch&>(scratch_base);
  scratch.begun = rows;
  scratch.first = scratch.node = scratch.piece = 0;
}

absl::StatusOr<bool> CompiledProgram::Continue(Scratch& scratch) const { return Go(2 * kPieceCost, static_cast<RunScratch&>(scratch)); }

// Rows in parts of nearly equal size, until all are through or it has cost more than `most`.
absl::StatusOr<bool> CompiledProgram::Go(uint64_t most, RunScratch& scratch) const {
  const size_t all = scratch.begun.size(), parts = (all + part_rows_ - 1) / part_rows_;
  uint64_t cost = 0;
  while (scratch.first < all) {
    const size_t taller = all % parts, height = all / parts;
    const size_t n = height + (scratch.first < taller * (height + 1) ? 1 : 0);
    LSTM_ASSIGN_OR_RETURN(const bool through, GoThrough(scratch.begun.subspan(scratch.first, n), most, cost, scratch));
    if (!through) return false;
    scratch.first += n;
  }
  return true;
}

// What is made is stored before another value takes its room.
absl::StatusOr<bool> CompiledProgram::GoThrough(std::span<const StepRow> rows, uint64_t most, uint64_t& cost, RunScratch& scratch) const {
  const uint64_t weight = std::max<uint64_t>(rows.size(), kRowsOfReading);
  if (scratch.node == 0 && scratch.piece == 0) {
    if (cost > 0 && cost + weight * costs_[0] > most) return false;
    Load(rows, scratch);
    Store(as_read_, rows, scratch);
  }
  for (; scratch.node < kernels_.size(); ++scratch.node) {
    const size_t k = scratch.node;
    const uint64_t whole = weight * costs_[k];
    const size_t pieces = whole > most && kernels_[k]->InParts() ? static_cast<size_t>((whole + most - 1) / most) : 1;
    for (; scratch.piece < pieces; ++scratch.piece) {
      if (cost > 0 && cost + whole / pieces > most) return false;
      cost += whole / pieces;
      LSTM_RETURN_IF_ERROR(kernels_[k]->RunPart(scratch.piece, pieces, static_cast<int>(rows.size()), scratch.state_in.data(), scratch.state_out.data(), *scratch.kernels[k]));
    }
    scratch.piece = 0;
    Store(made_by_[k], rows, scratch);
  }
  scratch.node = 0;
  Store(of_state_, rows, scratch);
  return true;
}

// Unit after unit: each takes all steps before the next takes the first, so that what it reads again for every step, the weights
// that meet its own state, stays in the cache.
class CompiledProgram::KernelBlock : public Block {
 public:
  explicit KernelBlock(const CompiledProgram& program) : program_(program), scratch_(program.Bind(true)) {}

  void Begin(std::span<const StepRow> rows, size_t width) override {
    rows_ = rows;
    width_ = width;
    unit_ = next_row_ = 0;
    program_.Load(rows_, *scratch_);
  }

  absl::StatusOr<bool> Continue() override {
    const std::vector<BlockUnit>& units = program_.units_;
    uint64_t cost = 0;
    while (unit_ < units.size()) {
      const uint64_t next = NextCost(units[unit_]);
      if (cost > 0 && cost + next > kPieceCost) return false;
      cost += next;
      LSTM_ASSIGN_OR_RETURN(const size_t ran, RunNext(units[unit_]));
      next_row_ += ran;
      if (next_row_ < rows_.size()) continue;
      next_row_ = 0;
      ++unit_;
    }
    program_.StoreAll(rows_, *scratch_);
    return true;
  }

 private:
  bool InputFirst(const BlockUnit& unit) const {
    return !unit.in_turn && program_.kernels_[unit.nodes[0]]->many_steps() == Kernel::ManySteps::kInputFirst;
  }
  uint64_t NextCost(const BlockUnit& unit) const {
    uint64_t cost = 0;
    for (size_t node : unit.nodes) cost += program_.costs_[node];
    return cost * (unit.in_turn || (InputFirst(unit) && next_row_ > 0) ? width_ : rows_.size());
  }

  // Gives the rows that it ran.
  absl::StatusOr<size_t> RunNext(const BlockUnit& unit) {
    const auto first = static_cast<int>(next_row_), width = static_cast<int>(width_), all = static_cast<int>(rows_.size());
    const float* const* const in = scratch_->state_in.data();
    float* const* const out = scratch_->state_out.data();
    if (InputFirst(unit)) {
      const Kernel& kernel = *program_.kernels_[unit.nodes[0]];
      KernelScratch& scratch = *scratch_->kernels[unit.nodes[0]];
      if (first == 0) kernel.RunInput(all, scratch);
      kernel.RunRecurrent(first, width, in, out, scratch);
      return width_;
    }
    for (size_t node : unit.nodes) {
      LSTM_RETURN_IF_ERROR(program_.kernels_[node]->Run(first, unit.in_turn ? width : all, in, out, *scratch_->kernels[node]));
    }
    return unit.in_turn ? width_ : rows_.size();
  }

  const CompiledProgram& program_;
  const std::unique_ptr<RunScratch> scratch_;
  std::span<const StepRow> rows_;
  size_t width_ = 0;
  size_t unit_ = 0, next_row_ = 0;  // where it goes on
};

void CompiledProgram::PlanBlocks() {
  std::vector<BlockUnit> units = BlockSchedule(*model_);
  for (const BlockUnit& unit : units) {
    for (size_t node : unit.nodes) {
      const Kernel& kernel = *kernels_[node];
      if (unit.in_turn ? !kernel.AnyRows() : kernel.many_steps() == Kernel::ManySteps::kNo) return;
    }
  }
  units_ = std::move(units);
}

std::unique_ptr<StepProgram::Block> CompiledProgram::MakeBlock() const {
  return units_.empty() ? nullptr : std::make_unique<KernelBlock>(*this);
}

}  // namespace lstm::core
