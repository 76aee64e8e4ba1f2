// SPDX-License-Identifier: MIT
#include "server/session/digest.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // by what the processor has, three times as fast: Debian builds the plain functions for SSE2
#else
#include <xxhash.h>
#endif

namespace lstm::server {

uint64_t StateDigest(std::span<const float> state) { return XXH3_64bits(state.data(), state.size_bytes()); }

InputDigest DigestOfInput(uint32_t steps, bool reset_before, bool discard, std::span<const std::byte> input) {
  const uint64_t seed = uint64_t{steps} | uint64_t{reset_before} << 32 | uint64_t{discard} << 33;
  const XXH128_hash_t hash = XXH3_128bits_withSeed(input.data(), input.size(), seed);
  return {hash.low64, hash.high64};
}

}  // namespace lstm::server
