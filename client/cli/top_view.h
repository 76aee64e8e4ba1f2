// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "client/cli/metrics_text.h"

namespace lstm::client {

// What a server does, on a screen: `now`, and what has come since `before`, `seconds` earlier. Where the server was started
// again in between, since that. ASCII alone, whatever labels hold.
std::string ShowTop(const std::string& address, const Metrics& before, const Metrics& now, double seconds);

}  // namespace lstm::client
