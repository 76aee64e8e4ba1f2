// SPDX-License-Identifier: MIT
#include "server/auth/token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <charconv>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr char kPrefix[] = "lstm_";  // so that one which was published by mistake can be found

}  // namespace

std::string NewToken() {
  TokenHash random;
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1) std::abort();  // it could be guessed
  return absl::StrCat(kPrefix, ToHex(random));
}

TokenHash HashOf(std::string_view text) {
  TokenHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), hash.data());
  return hash;
}

std::string ToHex(const TokenHash& hash) { return absl::BytesToHexString({reinterpret_cast<const char*>(hash.data()), hash.size()}); }

std::optional<TokenHash> FromHex(std::string_view digits) {
  TokenHash hash;
  if (digits.size() != 2 * hash.size()) return std::nullopt;
  for (size_t i = 0; i < hash.size(); ++i) {
    const char* const at = digits.data() + 2 * i;
    if (std::from_chars(at, at + 2, hash[i], 16).ptr != at + 2) return std::nullopt;
  }
  return hash;
}

bool SameInConstantTime(const TokenHash& a, const TokenHash& b) { return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0; }

}  // namespace lstm::server
