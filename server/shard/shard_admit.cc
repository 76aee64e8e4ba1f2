// SPDX-License-Identifier: MIT
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session/digest.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"

// A turn as it comes: checked, and queued or refused.
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint32_t kNoMemoryRetryMs = 100;
constexpr uint64_t kMostRetryMs = 60'000;  // a client that asks too soon is told again
constexpr uint64_t kBusyRetryMs = 1000;    // at most
constexpr uint64_t kTurnOverheadBytes = sizeof(TurnRecord) + 64;

}  // namespace

void Shard::OnStep(Stream* stream, const v1::Step& step) {
  Session* session = OnLane(stream, step.lane());
  if (session == nullptr) {
    return RejectLane(stream, step.lane(), step.seq(), v1::NO_SESSION, "nothing is open on this lane; open or resume a session on it first");
  }
  const uint64_t now = services_.clock();
  session->last_used_us = now;
  session->warned = false;
  const SessionMachine::Classified place = session->machine.Classify(step.seq(), step.ack());
  Trim(session);
  if (place.position == SessionMachine::Position::kRefused) {
    v1::Reject* reject = stream->sink_->Next(kSmallResponse)->mutable_reject();
    reject->set_lane(step.lane());
    reject->set_seq(place.seq);
    FillReject(place.why, place.expected_seq, reject);
    return CountReject(*reject);
  }

  if (place.position == SessionMachine::Position::kFresh && RefuseBusy(session, step, place.seq)) return;

  TurnRecordPtr record = TakeRecord();
  record->session = session;
  record->reset_before = step.reset_before();
  record->discard = step.discard();
  record->received_us = now;
  absl::Status valid;
  if (step.reset_before() && step.steps() == 0 && step.inputs().empty()) {
    record->steps = 0;
    record->input.clear();
  } else if (auto steps = DecodeInputs(session->program(), step.inputs(), step.steps(), record->input); steps.ok()) {
    record->steps = *steps;
  } else {
    valid = steps.status();
  }
  if (place.position == SessionMachine::Position::kDuplicate) {
    OnDuplicate(session, place.seq, *record, valid.ok());
    return RecycleRecord(std::move(record));
  }

  record->answer_steps = session->last_step_only ? std::min(record->steps, 1u) : record->steps;
  const uint64_t answer_bytes = uint64_t{record->answer_steps} * session->answer_step_bytes;
  const uint64_t charge = kTurnOverheadBytes + record->input.size() + answer_bytes;
  v1::Reason reason = v1::REASON_UNSPECIFIED;
  std::string message;
  uint32_t retry_after_ms = 0;
  if (!valid.ok()) {
    reason = v1::INVALID;
    message = std::string(valid.message());
  } else if (answer_bytes > session->max_turn_answer_bytes) {
    reason = v1::INVALID;
    message = absl::StrCat("the answer to ", record->steps, " steps has ", answer_bytes, " bytes, at most ", session->max_turn_answer_bytes,
                           " can be answered: steps may be at most ", session->max_turn_answer_bytes / session->answer_step_bytes);
    if (session->max_turn_answer_bytes < options_.max_turn_answer_bytes) absl::StrAppend(&message, "; answer_bytes in Open makes more room");
  } else if (!budget_->TakeBytes(charge)) {
    reason = v1::BYTES;
    message = "no memory for this turn now; nothing was applied, send it again";
    retry_after_ms = kNoMemoryRetryMs;
  } else {
    record->charged_bytes = charge;  // given back with the record
    // The last check: what is refused for another reason costs its caller no steps.
    const uint64_t wait_us = stream->account_ != nullptr ? stream->account_->TakeSteps(record->steps, now) : 0;
    if (wait_us > 0) {
      reason = v1::RATE;
      message = std::string(stream->account_->TooFast(wait_us).message());
      retry_after_ms = static_cast<uint32_t>(std::min((wait_us + 999) / 1000, kMostRetryMs));
      counters_.over_steps.Add();
    }
  }
  if (reason != v1::REASON_UNSPECIFIED) {
    RecycleRecord(std::move(record));
    v1::Reject* reject = stream->sink_->Next(kSmallResponse + message.size())->mutable_reject();
    reject->set_lane(step.lane());
    reject->set_seq(place.seq);
    FillReject(reason, message, retry_after_ms, reject);
    return CountReject(*reject);
  }

  record->digest = DigestOfInput(record->steps, record->reset_before, record->discard, record->input);
  session->machine.Admit(place.seq, record->digest, step.deadline_us() == 0 ? 0 : now + step.deadline_us());
  record->waiting = true;
  stream->backlog_bytes_ += record->charged_bytes;
  ++stream->outstanding_;
  session->records.push_back(std::move(record));
  Advance(session);
}

// Ahead of whatever costs something: what is refused for want of time must take none from those who are served. A simple session knows no refusal that
// leaves a hole in its turns; its stream is not read where much waits.
bool Shard::RefuseBusy(Session* session, const v1::Step& step, uint64_t seq) {
  if (options_.max_wait_us == 0 || session->machine.options().simple) return false;
  const uint64_t wait_us = HeldUpUs(*session, step.steps());
  if (wait_us <= options_.max_wait_us) return false;
  v1::Reject* reject = session->stream->sink_->Next(kSmallResponse)->mutable_reject();
  reject->set_lane(step.lane());
  reject->set_seq(seq);
  FillReject(v1::RETRY, absl::StrCat("the server is busy: this turn would wait ", wait_us / 1000, " ms for others, and ", options_.max_wait_us / 1000,
                                     " are allowed; nothing was applied, send it again"), static_cast<uint32_t>(std::min(wait_us / 1000 + 1, kBusyRetryMs)), reject);
  counters_.over_wait.Add();
  CountReject(*reject);
  return true;
}

// Turns of others take a row each of every round that this session's take one of: its own queue, however long, holds up nobody else, and counts
// as often as others are computed beside it.
uint64_t Shard::HeldUpUs(const Session& session, uint32_t steps) const {
  uint64_t own = std::max(steps, 1u);
  for (size_t i = 0; i < session.records.size(); ++i) {
    const TurnRecord& record = *session.records[i];
    if (record.waiting) own += record.steps - std::min(record.done, record.steps);
  }
  const size_t mine = session.machine.computing() && !session.syncing ? 1 : 0;
  return static_cast<uint64_t>(row_us_ * static_cast<double>(own) * static_cast<double>(engine_.waiting() - std::min(engine_.waiting(), mine)));
}

void Shard::OnDuplicate(Session* session, uint64_t seq, const TurnRecord& asked, bool valid) {
  // What does not decode is not what was sent before under this seq.
  const auto match = valid ? session->machine.MatchDuplicate(seq, DigestOfInput(asked.steps, asked.reset_before, asked.discard, asked.input))
                           : SessionMachine::Match::kReused;
  if (match == SessionMachine::Match::kReplay) {
    Replay(session, seq);
  } else if (match == SessionMachine::Match::kReused) {
    v1::Reject* reject = session->stream->sink_->Next(kSmallResponse)->mutable_reject();
    reject->set_lane(session->lane);
    reject->set_seq(seq);
    FillReject(Refusal::kSeqReused, 0, reject);
    CountReject(*reject);
  }
}

}  // namespace lstm::server
