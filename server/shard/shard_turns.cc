// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/fail_point.h"
#include "core/base/prefetch.h"
#include "server/session/digest.h"
#include "server/session/mutant.h"
#include "server/shard/predict.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"

// The life of a turn, once it was admitted: computed, committed, answered.
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr size_t kApart = 2;  // turns between that something is asked for and that it is there
constexpr uint64_t kLooksAQueue = 64;
constexpr double kRowMemory = 1.0 / 16, kRowOutlier = 8;  // a process that is stopped for a while has not become slow

// What a long answer has so far of its first output goes into its CRC at once: at the commit it would have to come from memory.
void SumWhileWarm(core::Turn& turn) {
  auto& record = static_cast<TurnRecord&>(turn);
  const size_t step_bytes = turn.program->outputs()[record.session->selected.front()].step_bytes;
  record.answer_crc.Extend(record.answer, turn.done * step_bytes);
}

}  // namespace

void Shard::Advance(Session* session) {
  while (!session->machine.computing() && !session->syncing) {
    refused_.clear();
    const std::optional<uint64_t> seq = session->machine.Begin(services_.clock(), refused_);
    SendRefused(session);
    if (!seq) break;
    session->records[*seq - session->first_record - 1]->began_us = services_.clock();
    if (!Begun(session)) return;
  }
  if (session->closing && session->machine.waiting() == 0) {
    if (session->stream != nullptr) {
      v1::Closed* closed = session->stream->sink_->Next(kSmallResponse)->mutable_closed();
      closed->set_lane(session->lane);
      closed->set_applied_seq(session->machine.applied());
    }
    EndSession(session, v1::NOT_FOUND, "the session is gone: its client closed it; open another");
  }
}

// What the machine has begun goes to the engine, with a place for its answer.
bool Shard::Begun(Session* session) {
  TurnRecord* record = session->records[session->machine.applied() - session->first_record].get();
  const size_t answer_bytes = record->answer_steps * session->answer_step_bytes;
  if (session->stored()) {
    std::optional<uint32_t> place = session->slot->Place(answer_bytes);
    if (!place && session->machine.acked() > session->slot->position().acked) {  // the acknowledgements make room once they are written
      session->slot->Commit(PositionOf(*session));
      if (session->durability == v1::HOST) {
        Sync(session, [this, session](const auto* gone) { static_cast<void>(gone != nullptr || Begun(session)); });
        return false;
      }
      place = session->slot->Place(answer_bytes);
    }
    if (!place) {
      refused_.clear();
      session->machine.Abort(Refusal::kWindow, refused_);
      SendRefused(session);
      return true;
    }
    record->place = *place;
    record->answer = session->slot->AnswerAt(*place, answer_bytes);
    record->answer_crc = {};
  } else {
    record->answer_memory.resize(answer_bytes);
    record->answer = record->answer_memory;
  }
  if (record->steps > 0) {
    Start(record);
    return false;
  }
  record->finished_us = record->began_us;
  Commit(session, record, record->discard ? session->state() : session->initial_state());
  return !session->syncing;
}

void Shard::Start(TurnRecord* record) {
  Session& session = *record->session;
  record->program = &session.program();
  record->alone = session.suspect;
  record->last_step_only = session.last_step_only;
  record->state = record->reset_before && !Mutant(31) ? session.initial_state().data() : session.state().data();
  BindBuffers(record, session.selected);
  // The last step ends where a stored session's next state lies anyway.
  const size_t last = (record->steps - 1) % 2;
  if (session.stored()) record->scratch[last] = session.slot->BeginState().data();
  record->on_progress = session.stored() && !session.last_step_only && !session.selected.empty() ? &SumWhileWarm : nullptr;
  if (!session.stored()) TakeScratch(record, last);
  if (record->steps > 1) TakeScratch(record, 1 - last);
  engine_.Add(record);
}

const Shard*& Shard::Working() {
  thread_local constinit const Shard* working = nullptr;
  return working;
}

void Shard::NoteCrash(int signal) {
  const Shard* const working = Working();
  if (working == nullptr || working->services_.suspects == nullptr) return;
  for (const core::Turn* turn : working->engine_.running()) {
    const Session* session = static_cast<const TurnRecord*>(turn)->session;
    if (session != nullptr && session->stored()) working->services_.suspects->Note(session->id, session->machine.applied() + 1, signal);
  }
}

// Where many turns with many steps wait, who comes is held up by them in any case, and a look at the network for each message alone takes the time of
// those who are served. One long turn holds up nobody for longer than a step.
uint64_t Shard::SliceUs() const {
  const auto round_us = static_cast<uint64_t>(row_us_ * static_cast<double>(engine_.waiting()));
  if (round_us <= options_.slice_us) return options_.slice_us;
  const auto queue_us = static_cast<uint64_t>(row_us_ * static_cast<double>(engine_.steps_left()));
  return std::max(options_.slice_us, std::min({round_us, queue_us / kLooksAQueue, options_.most_slice_us}));
}

void Shard::Work() {
  Working() = this;
  uint64_t now = services_.clock();
  const uint64_t until = now + SliceUs();
  finished_.clear();
  do {
    const size_t all = engine_.RunBatch(finished_);
    const uint64_t before = std::exchange(now, services_.clock());
    spent_us_ += now - before;
    if (all == 0) continue;  // a piece: its time is that of the rows which it ends with, in whichever call of this function
    const size_t rows = canary_ && canary_->record.done > 0 ? all - 1 : all;  // it ends with its one step
    const uint64_t took = std::exchange(spent_us_, 0);
    if (rows > 0) {
      counters_.rows.Add(rows);
      counters_.batch_us.Add(took);
      const double row_us = static_cast<double>(took) / static_cast<double>(rows);
      row_us_ += (row_us_ > 0 ? (std::min(row_us, kRowOutlier * row_us_) - row_us_) * kRowMemory : row_us);
    }
  } while (finished_.empty() && !engine_.idle() && now < until);
  // Of many at once each would wait for memory alone: what the next ones need comes in meanwhile, the record first, then the session that it names,
  // then what that has in the store.
  const size_t n = finished_.size();
  const auto session_of = [this, n](size_t i) { return i < n ? static_cast<TurnRecord*>(finished_[i])->session : nullptr; };
  for (size_t k = 0; k < n + 3 * kApart; ++k) {
    if (k < n) core::Prefetch(finished_[k], sizeof(TurnRecord));
    if (const Session* session = session_of(k - kApart)) core::Prefetch(session, sizeof(Session));
    if (const Session* session = session_of(k - 2 * kApart); session != nullptr && session->stored()) session->slot->PrefetchCommit();
    if (k >= 3 * kApart) OnFinished(static_cast<TurnRecord*>(finished_[k - 3 * kApart]));
  }
}

void Shard::OnFinished(TurnRecord* record) {
  if (record->predict != nullptr) return record->predict == canary_.get() ? FinishCanary() : FinishPredict(record);
  Session* session = record->session;
  record->finished_us = services_.clock();
  core::FailPoint("turn.computed");
  if (record->status.ok()) {
    const bool keep = !record->discard || Mutant(32);
    Commit(session, record, keep ? std::span<const float>(record->new_state, session->state().size()) : session->state());
    if (!session->syncing) Advance(session);
    return;
  }
  if (!absl::IsInvalidArgument(record->status)) {
    counters_.kernel_failures.Add();
    LogFault("computing failed: the turn is refused, nothing of it was applied", *session, record->status.ToString());
  }
  GiveScratch(record);
  refused_.clear();
  session->machine.Abort(absl::IsInvalidArgument(record->status) ? Refusal::kNonFinite : Refusal::kRetry, refused_);
  SendRefused(session);
  Advance(session);
}

// The turn being computed has led to `state`: written where it belongs, then answered.
void Shard::Commit(Session* session, TurnRecord* record, std::span<const float> state) {
  session->steps += record->steps;
  counters_.turns.Add();
  counters_.steps.Add(record->steps);
  counters_.queue_us.Add(record->began_us - record->received_us);
  counters_.compute_us.Add(record->finished_us - record->began_us);
  session->state_digest = record->state_digest = StateDigest(state);
  session->last_used_us = services_.clock();
  if (!session->stored()) {
    for (core::AlignedBuffer<float>& row : record->rows) {
      if (row.data() != state.data()) continue;
      std::swap(row, session->memory);
      state = session->memory.span();
    }
    if (state.data() != session->memory.data()) std::memcpy(session->memory.data(), state.data(), state.size_bytes());
    GiveScratch(record);
    return Committed(session);
  }
  StoredPosition position = PositionOf(*session);
  ++position.applied;
  session->slot->Commit(position, state, record->digest, record->answer_steps, record->place, record->answer, record->answer_crc);
  counters_.commit_us.Add(services_.clock() - session->last_used_us);
  GiveScratch(record);
  if (session->durability == v1::HOST && !Mutant(26)) {
    return Sync(session, [this, session](const auto* gone) {
      if (gone == nullptr) Committed(session);
    });
  }
  Committed(session);
}

void Shard::Committed(Session* session) {
  TurnRecord* record = session->records[session->machine.applied() - session->first_record].get();
  if (std::exchange(session->suspect, false)) services_.suspects->Clear(session->id);
  SettleBacklog(session, *record);
  const uint32_t copies = session->machine.Commit();
  const uint64_t seq = session->machine.applied();
  for (uint32_t copy = 0; session->stream != nullptr && copy < copies; ++copy) {
    v1::Result* result = NextResult(session, seq, record->state_digest, record->answer_steps, record->answer);
    result->set_replayed(copy > 0);
    if (session->timings) {
      v1::Timings* timings = result->mutable_timings();
      timings->set_queue_us(static_cast<uint32_t>(record->began_us - record->received_us));
      timings->set_compute_us(static_cast<uint32_t>(record->finished_us - record->began_us));
      timings->set_batch_rows(record->batch_rows);
    }
  }
  core::FailPoint("turn.answered");
  if (session->machine.options().simple) session->machine.Acknowledge(seq);
  Trim(session);
}

v1::Result* Shard::NextResult(Session* session, uint64_t seq, uint64_t state_digest, uint32_t steps, std::span<const std::byte> answer) {
  v1::Result* result = session->stream->sink_->Next(kSmallResponse + answer.size())->mutable_result();
  result->set_lane(session->lane);
  result->set_seq(seq);
  result->set_epoch(session->machine.epoch());
  result->set_state_digest(&state_digest, sizeof(state_digest));
  result->set_durable_seq(session->stored() ? seq : 0);
  if (steps > 0) EncodeOutputs(session->program(), session->selected, steps, answer, result->mutable_outputs());
  return result;
}

// The answer that was given to `seq`, which is applied and not acknowledged, once more.
void Shard::Replay(Session* session, uint64_t seq) {
  if (!session->stored()) {
    const size_t i = seq - session->first_record - 1;
    if (i >= session->records.size()) {  // a rule was broken
      counters_.lost_answers.Add();
      LogFault("answer lost", *session, "an answer that was given is not kept");
      return RejectLane(session->stream, session->lane, seq, v1::LOST, "an answer that was given is not kept: the session can not go on; open another, and tell the operator");
    }
    const TurnRecord& record = *session->records[i];
    return NextResult(session, seq, record.state_digest, record.answer_steps, record.answer)->set_replayed(true);
  }
  const size_t i = session->AnswerIndex(seq);
  const absl::StatusOr<std::span<const std::byte>> answer = session->slot->ReadAnswer(i);
  if (!answer.ok()) {
    counters_.lost_answers.Add();
    LogFault("answer lost", *session, answer.status().ToString());
    return RejectLane(session->stream, session->lane, seq, v1::LOST, std::string(answer.status().message()));
  }
  const StoredAnswer& stored = session->slot->answer(i);
  NextResult(session, seq, stored.state_digest, stored.steps, *answer)->set_replayed(true);
}

void Shard::SendRefused(Session* session) {
  for (const Refused& refused : refused_) {
    if (session->stream == nullptr) continue;
    for (uint32_t copy = 0; copy < refused.copies; ++copy) {
      v1::Reject* reject = session->stream->sink_->Next(kSmallResponse)->mutable_reject();
      reject->set_lane(session->lane);
      reject->set_seq(refused.seq);
      FillReject(refused.why, refused.expected_seq, reject);
      CountReject(*reject);
      if (refused.why == Refusal::kNonFinite) {
        reject->set_message(absl::StrCat(session->records[refused.seq - session->first_record - 1]->status.message(), "; nothing was applied: send other input, or begin anew with reset_before"));
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
  session->stream->sink_->Settled();
}

void Shard::Trim(Session* session) {
  const SessionMachine& machine = session->machine;
  while (session->first_record + session->records.size() > machine.last()) {
    SettleBacklog(session, *session->records.back());
    RecycleRecord(session->records.pop_back());
  }
  // A stored session's answers are in its slot.
  const uint64_t gone = session->stored() ? machine.applied() : machine.acked();
  while (session->first_record < gone && !session->records.empty()) {
    RecycleRecord(session->records.pop_front());
    ++session->first_record;
  }
}

}  // namespace lstm::server
