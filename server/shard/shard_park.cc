// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/fail_point.h"
#include "core/base/status_macros.h"
#include "server/log/log.h"
#include "server/session/expiry.h"
#include "server/session/mutant.h"
#include "server/shard/reject.h"
#include "server/shard/shard.h"

// Idle sessions leave their slots for the log of parked ones, and come back when somebody wants them.
//
//   Park -> (log) -> OnAppended -> Leave           the record is written, made to count, and only then the slot is wiped
//   Unpark -> (log) -> OnRead -> TakeBack -> BackAgain     a slot is sealed, and only then the record ends
namespace lstm::server {
namespace {

constexpr uint64_t kMicros = 1'000'000;
// A session that has less time left is not parked: it would not be told of its end, or be swept too late.
constexpr uint64_t kLeastLeftUs = kWarnBeforeUs + 2 * ParkedIndex::kParts * Shard::kSweepEveryUs;
constexpr uint64_t kIdleUs = kMicros;  // where room is needed, what was used since stays
constexpr size_t kLeastParked = 16, kMostParked = 256;   // at a time, where room is needed
constexpr uint64_t kRoomEveryUs = 100'000, kNoRoomUs = 1'000'000;
constexpr uint32_t kRetryMs = 50;
constexpr size_t kSmallResponse = 256;

}  // namespace

// Not while its Open may be repeated: the index does not know nonces, and a second session would be made.
bool Shard::MayPark(const Session& session) const {
  const uint64_t end = session.last_used_us + session.ttl_us;
  return services_.parked != nullptr && session.stored() && session.own_numerics && !session.parking && !session.syncing && !session.suspect &&
         !session.machine.nonce_valid() && !session.closing && !session.machine.computing() && session.machine.waiting() == 0 && end > services_.clock() + kLeastLeftUs;
}

void Shard::Park(Session* session) {
  if (!Verify(session).ok()) return;  // its client is told when it comes
  session->parking = true;
  store::v1::ParkedSession packed = session->slot->Pack();
  const int64_t idle_us = static_cast<int64_t>(services_.clock() - session->last_used_us);
  packed.set_last_used_unix_us(services_.unix_clock() - idle_us);
  // What was acknowledged since the last commit is not kept, and a nonce that is void stays so.
  const uint64_t acked = session->machine.acked() - packed.acked_seq();
  packed.mutable_answers()->DeleteSubrange(0, static_cast<int>(std::min<uint64_t>(acked, static_cast<uint64_t>(packed.answers_size()))));
  packed.set_acked_seq(session->machine.acked());
  for (const Session::Holder& holder : std::span(session->holders).subspan(1)) {
    if (holder.id == 0) continue;
    auto* before = packed.add_holders_before();
    before->set_id(holder.id);
    before->set_attempt(holder.attempt);
  }
  const ParkedStore::About about{session->id, packed.serial(), packed.last_used_unix_us() + static_cast<int64_t>(session->ttl_us),
                                 MarkOf(session->model->name, session->model->version, session->model->info.model_hash())};
  services_.parked->Append(about, packed.SerializeAsString(), [peers = services_.peers, shard = index_, about, acked = packed.acked_seq()](const absl::StatusOr<ParkedStore::Key>& key) {
    peers->Send(shard, [about, acked, key](Shard& s) { s.OnAppended(about.id, about.serial, acked, key); });
  });
}

void Shard::OnAppended(const SessionId& id, uint64_t serial, uint64_t acked, const absl::StatusOr<ParkedStore::Key>& key) {
  Session* session = table_.Find(id);
  if (session != nullptr) session->parking = false;
  if (!key.ok()) {  // no room: it stays where it is
    next_room_us_ = services_.clock() + kNoRoomUs;
    return;
  }
  // As it was when the record was made: a commit has another serial, an acknowledgement comes without one.
  const auto same = [&](const Session& s) { return (s.slot->serial() == serial && s.machine.acked() == acked) || Mutant(43); };
  if (session == nullptr || !same(*session) || !MayPark(*session) || (!Mutant(41) && !services_.parked->Seal(*key).ok())) {
    return services_.parked->Remove(*key);
  }
  core::FailPoint("park.sealed");
  if (session->durability != v1::HOST || Mutant(42)) return Leave(session, *key);
  // It rests until the record is on the disk: nothing may be promised of a slot that is about to go.
  session->syncing = true;
  session->sync_began_us = services_.clock();
  const auto synced = std::make_shared<absl::Status>();  // the log's failure is not the slot's
  session->after_sync = [this, session, key = *key, acked, synced](const auto* gone) {
    if (gone == nullptr && synced->ok() && session->machine.acked() == acked && MayPark(*session)) return Leave(session, key);
    services_.parked->Remove(key);
  };
  services_.parked->Sync(*key, [peers = services_.peers, shard = index_, id, synced](const absl::Status& status) {
    *synced = status;
    peers->Send(shard, [id](Shard& s) { s.OnSynced(id, absl::OkStatus()); });
  });
}

void Shard::Leave(Session* session, ParkedStore::Key key) {
  const SessionId id = session->id;
  Parked parked{.stream = 0, .key = key, .expires_s = static_cast<uint32_t>((session->last_used_us + session->ttl_us) / kMicros), .lane = session->lane,
                .model = 0, .host = session->durability == v1::HOST, .owner = 0};
  parked.model = HoldModel(session->model);
  parked.owner = owners_.Add(session->principal, session->account) & ParkedOwners::kMost;
  if (session->stream != nullptr) {
    parked.stream = session->stream->key_;
    session->stream->lanes_[session->lane] = {.session = nullptr, .parked = id, .waiting = {}};
    Hold(session, nullptr);
  }
  const std::vector<Session::AfterSync> waiting = std::exchange(session->waiting, {});
  table_.Park(session);
  core::FailPoint("park.left");
  if (Mutant(41)) services_.parked->Seal(key).IgnoreError();
  BeginSweeping();
  parked_.Add(id, parked);
  for (const Session::AfterSync& next : waiting) next(nullptr);  // who wants it has it back at once
}

// Parked sessions keep the version that they began on loaded, like others.
uint16_t Shard::HoldModel(const ServedModelPtr& model) {
  if (model == nullptr) return 0;
  auto held = std::find_if(models_.begin() + 1, models_.end(), [&](const HeldModel& m) { return m.model == model; });
  if (held == models_.end()) held = std::find_if(models_.begin() + 1, models_.end(), [](const HeldModel& m) { return m.model == nullptr; });
  if (held == models_.end() && models_.size() > UINT16_MAX) return 0;
  if (held == models_.end()) held = models_.emplace(models_.end());
  held->model = model;
  ++held->sessions;
  return static_cast<uint16_t>(held - models_.begin());
}

void Shard::RemoveParked(const SessionId& id) {
  owners_.Remove(parked_.Find(id)->owner);
  HeldModel& held = models_[parked_.Find(id)->model];
  if (held.model != nullptr && --held.sessions == 0) held.model = nullptr;
  parked_.Remove(id);
}

void Shard::MakeRoom() {
  const uint64_t now = services_.clock();
  if (now < next_room_us_) return;
  next_room_us_ = now + kRoomEveryUs;  // it looks at every session, and anybody can cause it
  const size_t most = std::clamp(table_.size() / 16, kLeastParked, kMostParked);
  const auto idle = [&](const Session& session) { return session.last_used_us + kIdleUs <= now; };
  for (Session* session : table_.LeastRecentlyUsed(most, [&](const Session& s) { return idle(s) && MayPark(s); })) Park(session);
  if (budget_->sessions() >= budget_->max_sessions()) return;  // one that rests is a session still
  for (Session* session : table_.LeastRecentlyUsed(most, [&](const Session& s) { return idle(s) && MayRest(s); })) LayToRest(session);
}

void Shard::Unpark(const SessionId& id, Session::AfterSync then) {
  std::vector<Session::AfterSync>& waiting = unparking_[id];
  waiting.push_back(std::move(then));
  if (waiting.size() > 1) return;
  services_.parked->Read(parked_.Find(id)->key, [peers = services_.peers, shard = index_, id](const absl::StatusOr<std::string>& bytes) {
    auto read = std::make_shared<store::v1::ParkedSession>();
    absl::Status status = bytes.status();
    if (status.ok() && !read->ParseFromString(*bytes)) status = absl::DataLossError("the parked session can not be read; its record is kept for the operator: open another session");
    peers->Send(shard, [id, read, status](Shard& s) { s.OnRead(id, read, status); });
  });
}

void Shard::OnRead(const SessionId& id, const std::shared_ptr<store::v1::ParkedSession>& read, const absl::Status& status) {
  const Parked* parked = parked_.Find(id);
  if (parked == nullptr) return;
  if (status.ok() && OnlyCloses(*parked)) return CloseParked(id, read->applied_seq());
  const bool full = budget_->sessions() >= budget_->max_sessions() || budget_->bytes() >= budget_->max_bytes();
  if (status.ok() && full) {
    MakeRoom();
    return NotBack(id, absl::UnavailableError("no memory for this session now; ask again in a moment"));
  }
  if (absl::IsResourceExhausted(status)) MakeRoom();  // for the next time
  const absl::Status back = status.ok() ? TakeBack(id, *read) : status;
  if (back.ok()) return;
  if (!absl::IsUnavailable(back)) return NotBack(id, back);
  store_->Grow(Slot::BytesFor(read->identity()), [peers = services_.peers, shard = index_, id, read](const absl::Status& grown) {
    peers->Send(shard, [id, read, grown](Shard& s) { s.OnRead(id, read, grown); });
  });
}

// Its client wants nothing but its end: for that it need not come back, even where there is no room.
bool Shard::OnlyCloses(const Parked& parked) const {
  const auto stream = streams_.find(parked.stream);
  if (stream == streams_.end()) return false;
  const std::vector<v1::Request>& waiting = stream->second->lanes_.at(parked.lane).waiting;
  return waiting.size() == 1 && waiting.front().has_close();
}

void Shard::CloseParked(const SessionId& id, uint64_t applied_seq) {
  const Parked* parked = parked_.Find(id);
  v1::Closed* closed = streams_.at(parked->stream)->sink_->Next(kSmallResponse)->mutable_closed();
  closed->set_lane(parked->lane);
  closed->set_applied_seq(applied_seq);
  EndParked(id, v1::NOT_FOUND, "the session is gone: its client closed it; open another", false, false);
}

// UNAVAILABLE: the store has to grow first.
absl::Status Shard::TakeBack(const SessionId& id, const store::v1::ParkedSession& parked) {
  if (!Slot::IsSane(parked) || parked.identity().session_id() != std::string(id.begin(), id.end())) return absl::DataLossError("the parked session is damaged; its record is kept for the operator: open another session");
  LSTM_ASSIGN_OR_RETURN(const std::span<std::byte> memory, store_->Allocate(Slot::BytesFor(parked.identity())));
  const Parked was = *parked_.Find(id);
  if (Mutant(40)) services_.parked->Remove(was.key);
  absl::StatusOr<Slot> slot = Slot::Unpack(memory, parked);
  const absl::Status adopted = slot.ok() ? Adopt(*std::move(slot), parked.identity()) : slot.status();
  if (!adopted.ok()) {
    store_->Free(memory);
    return adopted;
  }
  Session* session = table_.Find(id);
  const size_t holders = std::min<size_t>(static_cast<size_t>(parked.holders_before_size()), session->holders.size() - 1);
  for (size_t i = 0; i < holders; ++i) session->holders[i + 1] = {parked.holders_before(static_cast<int>(i)).id(), parked.holders_before(static_cast<int>(i)).attempt()};
  RemoveParked(id);
  counters_.unparked.Add();
  BackAgain(session, was);
  return absl::OkStatus();
}

void Shard::BackAgain(Session* session, const Parked& was) {
  core::FailPoint("unpark.sealed");
  session->verified = true;  // its sums were looked at
  const uint64_t now = services_.clock(), end = was.expires_s * kMicros;
  session->last_used_us = now - (session->ttl_us - std::min(session->ttl_us, end - std::min(end, now)));
  std::vector<v1::Request> requests;
  Stream* const stream = HolderOf(was, requests);
  if (stream != nullptr) {
    stream->lanes_[was.lane] = {.session = session, .parked = {}, .waiting = {}};
    Hold(session, stream);
    session->lane = was.lane;
  }
  SetAlarm(session);
  std::vector<Session::AfterSync> waiting = TakeWaiters(session->id);
  if (session->durability == v1::HOST && !Mutant(40)) {
    // Of the two the record is the one on the disk: it stays until the slot is.
    session->waiting = std::exchange(waiting, {});
    Sync(session, [this, key = was.key](const auto*) { services_.parked->Remove(key); });
  } else if (!Mutant(40)) {
    services_.parked->Remove(was.key);
    core::FailPoint("unpark.removed");
  }
  // What its client sent comes before those who want to take it.
  OnRequests(stream, requests);
  for (const Session::AfterSync& next : waiting) next(nullptr);
}

void Shard::NotBack(const SessionId& id, const absl::Status& why) {
  const bool later = absl::IsUnavailable(why) || absl::IsResourceExhausted(why);
  if (!later) {
    const v1::Reason reason = absl::IsDataLoss(why) ? v1::LOST : absl::IsInternal(why) ? v1::BROKEN : v1::MODEL_RETIRED;
    return EndParked(id, reason, std::string(why.message()), true);
  }
  const SessionDirectory::Absent absent{v1::RETRY, std::string(why.message())};
  const Parked* parked = parked_.Find(id);
  std::vector<v1::Request> requests;
  Stream* const stream = HolderOf(*parked, requests);
  for (const v1::Request& request : requests) {
    if (request.has_step()) RejectLane(stream, parked->lane, request.step().seq(), v1::RETRY, absent.why, kRetryMs);
    if (request.has_close()) RejectLane(stream, parked->lane, 0, v1::RETRY, absent.why, kRetryMs);
  }
  for (const Session::AfterSync& tell : TakeWaiters(id)) tell(&absent);
}

// The stream on whose lane it is; null: none. What waits there is not under way any more.
Stream* Shard::HolderOf(const Parked& parked, std::vector<v1::Request>& waiting) {
  const auto it = streams_.find(parked.stream);
  if (it == streams_.end()) return nullptr;
  Stream::Lane& lane = it->second->lanes_[parked.lane];
  if (!lane.waiting.empty()) Arrived(it->second);
  waiting = TakeWaiting(it->second, lane);
  return it->second;
}

std::vector<Session::AfterSync> Shard::TakeWaiters(const SessionId& id) {
  auto node = unparking_.extract(id);
  return node.empty() ? std::vector<Session::AfterSync>() : std::move(node.mapped());
}

// `keep`: the record stays where it is, for somebody to look at.
void Shard::EndParked(const SessionId& id, v1::Reason reason, const std::string& why, bool keep, bool tell) {
  const Parked was = *parked_.Find(id);
  const SessionDirectory::Absent absent{reason, why};
  std::vector<v1::Request> dropped;
  if (Stream* const stream = HolderOf(was, dropped)) {
    if (tell) Tell(stream, was.lane, reason, why);
    stream->lanes_.erase(was.lane);
  }
  if (!keep) services_.parked->Remove(was.key);
  if (keep && reason != v1::MODEL_RETIRED) {
    counters_.set_aside.Add();
    LogEvent(LogLevel::kError, "parked session set aside: it is damaged, and its record is kept", {{"session", LogId(id)}, {"shard", index_}, {"why", why}});
  }
  if (!keep) (reason == v1::EXPIRED ? counters_.expired : counters_.closed).Add();
  RemoveParked(id);
  services_.directory->Remove(id, std::nullopt, absent, keep);
  for (const Session::AfterSync& next : TakeWaiters(id)) next(&absent);
}

void Shard::SweepParked(uint64_t now) {
  const uint64_t soon_s = (now + kLeastLeftUs / 2) / kMicros;
  for (const SessionId& id : parked_.NextDue([&](const Parked& parked) { return parked.expires_s <= soon_s; })) {
    if (unparking_.contains(id)) continue;  // it is wanted
    const Parked& parked = *parked_.Find(id);
    if (parked.expires_s <= now / kMicros) {
      EndParked(id, v1::EXPIRED, "the session expired while it was parked; open another, with a longer ttl_seconds where it pauses", false);
    } else if (parked.stream != 0) {
      Unpark(id, [](const auto*) {});  // its client is to be told before it ends
    }
  }
}

void Shard::Recover(const ParkedStore::Found& found) {
  // The time that the server was away counts, but not to the last: a client gets a moment to come back.
  const int64_t left = std::max<int64_t>(found.about.expires_unix_us - services_.unix_clock(), options_.orphan_ttl_s * kMicros);
  BeginSweeping();
  parked_.Add(found.about.id, {.stream = 0, .key = found.key, .expires_s = static_cast<uint32_t>((services_.clock() + static_cast<uint64_t>(left)) / kMicros), .lane = 0,
                                .model = HoldModel(services_.models->FindMark(found.about.model))});
  services_.directory->Restore(found.about.id, std::nullopt, index_);
}

}  // namespace lstm::server
