// SPDX-License-Identifier: MIT
#include "core/kernels/kernel.h"

#include <gnu/libc-version.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/fused/fused.h"
#include "core/kernels/onednn.h"

namespace lstm::core {

absl::StatusOr<std::unique_ptr<const Kernel>> MakeKernel(const KernelContext& context) {
  const Op& op = context.node->op;
  if (std::holds_alternative<LstmOp>(op) || std::holds_alternative<GruOp>(op) || std::holds_alternative<RnnOp>(op)) {
    return context.engine == Engine::kFused ? MakeFusedCellKernel(context) : MakeCellKernel(context);
  }
  if (std::holds_alternative<LinearOp>(op) || std::holds_alternative<Conv1dOp>(op)) return MakeLinearKernel(context);
  if (IsPlumbing(op)) return MakePlumbingKernel(context);
  return MakePointwiseKernel(context);
}

// oneDNN is nowhere faster by more than the noise where the fused kernels have AVX2 or AVX-512 (docs/benchmarks.md). Without
// FMA in hardware every product of theirs is a call of the C library.
Engine ResolveEngine(Engine wanted) {
  if (wanted != Engine::kAuto) return wanted;
  return FusedOp::Best() == FusedOp::InstructionSet::kPortable ? Engine::kOneDnn : Engine::kFused;
}

// The row-by-row ops call the C library, which has exp and its like with and without FMA.
std::string NumericsId(Engine engine) {
  const std::string libm = absl::StrCat("/libm-", gnu_get_libc_version());
  if (engine == Engine::kOneDnn) return absl::StrCat(OneDnnOp::Id(), libm, "/v6");
  return absl::StrCat("fused-1", libm, FusedOp::Supported(FusedOp::InstructionSet::kAvx2) ? "" : "-nofma", "/v6");
}

}  // namespace lstm::core
