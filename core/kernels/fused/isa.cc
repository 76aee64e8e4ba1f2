// SPDX-License-Identifier: MIT
#include "core/kernels/fused/fused.h"
#include "core/kernels/fused/jobs.h"

namespace lstm::core {

bool FusedOp::Supported(InstructionSet set) {
  // libgcc asks the operating system too: registers that it does not save count as not there.
  switch (set) {
    case InstructionSet::kPortable: return true;
    case InstructionSet::kAvx2: return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#ifdef LSTM_WITHOUT_AVX512
    case InstructionSet::kAvx512: return false;
#else
    case InstructionSet::kAvx512: return __builtin_cpu_supports("avx512f") != 0 && Supported(InstructionSet::kAvx2);
#endif
  }
  return false;
}

FusedOp::InstructionSet FusedOp::Best() {
  if (Supported(InstructionSet::kAvx512)) return InstructionSet::kAvx512;
  return Supported(InstructionSet::kAvx2) ? InstructionSet::kAvx2 : InstructionSet::kPortable;
}

namespace fused {

const Isa& IsaFor(FusedOp::InstructionSet set) {
  switch (set) {
    case FusedOp::InstructionSet::kAvx2: return kAvx2;
#ifndef LSTM_WITHOUT_AVX512
    case FusedOp::InstructionSet::kAvx512: return kAvx512;
#endif
    default: return kPortable;
  }
}

}  // namespace fused
}  // namespace lstm::core
