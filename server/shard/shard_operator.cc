// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>

#include "server/shard/shard.h"

// What an operator asks, and owners who list and close what is theirs.
namespace lstm::server {
namespace {

constexpr uint64_t kMicros = 1'000'000;

}  // namespace

v1::SessionInfo Shard::InfoOf(const Session& session) const {
  v1::SessionInfo info;
  info.set_session_id(std::string(session.id.begin(), session.id.end()));
  info.set_model(session.model->name);
  info.set_version(session.model->version);
  info.set_durability(session.durability);
  info.set_epoch(session.machine.epoch());
  info.set_applied_seq(session.machine.applied());
  info.set_acked_seq(session.machine.acked());
  info.set_queued_turns(session.machine.waiting());
  uint64_t bytes = session.charged_bytes;
  for (size_t i = 0; i < session.records.size(); ++i) bytes += session.records[i]->charged_bytes;
  info.set_bytes(bytes);
  info.set_attached(session.stream != nullptr);
  const uint64_t now = services_.clock();
  info.set_idle_ms(static_cast<uint32_t>((now - std::min(now, session.last_used_us)) / 1000));
  info.set_ttl_seconds(static_cast<uint32_t>(session.ttl_us / kMicros));
  info.set_steps(session.steps);
  info.set_window(session.machine.options().window);
  return info;
}

v1::SessionInfo Shard::InfoOf(const SessionId& id, const Parked& parked) const {
  v1::SessionInfo info;
  info.set_session_id(std::string(id.begin(), id.end()));
  info.set_parked(true);
  info.set_attached(parked.stream != 0);
  if (parked.model != 0) {
    info.set_durability(parked.host ? v1::HOST : v1::PROCESS);
    info.set_model(models_[parked.model].model->name);
    info.set_version(models_[parked.model].model->version);
  }
  const uint64_t now_s = services_.clock() / kMicros;
  info.set_ttl_seconds(static_cast<uint32_t>(parked.expires_s - std::min<uint64_t>(parked.expires_s, now_s)));
  return info;
}

v1::SessionInfo Shard::InfoOf(const SessionId& id, const Rest& rest) const {
  v1::SessionInfo info;
  info.set_session_id(std::string(id.begin(), id.end()));
  info.set_model(rest.terms->model->name);
  info.set_version(rest.terms->model->version);
  info.set_durability(v1::VOLATILE);
  info.set_epoch(rest.epoch);
  info.set_applied_seq(rest.applied);
  info.set_acked_seq(rest.acked);
  info.set_bytes(rest.charged_bytes);
  info.set_attached(rest.stream != nullptr);
  const uint64_t now = services_.clock();
  info.set_idle_ms(static_cast<uint32_t>((now - std::min(now, rest.last_used_us)) / 1000));
  info.set_ttl_seconds(static_cast<uint32_t>(rest.ttl_us / kMicros));
  info.set_steps(rest.steps);
  info.set_window(rest.terms->options.window);
  return info;
}

uint64_t Shard::List(const std::string& model, size_t most, std::vector<v1::SessionInfo>* out, const std::optional<std::string>& owner) const {
  uint64_t total = 0;
  const auto take = [&](const auto& make_info) {
    if (++total <= most) out->push_back(make_info());
  };
  for (const auto& [id, session] : table_.all()) {
    if (owner && session->principal != *owner) continue;
    if (model.empty() || session->model->name == model) take([&, s = session.get()] { return InfoOf(*s); });
  }
  // There may be a million of both.
  resting_.all().ForEach([&](const SessionId& id, const std::unique_ptr<Rest>& rest) {
    if (owner && rest->terms->principal != *owner) return;
    if (model.empty() || rest->terms->model->name == model) take([&] { return InfoOf(id, *rest); });
  });
  parked_.ForEach([&](const SessionId& id, const Parked& parked) {
    if (owner && !owners_.Is(parked.owner, *owner)) return;
    if (model.empty() || (parked.model != 0 && models_[parked.model].model->name == model)) take([&] { return InfoOf(id, parked); });
  });
  return total;
}

absl::StatusOr<v1::SessionInfo> Shard::Get(const SessionId& id) const {
  if (const Parked* parked = parked_.Find(id)) return InfoOf(id, *parked);
  if (const Rest* rest = resting_.Find(id)) return InfoOf(id, *rest);
  const auto it = table_.all().find(id);
  if (it == table_.all().end()) return absl::NotFoundError(services_.directory->WhyAbsent(id).why);
  return InfoOf(*it->second);
}

void Shard::CheckOwner(const SessionId& id, const std::string& owner, const Done& done) {
  const auto answer = [&](bool theirs) { done(theirs ? absl::OkStatus() : absl::NotFoundError(SessionDirectory::kUnknown)); };
  if (const Parked* parked = parked_.Find(id); parked != nullptr && parked->owner != ParkedOwners::kUnknown) return answer(owners_.Is(parked->owner, owner));
  if (parked_.Find(id) != nullptr) {
    return Unpark(id, [=, this](const auto* gone) { gone != nullptr ? done(absl::UnavailableError(gone->why)) : CheckOwner(id, owner, done); });
  }
  if (const Rest* rest = resting_.Find(id)) return answer(rest->terms->principal == owner);
  const Session* session = table_.Find(id);
  if (session == nullptr) return done(Get(id).status());
  answer(session->principal == owner);
}

void Shard::CloseByOperator(const SessionId& id, uint64_t* applied, const Done& done) {
  if (parked_.Find(id) != nullptr) {  // it comes back for that: its position is told
    return Unpark(id, [=, this](const auto* gone) { gone != nullptr ? done(absl::UnavailableError(gone->why)) : CloseByOperator(id, applied, done); });
  }
  Session* session = Find(id);
  if (session == nullptr) return done(Get(id).status());
  *applied = session->machine.applied();
  Tell(session, v1::CANCELLED_BY_OPERATOR, "an operator closed the session; open another");
  EndSession(session, v1::NOT_FOUND, "the session is gone: an operator closed it; open another");
  done(absl::OkStatus());
}

}  // namespace lstm::server
