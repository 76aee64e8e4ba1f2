// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lstm::server {

// Which of a model's versions can be opened.
struct VersionPolicy {
  // The highest that load, so many of them.
  uint32_t latest = 1;
  // Instead: these alone. Empty: not said.
  std::set<uint32_t> specific;

  static constexpr uint32_t kAll = UINT32_MAX;
};

// One policy for all models, and others by the name of a model.
struct VersionPolicies {
  VersionPolicy common;
  std::map<std::string, VersionPolicy> by_model;

  const VersionPolicy& For(const std::string& model) const {
    const auto it = by_model.find(model);
    return it == by_model.end() ? common : it->second;
  }
};

// From texts [MODEL=]latest:N, [MODEL=]all or [MODEL=]specific:N,N,... INVALID_ARGUMENT quotes the text.
absl::StatusOr<VersionPolicies> ParseVersionPolicies(const std::vector<std::string>& texts);

}  // namespace lstm::server
