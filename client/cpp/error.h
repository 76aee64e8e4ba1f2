// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

// What the server says of a refusal beside the canonical code and the text.
struct Refusal {
  v1::Reason reason = v1::REASON_UNSPECIFIED;
  uint32_t retry_after_ms = 0;
  uint64_t expected_seq = 0;
};

// The refusal that `status` carries, if the server sent one; nothing for errors of the connection or of this library.
std::optional<Refusal> RefusalOf(const absl::Status& status);

// A status from a Reject.
absl::Status ToStatus(const v1::Reject& reject);

// True where the same request may succeed a moment later.
bool IsTransient(v1::Reason reason);

}  // namespace lstm::client
