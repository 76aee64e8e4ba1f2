// SPDX-License-Identifier: MIT
#include "server/models/version_policy.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/models/model_repository.h"

namespace lstm::server {
namespace {

std::optional<VersionPolicy> Parse(absl::string_view text) {
  VersionPolicy policy;
  if (text == "all") {
    policy.latest = VersionPolicy::kAll;
    return policy;
  }
  if (absl::ConsumePrefix(&text, "latest:")) {
    policy.latest = VersionNumber(std::string(text));
    return policy.latest > 0 ? std::optional(policy) : std::nullopt;
  }
  if (!absl::ConsumePrefix(&text, "specific:")) return std::nullopt;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const uint32_t number = VersionNumber(std::string(part));
    if (number == 0) return std::nullopt;
    policy.specific.insert(number);
  }
  return policy;
}

}  // namespace

absl::StatusOr<VersionPolicies> ParseVersionPolicies(const std::vector<std::string>& texts) {
  VersionPolicies out;
  bool common = false;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    const std::string model = equals == std::string::npos ? "" : text.substr(0, equals);
    const auto policy = Parse(absl::string_view(text).substr(equals == std::string::npos ? 0 : equals + 1));
    if (!policy || (equals != std::string::npos && !IsModelName(model))) {
      return absl::InvalidArgumentError(absl::StrCat("--version-policy is '", text, "', expected [MODEL=]latest:N, [MODEL=]all or [MODEL=]specific:N,N,..."));
    }
    const bool again = model.empty() ? common : out.by_model.contains(model);
    if (again) return absl::InvalidArgumentError(absl::StrCat("--version-policy '", text, "' says once more what another says"));
    if (model.empty()) {
      common = true;
      out.common = *policy;
    } else {
      out.by_model[model] = *policy;
    }
  }
  return out;
}

}  // namespace lstm::server
