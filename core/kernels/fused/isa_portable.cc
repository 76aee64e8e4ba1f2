// SPDX-License-Identifier: MIT
#include "core/kernels/fused/cells.h"
#include "core/kernels/fused/vector_portable.h"

namespace lstm::core::fused {

const Isa kPortable = IsaOf<Portable>("portable");

}  // namespace lstm::core::fused
