// SPDX-License-Identifier: MIT
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/shard/predict.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"

// The life of a turn: checked and queued, computed, committed, answered.
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint32_t kNoMemoryRetryMs = 100;
constexpr uint64_t kTurnOverheadBytes = sizeof(TurnRecord) + 64;
constexpr size_t kSpareRecords = 4096;
constexpr size_t kSpareRows = 256;
constexpr size_t kKeptBufferBytes = 64u << 10;  // a recycled record does not hold on to more

InputDigest DigestOf(const TurnRecord& record) {
  const uint64_t seed = uint64_t{record.steps} | uint64_t{record.reset_before} << 32 | uint64_t{record.discard} << 33;
  const XXH128_hash_t hash = XXH3_128bits_withSeed(record.input.data(), record.input.size(), seed);
  return {hash.low64, hash.high64};
}

}  // namespace

void Shard::OnStep(Stream* stream, const v1::Step& step) {
  Session* session = OnLane(stream, step.lane());
  if (session == nullptr) {
    return RejectLane(stream, step.lane(), step.seq(), v1::NO_SESSION, "nothing is open on this lane");
  }
  const uint64_t now = clock_();
  session->last_used_us = now;
  session->warned = false;
  const SessionMachine::Classified place = session->machine.Classify(step.seq(), step.ack());
  Trim(session);
  if (place.position == SessionMachine::Position::kRefused) {
    v1::Reject* reject = stream->sink_->Next(kSmallResponse)->mutable_reject();
    reject->set_lane(step.lane());
    reject->set_seq(place.seq);
    return FillReject(place.why, place.expected_seq, reject);
  }

  TurnRecordPtr record = TakeRecord();
  record->session = session;
  record->reset_before = step.reset_before();
  record->discard = step.discard();
  record->received_us = now;
  absl::Status valid;
  if (step.reset_before() && step.steps() == 0 && step.inputs().empty()) {
    record->steps = 0;
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
  record->charged_bytes = kTurnOverheadBytes + record->input.size() + answer_bytes;
  v1::Reason reason = v1::REASON_UNSPECIFIED;
  std::string message;
  uint32_t retry_after_ms = 0;
  if (!valid.ok()) {
    reason = v1::INVALID;
    message = std::string(valid.message());
  } else if (answer_bytes > options_.max_turn_answer_bytes) {
    reason = v1::INVALID;
    message = absl::StrCat("the answer to ", record->steps, " steps has ", answer_bytes, " bytes, at most ",
                           options_.max_turn_answer_bytes, " can be sent: steps may be at most ",
                           options_.max_turn_answer_bytes / session->answer_step_bytes);
  } else if (!budget_->TakeBytes(record->charged_bytes)) {
    reason = v1::BYTES;
    message = "no memory for this turn now; nothing was applied, send it again";
    retry_after_ms = kNoMemoryRetryMs;
  }
  if (reason != v1::REASON_UNSPECIFIED) {
    record->charged_bytes = 0;
    RecycleRecord(std::move(record));
    v1::Reject* reject = stream->sink_->Next(kSmallResponse + message.size())->mutable_reject();
    reject->set_lane(step.lane());
    reject->set_seq(place.seq);
    return FillReject(reason, message, retry_after_ms, reject);
  }

  session->machine.Admit(place.seq, DigestOf(*record), step.deadline_us() == 0 ? 0 : now + step.deadline_us());
  record->waiting = true;
  stream->backlog_bytes_ += record->charged_bytes;
  ++stream->outstanding_;
  session->records.push_back(std::move(record));
  Advance(session);
}

void Shard::OnDuplicate(Session* session, uint64_t seq, const TurnRecord& asked, bool valid) {
  // What does not decode is not what was sent before under this seq.
  const auto match = valid ? session->machine.MatchDuplicate(seq, DigestOf(asked)) : SessionMachine::Match::kReused;
  if (match == SessionMachine::Match::kReplay) {
    SendResult(session, *session->records[seq - session->first_record - 1], seq, true);
  } else if (match == SessionMachine::Match::kReused) {
    v1::Reject* reject = session->stream->sink_->Next(kSmallResponse)->mutable_reject();
    reject->set_lane(session->lane);
    reject->set_seq(seq);
    FillReject(Refusal::kSeqReused, 0, reject);
  }
}

void Shard::Advance(Session* session) {
  while (!session->machine.computing() && !session->doomed) {
    refused_.clear();
    const std::optional<uint64_t> seq = session->machine.Begin(clock_(), refused_);
    SendRefused(session);
    if (!seq) break;
    TurnRecord* record = session->records[*seq - session->first_record - 1].get();
    record->began_us = clock_();
    if (record->steps > 0) {
      Start(record);
      return;
    }
    const std::span<const float> initial = session->initial_state();
    if (!record->discard) std::copy(initial.begin(), initial.end(), session->state.data());
    Commit(session, record);
  }
  if (session->closing && session->machine.waiting() == 0) {
    if (session->stream != nullptr) {
      v1::Closed* closed = session->stream->sink_->Next(kSmallResponse)->mutable_closed();
      closed->set_lane(session->lane);
      closed->set_applied_seq(session->machine.applied());
    }
    EndSession(session, "its client closed it");
  }
}

void Shard::Start(TurnRecord* record) {
  const Session& session = *record->session;
  record->program = &session.program();
  record->last_step_only = session.last_step_only;
  record->state = record->reset_before ? session.initial_state().data() : session.state.data();
  record->answer.resize(record->answer_steps * session.answer_step_bytes);
  BindBuffers(record, session.selected);
  TakeScratch(record);
  engine_.Add(record);
}

void Shard::BindBuffers(TurnRecord* record, const std::vector<uint32_t>& selected) {
  record->inputs.clear();
  const std::byte* input = record->input.data();
  for (const auto& port : record->program->inputs()) {
    record->inputs.push_back(input);
    input += record->steps * port.step_bytes;
  }
  const auto& ports = record->program->outputs();
  record->outputs.assign(ports.size(), nullptr);
  std::byte* answer = record->answer.data();
  for (uint32_t o : selected) {
    record->outputs[o] = answer;
    answer += record->answer_steps * ports[o].step_bytes;
  }
}

void Shard::Work() {
  const uint64_t until = clock_() + options_.slice_us;
  finished_.clear();
  do {
    engine_.RunBatch(finished_);
  } while (finished_.empty() && !engine_.idle() && clock_() < until);
  for (core::Turn* turn : finished_) OnFinished(static_cast<TurnRecord*>(turn));
}

void Shard::OnFinished(TurnRecord* record) {
  if (record->predict != nullptr) return FinishPredict(record);
  Session* session = record->session;
  record->finished_us = clock_();
  if (session->doomed) {
    GiveScratch(record);
    session->machine.Commit();
    return EndSession(session, "it was ended");
  }
  if (record->status.ok()) {
    if (!record->discard) {
      std::memcpy(session->state.data(), record->new_state, session->state.size() * sizeof(float));
    }
    GiveScratch(record);
    Commit(session, record);
  } else {
    GiveScratch(record);
    refused_.clear();
    session->machine.Abort(absl::IsInvalidArgument(record->status) ? Refusal::kNonFinite : Refusal::kRetry, refused_);
    SendRefused(session);
  }
  Advance(session);
}

void Shard::Commit(Session* session, TurnRecord* record) {
  session->steps += record->steps;
  session->last_used_us = clock_();
  record->state_digest = XXH3_64bits(session->state.data(), session->state.size() * sizeof(float));
  SettleBacklog(session, *record);
  const uint32_t copies = session->machine.Commit();
  const uint64_t seq = session->machine.applied();
  if (session->stream != nullptr) {
    for (uint32_t copy = 0; copy < copies; ++copy) SendResult(session, *record, seq, copy > 0);
  }
  if (session->machine.options().simple) session->machine.Acknowledge(seq);
  Trim(session);
}

void Shard::SendResult(Session* session, const TurnRecord& record, uint64_t seq, bool replayed) {
  v1::Result* result = session->stream->sink_->Next(kSmallResponse + record.answer.size())->mutable_result();
  result->set_lane(session->lane);
  result->set_seq(seq);
  result->set_epoch(1);
  result->set_state_digest(&record.state_digest, sizeof(record.state_digest));
  result->set_replayed(replayed);
  if (record.answer_steps > 0) {
    EncodeOutputs(session->program(), session->selected, record.answer_steps, record.answer, result->mutable_outputs());
  }
  if (session->timings) {
    v1::Timings* timings = result->mutable_timings();
    timings->set_queue_us(static_cast<uint32_t>(record.began_us - record.received_us));
    timings->set_compute_us(record.steps > 0 ? static_cast<uint32_t>(record.finished_us - record.began_us) : 0);
    timings->set_batch_rows(record.batch_rows);
  }
}

void Shard::SendRefused(Session* session) {
  for (const Refused& refused : refused_) {
    if (session->stream == nullptr) continue;
    for (uint32_t copy = 0; copy < refused.copies; ++copy) {
      v1::Reject* reject = session->stream->sink_->Next(kSmallResponse)->mutable_reject();
      reject->set_lane(session->lane);
      reject->set_seq(refused.seq);
      FillReject(refused.why, refused.expected_seq, reject);
      if (refused.why == Refusal::kNonFinite) {
        reject->set_message(absl::StrCat(session->records[refused.seq - session->first_record - 1]->status.message(), "; nothing was applied"));
      }
    }
  }
  refused_.clear();
  Trim(session);
}

void Shard::SettleBacklog(Session* session, TurnRecord& record) {
  if (!std::exchange(record.waiting, false) || session->stream == nullptr) return;
  session->stream->backlog_bytes_ -= record.charged_bytes;
  --session->stream->outstanding_;
}

void Shard::Trim(Session* session) {
  const SessionMachine& machine = session->machine;
  while (session->first_record + session->records.size() > machine.last()) {
    SettleBacklog(session, *session->records.back());
    RecycleRecord(session->records.pop_back());
  }
  while (session->first_record < machine.acked() && !session->records.empty()) {
    RecycleRecord(session->records.pop_front());
    ++session->first_record;
  }
}

TurnRecordPtr Shard::TakeRecord() {
  if (spare_records_.empty()) return std::make_unique<TurnRecord>();
  TurnRecordPtr record = std::move(spare_records_.back());
  spare_records_.pop_back();
  return record;
}

void Shard::RecycleRecord(TurnRecordPtr record) {
  budget_->GiveBytes(std::exchange(record->charged_bytes, 0));
  if (spare_records_.size() >= kSpareRecords) return;
  record->session = nullptr;
  record->input.clear();
  record->answer.clear();
  record->steps = record->batch_rows = 0;
  if (record->input.capacity() > kKeptBufferBytes) record->input = {};
  if (record->answer.capacity() > kKeptBufferBytes) record->answer = {};
  spare_records_.push_back(std::move(record));
}

void Shard::TakeScratch(TurnRecord* record) {
  const size_t size = record->program->state_floats();
  std::vector<core::AlignedBuffer<float>>& spare = spare_rows_[size];
  for (size_t i = 0; i < 2; ++i) {
    if (spare.empty()) {
      record->rows[i] = core::AlignedBuffer<float>(size);
    } else {
      record->rows[i] = std::move(spare.back());
      spare.pop_back();
    }
    record->scratch[i] = record->rows[i].data();
  }
}

void Shard::GiveScratch(TurnRecord* record) {
  std::vector<core::AlignedBuffer<float>>& spare = spare_rows_[record->program->state_floats()];
  for (core::AlignedBuffer<float>& row : record->rows) {
    if (spare.size() >= kSpareRows) {
      row = {};
      continue;
    }
    std::fill(row.span().begin(), row.span().end(), 0.0f);
    spare.push_back(std::move(row));
  }
}

}  // namespace lstm::server
