// SPDX-License-Identifier: MIT
#include "core/kernels/fused/cells.h"
#include "core/kernels/fused/vector_avx512.h"

namespace lstm::core::fused {

const Isa kAvx512 = IsaOf<Avx512>("AVX-512");

}  // namespace lstm::core::fused
