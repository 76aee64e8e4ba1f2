// SPDX-License-Identifier: MIT
#pragma once

#include <set>
#include <string>

#include "absl/status/statusor.h"

namespace lstm::server {

// What the slab and the log ask of their directory. For one thread each.

// The names of all that is in it.
absl::StatusOr<std::set<std::string>> FileNames(int directory);

// False also where the file cannot be read.
bool AllZero(int fd);

}  // namespace lstm::server
