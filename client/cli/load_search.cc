// SPDX-License-Identifier: MIT
#include "client/cli/load_search.h"

#include <algorithm>
#include <cmath>

#include "core/base/status_macros.h"

namespace lstm::client {

absl::StatusOr<Found> Search(const SearchOptions& options, const Probe& probe) {
  const auto holds = [&](uint32_t sessions) -> absl::StatusOr<bool> {
    LSTM_ASSIGN_OR_RETURN(const bool once, probe(sessions, false));
    if (once) return true;
    return probe(sessions, false);
  };
  const auto step = [&](uint32_t sessions) { return std::max(1u, static_cast<uint32_t>(std::lround(options.precision * sessions))); };
  Found found;
  uint32_t at = std::clamp(options.first, 1u, options.most);
  while (true) {
    LSTM_ASSIGN_OR_RETURN(const bool good, holds(at));
    (good ? found.holds : found.fails.emplace()) = at;
    if (good && (found.fails || at == options.most)) break;
    if (!good && (found.holds > 0 || at == 1)) break;
    at = good ? at + std::min(at, options.most - at) : at / 2;
  }
  while (found.fails && found.holds > 0 && *found.fails - found.holds > step(found.holds)) {
    at = found.holds + (*found.fails - found.holds) / 2;
    LSTM_ASSIGN_OR_RETURN(const bool good, holds(at));
    (good ? found.holds : *found.fails) = at;
  }
  while (found.holds > 0) {
    LSTM_ASSIGN_OR_RETURN(const bool good, probe(found.holds, true));
    if (good) break;
    found.fails = found.holds;
    found.holds -= step(found.holds);
  }
  return found;
}

}  // namespace lstm::client
