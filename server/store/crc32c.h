// SPDX-License-Identifier: MIT
#pragma once

#include <isa-l/crc.h>

#include <cstddef>
#include <cstdint>

namespace lstm::server {

// CRC32C of bytes that follow those whose CRC is `before`. Never inlined: the library's AVX-512 code leaves the upper halves of
// the vector registers in use, and the first SSE instruction after it, which the compiler moves to before the vzeroupper if it
// can, then waits for some 170 ns (a Xeon of the Sapphire Rapids kind).
[[gnu::noinline]] inline uint32_t Crc32c(const void* bytes, size_t n, uint32_t before = 0) {
  // The library takes its length as an int.
  auto* at = static_cast<unsigned char*>(const_cast<void*>(bytes));
  uint32_t crc = ~before;
  for (; n > (1u << 30); n -= 1u << 30, at += 1u << 30) crc = crc32_iscsi(at, 1 << 30, crc);
  crc = crc32_iscsi(at, static_cast<int>(n), crc);
#if defined(__x86_64__)
  static const bool has_avx = __builtin_cpu_supports("avx");
  if (has_avx) asm volatile("vzeroupper" : "+r"(crc)::"memory");
#endif
  return ~crc;
}

}  // namespace lstm::server
