// SPDX-License-Identifier: MIT
#include "core/base/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace lstm::core {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kLarge = SIZE_MAX;  // it looks at what operator new gives
#else
constexpr size_t kLarge = size_t{2} << 20;  // a huge page
#endif

size_t Mapped(size_t bytes) { return (bytes + kLarge - 1) / kLarge * kLarge; }

}  // namespace

void* AllocateZeroed(size_t bytes) {
  if (bytes < kLarge) {
    void* const p = ::operator new(bytes, std::align_val_t{kZeroedAlignment});
    return std::memset(p, 0, bytes);
  }
  // Room for it on a boundary of huge pages; what lies before and behind goes back.
  const size_t size = Mapped(bytes);
  void* const room = size < bytes ? MAP_FAILED : mmap(nullptr, size + kLarge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(room);
  const size_t before = (kLarge - reinterpret_cast<uintptr_t>(begin) % kLarge) % kLarge;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + size, kLarge - before);
  madvise(begin + before, size, MADV_HUGEPAGE);  // advice alone: small pages do too
  return begin + before;
}

void FreeZeroed(void* p, size_t bytes) {
  if (p == nullptr) return;
  if (bytes < kLarge) return ::operator delete(p, std::align_val_t{kZeroedAlignment});
  munmap(p, Mapped(bytes));
}

}  // namespace lstm::core
