// SPDX-License-Identifier: MIT
#include "client/cpp/error.h"

#include "absl/strings/cord.h"

namespace lstm::client {
namespace {

constexpr char kPayload[] = "lstm.v1.Reject";
constexpr char kFenced[] = "lstm.v1.Fenced";

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

absl::Status RefusalStatus(absl::StatusCode code, v1::Reason reason, const std::string& message) {
  v1::Reject reject;
  reject.set_code(static_cast<int>(code));
  reject.set_reason(reason);
  reject.set_message(message);
  return ToStatus(reject);
}

absl::Status FencedStatus(const std::string& message) {
  absl::Status status = absl::AbortedError(message);
  status.SetPayload(kFenced, absl::Cord());
  return status;
}

bool IsFenced(const absl::Status& status) { return status.GetPayload(kFenced).has_value(); }

bool IsDiverged(const absl::Status& status) {
  const auto refusal = RefusalOf(status);
  return IsDataLoss(status) && refusal.has_value() && refusal->reason == v1::DIVERGED;
}

bool IsTransient(v1::Reason reason) {
  return reason == v1::RETRY || reason == v1::WINDOW || reason == v1::BYTES || reason == v1::RATE || reason == v1::GAP;
}

bool IsTransientAttach(v1::Reason reason) { return reason == v1::ELSEWHERE || reason == v1::RETRY || reason == v1::DRAINING; }

}  // namespace lstm::client
