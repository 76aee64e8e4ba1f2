// SPDX-License-Identifier: MIT
#include "core/kernels/fused/fused.h"

#include <utility>

#include "core/kernels/fused/fused_parts.h"

// Linear layers and plain RNNs: one product.
namespace lstm::core {
namespace fused {
namespace {

class Dense : public Layer {
 public:
  Dense(const Isa& isa, Weights weights, Squash squash) : Layer(isa), weights_(std::move(weights)), squash_(squash) {}

 protected:
  void RunBlock(Range range, size_t count, const Rows& rows, BaseScratch& scratch) const override {
    isa_.dense({ProductOf(weights_, count, rows.x, rows.h, scratch, range), squash_, rows.out, rows.copy});
  }
  Form Weighs() const override { return weights_.form(); }
  size_t Turned(size_t rows) const override { return weights_.turned(rows, isa_); }
  size_t Vectors() const override { return (weights_.units + isa_.width - 1) / isa_.width; }

 private:
  Weights weights_;
  Squash squash_;
};

}  // namespace

Weights PackDense(const float* weight, const float* recurrent, const float* bias, size_t units, size_t in, size_t back, const Isa& isa, FusedOp::Large large) {
  Weights out{{}, {}, in, back, units};
  std::vector<Segment> segments = {{weight, in, {0}}};
  if (back > 0) segments.push_back({recurrent, back, {0}});
  out.weights = PackWide(segments, units, isa.width, large);
  const std::vector<float> zeros(bias == nullptr ? units : 0);
  out.bias = PackGateVectors({bias == nullptr ? zeros.data() : bias}, units, isa.width);
  return out;
}

}  // namespace fused

std::unique_ptr<const FusedOp> FusedOp::Linear(const float* weight, const float* bias, size_t out, size_t in, InstructionSet set, Large large) {
  const fused::Isa& isa = fused::IsaFor(set);
  return std::make_unique<const fused::Dense>(isa, fused::PackDense(weight, nullptr, bias, out, in, 0, isa, large), fused::Squash::kNone);
}

std::unique_ptr<const FusedOp> FusedOp::Rnn(const RnnOp& op, InstructionSet set, Large large) {
  const fused::Isa& isa = fused::IsaFor(set);
  const auto hidden = static_cast<size_t>(op.recurrent->shape[1]), in = static_cast<size_t>(op.weight->shape[1]);
  return std::make_unique<const fused::Dense>(
      isa, fused::PackDense(op.weight->values.data(), op.recurrent->values.data(), op.bias->values.data(), hidden, in, hidden, isa, large),
      op.relu ? fused::Squash::kRelu : fused::Squash::kTanh);
}

}  // namespace lstm::core
