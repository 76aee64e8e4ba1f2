// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lstm::client {

// The body of GET http://ADDRESS/PATH. `address`: HOST:PORT, an IPv6 host in brackets. Waits `timeout` at most for all of it.
// UNAVAILABLE: no answer; FAILED_PRECONDITION: another one than 200; INVALID_ARGUMENT: no such address.
absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path, absl::Duration timeout);

}  // namespace lstm::client
