// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "lstm/v1/session.pb.h"
#include "server/session/session_machine.h"

namespace lstm::server {

// The canonical code that goes with a reason (docs/protocol.md, "Status codes").
absl::StatusCode CodeOf(v1::Reason reason);

// Fills `reject` for a refusal of the state machine. `expected_seq` is used with kGap alone.
void FillReject(Refusal why, uint64_t expected_seq, v1::Reject* reject);

// Fills `reject` with a reason and a message, which is cut at 512 bytes; `retry_after_ms` 0: not a matter of time.
void FillReject(v1::Reason reason, const std::string& message, uint32_t retry_after_ms, v1::Reject* reject);

}  // namespace lstm::server
