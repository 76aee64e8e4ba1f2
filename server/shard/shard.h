// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/engine/batch_engine.h"
#include "lstm/v1/prediction.pb.h"
#include "lstm/v1/session.pb.h"
#include "server/models/model_repository.h"
#include "server/shard/session.h"

namespace lstm::server {

// Where a stream's responses go. Confined to the shard's thread.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  // A response to fill, behind those before it. `bytes`: about how large it will be; large messages are split.
  virtual v1::Response* Next(size_t bytes) = 0;
};

// The shard's side of one gRPC stream: its lanes. Made by Shard::Attach.
class Stream {
 public:
  // Bytes received and not computed yet: the front stops reading above its budget.
  size_t backlog_bytes() const { return backlog_bytes_; }
  // No turn waits and no lane is closing: nothing more will be answered without another message.
  bool quiet() const { return outstanding_ == 0; }
  size_t lanes() const { return lanes_.size(); }

 private:
  friend class Shard;
  ResponseSink* sink_ = nullptr;
  std::unordered_map<uint32_t, Session*> lanes_;
  size_t backlog_bytes_ = 0;
  size_t outstanding_ = 0;  // turns that wait
};

// One core's sessions and the body of its loop: take messages in, run a batch, commit, answer. Knows the protocol's
// messages but no gRPC, sockets or threads: the front drives it. Confined to one thread.
//
// A session's state has one owner, the table, and one way out, EndSession. While a turn is being computed the engine only
// reads it; the new state is copied in at the commit, after which the answer may leave.
class Shard {
 public:
  struct Options {
    uint32_t default_window = 8;
    uint32_t max_window = 256;
    uint32_t ttl_s = 900;
    uint32_t max_ttl_s = 86'400;
    uint32_t orphan_ttl_s = 60;  // of a volatile session whose stream is gone, unless the client set a TTL
    size_t max_turn_answer_bytes = 3u << 20;  // below the 4 MB that clients take by default
    uint64_t slice_us = 50;  // computing goes on this long without a look at new messages, unless an answer is ready
  };
  using Clock = std::function<uint64_t()>;  // monotonic microseconds

  Shard(const Options& options, std::shared_ptr<const ModelRepository> models, MemoryBudget* budget, Clock clock);
  ~Shard();
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // A stream begins and ends. `sink` must live until Detach, which frees the Stream.
  Stream* Attach(ResponseSink* sink);
  void OnMessage(Stream* stream, const v1::StreamRequest& message);
  void Detach(Stream* stream);

  // Computes for a while; answers go to the sinks.
  void Work();
  bool has_work() const { return !engine_.idle(); }

  // Expiry. The front calls RunTimers at next_timer_us() or soon after.
  uint64_t next_timer_us() const { return table_.next_alarm(); }
  void RunTimers();

  // `done` is called once, from Work or at once; `response` is its own until then.
  using PredictDone = std::function<void(const absl::Status&)>;
  void Predict(const v1::PredictRequest& request, v1::PredictResponse* response, PredictDone done);
  // Gives a cancelled Predict up: `done` will not be called.
  void ForgetPredict(const v1::PredictResponse* response);

  // For an operator. NOT_FOUND where the session is not here; with the reason where it was.
  void List(const std::string& model, std::vector<v1::SessionInfo>* out) const;
  absl::StatusOr<v1::SessionInfo> Get(const SessionId& id) const;
  absl::StatusOr<uint64_t> CloseByOperator(const SessionId& id);

  // From now on no session is opened; every stream is told.
  void Drain(uint32_t deadline_ms);

  size_t sessions() const { return table_.size(); }
  size_t streams() const { return streams_.size(); }

 private:
  // shard.cc: lanes and sessions
  void OnOpen(Stream* stream, const v1::Open& open);
  void OnClose(Stream* stream, uint32_t lane);
  void EndSession(Session* session, const char* why);  // the one release path
  void LeaveLane(Session* session);
  Session* OnLane(Stream* stream, uint32_t lane) const;
  void RejectLane(Stream* stream, uint32_t lane, uint64_t seq, v1::Reason reason, const std::string& message);
  v1::SessionInfo InfoOf(const Session& session) const;

  // shard_turns.cc: turns
  void OnStep(Stream* stream, const v1::Step& step);
  void OnDuplicate(Session* session, uint64_t seq, const TurnRecord& asked, bool valid);
  void Advance(Session* session);  // begins the next turn, ends what is closing
  void Start(TurnRecord* record);
  static void BindBuffers(TurnRecord* record, const std::vector<uint32_t>& selected);
  void OnFinished(TurnRecord* record);
  void Commit(Session* session, TurnRecord* record);
  void SendResult(Session* session, const TurnRecord& record, uint64_t seq, bool replayed);
  void SendRefused(Session* session);  // what refused_ holds
  void Trim(Session* session);
  TurnRecordPtr TakeRecord();
  void RecycleRecord(TurnRecordPtr record);
  void SettleBacklog(Session* session, TurnRecord& record);
  void TakeScratch(TurnRecord* record);
  void GiveScratch(TurnRecord* record);
  void FinishPredict(TurnRecord* record);

  const Options options_;
  const std::shared_ptr<const ModelRepository> models_;
  MemoryBudget* const budget_;
  const Clock clock_;
  SessionTable table_;
  core::BatchEngine engine_;
  std::unordered_set<Stream*> streams_;
  std::vector<core::Turn*> finished_;
  std::vector<Refused> refused_;
  std::vector<TurnRecordPtr> spare_records_;
  // State rows to compute into, by length in floats; wiped when given back.
  std::unordered_map<size_t, std::vector<core::AlignedBuffer<float>>> spare_rows_;
  std::unordered_map<const v1::PredictResponse*, std::unique_ptr<PredictCall>> predicts_;
  std::vector<std::unique_ptr<PredictCall>> abandoned_;  // cancelled while being computed
  bool draining_ = false;
};

}  // namespace lstm::server
