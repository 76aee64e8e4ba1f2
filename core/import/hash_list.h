// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lstm::core {

// SHA256SUMS in the directory of a version, in the format of sha256sum: what its files were when it was packed. A
// version without one may hold anything.
class HashList {
 public:
  static constexpr char kName[] = "SHA256SUMS";

  // What lies in `directory`; an empty list where there is none. INVALID_ARGUMENT for a line that is no hash and the
  // name of a file beside it, and for a name that comes twice.
  static absl::StatusOr<HashList> Read(const std::string& directory);
  static absl::StatusOr<HashList> Parse(const std::string& text);

  // Whether the file `name` may have these bytes. FAILED_PRECONDITION where they are others, or where there is a list
  // and the name is not in it.
  absl::Status Check(const std::string& name, std::span<const std::byte> bytes);

  // Once all that is used was checked: whether the other files of the list are there and what they were.
  absl::Status CheckRest(const std::string& directory);

 private:
  bool present_ = false;
  std::map<std::string, std::string> hashes_;  // by name, 64 digits
  std::set<std::string> checked_;
};

// 64 lowercase digits.
std::string Sha256Hex(std::span<const std::byte> bytes);

}  // namespace lstm::core
