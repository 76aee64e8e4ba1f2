// SPDX-License-Identifier: MIT
#include "server/shard/reject.h"

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr uint32_t kRetryAfterMs = 10;

v1::Reason ReasonOf(Refusal why) {
  switch (why) {
    case Refusal::kGap: return v1::GAP;
    case Refusal::kWindow: return v1::WINDOW;
    case Refusal::kAlreadyAcked: return v1::ALREADY_ACKED;
    case Refusal::kSeqReused: return v1::SEQ_REUSED;
    case Refusal::kDeadline: return v1::DEADLINE;
    case Refusal::kRetry: return v1::RETRY;
    case Refusal::kNonFinite: return v1::NON_FINITE;
    case Refusal::kInvalid: return v1::INVALID;
  }
  return v1::BROKEN;
}

std::string MessageOf(Refusal why, uint64_t expected_seq) {
  switch (why) {
    case Refusal::kGap:
      return absl::StrCat("expected seq ", expected_seq, "; send again from there once all outstanding turns are answered");
    case Refusal::kWindow: return "the window is full; acknowledge answers, then send again";
    case Refusal::kAlreadyAcked: return "this answer was acknowledged and is no longer kept; go on with the turns behind it";
    case Refusal::kSeqReused: return "this seq was sent before with another input; send that again, or this under the next seq";
    case Refusal::kDeadline: return "the deadline passed before the turn began; nothing was applied, send it again";
    case Refusal::kRetry: return "the batch failed; nothing was applied, send it again";
    case Refusal::kNonFinite: return "the turn gives numbers that are not finite; nothing was applied: send other input, or begin anew with reset_before";
    case Refusal::kInvalid: return "the turn is not valid; nothing was applied";
  }
  return "";
}

}  // namespace

absl::StatusCode CodeOf(v1::Reason reason) {
  switch (reason) {
    case v1::INVALID:
    case v1::NON_FINITE:
      return absl::StatusCode::kInvalidArgument;
    case v1::SEQ_REUSED:
    case v1::NONCE_USED:
    case v1::LANE_IN_USE:
    case v1::NO_SESSION:
    case v1::MODEL_RETIRED:
    case v1::NUMERICS:
      return absl::StatusCode::kFailedPrecondition;
    case v1::GAP:
    case v1::ALREADY_ACKED:
      return absl::StatusCode::kOutOfRange;
    case v1::WINDOW:
    case v1::SESSIONS:
    case v1::BYTES:
    case v1::RATE:
      return absl::StatusCode::kResourceExhausted;
    case v1::RETRY:
    case v1::ELSEWHERE:
    case v1::DRAINING:
      return absl::StatusCode::kUnavailable;
    case v1::DEADLINE:
      return absl::StatusCode::kDeadlineExceeded;
    case v1::NOT_FOUND:
    case v1::EXPIRED:
      return absl::StatusCode::kNotFound;
    case v1::LOST:
    case v1::DIVERGED:
      return absl::StatusCode::kDataLoss;
    case v1::UNSUPPORTED:
      return absl::StatusCode::kUnimplemented;
    case v1::CANCELLED_BY_OPERATOR:
    case v1::FENCED:
      return absl::StatusCode::kAborted;
    default:
      return absl::StatusCode::kInternal;
  }
}

void FillReject(Refusal why, uint64_t expected_seq, v1::Reject* reject) {
  FillReject(ReasonOf(why), MessageOf(why, expected_seq),
             why == Refusal::kRetry || why == Refusal::kWindow ? kRetryAfterMs : 0, reject);
  if (why == Refusal::kGap) reject->set_expected_seq(expected_seq);
}

void FillReject(v1::Reason reason, const std::string& message, uint32_t retry_after_ms, v1::Reject* reject) {
  reject->set_code(static_cast<int32_t>(CodeOf(reason)));
  reject->set_reason(reason);
  reject->set_message(message.substr(0, 512));
  reject->set_retry_after_ms(retry_after_ms);
}

}  // namespace lstm::server
