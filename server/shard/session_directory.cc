// SPDX-License-Identifier: MIT
#include "server/shard/session_directory.h"

#include <utility>

namespace lstm::server {
namespace {

constexpr size_t kGoneKept = 100'000;

template <typename Map>
auto Lookup(const Map& map, const std::array<uint8_t, 16>& key) {
  const auto it = map.find(key);
  return it == map.end() ? std::nullopt : std::optional(it->second);
}

}  // namespace

std::optional<SessionId> SessionDirectory::Add(const SessionId& id, const std::optional<Nonce>& nonce, size_t shard) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (nonce) {
    const auto [it, is_new] = nonces_.emplace(*nonce, id);
    if (!is_new) return it->second;
  }
  shards_[id] = static_cast<uint32_t>(shard);
  return std::nullopt;
}

void SessionDirectory::Restore(const SessionId& id, const std::optional<Nonce>& nonce, size_t shard) {
  const std::lock_guard<std::mutex> lock(mutex_);
  shards_[id] = static_cast<uint32_t>(shard);
  if (nonce) nonces_.emplace(*nonce, id);
}

void SessionDirectory::ForgetNonce(const Nonce& nonce) {
  const std::lock_guard<std::mutex> lock(mutex_);
  nonces_.erase(nonce);
}

void SessionDirectory::Move(const SessionId& id, size_t shard) {
  const std::lock_guard<std::mutex> lock(mutex_);
  shards_[id] = static_cast<uint32_t>(shard);
}

void SessionDirectory::Remove(const SessionId& id, const std::optional<Nonce>& nonce, Absent absent, bool stays) {
  const std::lock_guard<std::mutex> lock(mutex_);
  shards_.erase(id);
  if (const auto it = nonce ? nonces_.find(*nonce) : nonces_.end(); it != nonces_.end() && it->second == id) nonces_.erase(it);
  if (stays) {
    set_aside_[id] = std::move(absent);
    return;
  }
  if (gone_.emplace(id, std::move(absent)).second) gone_order_.push_back(id);
  if (gone_order_.size() > kGoneKept) gone_.erase(gone_order_.pop_front());
}

void SessionDirectory::AddAbsent(const SessionId& id, Absent absent) {
  const std::lock_guard<std::mutex> lock(mutex_);
  set_aside_[id] = std::move(absent);
}

std::optional<size_t> SessionDirectory::ShardOf(const SessionId& id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = shards_.find(id);
  return it == shards_.end() ? std::nullopt : std::optional<size_t>(it->second);
}

std::optional<SessionId> SessionDirectory::OpenedWith(const Nonce& nonce) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return Lookup(nonces_, nonce);
}

SessionDirectory::Absent SessionDirectory::WhyAbsent(const SessionId& id) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (auto absent = Lookup(set_aside_, id)) return *absent;
  if (auto absent = Lookup(gone_, id)) return *absent;
  return {v1::NOT_FOUND, kUnknown};
}

}  // namespace lstm::server
