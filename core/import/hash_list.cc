// SPDX-License-Identifier: MIT
#include "core/import/hash_list.h"

#include <openssl/evp.h>

#include <algorithm>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/mapped_file.h"

namespace lstm::core {
namespace {

constexpr size_t kMaxListBytes = 64 << 10;
constexpr size_t kMaxFileBytes = size_t{256} << 20;  // of those that a server does not use
constexpr size_t kHexDigits = 64;

}  // namespace

std::string Sha256Hex(std::span<const std::byte> bytes) {
  std::string digest(32, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr, EVP_sha256(),
             nullptr);
  return absl::BytesToHexString(digest);
}

absl::StatusOr<HashList> HashList::Read(const std::string& directory) {
  const auto file = MappedFile::Open(absl::StrCat(directory, "/", kName), kMaxListBytes);
  if (absl::IsNotFound(file.status())) return HashList();
  if (!file.ok()) return file.status();
  return Parse(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()));
}

absl::StatusOr<HashList> HashList::Parse(const std::string& text) {
  HashList list;
  list.present_ = true;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty()) continue;
    const bool hex =
        line.size() > kHexDigits + 2 &&
        std::all_of(line.begin(), line.begin() + kHexDigits, [](unsigned char c) { return absl::ascii_isxdigit(c); });
    const bool gap = hex && line[kHexDigits] == ' ' && (line[kHexDigits + 1] == ' ' || line[kHexDigits + 1] == '*');
    const std::string name = gap ? line.substr(kHexDigits + 2) : "";
    if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
        name == kName) {
      return absl::InvalidArgumentError(
          absl::StrCat(kName, " line ", number, ": expected 64 digits, two spaces and the name of a file beside it"));
    }
    if (!list.hashes_.try_emplace(name, absl::AsciiStrToLower(line.substr(0, kHexDigits))).second) {
      return absl::InvalidArgumentError(absl::StrCat(kName, " line ", number, ": a file that was named before"));
    }
  }
  return list;
}

absl::Status HashList::Check(const std::string& name, std::span<const std::byte> bytes) {
  if (!present_) return absl::OkStatus();
  const auto it = hashes_.find(name);
  if (it == hashes_.end())
    return absl::FailedPreconditionError(
        absl::StrCat("'", name, "' is not in ", kName, ", which says what the files of this version are"));
  checked_.insert(name);
  const std::string found = Sha256Hex(bytes);
  if (found == it->second) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("'", name,
                                                    "' is not what it was when the version was packed: its SHA-256 is ",
                                                    found, ", in ", kName, " it is ", it->second));
}

absl::Status HashList::CheckRest(const std::string& directory) {
  for (const auto& [name, hash] : hashes_) {
    if (checked_.contains(name)) continue;
    const auto file = MappedFile::Open(absl::StrCat(directory, "/", name), kMaxFileBytes);
    if (!file.ok())
      return absl::FailedPreconditionError(
          absl::StrCat("'", name, "' is in ", kName, ", but: ", file.status().message()));
    LSTM_RETURN_IF_ERROR(Check(name, file->bytes()));
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
