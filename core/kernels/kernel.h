// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/engine.h"
#include "core/model/model.h"

namespace lstm::core {

// A batch buffer has room for this many rows beyond the largest batch: kernels pad rows up to a batch size that they have.
inline constexpr int kPaddingRows = 64;

// Rows of many steps at once, at most (Kernel::RunInput).
inline constexpr size_t kMaxManyRows = 64;

// What kernels of one program scratch may use in turn, for they run one after the other: by what it was made for.
using SharedScratch = std::map<const void*, std::shared_ptr<void>>;

// Where a kernel finds its values: contiguous [max_batch + kPaddingRows, width], in place as long as the scratch lives.
struct KernelBuffers {
  std::vector<void*> inputs;  // per input of the node; rows beyond the batch may be overwritten with zeros
  void* output;
  bool many_steps = false;  // RunInput and RunRecurrent are to come too
  SharedScratch* shared = nullptr;  // while Bind runs, no longer
};

// What one thread needs to run one kernel. Confined to one thread.
class KernelScratch {
 public:
  virtual ~KernelScratch() = default;
};

// One op of a step program over a batch. Immutable and thread-safe. A row's bits depend on that row alone.
class Kernel {
 public:
  virtual ~Kernel() = default;

  virtual std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const = 0;

  // Computes rows [first, first + rows) of the output; first is 0 unless AnyRows. state_in and state_out point to whole state rows, from
  // row 0 on; a kernel reads and writes its own tensors alone. INTERNAL when the library fails.
  virtual absl::Status Run(int first, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch) const = 0;
  virtual bool AnyRows() const { return false; }
  // A Run of rows from 0 on in `parts` pieces, each of them once and in order. Not InParts: the first is all of it.
  virtual bool InParts() const { return false; }
  virtual absl::Status RunPart(size_t part, size_t /*parts*/, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch) const {
    return part == 0 ? Run(0, rows, state_in, state_out, scratch) : absl::OkStatus();
  }

  // Many steps of the same rows, rows lying step after step: the state_in of a row is the state_out of the same row a step
  // before. kNo: they cannot be computed in one go. kRun: Run over all rows does it. kInputFirst: RunInput once for all rows, then
  // RunRecurrent for the rows of each step in turn.
  enum class ManySteps { kNo, kRun, kInputFirst };
  virtual ManySteps many_steps() const { return ManySteps::kNo; }
  virtual void RunInput(int /*rows*/, KernelScratch& /*scratch*/) const {}
  virtual void RunRecurrent(int /*first*/, int /*rows*/, const float* const* /*state_in*/, float* const* /*state_out*/, KernelScratch& /*scratch*/) const {}

  // What computes it: "oneDNN 2.6.3 brgemm:avx512_core, batches of 1 to 64".
  virtual std::string Describe() const = 0;
};

// Never kAuto. A fixed table over this machine's instruction sets, nothing measured: a model has the same engine at every
// start.
Engine ResolveEngine(Engine wanted);

class ProductKernel;
// Ops that multiply by the same weights share what is made of them. One thread's, while it makes the kernels of a program.
using SharedProducts = std::map<std::tuple<const Constant*, const Constant*, int64_t>, std::shared_ptr<const ProductKernel>>;

struct KernelContext {
  const Model* model;
  const Node* node;
  int max_batch;
  const std::vector<size_t>* state_offsets;  // in floats, by StateId
  Engine engine;  // not kAuto
  SharedProducts* products;
};

// Makes the kernel of any op. INTERNAL or RESOURCE_EXHAUSTED where it cannot be made.
absl::StatusOr<std::unique_ptr<const Kernel>> MakeKernel(const KernelContext& context);

// The kernels of each room; MakeKernel dispatches to them.
absl::StatusOr<std::unique_ptr<const Kernel>> MakeCellKernel(const KernelContext& context);       // LSTM, GRU, RNN: oneDNN
absl::StatusOr<std::unique_ptr<const Kernel>> MakeFusedCellKernel(const KernelContext& context);  // the same: fused
absl::StatusOr<std::unique_ptr<const Kernel>> MakeLinearKernel(const KernelContext& context);     // Linear, Conv1d
absl::StatusOr<std::unique_ptr<const Kernel>> MakePointwiseKernel(const KernelContext& context);  // row by row
// State that is read and written by itself, constants, selections, reductions, products of two values: row by row too.
bool IsPlumbing(const Op& op);
absl::StatusOr<std::unique_ptr<const Kernel>> MakePlumbingKernel(const KernelContext& context);

// What decides the bits of every kernel here on this machine under that engine (not kAuto): libraries, versions, and of
// instruction sets what changes bits. All those of the fused engine give the same.
std::string NumericsId(Engine engine);

}  // namespace lstm::core
