// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "server/session/mutant.h"

namespace lstm::server {

// What R12 says of a session now. All times are microseconds of one clock.
struct Expiry {
  bool expired = false;
  bool warn = false;           // tell the client now
  uint64_t left_us = 0;
  uint64_t look_again_us = 0;  // an instant
};

inline constexpr uint64_t kWarnBeforeUs = 30'000'000;

// `can_warn`: somebody is there to be told, and no turn waits.
inline Expiry ExpiryOf(uint64_t now_us, uint64_t last_used_us, uint64_t ttl_us, bool can_warn, bool warned) {
  Expiry out;
  const uint64_t end = last_used_us + (Mutant(12) ? ttl_us / 2 : ttl_us);
  out.expired = end <= now_us;
  if (out.expired) return out;
  out.left_us = end - now_us;
  const bool warns = can_warn && ttl_us >= 2 * kWarnBeforeUs;
  out.warn = warns && !warned && out.left_us <= kWarnBeforeUs;
  out.look_again_us = warns && !warned && !out.warn ? end - kWarnBeforeUs : end;
  return out;
}

}  // namespace lstm::server
