// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/statusor.h"

namespace lstm::client {

struct SearchOptions {
  uint32_t first = 64;      // where it begins
  uint32_t most = 1000000;
  double precision = 0.05;  // of the number that it ends with
};

struct Found {
  uint32_t holds = 0;             // the largest number that held, twice as long at the end; 0: not even one
  std::optional<uint32_t> fails;  // the smallest that did not, twice in a row; none: `most` holds
};

// Whether so many hold. `longer`: it is the last word.
using Probe = std::function<absl::StatusOr<bool>(uint32_t sessions, bool longer)>;

// Doubles until a number fails, then halves what is between. A number fails when it fails twice: one disturbance of the
// machine must not end the search. In the end what was found has to hold once more, longer; else less is tried.
absl::StatusOr<Found> Search(const SearchOptions& options, const Probe& probe);

}  // namespace lstm::client
