// SPDX-License-Identifier: MIT
#include "server/shard/session.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr size_t kGoneKept = 100'000;
constexpr uint64_t kSessionOverheadBytes = sizeof(Session) + 256;  // table entries, the machine's queues

// The first four bytes of every id of this process: tells sessions of another instance apart.
const std::array<uint8_t, 4>& Instance() {
  static const std::array<uint8_t, 4> instance = [] {
    std::array<uint8_t, 4> bytes;
    FillRandom(bytes.data(), bytes.size());
    return bytes;
  }();
  return instance;
}

}  // namespace

void FillRandom(uint8_t* out, size_t n) {
  // Without randomness ids could be guessed: nothing may go on.
  if (RAND_bytes(out, static_cast<int>(n)) != 1) std::abort();
}

size_t SessionIdHash::operator()(const SessionId& id) const {
  uint64_t random;  // bytes 4 to 15 are random already
  std::memcpy(&random, id.data() + 8, sizeof(random));
  return static_cast<size_t>(random);
}

SessionTable::~SessionTable() {
  while (!sessions_.empty()) Release(sessions_.begin()->second.get(), "");
}

absl::StatusOr<Session*> SessionTable::Create(ServedModelPtr model, const SessionMachine::Options& options) {
  const uint64_t bytes = model->program->state_floats() * sizeof(float) + kSessionOverheadBytes;
  if (!budget_->TakeSession()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all ", budget_->max_sessions(), " sessions are in use; close one, or raise --max-sessions"));
  }
  if (!budget_->TakeBytes(bytes)) {
    budget_->GiveSession();
    return absl::ResourceExhaustedError(absl::StrCat("the ", budget_->max_bytes(),
                                                     " bytes for sessions are in use; close some, or raise --max-session-bytes"));
  }
  SessionId id;
  std::copy(Instance().begin(), Instance().end(), id.begin());
  FillRandom(id.data() + 4, id.size() - 4);
  auto session = std::make_unique<Session>(id, std::move(model), options);
  session->charged_bytes = bytes;
  const std::span<const float> initial = session->program().initial_state();
  session->state = core::AlignedBuffer<float>(initial.size());
  std::copy(initial.begin(), initial.end(), session->state.data());
  session->timer = alarms_.end();
  Session* raw = session.get();
  sessions_.emplace(id, std::move(session));
  return raw;
}

void SessionTable::Release(Session* session, const char* reason) {
  if (session->timer != alarms_.end()) alarms_.erase(session->timer);
  OPENSSL_cleanse(session->state.data(), session->state.size() * sizeof(float));
  OPENSSL_cleanse(session->initial.data(), session->initial.size() * sizeof(float));
  uint64_t bytes = session->charged_bytes;
  for (size_t i = 0; i < session->records.size(); ++i) bytes += session->records[i]->charged_bytes;
  budget_->GiveBytes(bytes);
  budget_->GiveSession();
  if (gone_.emplace(session->id, reason).second) gone_order_.push_back(session->id);
  if (gone_order_.size() > kGoneKept) gone_.erase(gone_order_.pop_front());
  sessions_.erase(SessionId(session->id));
}

Session* SessionTable::Find(const SessionId& id) {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second.get();
}

const char* SessionTable::GoneBecause(const SessionId& id) const {
  const auto it = gone_.find(id);
  return it == gone_.end() ? nullptr : it->second;
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
