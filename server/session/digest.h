// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "server/session/session_machine.h"

namespace lstm::server {

// XXH3, 64 bits, of the state's bytes: what Result.state_digest carries and what guards a stored state.
uint64_t StateDigest(std::span<const float> state);

// XXH3, 128 bits, of all that decides a turn's answer.
InputDigest DigestOfInput(uint32_t steps, bool reset_before, bool discard, std::span<const std::byte> input);

}  // namespace lstm::server
