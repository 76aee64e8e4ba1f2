// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lstm::client {

// The bytes of a file. NOT_FOUND where it cannot be read.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Replaces the file by one with these bytes, readable by its owner alone (0600): all of it or nothing.
absl::Status WritePrivateFile(const std::string& path, const std::string& bytes);

}  // namespace lstm::client
