// SPDX-License-Identifier: MIT
#include "client/cpp/session_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"

namespace lstm::client {
namespace {

constexpr uint32_t kLeastPauseMs = 5;
constexpr uint32_t kFirstAttachPauseMs = 100, kMostAttachPauseMs = 5'000;
constexpr uint32_t kMostPauseMs = 30'000;  // whatever a server asks for
constexpr uint32_t kUsualWindow = 8;       // until the server names its own
constexpr uint64_t kMostMissed = 1 << 16;  // a window is smaller; bounds what a hostile server makes us keep
constexpr size_t kIdBytes = 16, kTokenBytes = 32;

absl::Status DataLoss(const std::string& message) { return RefusalStatus(absl::StatusCode::kDataLoss, v1::LOST, message); }
absl::Status Diverged(const std::string& message) { return RefusalStatus(absl::StatusCode::kDataLoss, v1::DIVERGED, message); }
absl::Status Broken(const std::string& message) {
  return absl::InternalError(absl::StrCat("the server broke the protocol: ", message, "; the session is not used any more"));
}

// An empty digest says nothing.
bool Differ(const std::string& a, const std::string& b) { return !a.empty() && !b.empty() && a != b; }

}  // namespace

SessionLog::SessionLog(v1::Open open, size_t keep_turns) : open_(std::move(open)), keep_turns_(keep_turns) {}

absl::StatusOr<v1::Resume> SessionLog::Parse(const std::string& saved) {
  v1::Resume resume;
  if (resume.ParseFromString(saved) && resume.session_id().size() == kIdBytes && resume.resume_token().size() == kTokenBytes) return resume;
  return absl::InvalidArgumentError("this is no saved session, expected what Session::Save or `lstm-client stream --save` wrote");
}

absl::StatusOr<SessionLog> SessionLog::FromSaved(const std::string& saved, size_t keep_turns, uint64_t holder) {
  const auto parsed = Parse(saved);
  if (!parsed.ok()) return parsed.status();
  const v1::Resume& resume = *parsed;
  SessionLog log;
  log.keep_turns_ = keep_turns;
  log.phase_ = Phase::kResuming;
  log.open_.set_accept_value_equal(resume.accept_value_equal());
  log.open_.set_holder(holder);
  log.opened_.set_session_id(resume.session_id());
  log.opened_.set_resume_token(resume.resume_token());
  log.have_seq_ = resume.have_seq();
  log.have_digest_ = resume.have_digest();
  log.base_ = log.have_seq_ + 1;
  return log;
}

absl::StatusOr<std::string> SessionLog::Save() const {
  if (over()) return absl::FailedPreconditionError("the session has ended: there is nothing to save");
  if (!known_) return absl::FailedPreconditionError("the session is not open yet");
  v1::Resume resume;
  resume.set_session_id(opened_.session_id());
  resume.set_resume_token(opened_.resume_token());
  resume.set_have_seq(have_seq_);
  resume.set_have_digest(have_digest_);
  resume.set_accept_value_equal(open_.accept_value_equal());
  return resume.SerializeAsString();
}

uint32_t SessionLog::Window() const {
  return opened_.window() > 0 ? opened_.window() : open_.window() > 0 ? open_.window() : kUsualWindow;
}

bool SessionLog::room() const {
  if (over() || closing_ || ghosts_ > 0 || !failed_.empty()) return false;
  return (known_ || phase_ == Phase::kOpening) && unanswered() < Window();
}

void SessionLog::Connected(uint32_t lane, Actions& out) {
  if (over()) return;
  lane_ = lane;
  connected_ = true;
  pausing_ = false;
  Attach(out);
}

void SessionLog::Attach(Actions& out) {
  ++attached_;
  if (phase_ == Phase::kOpening) {
    v1::Open& open = *out.requests.emplace_back().mutable_open();
    open = open_;
    open.set_lane(lane_);
    open.set_attempt(attached_);
    return;
  }
  v1::Resume& resume = *out.requests.emplace_back().mutable_resume();
  resume.set_lane(lane_);
  resume.set_session_id(opened_.session_id());
  resume.set_resume_token(opened_.resume_token());
  resume.set_have_seq(have_seq_);
  resume.set_have_digest(have_digest_);
  resume.set_replay_from(Kept() > 0 ? base_ : 0);
  resume.set_accept_value_equal(open_.accept_value_equal());
  resume.set_holder(open_.holder());
  resume.set_attempt(attached_);
  resume.set_again(opened_.epoch() > 0);
}

void SessionLog::Lost(const absl::Status& why, Actions& out) {
  connected_ = pausing_ = false;
  if (over()) return;
  if (phase_ == Phase::kLive && simple()) return Fail(why, out);
  if (phase_ == Phase::kLive) phase_ = Phase::kResuming;
  ghosts_ = refused_ = 0;  // what the old connection owed will not come, and is not applied any more once we have resumed
  attempts_ = pause_ms_ = 0;
}

void SessionLog::Retry(Actions& out) {
  if (!pausing_) return;
  pausing_ = false;
  if (phase_ != Phase::kLive) return Attach(out);
  Go(answer_, answer_, out);
}

uint64_t SessionLog::Send(v1::Step step, Actions& out) {
  turns_.push_back({std::move(step), "", false, false});
  Settle(out);
  return Next() - 1;
}

void SessionLog::Close(Actions& out) {
  closing_ = true;
  Settle(out);
}

void SessionLog::GiveUp(const absl::Status& why, Actions& out) {
  if (over()) return;
  // Its server process is gone or has closed it: both are the end that was asked for.
  const bool closed = close_sent_ && opened_.durability() == v1::VOLATILE;
  End(closed ? Phase::kClosed : Phase::kEnded, why, why, out);
}

void SessionLog::Take(v1::Response& response, Actions& out) {
  if (over() || !connected_) return;
  switch (response.kind_case()) {
    case v1::Response::kOpened: return OnOpened(response.opened(), out);
    case v1::Response::kResumed: return OnResumed(response.resumed(), out);
    case v1::Response::kResult: return OnResult(*response.mutable_result(), out);
    case v1::Response::kReject: return OnReject(response.reject(), out);
    case v1::Response::kClosed: return End(Phase::kClosed, absl::OkStatus(), absl::CancelledError("the session was closed"), out);
    case v1::Response::kFenced: return Fail(FencedStatus("another stream took the session: it goes on there, and has ended here"), out);
    case v1::Response::kEnded: {
      const v1::Ended& ended = response.ended();
      const absl::StatusCode code = ended.reason() == v1::EXPIRED                                 ? absl::StatusCode::kNotFound
                                    : ended.reason() == v1::LOST || ended.reason() == v1::DIVERGED ? absl::StatusCode::kDataLoss
                                    : ended.reason() == v1::BROKEN                                ? absl::StatusCode::kInternal
                                                                                                  : absl::StatusCode::kAborted;
      return Fail(RefusalStatus(code, ended.reason(), ended.message()), out);
    }
    default: return;  // what concerns the stream, or is not used
  }
}

void SessionLog::OnOpened(const v1::Opened& opened, Actions& out) {
  if (phase_ != Phase::kOpening) return;
  opened_ = opened;
  known_ = true;
  // Where an Opened was lost, turns may be applied already: those before it are sent again, and get their stored answers.
  if (opened.applied_seq() >= Next()) return Fail(Broken("a new session has turns that were never sent"), out);
  Go(1, 1, out);
}

void SessionLog::OnResumed(const v1::Resumed& resumed, Actions& out) {
  if (phase_ != Phase::kResuming) return;
  const uint64_t applied = resumed.applied_seq();
  const bool others = opened_.epoch() > 0 && resumed.epoch() > opened_.epoch() + (attached_ - attached_before_);
  if (others && applied > have_seq_) {  // answers in between may be to turns of somebody else
    return Fail(FencedStatus(absl::StrCat("another client had the session meanwhile, and has gone on to turn ", applied)), out);
  }
  opened_.set_epoch(resumed.epoch());
  if (resumed.window() > 0) {
    opened_.set_window(resumed.window());
    opened_.set_model_hash(resumed.model_hash());
    opened_.set_numerics_id(resumed.numerics_id());
    opened_.set_max_turn_answer_bytes(resumed.max_turn_answer_bytes());
    opened_.set_durability(resumed.durability());
    opened_.set_ttl_seconds(resumed.ttl_seconds());
    opened_.set_model(resumed.model());
    opened_.set_version(resumed.version());
  }
  opened_.set_applied_seq(applied);
  durable_seq_ = resumed.durable_seq();
  if (!std::exchange(known_, true)) {
    if (applied > have_seq_ + kMostMissed) return Fail(Broken(absl::StrCat("applied_seq ", applied, " is far beyond have_seq ", have_seq_)), out);
    while (Next() <= applied) turns_.push_back({{}, "", true, false});
  } else if (applied >= Next()) {  // its answers would be taken for those to our own turns
    return Fail(FencedStatus(absl::StrCat("another client has gone on with the session: it stands at turn ", applied, ", and ", Next() - 1,
                                          " were sent here")),
                out);
  }
  const uint64_t first = std::max(applied, have_seq_) + 1;  // the first turn that must be sent again
  if (applied + 1 < base_ || (first < Next() && At(first).missed)) {
    return Fail(DataLoss(absl::StrCat("the server stands at turn ", applied, ", and ", have_seq_,
                                      " were answered; their inputs are not at hand any more")),
                out);
  }
  const std::string& digest = applied == have_seq_ ? have_digest_ : applied >= base_ && applied < have_seq_ ? At(applied).digest : "";
  if (Differ(digest, resumed.state_digest())) {
    return Fail(Diverged(absl::StrCat("the server's state after turn ", applied, " is not the one whose answer came before")), out);
  }
  due_ = applied;
  close_sent_ = false;
  Go(std::min(applied, have_seq_) + 1, applied + 1, out);
}

void SessionLog::OnResult(v1::Result& result, Actions& out) {
  const uint64_t seq = result.seq();
  if (phase_ != Phase::kLive || seq < answer_) return;  // a repeat
  if (seq != answer_ || seq >= send_ || At(seq).refused) {
    return Fail(Broken(absl::StrCat("an answer to turn ", seq, " where ", answer_, " was due")), out);
  }
  Turn& turn = At(seq);
  ++answer_;
  durable_seq_ = std::max(durable_seq_, result.durable_seq());
  if (seq <= have_seq_) {  // computed again
    if (Differ(turn.digest, result.state_digest())) {
      return Fail(Diverged(absl::StrCat("turn ", seq, ", computed again, leads to another state than before")), out);
    }
  } else {
    have_seq_ = seq;
    have_digest_ = turn.digest = result.state_digest();
    out.answers.push_back({seq, turn.missed, std::move(result)});
  }
  Trim();
  Settle(out);
}

void SessionLog::OnReject(const v1::Reject& reject, Actions& out) {
  const uint64_t seq = reject.seq();
  if (phase_ != Phase::kLive) {
    if (seq == 0) OnAttachRefused(reject, out);
    return;
  }
  if (seq == 0) return Fail(ToStatus(reject), out);  // of a Close: the server does not have the session
  if (seq < answer_) return;
  if (seq >= send_) {
    if (ghosts_ > 0) --ghosts_;
    return Settle(out);
  }
  if (seq <= due_) return Fail(Broken(absl::StrCat("turn ", seq, " was applied, and is refused now: ", reject.message())), out);
  if (IsTransient(reject.reason()) || reject.reason() == v1::DRAINING) {
    if (reject.reason() == v1::GAP && reject.expected_seq() > 0 && reject.expected_seq() < answer_) {
      return Fail(DataLoss(absl::StrCat("the server expects turn ", reject.expected_seq(), " again, which it had answered")), out);
    }
    Turn& turn = At(seq);
    if (!std::exchange(turn.refused, true)) ++refused_;
    pause_ms_ = std::max(pause_ms_, reject.retry_after_ms());
  } else if (seq <= have_seq_) {
    return Fail(Diverged(absl::StrCat("turn ", seq, " was answered before, and is refused now: ", reject.message())), out);
  } else {
    FailFrom(seq, ToStatus(reject));
  }
  Settle(out);
}

void SessionLog::OnAttachRefused(const v1::Reject& reject, Actions& out) {
  // LOST: a loss of power may leave half of a session whose Close was carried out. Nothing of it is wanted any more.
  if (close_sent_ && (reject.reason() == v1::NOT_FOUND || reject.reason() == v1::EXPIRED || reject.reason() == v1::LOST)) {
    return End(Phase::kClosed, absl::OkStatus(), absl::CancelledError("the session was closed"), out);
  }
  if (reject.reason() == v1::FENCED) return Fail(FencedStatus(reject.message()), out);
  if (!IsTransientAttach(reject.reason())) return Fail(ToStatus(reject), out);
  refusal_ = ToStatus(reject);
  pausing_ = true;
  const uint32_t own = std::min(kMostAttachPauseMs, kFirstAttachPauseMs << std::min(attempts_++, 10u));
  out.pause_ms = std::min(kMostPauseMs, std::max(own, reject.retry_after_ms()));
}

// The turn `seq` and all behind it fail. Their seqs are free again, once the refusals that the server owes to those behind
// it have come.
void SessionLog::FailFrom(uint64_t seq, const absl::Status& status) {
  std::vector<absl::Status> failed = {status};
  if (At(seq).refused) --refused_;
  for (uint64_t behind = seq + 1; behind < Next(); ++behind) {
    if (behind < send_) At(behind).refused ? --refused_ : ++ghosts_;
    failed.push_back(absl::AbortedError(absl::StrCat("not applied: the turn before it was refused: ", status.message())));
  }
  failed_.insert(failed_.begin(), std::make_move_iterator(failed.begin()), std::make_move_iterator(failed.end()));
  turns_.resize(static_cast<size_t>(seq - base_));
  send_ = seq;
}

// Drops answered turns that need not be kept; never one that is being computed again.
void SessionLog::Trim() {
  while (Kept() > 0 && base_ < answer_ && (Kept() > keep_turns_ || base_ <= durable_seq_ || turns_.front().missed)) {
    turns_.pop_front();
    ++base_;
  }
}

// Live, with answers due from `answer` on and turns to be sent from `send` on.
void SessionLog::Go(uint64_t answer, uint64_t send, Actions& out) {
  phase_ = Phase::kLive;
  attached_before_ = attached_;
  refusal_ = absl::OkStatus();
  attempts_ = pause_ms_ = 0;
  answer_ = answer;
  send_ = send;
  refused_ = 0;
  for (Turn& turn : turns_) turn.refused = false;
  Trim();
  Settle(out);
}

// Does what has become possible.
void SessionLog::Settle(Actions& out) {
  if (turns_.size() == Kept() && !failed_.empty()) {  // all in front of them are answered
    uint64_t seq = Next();
    for (absl::Status& status : failed_) out.answers.push_back({seq++, false, std::move(status)});
    failed_.clear();
  }
  if (phase_ != Phase::kLive || pausing_ || ghosts_ > 0) return;
  if (refused_ > 0) {
    if (refused_ < send_ - answer_) return;
    pausing_ = true;
    out.pause_ms = std::clamp(std::exchange(pause_ms_, 0), kLeastPauseMs, kMostPauseMs);
    return;
  }
  for (; send_ < Next() && send_ - answer_ < Window(); ++send_) {
    v1::Step& step = *out.requests.emplace_back().mutable_step();
    step = At(send_).step;
    step.set_lane(lane_);
    step.set_seq(send_);
    step.set_ack(std::min(have_seq_, send_ - 1));
    if (send_ <= have_seq_) step.clear_deadline_us();  // computed again, whenever that is
  }
  if (closing_ && !close_sent_ && unanswered() == 0 && answer_ > have_seq_) {
    close_sent_ = true;
    out.requests.emplace_back().mutable_close()->set_lane(lane_);
  }
}

void SessionLog::End(Phase phase, const absl::Status& status, const absl::Status& of_turns, Actions& out) {
  phase_ = phase;
  if (phase == Phase::kEnded) status_ = status;
  pausing_ = false;
  const bool failed_behind = !failed_.empty();
  const uint64_t end = Next() + failed_.size();
  for (uint64_t seq = have_seq_ + 1; seq < end; ++seq) {
    const bool own = seq < Next();
    out.answers.push_back({seq, own && At(seq).missed, own || !failed_behind ? of_turns : failed_[static_cast<size_t>(seq - Next())]});
  }
  turns_.clear();
  failed_.clear();
  base_ = have_seq_ + 1;
}

}  // namespace lstm::client
