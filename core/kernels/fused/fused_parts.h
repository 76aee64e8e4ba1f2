// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/aligned_buffer.h"
#include "core/kernels/fused/fused.h"
#include "core/kernels/fused/jobs.h"
#include "core/kernels/fused/pack.h"

// Private to core/kernels/fused: what the layers have in common.
namespace lstm::core::fused {

const Isa& IsaFor(FusedOp::InstructionSet set);

// Packed weights and bias of a product.
struct Weights {
  PackedWeights weights;
  AlignedBuffer<float> bias;
  size_t x_steps = 0, h_steps = 0, units = 0;
  Form form() const { return weights.form(); }
  size_t steps() const { return StepsOfX(x_steps, form()) + h_steps; }
  // Floats of rows that are turned before they meet the weights (stream.h, panel.h).
  size_t turned(size_t rows, const Isa& isa) const {
    const size_t far = weights.far() ? std::min((rows + 3) / 4 * 4, kMostStreamRows) : 0;
    return std::max(far, isa.turns && weights.wide(steps()) ? rows : 0) * steps();
  }
};

struct BaseScratch : FusedOp::Scratch {
  AlignedBuffer<float> partial;
  AlignedBuffer<float> turned;
  bool is_turned = false;
  AlignedBuffer<float> sums;  // of the rows of many steps, between their input and their recurrent part
  size_t sums_stride = 0, first = 0;
  bool backwards = false;  // every other run
  size_t part = 0, parts = 1;  // of a run, in RunPart
};

// Of the steps of k.
enum class Range { kAll, kInput, kRecurrent, kWhole };

class Layer : public FusedOp {
 public:
  explicit Layer(const Isa& isa) : isa_(isa) {}

  std::unique_ptr<Scratch> MakeScratch(size_t max_rows, bool many_steps) const override {
    const size_t block = std::min(max_rows, kBlockRows);
    std::unique_ptr<BaseScratch> scratch = MakeBlockScratch(block);
    scratch->partial = AlignedBuffer<float>(block * 4 * isa_.width);
    scratch->turned = AlignedBuffer<float>(Turned(block));
    if (many_steps) {
      scratch->sums_stride = std::min(max_rows, kMaxManyRows) * 4 * isa_.width;
      scratch->sums = AlignedBuffer<float>(Vectors() * scratch->sums_stride);
    }
    return scratch;
  }

  // In blocks of nearly equal size.
  void Run(size_t count, const Rows& rows, Scratch& scratch) const override {
    const size_t blocks = (count + kBlockRows - 1) / kBlockRows;
    for (size_t b = 0, begin = 0; b < blocks; ++b) {
      const size_t n = count / blocks + (b < count % blocks ? 1 : 0);
      const auto at = [begin](auto* pointers) { return pointers == nullptr ? nullptr : pointers + begin; };
      auto& own = static_cast<BaseScratch&>(scratch);
      own.backwards = !own.backwards;
      RunBlock(Range::kAll, n, {at(rows.x), at(rows.h), at(rows.c), at(rows.out), at(rows.copy), at(rows.c_new)}, own);
      begin += n;
    }
  }

  void RunPart(size_t part, size_t parts, size_t count, const Rows& rows, Scratch& base) const override {
    if (parts == 1 || count > kBlockRows) {
      if (part == 0) Run(count, rows, base);
      return;
    }
    auto& scratch = static_cast<BaseScratch&>(base);
    if (part == 0) scratch.backwards = !scratch.backwards;
    scratch.part = part;
    scratch.parts = parts;
    RunBlock(Range::kAll, count, rows, scratch);
    scratch.part = 0;
    scratch.parts = 1;
  }

  void RunInput(size_t count, const float* const* x, Scratch& base) const override {
    auto& scratch = static_cast<BaseScratch&>(base);
    scratch.first = 0;
    RunBlock(Range::kInput, count, {.x = x}, scratch);
  }
  void RunRecurrent(size_t first, size_t count, const Rows& rows, Scratch& base) const override {
    auto& scratch = static_cast<BaseScratch&>(base);
    scratch.first = first;
    scratch.backwards = !scratch.backwards;
    RunBlock(Range::kRecurrent, count, rows, scratch);
  }

  std::string Describe() const override { return absl::StrCat("fused ", isa_.name, Weighs() == Form::kPairs ? ", bfloat16 weights" : Weighs() == Form::kBytes ? ", int8 weights" : "", ", any batch"); }

 protected:
  virtual std::unique_ptr<BaseScratch> MakeBlockScratch(size_t) const { return std::make_unique<BaseScratch>(); }
  // With the last part whatever follows the first product.
  virtual void RunBlock(Range range, size_t count, const Rows& rows, BaseScratch& scratch) const = 0;
  static bool Last(const BaseScratch& scratch) { return scratch.part + 1 == scratch.parts; }
  virtual Form Weighs() const = 0;
  virtual size_t Turned(size_t rows) const = 0;  // of the product that has most
  virtual size_t Vectors() const = 0;  // of units: as many panels or more than the sums over x have

  // kWhole: what follows the first product, all of it at once.
  Product ProductOf(const Weights& w, size_t count, const float* const* x, const float* const* h, BaseScratch& scratch, Range range = Range::kWhole) const {
    const size_t input = StepsOfX(w.x_steps, w.form());
    Product out = {w.weights.data(), w.weights.scales(), w.bias.data(), w.x_steps, w.h_steps, w.units, count, x, h, scratch.partial.data(), 0, w.steps(), nullptr, 0, w.form(),
                   w.weights.far(), scratch.turned.data(), isa_.turns && w.weights.wide(w.steps()) ? &scratch.is_turned : nullptr, scratch.backwards, 0, 1};
    if (range != Range::kAll || scratch.part == 0) scratch.is_turned = false;
    if (range == Range::kWhole) return out;
    if (range == Range::kAll) {
      // What the run before read last comes first.
      out.part = scratch.backwards ? scratch.parts - 1 - scratch.part : scratch.part;
      out.parts = scratch.parts;
      return out;
    }
    (range == Range::kInput ? out.end : out.begin) = input;
    out.sums = scratch.sums.data() + scratch.first * 4 * isa_.width;
    out.sums_stride = scratch.sums_stride;
    return out;
  }

  const Isa& isa_;
};

// [rows][stride] floats and pointers to the rows.
struct Block {
  Block() = default;
  Block(size_t rows, size_t row_stride) : stride(row_stride), values(rows * row_stride) {
    for (size_t r = 0; r < rows; ++r) pointers.push_back(values.data() + r * row_stride);
  }
  const float* const* read() const { return pointers.data(); }
  size_t stride = 0;
  AlignedBuffer<float> values;
  std::vector<float*> pointers;
};

// y = f(W x + R h + b); R may be null.
Weights PackDense(const float* weight, const float* recurrent, const float* bias, size_t units, size_t in, size_t back, const Isa& isa, FusedOp::Large large);

}  // namespace lstm::core::fused
