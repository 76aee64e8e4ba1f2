// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/kernels/kernel.h"

// Private to core/kernels.
namespace lstm::core {

// y = W x + b over contiguous rows, by either engine. Immutable and thread-safe.
class ProductKernel {
 public:
  // weight [O, I] row-major, bias [O] or null.
  static absl::StatusOr<std::unique_ptr<const ProductKernel>> Make(Engine engine, const float* weight, const float* bias, int64_t out,
                                                                   int64_t in, int max_rows);
  virtual ~ProductKernel() = default;

  // x [N, I] and y [N, O] have room for max_rows + kPaddingRows rows. What is `shared` lives as long as the scratch.
  virtual std::unique_ptr<KernelScratch> Bind(float* x, float* y, SharedScratch* shared) const = 0;
  // Rows [first, first + rows); first is 0 unless AnyRows. Rows of x beyond them may be overwritten with zeros.
  virtual absl::Status Run(int first, int rows, KernelScratch& scratch) const = 0;
  virtual bool AnyRows() const = 0;
  // As of Kernel (kernel.h).
  virtual bool InParts() const { return false; }
  virtual absl::Status RunPart(size_t part, size_t /*parts*/, int rows, KernelScratch& scratch) const { return part == 0 ? Run(0, rows, scratch) : absl::OkStatus(); }
  virtual std::string Describe() const = 0;
};

}  // namespace lstm::core
