// SPDX-License-Identifier: MIT
#include <utility>

#include "core/kernels/fused/fused.h"
#include "core/kernels/kernel.h"

namespace lstm::core {
namespace {

static_assert(kMaxManyRows <= FusedOp::kMaxManyRows);

// LSTM, GRU and RNN at T = 1: h and c are read from the old state rows and written to the new ones, without a copy between.
class FusedCellKernel : public Kernel {
 public:
  FusedCellKernel(std::unique_ptr<const FusedOp> op, size_t in, size_t out, size_t hidden_offset, size_t cell_offset, int max_batch)
      : op_(std::move(op)), in_(in), out_(out), hidden_offset_(hidden_offset), cell_offset_(cell_offset),
        max_batch_(static_cast<size_t>(max_batch)) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    auto scratch = std::make_unique<Scratch>();
    for (size_t r = 0; r < max_batch_; ++r) {
      scratch->x.push_back(static_cast<const float*>(buffers.inputs[0]) + r * in_);
      scratch->y.push_back(static_cast<float*>(buffers.output) + r * out_);
    }
    for (auto* rows : {&scratch->h, &scratch->c}) rows->resize(max_batch_);
    for (auto* rows : {&scratch->h_new, &scratch->c_new}) rows->resize(max_batch_);
    scratch->op = op_->MakeScratch(max_batch_, buffers.many_steps);
    return scratch;
  }

  absl::Status Run(int first, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch_base) const override {
    auto& s = static_cast<Scratch&>(scratch_base);
    op_->Run(static_cast<size_t>(rows), RowsFrom(first, rows, state_in, state_out, s), *s.op);
    return absl::OkStatus();
  }

  bool AnyRows() const override { return true; }
  bool InParts() const override { return true; }
  absl::Status RunPart(size_t part, size_t parts, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch_base) const override {
    auto& s = static_cast<Scratch&>(scratch_base);
    op_->RunPart(part, parts, static_cast<size_t>(rows), RowsFrom(0, rows, state_in, state_out, s), *s.op);
    return absl::OkStatus();
  }
  ManySteps many_steps() const override { return ManySteps::kInputFirst; }
  void RunInput(int rows, KernelScratch& scratch_base) const override {
    auto& s = static_cast<Scratch&>(scratch_base);
    op_->RunInput(static_cast<size_t>(rows), s.x.data(), *s.op);
  }
  void RunRecurrent(int first, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch_base) const override {
    auto& s = static_cast<Scratch&>(scratch_base);
    op_->RunRecurrent(static_cast<size_t>(first), static_cast<size_t>(rows), RowsFrom(first, rows, state_in, state_out, s), *s.op);
  }

  std::string Describe() const override { return op_->Describe(); }

 private:
  struct Scratch : KernelScratch {
    std::vector<const float*> x, h, c;
    std::vector<float*> y, h_new, c_new;
    std::unique_ptr<FusedOp::Scratch> op;
  };

  FusedOp::Rows RowsFrom(int first, int rows, const float* const* state_in, float* const* state_out, Scratch& s) const {
    const auto begin = static_cast<size_t>(first);
    for (size_t r = begin; r < begin + static_cast<size_t>(rows); ++r) {
      s.h[r] = state_in[r] + hidden_offset_;
      s.c[r] = state_in[r] + cell_offset_;
      s.h_new[r] = state_out[r] + hidden_offset_;
      s.c_new[r] = state_out[r] + cell_offset_;
    }
    return {s.x.data() + begin, s.h.data() + begin, s.c.data() + begin, s.h_new.data() + begin, s.y.data() + begin, s.c_new.data() + begin};
  }

  std::unique_ptr<const FusedOp> op_;
  size_t in_, out_, hidden_offset_, cell_offset_;  // cell_offset_: LSTM alone
  size_t max_batch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Kernel>> MakeFusedCellKernel(const KernelContext& context) {
  const auto offset = [&](StateId id) { return (*context.state_offsets)[static_cast<size_t>(id)]; };
  const auto make = [&](std::unique_ptr<const FusedOp> op, const Constant& weight, const Constant& recurrent, StateId hidden, size_t cell) {
    return std::make_unique<const FusedCellKernel>(std::move(op), static_cast<size_t>(weight.shape[1]),
                                                   static_cast<size_t>(recurrent.shape[1]), offset(hidden), cell, context.max_batch);
  };
  const auto set = FusedOp::Best();
  if (const auto* lstm = std::get_if<LstmOp>(&context.node->op)) {
    return make(FusedOp::Lstm(*lstm, set), *lstm->weight, *lstm->recurrent, lstm->hidden, offset(lstm->cell));
  }
  if (const auto* gru = std::get_if<GruOp>(&context.node->op)) {
    return make(FusedOp::Gru(*gru, set), *gru->weight, *gru->recurrent, gru->hidden, 0);
  }
  const auto& rnn = std::get<RnnOp>(context.node->op);
  return make(FusedOp::Rnn(rnn, set), *rnn.weight, *rnn.recurrent, rnn.hidden, 0);
}

}  // namespace lstm::core
