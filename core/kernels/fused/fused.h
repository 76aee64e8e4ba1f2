// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/model/model.h"

namespace lstm::core {

// One layer of a step, computed by our own kernels: matrix products and gates in one pass, weights packed once, rows taken
// where they lie. A row's bits depend on that row alone: not on the batch, its place in it, the vector width or the
// instruction set, since every sum is one chain of fused multiply-adds in one order, and no function is used whose result
// IEEE 754 leaves open. Immutable and thread-safe; every thread brings a Scratch.
class FusedOp {
 public:
  enum class InstructionSet { kPortable, kAvx2, kAvx512 };
  static bool Supported(InstructionSet set);
  static InstructionSet Best();  // that this machine supports

  // Arrays of row pointers, one per row; not every layer has all. No row that is written may overlap one that is read or
  // another. Rows need no alignment, and nothing beside them is touched.
  struct Rows {
    const float* const* x = nullptr;  // [I]
    const float* const* h = nullptr;  // [H], or [P] with a projection
    const float* const* c = nullptr;  // [H]
    float* const* out = nullptr;      // the value; of cells the new h
    float* const* copy = nullptr;     // the same once more, or null
    float* const* c_new = nullptr;    // [H]
  };

  // Confined to one thread.
  class Scratch {
   public:
    virtual ~Scratch() = default;
  };

  // Weights that bfloat16 holds exactly, all of a product, may lie in half the bytes, which changes no bit of a result; those that are
  // whole numbers from -127 to 127 times one number of their row in a quarter, which changes the last. kBySize: those of products of so
  // many floats, where a step waits for memory; smaller ones take longer for it. Which it is follows from the weights alone. Products
  // that have more bytes than a cache keeps until the next step are read in another way, with the same bits.
  enum class Large { kBySize, kAlways };
  static constexpr size_t kHalvesFrom = size_t{150} << 10, kQuartersFrom = size_t{600} << 10, kFarFrom = size_t{1} << 20;
  // Rows are turned first, a tile's factors of a step side by side, where there are so many weights, and so many for each step: turning costs less then.
  static constexpr size_t kTurnsFrom = size_t{1} << 20, kTurnsFromUnits = 1024;

  // The op's shapes agree with each other (core/model/op_shapes.h). The instruction set is one that is supported.
  static std::unique_ptr<const FusedOp> Lstm(const LstmOp& op, InstructionSet set, Large large = Large::kBySize);
  static std::unique_ptr<const FusedOp> Gru(const GruOp& op, InstructionSet set, Large large = Large::kBySize);
  static std::unique_ptr<const FusedOp> Rnn(const RnnOp& op, InstructionSet set, Large large = Large::kBySize);
  // weight [O, I] row-major, bias [O] or null.
  static std::unique_ptr<const FusedOp> Linear(const float* weight, const float* bias, size_t out, size_t in, InstructionSet set, Large large = Large::kBySize);
  virtual ~FusedOp() = default;

  // For batches of any size up to max_rows. Nothing is allocated after it. `many_steps`: for RunInput and RunRecurrent too.
  virtual std::unique_ptr<Scratch> MakeScratch(size_t max_rows, bool many_steps = false) const = 0;

  // Where a number is not finite only that row's results are not.
  virtual void Run(size_t count, const Rows& rows, Scratch& scratch) const = 0;

  // A Run in `parts` pieces, each of them once and in order, with nothing else of this scratch between. Parts may be empty.
  virtual void RunPart(size_t part, size_t parts, size_t count, const Rows& rows, Scratch& scratch) const = 0;

  // Many steps at once, of ops with h, with the bits of Run: what x gives to the sums of `count` rows (at most max_rows and
  // kMaxManyRows) first, all with one reading of those weights; then, as often as one likes, what is left of rows [first, first +
  // count) of them. `rows` begins with the first; its x is not read.
  static constexpr size_t kMaxManyRows = 64;
  virtual void RunInput(size_t count, const float* const* x, Scratch& scratch) const = 0;
  virtual void RunRecurrent(size_t first, size_t count, const Rows& rows, Scratch& scratch) const = 0;

  virtual std::string Describe() const = 0;  // "fused AVX2, any batch"
};

}  // namespace lstm::core
