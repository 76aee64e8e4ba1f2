// SPDX-License-Identifier: MIT
#pragma once

#include <isa-l/crc.h>

#include <cstddef>
#include <cstdint>

namespace lstm::server {

// CRC32C of bytes that follow those whose CRC is `before`.
inline uint32_t Crc32c(const void* bytes, size_t n, uint32_t before = 0) {
  // The library takes its length as an int.
  auto* at = static_cast<unsigned char*>(const_cast<void*>(bytes));
  uint32_t crc = ~before;
  for (; n > (1u << 30); n -= 1u << 30, at += 1u << 30) crc = crc32_iscsi(at, 1 << 30, crc);
  return ~crc32_iscsi(at, static_cast<int>(n), crc);
}

}  // namespace lstm::server
