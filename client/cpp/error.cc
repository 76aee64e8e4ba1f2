// SPDX-License-Identifier: MIT
#include "client/cpp/error.h"

#include "absl/strings/cord.h"

namespace lstm::client {
namespace {

constexpr char kPayload[] = "lstm.v1.Reject";

}  // namespace

std::optional<Refusal> RefusalOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  v1::Reject reject;
  if (!payload.has_value() || !reject.ParseFromString(std::string(*payload))) return std::nullopt;
  return Refusal{reject.reason(), reject.retry_after_ms(), reject.expected_seq()};
}

absl::Status ToStatus(const v1::Reject& reject) {
  const bool known = reject.code() > 0 && reject.code() <= 16;
  absl::Status status(known ? static_cast<absl::StatusCode>(reject.code()) : absl::StatusCode::kUnknown, reject.message());
  status.SetPayload(kPayload, absl::Cord(reject.SerializeAsString()));
  return status;
}

bool IsTransient(v1::Reason reason) {
  return reason == v1::RETRY || reason == v1::WINDOW || reason == v1::BYTES || reason == v1::GAP;
}

}  // namespace lstm::client
