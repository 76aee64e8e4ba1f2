// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

// What is said of a refusal beside the canonical code and the text.
struct Refusal {
  v1::Reason reason = v1::REASON_UNSPECIFIED;
  uint32_t retry_after_ms = 0;
  uint64_t expected_seq = 0;
};

// The refusal that `status` carries: the server's, or LOST and DIVERGED as this library found them; nothing for errors of
// the connection.
std::optional<Refusal> RefusalOf(const absl::Status& status);

// A status from a Reject.
absl::Status ToStatus(const v1::Reject& reject);
absl::Status RefusalStatus(absl::StatusCode code, v1::Reason reason, const std::string& message);

// ABORTED: another stream took the session. It lives on there, and has ended here.
absl::Status FencedStatus(const std::string& message);
bool IsFenced(const absl::Status& status);

// DATA_LOSS: the server does not have what it had answered. Never worth a retry.
using absl::IsDataLoss;
// DATA_LOSS, found by computing again: the answers of before and those of now do not belong to one history.
bool IsDiverged(const absl::Status& status);

// True where the same turn may succeed a moment later.
bool IsTransient(v1::Reason reason);
// The same of an Open or a Resume.
bool IsTransientAttach(v1::Reason reason);

}  // namespace lstm::client
