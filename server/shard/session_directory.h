// SPDX-License-Identifier: MIT
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "absl/container/flat_hash_map.h"
#include "core/base/ring_buffer.h"
#include "lstm/v1/session.pb.h"
#include "server/session/session_id.h"

namespace lstm::server {

// Which shard has which session, which session was opened with which nonce, and why others cannot be had. Asked when a
// session is opened, resumed or ended, never for a step. Thread-safe.
class SessionDirectory {
 public:
  // Why a session cannot be had.
  struct Absent {
    v1::Reason reason;
    std::string why;
  };
  // What is said of a session that there never was, and of one that is somebody else's.
  static constexpr char kUnknown[] = "no such session: it has ended, or it never was yours; open another";

  // The session that the nonce belongs to already, if there is one: then nothing was added.
  std::optional<SessionId> Add(const SessionId& id, const std::optional<Nonce>& nonce, size_t shard);
  void Move(const SessionId& id, size_t shard);
  // One that the stores have: in any case, and with its nonce unless another session was opened with it since (ForgetNonce).
  void Restore(const SessionId& id, const std::optional<Nonce>& nonce, size_t shard);
  // `absent` is remembered: for a while, or, where the session stays in the store, as long as the process lives.
  void Remove(const SessionId& id, const std::optional<Nonce>& nonce, Absent absent, bool stays);
  // The nonce is not asked for any more.
  void ForgetNonce(const Nonce& nonce);
  // A stored session that cannot be served.
  void AddAbsent(const SessionId& id, Absent absent);

  std::optional<size_t> ShardOf(const SessionId& id) const;
  std::optional<SessionId> OpenedWith(const Nonce& nonce) const;
  // NOT_FOUND where nothing is known.
  Absent WhyAbsent(const SessionId& id) const;

 private:
  template <typename T>
  using ById = std::unordered_map<SessionId, T, SessionIdHash>;
  mutable std::mutex mutex_;
  // Of every session, parked ones too: small.
  absl::flat_hash_map<SessionId, uint32_t, SessionIdHash> shards_;   // guarded by mutex_, as all below
  absl::flat_hash_map<Nonce, SessionId> nonces_;  // clients choose them: hashed with a secret
  ById<Absent> gone_;                 // bounded: the oldest leave first
  core::RingBuffer<SessionId> gone_order_;
  ById<Absent> set_aside_;
};

}  // namespace lstm::server
