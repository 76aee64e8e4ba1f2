// SPDX-License-Identifier: MIT
#include "core/kernels/kernel.h"

#include <gnu/libc-version.h>

#include "absl/strings/str_cat.h"
#include "core/kernels/onednn.h"

namespace lstm::core {

absl::StatusOr<std::unique_ptr<const Kernel>> MakeKernel(const KernelContext& context) {
  const Op& op = context.node->op;
  if (std::holds_alternative<LstmOp>(op) || std::holds_alternative<GruOp>(op) || std::holds_alternative<RnnOp>(op)) {
    return MakeCellKernel(context);
  }
  if (std::holds_alternative<LinearOp>(op) || std::holds_alternative<Conv1dOp>(op)) return MakeLinearKernel(context);
  return MakePointwiseKernel(context);
}

std::string NumericsId() { return absl::StrCat(OneDnnOp::Id(), "/libm-", gnu_get_libc_version(), "/v1"); }

}  // namespace lstm::core
