// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lstm::server {

using TokenHash = std::array<uint8_t, 32>;  // SHA-256

// 256 bits from the system's CSPRNG, as text that fits a header.
std::string NewToken();
TokenHash HashOf(std::string_view text);
std::string ToHex(const TokenHash& hash);
// Nothing where it is not 64 hexadecimal digits.
std::optional<TokenHash> FromHex(std::string_view digits);
bool SameInConstantTime(const TokenHash& a, const TokenHash& b);

}  // namespace lstm::server
