// SPDX-License-Identifier: MIT
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/session/digest.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"
#include "server/shard/wanted.h"

// How sessions come to be: by Open, and out of the store.
namespace lstm::server {
namespace {

constexpr uint32_t kFullRetryMs = 1000;
constexpr uint64_t kMicros = 1'000'000;
constexpr uint64_t kLeastRing = 4096;
constexpr uint64_t kDefaultRing = 1u << 20;  // at most, where Open does not say
constexpr uint64_t kMostRing = 16u << 20;
constexpr uint64_t kStepsPerTurn = 16;  // for which there is room by default

template <size_t N>
std::array<uint8_t, N> ToArray(const std::string& bytes) {
  std::array<uint8_t, N> out;
  std::memcpy(out.data(), bytes.data(), N);
  return out;
}

uint64_t RingBytes(const v1::Open& open, uint64_t window, uint64_t step_bytes) {
  const uint64_t all = window * step_bytes;
  const uint64_t room = open.answer_bytes() > 0 ? open.answer_bytes() : std::max(all, std::min(all * kStepsPerTurn, kDefaultRing));
  return std::clamp(room, std::max(kLeastRing, step_bytes), kMostRing);
}

}  // namespace

absl::Status Shard::Understand(const v1::Open& open, Wanted& wanted, v1::Reason& reason) const {
  reason = v1::INVALID;
  store::v1::SessionIdentity& id = wanted.identity;
  wanted.simple = open.simple();
  wanted.holder = {open.holder(), open.attempt()};
  if (open.client_nonce().size() == sizeof(Nonce)) {
    wanted.nonce = ToArray<sizeof(Nonce)>(open.client_nonce());
  } else if (!open.simple() || !open.client_nonce().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("client_nonce has ", open.client_nonce().size(), " bytes, expected ", sizeof(Nonce)));
  }
  v1::Durability durability = open.durability();
  if (durability == v1::DURABILITY_UNSPECIFIED) durability = store_ != nullptr && !open.simple() ? v1::PROCESS : v1::VOLATILE;
  if (open.simple() && durability != v1::VOLATILE) {
    return absl::InvalidArgumentError("durability is not VOLATILE, which a simple session is: nobody could come back to it");
  }
  if (durability != v1::VOLATILE) {
    reason = v1::UNSUPPORTED;
    if (store_ == nullptr) return absl::UnimplementedError("this server has no --state-dir: it offers durability VOLATILE alone");
    if (durability == v1::HOST && !store_->survives_power_loss()) {
      return absl::UnimplementedError("durability HOST: the state directory of this server is in memory (tmpfs); PROCESS can be had");
    }
    if (durability != v1::PROCESS && durability != v1::HOST) return absl::UnimplementedError("durability: PROCESS, HOST and VOLATILE can be had");
    reason = v1::INVALID;
  }
  if (open.window() > options_.max_window) {
    return absl::InvalidArgumentError(absl::StrCat("window is ", open.window(), ", expected at most ", options_.max_window));
  }
  if (open.ttl_seconds() > options_.max_ttl_s) {
    return absl::InvalidArgumentError(absl::StrCat("ttl_seconds is ", open.ttl_seconds(), ", expected at most ", options_.max_ttl_s));
  }
  if (open.answer_bytes() > kMostRing) {
    return absl::InvalidArgumentError(absl::StrCat("answer_bytes is ", open.answer_bytes(), ", expected at most ", kMostRing));
  }
  reason = v1::NOT_FOUND;
  if (wanted.model == nullptr) {
    LSTM_ASSIGN_OR_RETURN(wanted.model, services_.models->Find(open.model(), open.version()));
  }
  if (wanted.model->program == nullptr) {
    reason = v1::UNSUPPORTED;
    return absl::UnimplementedError(absl::StrCat("model '", wanted.model->name, "' has no sessions: ", wanted.model->info.not_streamable(), ". Predict computes whole sequences with it"));
  }
  reason = v1::INVALID;
  const core::StepProgram& program = *wanted.model->program;
  LSTM_ASSIGN_OR_RETURN(wanted.selected, SelectOutputs(program, open.options()));
  const size_t step_bytes = AnswerStepBytes(program, wanted.selected);
  if (step_bytes > options_.max_turn_answer_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("one step's outputs have ", step_bytes, " bytes, at most ", options_.max_turn_answer_bytes,
                                                   " can be answered; select fewer"));
  }
  if (open.initial_state_size() > 0) {
    wanted.initial = core::AlignedBuffer<float>(program.state_floats());
    std::copy(program.initial_state().begin(), program.initial_state().end(), wanted.initial.data());
    LSTM_RETURN_IF_ERROR(DecodeState(program, open.initial_state(), wanted.initial.span()));
  }
  id.set_durability(durability);
  id.set_window(open.window() > 0 ? open.window() : options_.default_window);
  id.set_own_ttl(open.ttl_seconds() > 0);
  id.set_ttl_seconds(id.own_ttl() ? open.ttl_seconds() : options_.ttl_s);
  id.set_last_step_only(open.options().last_step_only());
  id.set_timings(open.options().timings());
  id.set_accept_value_equal(open.accept_value_equal());
  id.set_ring_bytes(static_cast<uint32_t>(RingBytes(open, id.window(), step_bytes)));
  return absl::OkStatus();
}

void Shard::OnOpen(Stream* stream, const v1::Open& open) {
  const uint32_t lane = open.lane();
  if (draining_) return RejectLane(stream, lane, 0, v1::DRAINING, "the server is going away; open on another, or again later", kFullRetryMs);
  Wanted wanted;
  v1::Reason reason;
  const absl::Status understood = Understand(open, wanted, reason);
  // A repeated Open has its session, even where no other could be opened any more.
  const bool again = !understood.ok() && reason == v1::NOT_FOUND && wanted.nonce && services_.directory->OpenedWith(*wanted.nonce);
  if (!understood.ok() && !again) return RejectLane(stream, lane, 0, reason, std::string(understood.message()));
  wanted.identity.set_principal(stream->principal_);

  Claim claim{.shard = index_, .stream = stream->key_, .lane = lane, .principal = stream->principal_, .by_nonce = true,
              .model = open.model(), .accept_value_equal = open.accept_value_equal(),
              .holder = open.holder(), .attempt = open.attempt()};
  const auto opened_before = [&]() -> bool {
    const auto id = wanted.nonce ? services_.directory->OpenedWith(*wanted.nonce) : std::nullopt;
    if (!id) return false;
    claim.id = *id;
    BeginClaim(stream, claim);
    return true;
  };
  if (opened_before()) return;  // R1
  if (again) return RejectLane(stream, lane, 0, v1::NOT_FOUND, std::string(understood.message()));
  const absl::StatusOr<Session*> made = MakeSession(wanted);
  if (absl::IsAlreadyExists(made.status()) && opened_before()) return;
  if (absl::IsUnavailable(made.status())) return GrowThenOpen(stream, open, wanted);
  if (!made.ok()) {
    if (!wanted.over_quota) MakeRoom();  // others are not parked for it
    return RejectLane(stream, lane, 0, v1::SESSIONS, std::string(made.status().message()), kFullRetryMs);
  }
  Session* session = *made;
  claim.id = session->id;
  claim.token = wanted.token;
  stream->lanes_[lane];
  ++stream->pending_;
  if (session->durability != v1::HOST) return Settle(session, claim);
  Sync(session, [this, session, claim](const auto* gone) { gone != nullptr ? RefuseClaim(claim, gone->reason, gone->why) : Settle(session, claim); });
}

absl::StatusOr<Session*> Shard::MakeSession(Wanted& wanted) {
  const core::StepProgram& program = *wanted.model->program;
  store::v1::SessionIdentity& id = wanted.identity;
  id.set_model(wanted.model->name);
  id.set_version(wanted.model->version);
  id.set_model_hash(program.model().hash);
  id.set_numerics_id(program.numerics_id());
  for (const uint32_t o : wanted.selected) id.add_outputs(program.outputs()[o].name);
  id.set_state_floats(static_cast<uint32_t>(program.state_floats()));
  id.set_own_initial_state(!wanted.initial.empty());
  id.set_base_seq(wanted.applied);
  if (wanted.nonce) id.set_client_nonce(wanted.nonce->data(), wanted.nonce->size());
  id.set_session_id(std::string(sizeof(SessionId), '\0'));  // its length counts
  const bool stored = id.durability() != v1::VOLATILE;
  wanted.slot_bytes = stored ? Slot::BytesFor(id) : 0;
  const uint64_t state_bytes = program.state_floats() * sizeof(float);
  const uint64_t bytes = stored ? wanted.slot_bytes - id.ring_bytes() : state_bytes + wanted.initial.size() * sizeof(float);

  const std::shared_ptr<Account> account = AccountOf(id.principal());
  if (account != nullptr) {  // before the store grows for it
    const absl::Status room = account->HasRoom(bytes);
    wanted.over_quota = !room.ok();
    if (wanted.over_quota) counters_.over_sessions.Add();
    LSTM_RETURN_IF_ERROR(room);
  }
  std::span<std::byte> memory;
  if (stored) {
    LSTM_ASSIGN_OR_RETURN(memory, store_->Allocate(wanted.slot_bytes));
  }
  const absl::StatusOr<Session*> created =
      table_.Create(wanted.model, {.window = id.window(), .simple = wanted.simple}, bytes, wanted.nonce, account);
  if (!created.ok()) {
    if (stored) store_->Free(memory);
    return created.status();
  }
  Session* session = *created;
  id.set_session_id(session->id.data(), session->id.size());
  wanted.Describe(*session);
  session->initial = std::move(wanted.initial);
  session->max_turn_answer_bytes = stored ? std::min<size_t>(options_.max_turn_answer_bytes, id.ring_bytes()) : options_.max_turn_answer_bytes;
  session->steps = wanted.steps;
  session->machine.Restore(1, wanted.applied, wanted.applied, wanted.applied, {});
  session->first_record = wanted.applied;
  session->HeldBy(wanted.holder);
  wanted.token = NewToken(session);
  const std::span<const float> state = wanted.state.empty() ? session->initial_state() : wanted.state.span();
  session->state_digest = StateDigest(state);
  if (stored) {
    session->slot = Slot::Create(memory, id, session->initial.span(), PositionOf(*session), state);
  } else {
    session->memory = core::AlignedBuffer<float>(program.state_floats());
    std::copy(state.begin(), state.end(), session->memory.data());
  }
  session->last_used_us = services_.clock();
  SetAlarm(session);
  counters_.opened.Add();
  return session;
}

void Shard::GrowThenOpen(Stream* stream, const v1::Open& open, const Wanted& wanted) {
  Stream::Lane& lane = stream->lanes_[open.lane()];
  ++stream->pending_;
  lane.waiting.emplace_back();
  *lane.waiting.back().mutable_open() = open;
  const uint64_t bytes = lane.waiting.back().ByteSizeLong();
  budget_->ForceBytes(bytes);
  stream->backlog_bytes_ += bytes;
  store_->Grow(wanted.slot_bytes, [peers = services_.peers, shard = index_, key = stream->key_, number = open.lane()](const absl::Status& grown) {
    peers->Send(shard, [key, number, grown](Shard& s) { s.OnGrown(key, number, grown); });
  });
}

void Shard::OnGrown(uint64_t key, uint32_t number, const absl::Status& grown) {
  const auto it = streams_.find(key);
  if (it == streams_.end()) return;
  Stream* stream = it->second;
  std::vector<v1::Request> waiting = TakeWaiting(stream, stream->lanes_[number]);
  stream->lanes_.erase(number);
  Arrived(stream);
  if (!grown.ok()) {
    MakeRoom();
    RejectLane(stream, number, 0, v1::SESSIONS, std::string(grown.message()), kFullRetryMs);
    waiting.erase(waiting.begin());  // the Open
  }
  OnRequests(stream, waiting);
}

std::string Shard::NewToken(Session* session) {
  std::array<uint8_t, 32> token;
  services_.random(token.data(), token.size());
  SHA256(token.data(), token.size(), session->token_hash.data());
  return std::string(token.begin(), token.end());
}

StoredPosition Shard::PositionOf(const Session& session) const {
  return {session.machine.epoch(), session.machine.applied(), session.machine.acked(), session.steps, session.state_digest,
          services_.unix_clock(), session.holders[0].id, session.holders[0].attempt, session.token_hash};
}

absl::Status Shard::Recover(std::span<std::byte> memory) {
  store::v1::SessionIdentity identity;
  absl::StatusOr<Slot> slot = Slot::Open(memory, &identity);
  absl::Status status = slot.ok() ? Adopt(*std::move(slot), identity) : slot.status();
  if (!status.ok() && identity.session_id().size() == sizeof(SessionId)) {
    services_.directory->AddAbsent(ToArray<sizeof(SessionId)>(identity.session_id()),
                                   {absl::IsDataLoss(status) ? v1::LOST : absl::IsInternal(status) ? v1::BROKEN : v1::MODEL_RETIRED, std::string(status.message())});
  }
  return status;
}

absl::Status Shard::Adopt(Slot slot, const store::v1::SessionIdentity& identity) {
  const SessionId id = ToArray<sizeof(SessionId)>(identity.session_id());
  const std::optional<Suspects::Entry> suspect = services_.suspects != nullptr ? services_.suspects->Find(id) : std::nullopt;
  if (suspect && suspect->crashes >= Suspects::kSetAsideAfter) {
    return absl::InternalError(absl::StrCat("turn ", suspect->seq, " of this session ended the server ", suspect->crashes, " times (signal ",
                                            suspect->signal, "): it is set aside, its state as it was before that turn; tell the operator, and open another"));
  }
  Wanted wanted;
  wanted.identity = identity;
  LSTM_ASSIGN_OR_RETURN(wanted.model, services_.models->FindHash(identity.model(), identity.version(), identity.model_hash()));
  if (wanted.model->program == nullptr) return absl::DataLossError("the stored session is of a model that has no sessions");
  const core::StepProgram& program = *wanted.model->program;
  if (program.state_floats() != identity.state_floats()) return absl::DataLossError("the stored state is not as large as the model's");
  for (const std::string& name : identity.outputs()) {
    const auto it = std::find_if(program.outputs().begin(), program.outputs().end(), [&](const auto& port) { return port.name == name; });
    if (it == program.outputs().end()) return absl::DataLossError("the stored session answers with an output that the model has not");
    wanted.selected.push_back(static_cast<uint32_t>(it - program.outputs().begin()));
  }
  std::optional<Nonce> nonce;
  if (identity.client_nonce().size() == sizeof(Nonce)) nonce = ToArray<sizeof(Nonce)>(identity.client_nonce());
  const StoredPosition& position = slot.position();
  Session* session = table_.Recover(id, wanted.model, {.window = identity.window()},
                                    slot.memory().size() - slot.ring_bytes(), nonce, AccountOf(identity.principal()));
  wanted.Describe(*session);
  session->max_turn_answer_bytes = std::min<size_t>(options_.max_turn_answer_bytes, slot.ring_bytes());
  session->own_numerics = identity.numerics_id() == program.numerics_id();
  session->verified = false;
  session->suspect = suspect.has_value();
  session->steps = position.steps;
  session->state_digest = position.state_digest;
  session->token_hash = position.token_hash;
  session->HeldBy({position.holder, position.attempt});
  std::vector<InputDigest> answered;
  for (size_t i = 0; i < slot.answers(); ++i) answered.push_back(slot.answer(i).input);
  session->machine.Restore(position.epoch, identity.base_seq(), position.applied, position.acked, answered);
  session->first_record = position.applied;
  if (identity.own_initial_state()) {
    session->initial = core::AlignedBuffer<float>(slot.initial().size());
    std::copy(slot.initial().begin(), slot.initial().end(), session->initial.data());
  }
  session->slot = std::move(slot);
  // The time that the server was away counts, but not to the last: a client gets a moment to come back.
  const int64_t away = std::max<int64_t>(0, services_.unix_clock() - position.last_used_unix_us);
  const uint64_t left = session->ttl_us - std::min(session->ttl_us, static_cast<uint64_t>(away));
  const uint64_t now = services_.clock();
  session->last_used_us = now + std::max(left, std::min<uint64_t>(session->ttl_us, options_.orphan_ttl_s * kMicros)) - session->ttl_us;
  SetAlarm(session);
  return absl::OkStatus();
}

void Shard::Wanted::Describe(Session& session) const {
  session.principal = identity.principal();
  session.selected = selected;
  session.answer_step_bytes = AnswerStepBytes(*model->program, selected);
  session.last_step_only = identity.last_step_only();
  session.timings = identity.timings();
  session.accept_value_equal = identity.accept_value_equal();
  session.durability = static_cast<v1::Durability>(identity.durability());
  session.own_ttl = identity.own_ttl();
  session.ttl_us = identity.ttl_seconds() * kMicros;
  session.base_seq = identity.base_seq();
}

}  // namespace lstm::server
