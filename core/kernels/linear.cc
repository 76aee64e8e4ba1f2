// SPDX-License-Identifier: MIT
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/aligned_buffer.h"
#include "core/base/status_macros.h"
#include "core/kernels/kernel.h"
#include "core/kernels/product.h"

namespace lstm::core {
namespace {

// y = W x + b over the last axis: a value of shape [A, I] is A rows to the GEMM.
class LinearKernel : public Kernel {
 public:
  LinearKernel(std::shared_ptr<const ProductKernel> op, int rows_per_step) : op_(std::move(op)), rows_per_step_(rows_per_step) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    return op_->Bind(static_cast<float*>(buffers.inputs[0]), static_cast<float*>(buffers.output), buffers.shared);
  }

  absl::Status Run(int first, int rows, const float* const*, float* const*, KernelScratch& scratch) const override {
    return op_->Run(first * rows_per_step_, rows * rows_per_step_, scratch);
  }
  bool InParts() const override { return op_->InParts(); }
  absl::Status RunPart(size_t part, size_t parts, int rows, const float* const*, float* const*, KernelScratch& scratch) const override {
    return op_->RunPart(part, parts, rows * rows_per_step_, scratch);
  }
  bool AnyRows() const override { return op_->AnyRows(); }
  ManySteps many_steps() const override { return ManySteps::kRun; }

  std::string Describe() const override { return op_->Describe(); }

 private:
  std::shared_ptr<const ProductKernel> op_;
  int rows_per_step_;
};

// One new frame of a causal convolution: the K frames that the taps meet, out of the context and the input, against the
// flattened kernel. The context shifts by one frame a step.
class Conv1dKernel : public Kernel {
 public:
  Conv1dKernel(const Conv1dOp& op, size_t context_offset, int max_batch, std::vector<std::unique_ptr<const ProductKernel>> parts)
      : channels_(static_cast<size_t>(op.weight->shape[1] * op.groups)),
        out_(static_cast<size_t>(op.weight->shape[0])),
        taps_(static_cast<size_t>(op.weight->shape[2])),
        dilation_(static_cast<size_t>(op.dilation)),
        groups_(static_cast<size_t>(op.groups)),
        context_offset_(context_offset),
        max_batch_(max_batch),
        parts_(std::move(parts)) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    auto scratch = std::make_unique<Scratch>();
    const auto room = static_cast<size_t>(max_batch_ + kPaddingRows);
    scratch->x = static_cast<const float*>(buffers.inputs[0]);
    scratch->y = static_cast<float*>(buffers.output);
    const size_t in = taps_ * channels_ / groups_;
    for (const auto& part : parts_) {
      Group& group = scratch->groups.emplace_back();
      group.window = AlignedBuffer<float>(room * in);
      float* y = scratch->y;
      if (groups_ > 1) {
        group.y = AlignedBuffer<float>(room * out_ / groups_);
        y = group.y.data();
      }
      group.bound = part->Bind(group.window.data(), y, buffers.shared);
    }
    return scratch;
  }

  absl::Status Run(int first, int rows, const float* const* state_in, float* const* state_out,
                   KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    const auto begin = static_cast<size_t>(first), end = static_cast<size_t>(first + rows);
    const size_t per_group = channels_ / groups_, out_per_group = out_ / groups_;
    const size_t frames = (taps_ - 1) * dilation_;
    for (size_t r = begin; r < end; ++r) {  // the new context of a row may be the old one of a later row
      const float* old = state_in[r] + context_offset_;
      for (size_t g = 0; g < groups_; ++g) {
        float* window = scratch.groups[g].window.data() + r * taps_ * per_group;
        for (size_t k = 0; k < taps_; ++k) {
          const float* frame = k + 1 == taps_ ? scratch.x + r * channels_ : old + k * dilation_ * channels_;
          std::copy_n(frame + g * per_group, per_group, window + k * per_group);
        }
      }
      if (frames == 0) continue;
      float* context = state_out[r] + context_offset_;
      std::copy_n(old + channels_, (frames - 1) * channels_, context);
      std::copy_n(scratch.x + r * channels_, channels_, context + (frames - 1) * channels_);
    }
    for (size_t g = 0; g < groups_; ++g) {
      Group& group = scratch.groups[g];
      LSTM_RETURN_IF_ERROR(parts_[g]->Run(first, rows, *group.bound));
      if (groups_ > 1) {
        for (size_t r = begin; r < end; ++r) {
          std::copy_n(group.y.data() + r * out_per_group, out_per_group, scratch.y + r * out_ + g * out_per_group);
        }
      }
    }
    return absl::OkStatus();
  }
  bool AnyRows() const override { return parts_[0]->AnyRows(); }
  ManySteps many_steps() const override { return ManySteps::kRun; }

  std::string Describe() const override { return parts_[0]->Describe(); }

 private:
  struct Group {
    AlignedBuffer<float> window;  // [N, K * C/groups]
    AlignedBuffer<float> y;
    std::unique_ptr<KernelScratch> bound;
  };
  struct Scratch : KernelScratch {
    const float* x = nullptr;
    float* y = nullptr;
    std::vector<Group> groups;
  };

  size_t channels_, out_, taps_, dilation_, groups_, context_offset_;
  int max_batch_;
  std::vector<std::unique_ptr<const ProductKernel>> parts_;  // one per group
};

absl::StatusOr<std::unique_ptr<const Kernel>> MakeConv1d(const Conv1dOp& op, const KernelContext& context) {
  const int64_t out = op.weight->shape[0], in = op.weight->shape[1], taps = op.weight->shape[2];
  const int64_t out_per_group = out / op.groups;
  std::vector<std::unique_ptr<const ProductKernel>> parts;
  std::vector<float> flat(static_cast<size_t>(out_per_group * taps * in));  // [O/groups, K, C/groups]
  for (int64_t g = 0; g < op.groups; ++g) {
    for (int64_t o = 0; o < out_per_group; ++o) {
      const float* row = op.weight->values.data() + (g * out_per_group + o) * in * taps;
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t k = 0; k < taps; ++k) flat[static_cast<size_t>((o * taps + k) * in + i)] = row[i * taps + k];
      }
    }
    const float* bias = op.bias ? op.bias->values.data() + g * out_per_group : nullptr;
    LSTM_ASSIGN_OR_RETURN(auto part, ProductKernel::Make(context.engine, flat.data(), bias, out_per_group, taps * in, context.max_batch));
    parts.push_back(std::move(part));
  }
  const size_t offset = op.context >= 0 ? (*context.state_offsets)[static_cast<size_t>(op.context)] : 0;
  return std::make_unique<const Conv1dKernel>(op, offset, context.max_batch, std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Kernel>> MakeLinearKernel(const KernelContext& context) {
  if (const auto* conv = std::get_if<Conv1dOp>(&context.node->op)) return MakeConv1d(*conv, context);
  const auto& linear = std::get<LinearOp>(context.node->op);
  const Shape& shape = context.model->values[static_cast<size_t>(context.node->inputs[0])].shape;
  const int64_t out = linear.weight->shape[0], in = linear.weight->shape[1];
  const int64_t rows_per_step = CheckedElementCount(shape) / in;
  if (rows_per_step * context.max_batch > 1 << 16) {
    return absl::ResourceExhaustedError(
        absl::StrCat("Linear over ", rows_per_step, " rows a step in batches of ", context.max_batch));
  }
  const int64_t rows = rows_per_step * context.max_batch;
  std::shared_ptr<const ProductKernel>& op = (*context.products)[{linear.weight.get(), linear.bias.get(), rows}];
  if (op == nullptr) {
    LSTM_ASSIGN_OR_RETURN(op, ProductKernel::Make(context.engine, linear.weight->values.data(), linear.bias ? linear.bias->values.data() : nullptr, out, in, static_cast<int>(rows)));
  }
  return std::make_unique<const LinearKernel>(op, static_cast<int>(rows_per_step));
}

}  // namespace lstm::core
