// SPDX-License-Identifier: MIT
#define LSTM_KEEP_SMALL
#include "core/kernels/fused/cells.h"
#include "core/kernels/fused/vector_portable.h"

namespace lstm::core::fused {

const Isa kPortable = IsaOf<Portable>("portable");

}  // namespace lstm::core::fused
