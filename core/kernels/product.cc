// SPDX-License-Identifier: MIT
#include "core/kernels/product.h"

#include <utility>

#include "core/base/status_macros.h"
#include "core/kernels/fused/fused.h"
#include "core/kernels/onednn.h"

namespace lstm::core {
namespace {

class OneDnnProduct : public ProductKernel {
 public:
  explicit OneDnnProduct(std::unique_ptr<const OneDnnOp> op) : op_(std::move(op)) {}

  std::unique_ptr<KernelScratch> Bind(float* x, float* y, SharedScratch*) const override {
    auto scratch = std::make_unique<Scratch>();
    scratch->bound = op_->Bind({x, nullptr, nullptr, y, nullptr});
    return scratch;
  }
  bool AnyRows() const override { return false; }
  absl::Status Run(int /*first*/, int rows, KernelScratch& scratch) const override { return op_->Run(rows, *static_cast<Scratch&>(scratch).bound); }
  std::string Describe() const override { return op_->Describe(); }

 private:
  struct Scratch : KernelScratch {
    OneDnnOp::BoundPtr bound;
  };
  std::unique_ptr<const OneDnnOp> op_;
};

class FusedProduct : public ProductKernel {
 public:
  FusedProduct(std::unique_ptr<const FusedOp> op, size_t out, size_t in, size_t max_rows)
      : op_(std::move(op)), out_(out), in_(in), max_rows_(max_rows) {}

  std::unique_ptr<KernelScratch> Bind(float* x, float* y, SharedScratch* shared) const override {
    auto scratch = std::make_unique<Scratch>();
    for (size_t r = 0; r < max_rows_; ++r) {
      scratch->x.push_back(x + r * in_);
      scratch->y.push_back(y + r * out_);
    }
    std::shared_ptr<void> own, &op = shared == nullptr ? own : (*shared)[this];
    if (op == nullptr) op = std::shared_ptr<FusedOp::Scratch>(op_->MakeScratch(max_rows_));
    scratch->op = std::static_pointer_cast<FusedOp::Scratch>(op);
    return scratch;
  }
  bool AnyRows() const override { return true; }
  absl::Status Run(int first, int rows, KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    op_->Run(static_cast<size_t>(rows), {.x = scratch.x.data() + first, .out = scratch.y.data() + first}, *scratch.op);
    return absl::OkStatus();
  }
  bool InParts() const override { return true; }
  absl::Status RunPart(size_t part, size_t parts, int rows, KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    op_->RunPart(part, parts, static_cast<size_t>(rows), {.x = scratch.x.data(), .out = scratch.y.data()}, *scratch.op);
    return absl::OkStatus();
  }
  std::string Describe() const override { return op_->Describe(); }

 private:
  struct Scratch : KernelScratch {
    std::vector<const float*> x;
    std::vector<float*> y;
    std::shared_ptr<FusedOp::Scratch> op;
  };
  std::unique_ptr<const FusedOp> op_;
  size_t out_, in_, max_rows_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const ProductKernel>> ProductKernel::Make(Engine engine, const float* weight, const float* bias,
                                                                         int64_t out, int64_t in, int max_rows) {
  if (engine == Engine::kFused) {
    const auto o = static_cast<size_t>(out), i = static_cast<size_t>(in);
    return std::make_unique<const FusedProduct>(FusedOp::Linear(weight, bias, o, i, FusedOp::Best()), o, i, static_cast<size_t>(max_rows));
  }
  LSTM_ASSIGN_OR_RETURN(auto op, OneDnnOp::Linear(weight, bias, out, in, max_rows));
  return std::make_unique<const OneDnnProduct>(std::move(op));
}

}  // namespace lstm::core
