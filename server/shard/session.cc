// SPDX-License-Identifier: MIT
#include "server/shard/session.h"

#include <string.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/session/mutant.h"

namespace lstm::server {
namespace {

constexpr uint64_t kSessionOverheadBytes = sizeof(Session) + 256;  // table entries, the machine's queues

}  // namespace

bool Session::IsLate(const Holder& from) const {
  if (from.id == 0) return false;
  return std::any_of(holders.begin(), holders.end(), [&](const Holder& h) { return h.id == from.id && from.attempt <= h.attempt; });
}

void Session::HeldBy(const Holder& holder) {
  if (holder.id == 0) return;
  auto at = std::find_if(holders.begin(), holders.end(), [&](const Holder& h) { return h.id == holder.id; });
  if (at == holders.end()) --at;  // the oldest is forgotten
  *at = holder;
  std::rotate(holders.begin(), at, at + 1);
}

uint64_t SessionTable::BytesOf(uint64_t bytes) { return bytes + kSessionOverheadBytes; }

SessionTable::~SessionTable() {
  while (!sessions_.empty()) {
    GiveBack(sessions_.begin()->second.get());
    sessions_.erase(sessions_.begin());
  }
}

absl::StatusOr<Session*> SessionTable::Create(ServedModelPtr model, const SessionMachine::Options& options, uint64_t bytes,
                                              const std::optional<Nonce>& nonce, std::shared_ptr<Account> account) {
  bytes = BytesOf(bytes);
  if (account != nullptr) LSTM_RETURN_IF_ERROR(account->TakeSession(bytes));
  const auto give_account = [&] {
    if (account != nullptr) account->GiveSession(bytes);
  };
  if (!services_.budget->TakeSession()) {
    give_account();
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", services_.budget->max_sessions(), " sessions are in use; close one, or raise --max-sessions"));
  }
  if (!services_.budget->TakeBytes(bytes)) {
    give_account();
    services_.budget->GiveSession();
    return absl::ResourceExhaustedError(absl::StrCat("the ", services_.budget->max_bytes(),
                                                     " bytes for sessions are in use; close some, or raise --max-session-bytes"));
  }
  SessionId id;
  std::copy(services_.instance.begin(), services_.instance.end(), id.begin());
  services_.random(id.data() + services_.instance.size(), id.size() - services_.instance.size());
  auto session = std::make_unique<Session>(id, std::move(model), options);
  session->charged_bytes = bytes;
  session->nonce = nonce;
  if (services_.directory->Add(id, nonce, shard_)) {
    give_account();
    services_.budget->GiveSession();
    services_.budget->GiveBytes(bytes);
    return absl::AlreadyExistsError("the nonce has a session");
  }
  session->account = std::move(account);
  return Add(std::move(session));
}

Session* SessionTable::Recover(const SessionId& id, ServedModelPtr model, const SessionMachine::Options& options,
                               uint64_t bytes, const std::optional<Nonce>& nonce, std::shared_ptr<Account> account) {
  auto session = std::make_unique<Session>(id, std::move(model), options);
  session->charged_bytes = BytesOf(bytes);
  session->nonce = nonce;
  services_.budget->ForceSession();
  services_.budget->ForceBytes(session->charged_bytes);
  if (account != nullptr) account->ForceSession(session->charged_bytes);
  session->account = std::move(account);
  services_.directory->Restore(id, nonce, shard_);
  return Add(std::move(session));
}

Session* SessionTable::Add(std::unique_ptr<Session> session) {
  session->timer = alarms_.end();
  Session* raw = session.get();
  sessions_.emplace(raw->id, std::move(session));
  return raw;
}

std::unique_ptr<Session> SessionTable::Extract(Session* session) {
  if (session->timer != alarms_.end()) alarms_.erase(session->timer);
  auto node = sessions_.extract(session->id);
  return std::move(node.mapped());
}

Session* SessionTable::Insert(std::unique_ptr<Session> session) {
  services_.directory->Move(session->id, shard_);
  return Add(std::move(session));
}

void SessionTable::GiveBack(Session* session) {
  if (session->timer != alarms_.end()) alarms_.erase(session->timer);
  explicit_bzero(session->memory.data(), session->memory.size() * sizeof(float));
  explicit_bzero(session->initial.data(), session->initial.size() * sizeof(float));
  uint64_t bytes = session->charged_bytes;
  for (size_t i = 0; i < session->records.size(); ++i) bytes += session->records[i]->charged_bytes;
  services_.budget->GiveBytes(bytes);
  services_.budget->GiveSession();
  if (session->account != nullptr) session->account->GiveSession(session->charged_bytes);
}

void SessionTable::Release(Session* session, SessionDirectory::Absent absent) {
  GiveBack(session);
  if (session->slot && !Mutant(13)) services_.store->Free(session->slot->memory());
  services_.directory->Remove(session->id, session->nonce, std::move(absent), false);
  sessions_.erase(SessionId(session->id));
}

void SessionTable::Park(Session* session) {
  GiveBack(session);
  services_.store->Free(session->slot->memory());
  if (session->nonce) services_.directory->ForgetNonce(*session->nonce);
  sessions_.erase(SessionId(session->id));
}

std::vector<Session*> SessionTable::LeastRecentlyUsed(size_t most, const std::function<bool(const Session&)>& wanted) const {
  std::vector<Session*> out;
  for (const auto& [id, session] : sessions_) {
    if (wanted(*session)) out.push_back(session.get());
  }
  const auto older = [](const Session* a, const Session* b) { return a->last_used_us < b->last_used_us; };
  const auto end = out.begin() + static_cast<ptrdiff_t>(std::min(most, out.size()));
  std::partial_sort(out.begin(), end, out.end(), older);
  out.erase(end, out.end());
  return out;
}

void SessionTable::SetAside(Session* session, SessionDirectory::Absent absent) {
  GiveBack(session);
  services_.directory->Remove(session->id, session->nonce, std::move(absent), true);
  sessions_.erase(SessionId(session->id));
}

Session* SessionTable::Find(const SessionId& id) {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second.get();
}

Session* SessionTable::PopDue(uint64_t now_us) {
  if (alarms_.empty() || alarms_.begin()->first > now_us) return nullptr;
  Session* session = alarms_.begin()->second;
  alarms_.erase(alarms_.begin());
  session->timer = alarms_.end();
  return session;
}

void SessionTable::SetAlarm(Session* session, uint64_t at_us) {
  if (session->timer != alarms_.end()) alarms_.erase(session->timer);
  session->timer = alarms_.emplace(at_us, session);
}

}  // namespace lstm::server
