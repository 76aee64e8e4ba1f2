// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace lstm::client {

// 16 bytes that make an Open, a fork or an import repeatable.
inline std::string Nonce() {
  std::random_device device;  // the system's CSPRNG
  std::string nonce;
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = device();
    nonce.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return nonce;
}

// Tells this holder of a session from others; never 0.
inline uint64_t Holder() {
  std::random_device device;
  return uint64_t{device()} << 32 | device() | 1u;
}

}  // namespace lstm::client
