// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lstm::server {

// 4 bytes of instance (made once per state directory, else per process), then 12 from the system's CSPRNG.
using SessionId = std::array<uint8_t, 16>;
using Instance = std::array<uint8_t, 4>;
using Nonce = std::array<uint8_t, 16>;
using Sha256 = std::array<uint8_t, 32>;

struct SessionIdHash {
  size_t operator()(const std::array<uint8_t, 16>& id) const {
    uint64_t random;  // bytes 4 to 15 are random already
    std::memcpy(&random, id.data() + 8, sizeof(random));
    return static_cast<size_t>(random);
  }
};

}  // namespace lstm::server
