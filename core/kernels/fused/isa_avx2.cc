// SPDX-License-Identifier: MIT
#include "core/kernels/fused/cells.h"
#include "core/kernels/fused/vector_avx2.h"

namespace lstm::core::fused {

const Isa kAvx2 = IsaOf<Avx2>("AVX2");

}  // namespace lstm::core::fused
