// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "core/base/aligned_buffer.h"
#include "core/base/ring_buffer.h"
#include "core/engine/batch_engine.h"
#include "lstm/v1/session.pb.h"
#include "server/auth/callers.h"
#include "server/models/model_repository.h"
#include "server/session/session_id.h"
#include "server/session/session_machine.h"
#include "server/shard/session_directory.h"
#include "server/store/parked_store.h"
#include "server/store/session_store.h"
#include "server/store/slot.h"
#include "server/store/suspects.h"

namespace lstm::server {

// What all shards together may hold. Thread-safe.
class MemoryBudget {
 public:
  MemoryBudget(uint64_t max_sessions, uint64_t max_bytes) : max_sessions_(max_sessions), max_bytes_(max_bytes) {}

  // Even above the bounds: for what is there already.
  void ForceSession() { sessions_.fetch_add(1, std::memory_order_relaxed); }
  void ForceBytes(uint64_t n) { bytes_.fetch_add(n, std::memory_order_relaxed); }
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

class Shard;

// The way to other shards. Thread-safe.
class ShardPeers {
 public:
  virtual ~ShardPeers() = default;
  // Runs `task` on the thread of shard `to` soon; never blocks. False: it takes no more, and the task is dropped.
  virtual bool Send(size_t to, std::function<void(Shard&)> task) = 0;
  // A shard that waits for something to do, for the caller to give it that; none is given twice while it waits.
  virtual std::optional<size_t> TakeIdle() { return std::nullopt; }
};

// What all shards of a server share. What the pointers name outlives the shards.
struct ShardServices {
  std::shared_ptr<const ModelRepository> models;
  MemoryBudget* budget = nullptr;
  SessionDirectory* directory = nullptr;
  SessionStore* store = nullptr;  // null: sessions are VOLATILE
  ParkedStore* parked = nullptr;  // null: none is parked
  Suspects* suspects = nullptr;   // null with it
  const Callers* callers = nullptr;  // null: none has limits
  ShardPeers* peers = nullptr;
  Instance instance{};
  std::function<uint64_t()> clock;      // monotonic microseconds
  std::function<int64_t()> unix_clock;  // microseconds since 1970
  std::function<void(uint8_t*, size_t)> random;  // from a CSPRNG
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
  uint32_t place = 0;     // for its answer, in the slot's ring
  InputDigest digest;
  bool waiting = false;  // counted in its stream's backlog
  uint32_t answer_steps = 0;
  uint64_t received_us = 0, began_us = 0, finished_us = 0;
  uint64_t charged_bytes = 0;
  uint64_t state_digest = 0;     // after the turn
  std::vector<std::byte> input;  // as DecodeInputs leaves it
  std::span<std::byte> answer;  // in the slot's ring, or
  AnswerCrc answer_crc;         // with it
  std::vector<std::byte> answer_memory;
  std::array<core::AlignedBuffer<float>, 2> rows;  // what the turn is computed into where it has no better place
};
using TurnRecordPtr = std::unique_ptr<TurnRecord>;

// Somebody who wants a session on a lane of a stream: by Resume, or by an Open with its nonce. Held by the shard of that
// stream, or on its way to the shard that has the session.
struct Claim {
  size_t shard = 0;     // of the stream
  uint64_t stream = 0;  // its key there
  uint32_t lane = 0;
  SessionId id{};
  std::string principal{};
  uint32_t hops = 0;  // sessions move: how often the claim has followed
  bool by_nonce = false;
  std::string model{};  // by_nonce: of the same model, or refused
  std::string token{};  // by_nonce, once it is granted: the new token
  Sha256 token_hash{};  // not by_nonce
  uint64_t have_seq = 0;
  std::string have_digest{};
  uint64_t replay_from = 0;
  bool accept_value_equal = false;
  uint64_t holder = 0, attempt = 0;  // 0: not told apart
  bool again = false;
};

// One recurrent state of one model version, and its position. Owned by the SessionTable of its shard; released by
// SessionTable::Release alone. Confined to the shard's thread.
struct Session {
  Session(const SessionId& session_id, ServedModelPtr served, const SessionMachine::Options& options)
      : id(session_id), model(std::move(served)), machine(options) {}

  const SessionId id;
  const ServedModelPtr model;
  SessionMachine machine;
  std::optional<Nonce> nonce;
  std::string principal;           // who opened it; empty: anonymous
  std::shared_ptr<Account> account;  // theirs, which it counts in; null: without limits
  Sha256 token_hash{};             // SHA-256 of the resume token
  std::vector<uint32_t> selected;  // of program->outputs()
  bool last_step_only = false;
  bool timings = false;
  bool accept_value_equal = false;
  v1::Durability durability = v1::VOLATILE;
  size_t answer_step_bytes = 0;
  size_t max_turn_answer_bytes = 0;
  std::optional<Slot> slot;            // its place in the store; none where it is volatile
  core::AlignedBuffer<float> memory;   // the state after applied() turns, where it is volatile
  core::AlignedBuffer<float> initial;  // where Open gave another than the model's; else empty
  core::RingBuffer<TurnRecordPtr> records;  // of seqs (first_record, ...], see SessionMachine
  uint64_t first_record = 0;
  uint64_t state_digest = 0;
  uint64_t base_seq = 0;  // the applied_seq that it was made with

  Stream* stream = nullptr;  // null: no stream holds it
  uint32_t lane = 0;
  struct Holder {
    uint64_t id = 0, attempt = 0;  // the last Open or Resume of it that took the session
  };
  std::array<Holder, 4> holders;  // of late, the newest first
  bool closing = false;   // Close was received: closes when nothing waits
  bool syncing = false;   // the disk works for it: nothing begins or moves meanwhile
  bool verified = true;   // false: as recovered, its stored state was not looked at yet
  bool parking = false;  // its record is being written
  bool suspect = false;  // a process died of a turn of it, or of one beside it: computed alone
  bool own_numerics = true;  // false: recovered from an engine whose bits differ
  // Called once, when the disk is done; or, with the reason, when the session has ended instead and is there no more.
  using AfterSync = std::function<void(const SessionDirectory::Absent* gone)>;
  AfterSync after_sync;
  std::vector<AfterSync> waiting;  // for the end of it: claims, Fork, Export

  uint64_t sync_began_us = 0;
  uint64_t last_used_us = 0;
  uint64_t ttl_us = 0;
  bool own_ttl = false;  // the client asked for one
  bool warned = false;   // Expiring was sent
  uint64_t steps = 0;
  uint64_t charged_bytes = 0;
  std::multimap<uint64_t, Session*>::iterator timer;

  const core::StepProgram& program() const { return *model->program; }
  std::span<const float> state() const { return slot ? slot->state() : memory.span(); }
  std::span<const float> initial_state() const { return initial.empty() ? program().initial_state() : initial.span(); }
  // True where this is an Open or Resume that arrives after a newer one of the same holder.
  bool IsLate(const Holder& from) const;
  void HeldBy(const Holder& holder);
  bool stored() const { return slot.has_value(); }
  // Of the answer to `seq`, which must be applied and not acknowledged: its place among the slot's answers.
  size_t AnswerIndex(uint64_t seq) const { return static_cast<size_t>(seq - slot->position().acked - 1); }
};

// The sessions of one shard: by id and by expiry. Confined to the shard's thread.
class SessionTable {
 public:
  SessionTable(size_t shard, const ShardServices& services) : shard_(shard), services_(services) {}
  ~SessionTable();  // stored sessions stay in the store

  // A session with a fresh id, without a state yet; `bytes` are what it will hold. RESOURCE_EXHAUSTED where count or bytes
  // are used up, the server's or the account's. ALREADY_EXISTS: the nonce has a session.
  absl::StatusOr<Session*> Create(ServedModelPtr model, const SessionMachine::Options& options, uint64_t bytes,
                                  const std::optional<Nonce>& nonce, std::shared_ptr<Account> account);
  // What one counts that holds so many bytes.
  static uint64_t BytesOf(uint64_t bytes);
  // One that the store has. Counts even where that is above the bounds: a promise was given.
  Session* Recover(const SessionId& id, ServedModelPtr model, const SessionMachine::Options& options, uint64_t bytes,
                   const std::optional<Nonce>& nonce, std::shared_ptr<Account> account);

  // Hand-over: takes it out, with all that it holds, and in.
  std::unique_ptr<Session> Extract(Session* session);
  Session* Insert(std::unique_ptr<Session> session);

  // The one way out: wipes the state, in memory and in the store, and gives everything back. `absent` is remembered.
  void Release(Session* session, SessionDirectory::Absent absent);
  // As Release, but the session is elsewhere: nothing is remembered of its end.
  void Park(Session* session);
  // As Release, but what is stored stays as it is, for somebody to look at.
  void SetAside(Session* session, SessionDirectory::Absent absent);

  Session* Find(const SessionId& id);

  // Sessions whose alarm is due at `now_us`, one at a time; null: none. The caller sets a new alarm or releases it.
  Session* PopDue(uint64_t now_us);
  void SetAlarm(Session* session, uint64_t at_us);
  // Those that are `wanted`, the least recently used first.
  std::vector<Session*> LeastRecentlyUsed(size_t most, const std::function<bool(const Session&)>& wanted) const;
  uint64_t next_alarm() const { return alarms_.empty() ? UINT64_MAX : alarms_.begin()->first; }

  size_t size() const { return sessions_.size(); }
  const std::unordered_map<SessionId, std::unique_ptr<Session>, SessionIdHash>& all() const { return sessions_; }

 private:
  Session* Add(std::unique_ptr<Session> session);
  void GiveBack(Session* session);

  const size_t shard_;
  const ShardServices& services_;
  std::unordered_map<SessionId, std::unique_ptr<Session>, SessionIdHash> sessions_;
  std::multimap<uint64_t, Session*> alarms_;
};

}  // namespace lstm::server
