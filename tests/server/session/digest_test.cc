// SPDX-License-Identifier: MIT
#include "server/session/digest.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <random>
#include <vector>

namespace lstm::server {
namespace {

// Stored sessions go from machine to machine: whatever processor makes a digest, it is that of the plain library.
TEST(DigestTest, IsThatOfThePlainLibraryAtEveryLength) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(20'000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  for (size_t n = 0; n < floats.size(); n += n < 600 ? 1 : 197) {
    EXPECT_EQ(StateDigest({floats.data(), n}), XXH3_64bits(floats.data(), n * sizeof(float))) << n;
  }
  for (size_t n = 0; n < bytes.size(); n += n < 600 ? 1 : 197) {
    const uint64_t seed = uint64_t{17} | uint64_t{1} << 32 | uint64_t{1} << 33;
    const XXH128_hash_t plain = XXH3_128bits_withSeed(bytes.data(), n, seed);
    const InputDigest digest = DigestOfInput(17, true, true, {bytes.data(), n});
    EXPECT_EQ(digest.low, plain.low64) << n;
    EXPECT_EQ(digest.high, plain.high64) << n;
  }
}

}  // namespace
}  // namespace lstm::server
