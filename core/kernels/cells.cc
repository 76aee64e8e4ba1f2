// SPDX-License-Identifier: MIT
#include <algorithm>
#include <utility>

#include "core/base/aligned_buffer.h"
#include "core/base/status_macros.h"
#include "core/kernels/kernel.h"
#include "core/kernels/onednn.h"

namespace lstm::core {
namespace {

// LSTM, GRU and RNN at T = 1: h and c are gathered from the state rows into contiguous batch rows for oneDNN, and the new
// ones are scattered into the new state rows.
class CellKernel : public Kernel {
 public:
  struct Part {
    size_t offset = 0;  // in the state row
    size_t width = 0;   // 0: the cell has none
  };

  CellKernel(std::unique_ptr<const OneDnnOp> op, Part hidden, Part cell, int max_batch)
      : op_(std::move(op)), hidden_(hidden), cell_(cell), max_batch_(max_batch) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    auto scratch = std::make_unique<Scratch>();
    const auto room = static_cast<size_t>(max_batch_ + kPaddingRows);
    scratch->h = AlignedBuffer<float>(room * hidden_.width);
    scratch->c = AlignedBuffer<float>(room * cell_.width);
    scratch->c_new = AlignedBuffer<float>(room * cell_.width);
    scratch->y = static_cast<const float*>(buffers.output);
    scratch->bound = op_->Bind(
        {buffers.inputs[0], scratch->h.data(), scratch->c.data(), buffers.output, scratch->c_new.data()});
    return scratch;
  }

  absl::Status Run(int /*first*/, int rows, const float* const* state_in, float* const* state_out,
                   KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    const auto n = static_cast<size_t>(rows);
    for (size_t r = 0; r < n; ++r) {
      std::copy_n(state_in[r] + hidden_.offset, hidden_.width, scratch.h.data() + r * hidden_.width);
      std::copy_n(state_in[r] + cell_.offset, cell_.width, scratch.c.data() + r * cell_.width);
    }
    LSTM_RETURN_IF_ERROR(op_->Run(rows, *scratch.bound));
    for (size_t r = 0; r < n; ++r) {
      std::copy_n(scratch.y + r * hidden_.width, hidden_.width, state_out[r] + hidden_.offset);
      std::copy_n(scratch.c_new.data() + r * cell_.width, cell_.width, state_out[r] + cell_.offset);
    }
    return absl::OkStatus();
  }

  std::string Describe() const override { return op_->Describe(); }

 private:
  struct Scratch : KernelScratch {
    AlignedBuffer<float> h, c, c_new;
    const float* y = nullptr;
    OneDnnOp::BoundPtr bound;
  };

  std::unique_ptr<const OneDnnOp> op_;
  Part hidden_;
  Part cell_;
  int max_batch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Kernel>> MakeCellKernel(const KernelContext& context) {
  auto part = [&](StateId id) {
    const auto i = static_cast<size_t>(id);
    return CellKernel::Part{(*context.state_offsets)[i],
                            static_cast<size_t>(CheckedElementCount(context.model->state[i].shape))};
  };
  std::unique_ptr<const OneDnnOp> made;
  CellKernel::Part hidden, cell;
  if (const auto* lstm = std::get_if<LstmOp>(&context.node->op)) {
    LSTM_ASSIGN_OR_RETURN(made, OneDnnOp::Lstm(*lstm, context.max_batch));
    hidden = part(lstm->hidden);
    cell = part(lstm->cell);
  } else if (const auto* gru = std::get_if<GruOp>(&context.node->op)) {
    LSTM_ASSIGN_OR_RETURN(made, OneDnnOp::Gru(*gru, context.max_batch));
    hidden = part(gru->hidden);
  } else {
    const auto& rnn = std::get<RnnOp>(context.node->op);
    LSTM_ASSIGN_OR_RETURN(made, OneDnnOp::Rnn(rnn, context.max_batch));
    hidden = part(rnn.hidden);
  }
  return std::make_unique<const CellKernel>(std::move(made), hidden, cell, context.max_batch);
}

}  // namespace lstm::core
