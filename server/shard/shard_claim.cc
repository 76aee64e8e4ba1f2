// SPDX-License-Identifier: MIT
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/fail_point.h"
#include "server/session/digest.h"
#include "server/session/mutant.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"

// How a session changes hands: Resume, a repeated Open, from stream to stream and from shard to shard.
//
//   the stream's shard:  OnResume -> RouteClaim -> ...                     ... -> Settle, or OnClaimRefused
//   the session's shard:                           OnClaim -> Take -> Deliver
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint32_t kRetryMs = 50;
constexpr uint32_t kMostHops = 16;
constexpr const char* kNotFound = SessionDirectory::kUnknown;

bool SameBytes(const std::string& digest, uint64_t state_digest) {
  return digest.empty() || (digest.size() == sizeof(state_digest) && std::memcmp(digest.data(), &state_digest, sizeof(state_digest)) == 0);
}

}  // namespace

void Shard::OnResume(Stream* stream, const v1::Resume& resume) {
  const auto refuse = [&](v1::Reason reason, const std::string& why) { RejectLane(stream, resume.lane(), 0, reason, why, reason == v1::INVALID ? 0 : kRetryMs); };
  if (draining_) return refuse(v1::DRAINING, "the server is going away; resume again in a moment");
  Claim claim{.shard = index_, .stream = stream->key_, .lane = resume.lane(), .principal = stream->principal_};
  if (resume.session_id().size() != claim.id.size()) {
    return refuse(v1::INVALID, absl::StrCat("session_id has ", resume.session_id().size(), " bytes, expected ", claim.id.size()));
  }
  if (resume.resume_token().size() != 32) return refuse(v1::INVALID, absl::StrCat("resume_token has ", resume.resume_token().size(), " bytes, expected 32"));
  std::copy(resume.session_id().begin(), resume.session_id().end(), claim.id.begin());
  SHA256(reinterpret_cast<const unsigned char*>(resume.resume_token().data()), resume.resume_token().size(), claim.token_hash.data());
  claim.have_seq = resume.have_seq();
  claim.have_digest = resume.have_digest();
  claim.replay_from = resume.replay_from();
  claim.accept_value_equal = resume.accept_value_equal();
  claim.holder = resume.holder();
  claim.attempt = resume.attempt();
  claim.again = resume.again();
  BeginClaim(stream, claim);
}

void Shard::BeginClaim(Stream* stream, const Claim& claim) {
  stream->lanes_[claim.lane];
  ++stream->pending_;
  RouteClaim(claim);
}

void Shard::RouteClaim(Claim claim) {
  const auto shard = services_.directory->ShardOf(claim.id);
  if (!shard) {
    const SessionDirectory::Absent absent = services_.directory->WhyAbsent(claim.id);
    const bool ours = std::equal(services_.instance.begin(), services_.instance.end(), claim.id.begin());
    if (absent.reason == v1::NOT_FOUND && !ours) {
      return RefuseClaim(claim, v1::ELSEWHERE, "the session lives in another server, which this one can not reach; resume it there");
    }
    return RefuseClaim(claim, absent.reason, absent.reason == v1::NOT_FOUND ? kNotFound : absent.why);
  }
  // The session may be on its way between two shards: then the claim comes before it, and follows.
  if (*shard == index_ && (Find(claim.id) != nullptr || parked_.Find(claim.id) != nullptr)) return OnClaim(claim);
  if (++claim.hops > kMostHops || !services_.peers->Send(*shard, [claim](Shard& s) { s.OnClaim(claim); })) {
    RefuseClaim(claim, v1::RETRY, "the session is changing hands; resume again in a moment");
  }
}

void Shard::OnClaim(const Claim& claim) {
  const auto again = [this, claim](const auto* gone) { gone != nullptr ? RefuseClaim(claim, gone->reason, gone->why) : OnClaim(claim); };
  if (parked_.Find(claim.id) != nullptr) return Unpark(claim.id, again);
  Session* session = Find(claim.id);
  if (session == nullptr) return RouteClaim(claim);
  if (session->syncing) return session->waiting.push_back(again);
  std::string why;
  const v1::Reason reason = CheckClaim(session, claim, why);
  if (reason == v1::REASON_UNSPECIFIED) return Take(session, claim);
  if (reason == v1::LOST && !session->verified) SetAside(session, reason, why);
  RefuseClaim(claim, reason, why);
}

v1::Reason Shard::CheckClaim(Session* session, const Claim& claim, std::string& why) {
  why = kNotFound;
  if (claim.principal != session->principal || session->machine.options().simple) return v1::NOT_FOUND;
  if (claim.by_nonce) {
    why = "the nonce belongs to a session of which answers were acknowledged; open with another nonce, or resume it";
    if (claim.model != session->model->name || !session->machine.nonce_valid()) return v1::NONCE_USED;
  } else if (CRYPTO_memcmp(claim.token_hash.data(), session->token_hash.data(), claim.token_hash.size()) != 0) {
    return v1::NOT_FOUND;
  }
  if (session->IsLate({claim.holder, claim.attempt})) {
    why = absl::StrCat("attempt is ", claim.attempt, ", but a later one of the same holder has had the session since; count attempts up");
    return v1::INVALID;
  }
  if (claim.again && session->holders[0].id != 0 && session->holders[0].id != claim.holder) {
    why = "another client has taken the session; resume it without `again` to take it back";
    return v1::FENCED;
  }
  if (const absl::Status verified = Verify(session); !verified.ok()) {
    why = std::string(verified.message());
    return v1::LOST;
  }
  if (!session->own_numerics && !session->accept_value_equal && !claim.accept_value_equal) {
    why = "this server's engine gives other bits than the one that the session began on; accept_value_equal goes on all the same";
    return v1::NUMERICS;
  }
  if (claim.by_nonce) return v1::REASON_UNSPECIFIED;
  const uint64_t applied = session->machine.applied();
  switch (session->machine.Reconcile(claim.have_seq, SameBytes(claim.have_digest, session->state_digest), claim.replay_from)) {
    case SessionMachine::Reconciled::kAgreed: return v1::REASON_UNSPECIFIED;
    case SessionMachine::Reconciled::kAlreadyAcked:
      why = absl::StrCat("have_seq is ", claim.have_seq, ", but answers up to seq ", session->machine.acked(), " were acknowledged and are gone; resume with what was acknowledged last");
      return v1::ALREADY_ACKED;
    case SessionMachine::Reconciled::kLost: break;
  }
  why = claim.have_seq > applied ? absl::StrCat("have_seq is ", claim.have_seq, ", but the session stands at seq ", applied, ": answers were lost; send replay_from where their turns are kept, else open another")
                                 : absl::StrCat("have_digest is not that of the session's state after seq ", applied, "; what the client has is of another: open a new one");
  return v1::LOST;
}

absl::Status Shard::Verify(Session* session) {
  if (session->verified) return absl::OkStatus();
  // Nothing runs before a recovered session's first claim: slot and machine agree.
  const absl::Status status = session->slot->Verify();
  if (!status.ok()) return status;
  const StoredPosition& position = session->slot->position();  // the older half's, where the newer one is damaged
  std::vector<InputDigest> answered;
  for (size_t i = 0; i < session->slot->answers(); ++i) answered.push_back(session->slot->answer(i).input);
  session->machine.Restore(position.epoch, session->base_seq, position.applied, position.acked, answered);
  session->first_record = position.applied;
  session->steps = position.steps;
  session->state_digest = position.state_digest;
  session->token_hash = position.token_hash;
  session->verified = true;
  return absl::OkStatus();
}

void Shard::Take(Session* session, Claim claim) {
  core::FailPoint("attach.before_epoch");
  TurnRecord* computing =
      session->machine.computing() ? session->records[session->machine.applied() - session->first_record].get() : nullptr;
  session->machine.Attach();
  if (computing != nullptr && !session->machine.computing()) {  // R2: nothing of it is kept
    engine_.Remove(computing);
    GiveScratch(computing);
  }
  if (session->stream != nullptr) {
    v1::Fenced* fenced = session->stream->sink_->Next(kSmallResponse)->mutable_fenced();
    fenced->set_lane(session->lane);
    fenced->set_by_epoch(session->machine.epoch());
    LeaveLane(session);
  }
  Trim(session);
  session->closing = session->warned = session->parking = false;  // a record on its way is of another serial
  session->HeldBy({claim.holder, claim.attempt});
  session->accept_value_equal |= claim.accept_value_equal;
  session->last_used_us = services_.clock();
  if (claim.by_nonce) claim.token = NewToken(session);
  if (session->stored()) session->slot->Commit(PositionOf(*session));
  core::FailPoint("attach.after_epoch");
  if (session->durability != v1::HOST) return Deliver(session, claim);
  Sync(session, [this, session, claim](const auto* gone) { gone != nullptr ? RefuseClaim(claim, gone->reason, gone->why) : Deliver(session, claim); });
}

void Shard::Deliver(Session* session, const Claim& claim) {
  if (claim.shard == index_) return Settle(session, claim);
  const std::vector<Session::AfterSync> others = std::exchange(session->waiting, {});
  auto box = std::make_shared<std::unique_ptr<Session>>(table_.Extract(session));
  services_.directory->Move(claim.id, claim.shard);
  core::FailPoint("attach.moving");
  const bool sent = services_.peers->Send(claim.shard, [box, claim](Shard& s) { s.Settle(s.table_.Insert(std::move(*box)), claim); });
  if (!sent) Orphan(table_.Insert(std::move(*box)), services_.clock());  // that shard has ended, and the stream with it
  for (const Session::AfterSync& other : others) other(nullptr);  // they follow
}

void Shard::Settle(Session* session, const Claim& claim) {
  const auto it = streams_.find(claim.stream);
  if (it == streams_.end()) return Orphan(session, services_.clock());
  Stream* stream = it->second;
  Stream::Lane& lane = stream->lanes_[claim.lane];
  const std::vector<v1::Request> waiting = TakeWaiting(stream, lane);
  lane = {.session = session, .parked = {}, .waiting = {}};
  Arrived(stream);
  Hold(session, stream);
  session->lane = claim.lane;
  session->HeldBy({claim.holder, claim.attempt});
  if (!session->own_ttl && !session->stored()) session->ttl_us = options_.ttl_s * uint64_t{1'000'000};  // an orphan no longer
  SetAlarm(session);
  if (claim.by_nonce) {
    SendOpened(session, claim.token);
  } else {
    SendResumed(session, claim.have_seq);
  }
  OnRequests(stream, waiting);
}

void Shard::SendOpened(Session* session, const std::string& token) {
  const core::StepProgram& program = session->program();
  v1::Opened* opened = session->stream->sink_->Next(kSmallResponse)->mutable_opened();
  opened->set_lane(session->lane);
  opened->set_session_id(session->id.data(), session->id.size());
  opened->set_resume_token(token);
  opened->set_epoch(session->machine.epoch());
  opened->set_model_hash(program.model().hash);
  opened->set_numerics_id(program.numerics_id());
  opened->set_window(session->machine.options().window);
  opened->set_max_turn_answer_bytes(session->max_turn_answer_bytes);
  opened->set_durability(session->durability);
  opened->set_ttl_seconds(static_cast<uint32_t>(session->ttl_us / 1'000'000));
  opened->set_applied_seq(session->machine.applied());
  opened->set_model(session->model->name);
  opened->set_version(session->model->version);
}

void Shard::SendResumed(Session* session, uint64_t have_seq) {
  const core::StepProgram& program = session->program();
  const uint64_t applied = session->machine.applied();
  v1::Resumed* resumed = session->stream->sink_->Next(kSmallResponse)->mutable_resumed();
  resumed->set_lane(session->lane);
  resumed->set_epoch(session->machine.epoch());
  resumed->set_applied_seq(applied);
  resumed->set_state_digest(&session->state_digest, sizeof(session->state_digest));
  resumed->set_durable_seq(session->stored() ? applied : 0);
  resumed->set_replay_from(applied + 1);
  resumed->set_model_hash(program.model().hash);
  resumed->set_numerics_id(program.numerics_id());
  resumed->set_window(session->machine.options().window);
  resumed->set_max_turn_answer_bytes(session->max_turn_answer_bytes);
  resumed->set_durability(session->durability);
  resumed->set_ttl_seconds(static_cast<uint32_t>(session->ttl_us / 1'000'000));
  resumed->set_model(session->model->name);
  resumed->set_version(session->model->version);
  for (uint64_t seq = have_seq + 1; seq <= applied; ++seq) Replay(session, seq);
}

void Shard::RefuseClaim(const Claim& claim, v1::Reason reason, const std::string& why) {
  if (claim.shard == index_) return OnClaimRefused(claim, reason, why);
  services_.peers->Send(claim.shard, [claim, reason, why](Shard& s) { s.OnClaimRefused(claim, reason, why); });
}

void Shard::OnClaimRefused(const Claim& claim, v1::Reason reason, const std::string& why) {
  const auto it = streams_.find(claim.stream);
  if (it == streams_.end()) return;
  Stream* stream = it->second;
  const std::vector<v1::Request> waiting = TakeWaiting(stream, stream->lanes_[claim.lane]);
  stream->lanes_.erase(claim.lane);
  Arrived(stream);
  RejectLane(stream, claim.lane, 0, reason, why, reason == v1::RETRY || reason == v1::ELSEWHERE ? kRetryMs : 0);
  OnRequests(stream, waiting);
}

void Shard::Sync(Session* session, Session::AfterSync then) {
  session->syncing = true;
  session->sync_began_us = services_.clock();
  session->after_sync = std::move(then);
  store_->Sync(session->slot->memory(), [peers = services_.peers, shard = index_, id = session->id](const absl::Status& status) {
    peers->Send(shard, [id, status](Shard& s) { s.OnSynced(id, status); });
  });
}

void Shard::OnSynced(const SessionId& id, const absl::Status& status) {
  Session* session = table_.Find(id);
  if (session == nullptr || !session->syncing) return;  // it was closed meanwhile
  session->syncing = false;
  counters_.sync_us.Add(services_.clock() - session->sync_began_us);
  if (!status.ok()) {
    return SetAside(session, v1::BROKEN, absl::StrCat("the disk of the state directory failed: ", status.message(), "; tell the operator, and open another session"));
  }
  std::exchange(session->after_sync, nullptr)(nullptr);
  session = table_.Find(id);
  if (session == nullptr || session->syncing) return;
  for (const Session::AfterSync& next : std::exchange(session->waiting, {})) next(nullptr);
  session = table_.Find(id);
  if (session != nullptr) Advance(session);
}

}  // namespace lstm::server
