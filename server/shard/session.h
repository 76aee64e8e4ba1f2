// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "core/base/aligned_buffer.h"
#include "core/base/ring_buffer.h"
#include "core/engine/batch_engine.h"
#include "server/models/model_repository.h"
#include "server/session/session_machine.h"

namespace lstm::server {

using SessionId = std::array<uint8_t, 16>;

struct SessionIdHash {
  size_t operator()(const SessionId& id) const;
};

// What all shards together may hold. Thread-safe.
class MemoryBudget {
 public:
  MemoryBudget(uint64_t max_sessions, uint64_t max_bytes) : max_sessions_(max_sessions), max_bytes_(max_bytes) {}

  bool TakeSession() { return Take(sessions_, 1, max_sessions_); }
  void GiveSession() { sessions_.fetch_sub(1, std::memory_order_relaxed); }
  bool TakeBytes(uint64_t n) { return Take(bytes_, n, max_bytes_); }
  void GiveBytes(uint64_t n) { bytes_.fetch_sub(n, std::memory_order_relaxed); }

  uint64_t sessions() const { return sessions_.load(std::memory_order_relaxed); }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  uint64_t max_sessions() const { return max_sessions_; }
  uint64_t max_bytes() const { return max_bytes_; }

 private:
  static bool Take(std::atomic<uint64_t>& used, uint64_t n, uint64_t max) {
    if (used.fetch_add(n, std::memory_order_relaxed) + n <= max) return true;
    used.fetch_sub(n, std::memory_order_relaxed);
    return false;
  }
  std::atomic<uint64_t> sessions_{0}, bytes_{0};
  const uint64_t max_sessions_, max_bytes_;
};

struct Session;
struct PredictCall;
class Stream;

// One turn from its receipt until its answer is acknowledged. Recycled: the buffers keep their capacity.
struct TurnRecord : core::Turn {
  Session* session = nullptr;      // or
  PredictCall* predict = nullptr;  // whose turn it is
  bool reset_before = false;
  bool discard = false;
  bool waiting = false;  // counted in its stream's backlog
  uint32_t answer_steps = 0;
  uint64_t received_us = 0, began_us = 0, finished_us = 0;
  uint64_t charged_bytes = 0;
  uint64_t state_digest = 0;     // after the turn
  std::vector<std::byte> input;  // as DecodeInputs leaves it
  std::vector<std::byte> answer;
  std::array<core::AlignedBuffer<float>, 2> rows;  // what the turn is computed into; there while it is computed
};
using TurnRecordPtr = std::unique_ptr<TurnRecord>;

// One recurrent state of one model version, and its position. Owned by the SessionTable of its shard; released by
// SessionTable::Release alone. Confined to the shard's thread.
struct Session {
  Session(const SessionId& session_id, ServedModelPtr served, const SessionMachine::Options& options)
      : id(session_id), model(std::move(served)), machine(options) {}

  const SessionId id;
  const ServedModelPtr model;
  SessionMachine machine;
  std::array<uint8_t, 32> token_hash{};  // SHA-256 of the resume token
  std::vector<uint32_t> selected;        // of program->outputs()
  bool last_step_only = false;
  bool timings = false;
  size_t answer_step_bytes = 0;
  core::AlignedBuffer<float> state;    // [state_floats()], after applied() turns
  core::AlignedBuffer<float> initial;  // where Open gave another than the model's; else empty
  core::RingBuffer<TurnRecordPtr> records;  // of seqs (first_record, ...], see SessionMachine
  uint64_t first_record = 0;

  Stream* stream = nullptr;  // null: no stream holds it
  uint32_t lane = 0;
  bool closing = false;  // Close was received: closes when nothing waits
  bool doomed = false;   // ended while a turn was being computed: released with it

  uint64_t last_used_us = 0;
  uint64_t ttl_us = 0;
  bool own_ttl = false;  // the client asked for one
  bool warned = false;   // Expiring was sent
  uint64_t steps = 0;
  uint64_t charged_bytes = 0;
  std::multimap<uint64_t, Session*>::iterator timer;

  const core::StepProgram& program() const { return *model->program; }
  std::span<const float> initial_state() const { return initial.empty() ? program().initial_state() : initial.span(); }
};

// The sessions of one shard: by id, by expiry, and why those of late are gone. Confined to the shard's thread.
class SessionTable {
 public:
  explicit SessionTable(MemoryBudget* budget) : budget_(budget) {}
  ~SessionTable();

  // A session in its initial state with a fresh id. RESOURCE_EXHAUSTED where count or bytes are used up.
  absl::StatusOr<Session*> Create(ServedModelPtr model, const SessionMachine::Options& options);

  // The one way out: wipes the state, gives everything back. `reason` is remembered for GetSession.
  void Release(Session* session, const char* reason);

  Session* Find(const SessionId& id);
  // Why a session that was here is gone; null where nothing is known of it.
  const char* GoneBecause(const SessionId& id) const;

  // Sessions whose alarm is due at `now_us`, one at a time; null: none. The caller sets a new alarm or releases it.
  Session* PopDue(uint64_t now_us);
  void SetAlarm(Session* session, uint64_t at_us);
  uint64_t next_alarm() const { return alarms_.empty() ? UINT64_MAX : alarms_.begin()->first; }

  size_t size() const { return sessions_.size(); }
  const std::unordered_map<SessionId, std::unique_ptr<Session>, SessionIdHash>& all() const { return sessions_; }

 private:
  MemoryBudget* const budget_;
  std::unordered_map<SessionId, std::unique_ptr<Session>, SessionIdHash> sessions_;
  std::multimap<uint64_t, Session*> alarms_;
  std::unordered_map<SessionId, const char*, SessionIdHash> gone_;  // bounded: the oldest leave first
  core::RingBuffer<SessionId> gone_order_;
};

// Bytes from the system's CSPRNG.
void FillRandom(uint8_t* out, size_t n);

}  // namespace lstm::server
