// SPDX-License-Identifier: MIT
#include "core/base/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace lstm::core {

void* AllocateZeroed(size_t bytes, size_t alignment) {
  constexpr size_t kHuge = size_t{2} << 20;
  const bool large = bytes >= kHuge;
  void* p = nullptr;
  if (posix_memalign(&p, large ? std::max(alignment, kHuge) : alignment, bytes) != 0) throw std::bad_alloc();
  if (large) madvise(p, bytes, MADV_HUGEPAGE);  // before the first touch; advice alone: small pages do too
  std::memset(p, 0, bytes);
  return p;
}

}  // namespace lstm::core
