// SPDX-License-Identifier: MIT
#include <utility>

#include "core/kernels/fused/fused_parts.h"

namespace lstm::core {
namespace fused {
namespace {

size_t Columns(const ConstantPtr& matrix) { return static_cast<size_t>(matrix->shape[1]); }
const float* Data(const ConstantPtr& constant) { return constant->values.data(); }

class LstmLayer : public Layer {
 public:
  LstmLayer(const LstmOp& op, const Isa& isa, Large large) : Layer(isa) {
    const auto hidden = static_cast<size_t>(op.weight->shape[0] / 4);
    const std::vector<size_t> gates = {0, hidden, 2 * hidden, 3 * hidden};
    gates_ = {PackGates({{Data(op.weight), Columns(op.weight), gates}, {Data(op.recurrent), Columns(op.recurrent), gates}}, hidden, isa.width, large),
              PackGateVectors({Data(op.bias), Data(op.bias) + hidden, Data(op.bias) + 2 * hidden, Data(op.bias) + 3 * hidden}, hidden, isa.width),
              Columns(op.weight), Columns(op.recurrent), hidden};
    if (op.peephole) {
      const float* p = Data(op.peephole);
      peephole_ = PackGateVectors({p, p + hidden, p + 2 * hidden}, hidden, isa.width);
    }
    if (op.projection) projection_ = PackDense(Data(op.projection), nullptr, nullptr, Columns(op.recurrent), hidden, 0, isa, large);
  }

 protected:
  struct LstmScratch : BaseScratch {
    Block whole;  // o * tanh(c'), before the projection
  };
  std::unique_ptr<BaseScratch> MakeBlockScratch(size_t rows) const override {
    auto scratch = std::make_unique<LstmScratch>();
    if (projection_.units > 0) scratch->whole = Block(rows, gates_.units);
    return scratch;
  }
  void RunBlock(Range range, size_t count, const Rows& rows, BaseScratch& base) const override {
    auto& scratch = static_cast<LstmScratch&>(base);
    const bool projects = projection_.units > 0;
    isa_.lstm({ProductOf(gates_, count, rows.x, rows.h, scratch, range), peephole_.data(), rows.c, rows.c_new,
               projects ? scratch.whole.pointers.data() : rows.out, projects ? nullptr : rows.copy});
    if (projects && range != Range::kInput && Last(scratch)) isa_.dense({ProductOf(projection_, count, scratch.whole.read(), nullptr, scratch), Squash::kNone, rows.out, rows.copy});
  }

  Form Weighs() const override { return gates_.form(); }
  size_t Turned(size_t rows) const override { return std::max(gates_.turned(rows, isa_), projection_.turned(rows, isa_)); }
  size_t Vectors() const override { return (gates_.units + isa_.width - 1) / isa_.width; }

 private:
  Weights gates_, projection_;
  AlignedBuffer<float> peephole_;
};

class GruAfterLayer : public Layer {
 public:
  GruAfterLayer(const GruOp& op, const Isa& isa, Large large) : Layer(isa) {
    const size_t hidden = Columns(op.recurrent);
    const std::vector<size_t> gates = {0, hidden, 2 * hidden};
    const float* b = Data(op.bias);
    weights_ = {PackGates({{Data(op.weight), Columns(op.weight), gates}, {Data(op.recurrent), hidden, gates}}, hidden, isa.width, large),
                PackGateVectors({b, b + hidden, b + 2 * hidden, b + 3 * hidden}, hidden, isa.width), Columns(op.weight), hidden, hidden};
  }

 protected:
  void RunBlock(Range range, size_t count, const Rows& rows, BaseScratch& scratch) const override {
    isa_.gru_after({ProductOf(weights_, count, rows.x, rows.h, scratch, range), rows.out, rows.copy});
  }

  Form Weighs() const override { return weights_.form(); }
  size_t Turned(size_t rows) const override { return weights_.turned(rows, isa_); }
  size_t Vectors() const override { return (weights_.units + isa_.width - 1) / isa_.width; }

 private:
  Weights weights_;
};

// Two passes, since n needs all of r * h.
class GruBeforeLayer : public Layer {
 public:
  GruBeforeLayer(const GruOp& op, const Isa& isa, Large large) : Layer(isa) {
    const size_t hidden = Columns(op.recurrent);
    const float* b = Data(op.bias);
    first_ = {PackGates({{Data(op.weight), Columns(op.weight), {0, hidden, 2 * hidden}}, {Data(op.recurrent), hidden, {0, hidden}}}, hidden, isa.width, large),
              PackGateVectors({b, b + hidden, b + 2 * hidden}, hidden, isa.width), Columns(op.weight), hidden, hidden};
    second_ = {PackWide({{Data(op.recurrent), hidden, {2 * hidden}}}, hidden, isa.width, large), {}, 0, hidden, hidden};
  }

 protected:
  struct GruScratch : BaseScratch {
    Block z, reset, n;
  };
  std::unique_ptr<BaseScratch> MakeBlockScratch(size_t rows) const override {
    auto scratch = std::make_unique<GruScratch>();
    const size_t stride = (first_.units + isa_.width - 1) / isa_.width * isa_.width;
    for (Block* block : {&scratch->z, &scratch->reset, &scratch->n}) *block = Block(rows, stride);
    return scratch;
  }
  void RunBlock(Range range, size_t count, const Rows& rows, BaseScratch& base) const override {
    auto& s = static_cast<GruScratch&>(base);
    isa_.gru_before({ProductOf(first_, count, rows.x, rows.h, s, range), s.z.values.data(), s.reset.values.data(), s.n.values.data(), s.n.stride});
    if (range == Range::kInput || !Last(s)) return;
    isa_.gru_blend({ProductOf(second_, count, nullptr, s.reset.read(), s), s.z.values.data(), s.n.values.data(), s.n.stride, rows.h,
                    rows.out, rows.copy});
  }

  Form Weighs() const override { return first_.form(); }
  size_t Turned(size_t rows) const override { return std::max(first_.turned(rows, isa_), second_.turned(rows, isa_)); }
  size_t Vectors() const override { return (first_.units + isa_.width - 1) / isa_.width; }

 private:
  Weights first_, second_;
};

}  // namespace
}  // namespace fused

std::unique_ptr<const FusedOp> FusedOp::Lstm(const LstmOp& op, InstructionSet set, Large large) {
  return std::make_unique<const fused::LstmLayer>(op, fused::IsaFor(set), large);
}

std::unique_ptr<const FusedOp> FusedOp::Gru(const GruOp& op, InstructionSet set, Large large) {
  if (op.reset_after) return std::make_unique<const fused::GruAfterLayer>(op, fused::IsaFor(set), large);
  return std::make_unique<const fused::GruBeforeLayer>(op, fused::IsaFor(set), large);
}

}  // namespace lstm::core
