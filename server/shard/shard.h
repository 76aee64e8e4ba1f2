// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/engine/batch_engine.h"
#include "lstm/v1/prediction.pb.h"
#include "lstm/v1/session.pb.h"
#include "server/log/trace_context.h"
#include "server/models/model_repository.h"
#include "server/shard/parked_index.h"
#include "server/shard/parked_owners.h"
#include "server/shard/resting.h"
#include "server/shard/session.h"
#include "server/shard/shard_counters.h"

namespace lstm::server {

class SharedBatch;

// Where a stream's responses go. Confined to the shard's thread.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  // A response to fill, behind those before it. `bytes`: about how large it will be; large messages are split.
  virtual v1::Response* Next(size_t bytes) = 0;
  // Less waits on the stream than before (Stream::quiet, Stream::backlog_bytes), though perhaps no response says so.
  virtual void Settled() {}
};

// The shard's side of one gRPC stream: its lanes. Made by Shard::Attach.
class Stream {
 public:
  // Bytes received and not computed yet: the front stops reading above its budget.
  size_t backlog_bytes() const { return backlog_bytes_; }
  // No turn waits and no lane is opening or closing: nothing more will be answered without another message.
  bool quiet() const { return outstanding_ == 0 && pending_ == 0; }
  size_t lanes() const { return lanes_.size(); }
  // For lines of the log about its sessions.
  void SetTrace(const TraceContext& trace) { trace_ = trace; }

 private:
  friend class Shard;
  struct Lane {
    Session* session = nullptr;  // null: its Open or Resume is under way, or it is parked or rests
    std::optional<SessionId> parked;  // or resting
    std::vector<v1::Request> waiting;  // for that; the Open itself first, where it waits for room in the store
  };
  ResponseSink* sink_ = nullptr;
  uint64_t key_ = 0;
  std::string principal_;
  std::shared_ptr<Account> account_;  // null: without limits
  TraceContext trace_;
  std::unordered_map<uint32_t, Lane> lanes_;
  size_t backlog_bytes_ = 0;
  size_t outstanding_ = 0;  // turns that wait
  size_t pending_ = 0;      // lanes whose session is on its way
};

// One core's sessions and the body of its loop: take messages in, run a batch, commit, answer. Knows the protocol's
// messages but no gRPC, sockets or threads: the front drives it. Confined to one thread.
//
// A session's state has one owner, the table, and one way out, EndSession. While a turn is being computed the engine only
// reads it; the new state is copied in at the commit, after which the answer may leave. A stored session's commit goes to
// its slot; with HOST the answer waits for the disk, and the shard does not.
class Shard : private core::BatchRunner {
 public:
  struct Options {
    uint32_t default_window = 8;
    uint32_t max_window = 256;
    uint32_t ttl_s = 900;
    uint32_t max_ttl_s = 86'400;
    uint32_t orphan_ttl_s = 60;  // of a volatile session whose stream is gone, unless the client set a TTL
    size_t max_turn_answer_bytes = 3u << 20;  // below the 4 MB that clients take by default
    uint64_t park_after_us = 60'000'000;  // a stored session that is not used so long leaves its slot, a volatile one rests
    uint64_t slice_us = 50;  // computing goes on this long without a look at new messages, unless an answer is ready
    uint64_t most_slice_us = 1000;  // likewise where much waits already
    // A turn that other sessions would hold up for longer, as far as can be foreseen, is refused. 0: none is; windows and memory are the bounds.
    uint64_t max_wait_us = 0;
  };

  static constexpr uint64_t kSweepEveryUs = 1'000'000;  // one part of those that nobody uses

  Shard(size_t index, const Options& options, const ShardServices& services);
  ~Shard() override;
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // Before anything else: takes a slot of the store over. What cannot be served stays where it is, is noted in the directory,
  // and is said in the status.
  absl::Status Recover(std::span<std::byte> slot);
  // Likewise one that is parked: it is not looked at before somebody wants it.
  void Recover(const ParkedStore::Found& found);

  // A stream begins and ends. `sink` must live until Detach, which frees the Stream. `principal`: who its client proved to
  // be; empty: anonymous.
  Stream* Attach(ResponseSink* sink, const std::string& principal);
  void OnMessage(Stream* stream, const v1::StreamRequest& message);
  // The same from request `next` on, until what is left of the stream's share of a round is used up, so that no messages, whatever they hold, keep
  // others waiting: gives the request to go on with in the next round; requests_size() at the end. A request takes one, one more for each KB, and
  // three more where it is refused, for which its stream is written to, too.
  static constexpr size_t kRoundShare = 256;  // more than a batch has rows
  int OnPart(Stream* stream, const v1::StreamRequest& message, int next, size_t* share);
  void Detach(Stream* stream);

  // Async-signal-safe: notes the sessions whose turns this thread is computing, which is about to die of `signal`.
  static void NoteCrash(int signal);

  // Computes for a while; answers go to the sinks.
  void Work();
  bool has_work() const { return !engine_.idle(); }

  // Expiry. The front calls RunTimers at next_timer_us() or soon after.
  uint64_t next_timer_us() const { return std::min(std::max(table_.next_alarm(), next_alarms_us_), parked_.size() + resting_.size() > 0 ? next_sweep_us_ : UINT64_MAX); }
  void RunTimers();

  // `done` is called once, from Work or at once; `response` is its own until then.
  using PredictDone = std::function<void(const absl::Status&)>;
  void Predict(const v1::PredictRequest& request, v1::PredictResponse* response, PredictDone done, const std::string& principal = "");
  // Gives a cancelled Predict up: `done` will not be called.
  void ForgetPredict(const v1::PredictResponse* response);

  // A step of no session, which is not counted; one at a time. `done` is called once, from Work or at once.
  void Canary(std::function<void(bool computed)> done);

  // For an operator. NOT_FOUND where the session is not here; with the reason where it was.
  // List: appends at most `most`, and gives how many there are. With `owner`: of this principal alone; whose those are
  // that were parked by an earlier process, only their records say, and they are left out.
  uint64_t List(const std::string& model, size_t most, std::vector<v1::SessionInfo>* out, const std::optional<std::string>& owner = {}) const;
  absl::StatusOr<v1::SessionInfo> Get(const SessionId& id) const;

  // For the owner of a session, who proves it by `principal` and token (shard_transfer.cc). The new session of Fork and
  // Import is in this shard. NOT_FOUND: not here, or not theirs; FAILED_PRECONDITION: it stands elsewhere than at_seq. `done`
  // is called once, on any thread; `request` and `response` stay where they are until then.
  using Done = std::function<void(const absl::Status&)>;
  // OK where the session is the owner's; NOT_FOUND as if it were not there where it is somebody else's. Where only its record
  // says whose a parked one is, it comes back for that.
  void CheckOwner(const SessionId& id, const std::string& owner, const Done& done);
  void CloseByOperator(const SessionId& id, uint64_t* applied, const Done& done);  // for an operator, who needs no token
  void Fork(const v1::ForkSessionRequest& request, const std::string& principal, v1::ForkSessionResponse* response, Done done);
  void Export(const v1::ExportSessionRequest& request, const std::string& principal, v1::ExportSessionResponse* response, Done done);
  void Import(const v1::ImportSessionRequest& request, const std::string& principal, v1::ImportSessionResponse* response, Done done);

  // From now on no session is opened; every stream is told.
  void Drain(uint32_t deadline_ms);
  bool draining() const { return draining_; }

  // Lets go of what was kept for computing with a model that nothing here uses and nothing ever will again.
  void Forget(const ServedModel& model) {
    if (model.program) engine_.Forget(model.program.get());
    for (size_t s = 0; model.sequence && s < model.sequence->stages().size(); ++s) engine_.Forget(model.sequence->stages()[s].get());
  }

  // What was counted; the front has it brought up to date once a round.
  const ShardCounters& counters() const { return counters_; }
  void PublishGauges();

  size_t sessions() const { return table_.size() + resting_.size(); }
  size_t parked() const { return parked_.size(); }
  size_t resting() const { return resting_.size(); }
  size_t streams() const { return streams_.size(); }

 private:
  // shard.cc: streams and lanes
  void OnRequest(Stream* stream, const v1::Request& request);
  void OnRequests(Stream* stream, const std::vector<v1::Request>& requests);
  std::vector<v1::Request> TakeWaiting(Stream* stream, Stream::Lane& lane);  // off the lane, and counted no more
  void OnTouch(Stream* stream, const v1::Touch& touch);
  void OnClose(Stream* stream, uint32_t lane);
  void EndSession(Session* session, v1::Reason reason, const std::string& why);  // the one release path
  void SetAside(Session* session, v1::Reason reason, const std::string& why);    // damaged: what is stored is kept
  std::vector<Session::AfterSync> Part(Session* session);  // what both begin with; who waits is to be told at the end
  void StopComputing(Session* session);
  void Orphan(Session* session, uint64_t now);  // no stream holds it any more
  void LeaveLane(Session* session);
  Session* OnLane(Stream* stream, uint32_t lane) const;
  void RejectLane(Stream* stream, uint32_t lane, uint64_t seq, v1::Reason reason, const std::string& message,
                  uint32_t retry_after_ms = 0);
  std::shared_ptr<Account> AccountOf(const std::string& principal) const { return services_.callers != nullptr ? services_.callers->AccountOf(principal) : nullptr; }
  static void Arrived(Stream* stream);  // a lane's session is no longer on its way
  void CountReject(const v1::Reject& reject) {
    counters_.rejects[static_cast<size_t>(reject.reason())].Add();
    ++refusals_;
  }
  void Hold(Session* session, Stream* stream);  // null: let it go
  void Tell(Session* session, v1::Reason reason, const std::string& message);  // Ended, where a stream holds it
  void Tell(Stream* stream, uint32_t lane, v1::Reason reason, const std::string& message);
  void LogFault(const char* what, const Session& session, std::string_view why) const;

  // shard_timers.cc
  void SetAlarm(Session* session);  // for its warning, its end, or a place to be idle in
  uint64_t IdleAt(const Session& session, uint64_t now) const;
  void BeginSweeping();
  void Sweep(uint64_t now);

  // shard_operator.cc
  v1::SessionInfo InfoOf(const Session& session) const;
  v1::SessionInfo InfoOf(const SessionId& id, const Parked& parked) const;
  v1::SessionInfo InfoOf(const SessionId& id, const Rest& rest) const;

  // shard_rest.cc: volatile sessions that nobody uses
  Session* Find(const SessionId& id);  // one that is live; where it rests, it wakes
  bool MayRest(const Session& session) const;
  void LayToRest(Session* session);
  Session* Wake(const SessionId& id);
  void Orphan(Rest* rest);
  void SweepResting(uint64_t now);

  // shard_open.cc: making sessions
  struct Wanted;
  void OnOpen(Stream* stream, const v1::Open& open);
  absl::Status Understand(const v1::Open& open, Wanted& wanted, v1::Reason& reason) const;
  absl::StatusOr<Session*> MakeSession(Wanted& wanted);  // UNAVAILABLE: the store has to grow first
  void GrowThenOpen(Stream* stream, const v1::Open& open, const Wanted& wanted);
  void OnGrown(uint64_t stream, uint32_t lane, const absl::Status& grown);
  std::string NewToken(Session* session);
  StoredPosition PositionOf(const Session& session) const;
  absl::Status Adopt(Slot slot, const store::v1::SessionIdentity& identity);

  // shard_claim.cc: Resume and hand-over
  void OnResume(Stream* stream, const v1::Resume& resume);
  void BeginClaim(Stream* stream, const Claim& claim);
  void RouteClaim(Claim claim);
  void OnClaim(const Claim& claim);
  v1::Reason CheckClaim(Session* session, const Claim& claim, std::string& why);
  void Take(Session* session, Claim claim);
  void Deliver(Session* session, const Claim& claim);
  void Settle(Session* session, const Claim& claim);
  void SendOpened(Session* session, const std::string& token);
  void SendResumed(Session* session, uint64_t have_seq);
  void RefuseClaim(const Claim& claim, v1::Reason reason, const std::string& why);
  void OnClaimRefused(const Claim& claim, v1::Reason reason, const std::string& why);
  absl::Status Verify(Session* session);
  // What is written to the slot survives a loss of power before `then` is called; the session rests meanwhile.
  void Sync(Session* session, Session::AfterSync then);
  void OnSynced(const SessionId& id, const absl::Status& status);

  // shard_admit.cc and shard_turns.cc: turns
  void OnStep(Stream* stream, const v1::Step& step);
  void OnDuplicate(Session* session, uint64_t seq, const TurnRecord& asked, bool valid);
  void Advance(Session* session);  // begins the next turn, ends what is closing
  bool Begun(Session* session);  // true: that turn is over already
  void Start(TurnRecord* record);
  void OnFinished(TurnRecord* record);
  void Commit(Session* session, TurnRecord* record, std::span<const float> state);
  void Committed(Session* session);
  v1::Result* NextResult(Session* session, uint64_t seq, uint64_t state_digest, uint32_t steps, std::span<const std::byte> answer);
  void Replay(Session* session, uint64_t seq);
  void SendRefused(Session* session);  // what refused_ holds
  void Trim(Session* session);
  void SettleBacklog(Session* session, TurnRecord& record);
  void PredictSequence(const v1::PredictRequest& request, v1::PredictResponse* response, std::unique_ptr<PredictCall> call, PredictDone done, Account* account);
  absl::Status ChargeSteps(Account* account, uint64_t steps);
  bool RefuseBusy(Session* session, const v1::Step& step, uint64_t seq);  // true: it was
  uint64_t HeldUpUs(const Session& session, uint32_t steps) const;  // by turns of others
  uint64_t SliceUs() const;
  void FinishPredict(TurnRecord* record);
  void FinishCanary();  // shard_canary.cc

  // shard_help.cc: batches that are divided
  std::optional<absl::Status> Run(const core::StepProgram& program, std::span<const core::StepRow> rows, core::StepProgram::Scratch& scratch) override;
  void Help(const std::shared_ptr<SharedBatch>& batch, const Shard* whose);
  static const Shard*& Working();  // whose turns this thread computes

  // shard_records.cc: what a turn is computed from and into
  TurnRecordPtr TakeRecord();
  void RecycleRecord(TurnRecordPtr record);
  static void BindBuffers(TurnRecord* record, const std::vector<uint32_t>& selected);
  void TakeScratch(TurnRecord* record, size_t i);
  void GiveScratch(TurnRecord* record);

  // shard_transfer.cc
  bool Waits(const std::string& id, std::function<void()> again, const Done& done);  // true: it will be done when the disk is
  absl::Status Seal(const v1::ExportSessionRequest& request, const std::string& principal, v1::ExportSessionResponse* response);
  absl::StatusOr<Session*> Owned(const std::string& id, const std::string& token, const std::string& principal, uint64_t at_seq);
  store::v1::SessionIdentity IdentityOf(const Session& session) const;
  absl::Status ReadImport(const v1::ImportSessionRequest& request, Wanted& wanted) const;
  template <typename Response>
  void MakeDetached(const std::shared_ptr<Wanted>& wanted, Response* response, Done done);
  template <typename Response>
  void Renew(const SessionId& id, const std::string& principal, Response* response, const Done& done);
  template <typename Response>
  void AnswerMade(Session* session, const std::string& token, Response* response, const Done& done);

  // shard_park.cc
  bool MayPark(const Session& session) const;
  void Park(Session* session);
  void OnAppended(const SessionId& id, uint64_t serial, uint64_t acked, const absl::StatusOr<ParkedStore::Key>& key);
  void Leave(Session* session, ParkedStore::Key key);
  void MakeRoom();  // parks the least recently used sessions
  bool OnlyCloses(const Parked& parked) const;
  void CloseParked(const SessionId& id, uint64_t applied_seq);
  Stream* HolderOf(const Parked& parked, std::vector<v1::Request>& waiting);
  std::vector<Session::AfterSync> TakeWaiters(const SessionId& id);
  void Unpark(const SessionId& id, Session::AfterSync then);
  void OnRead(const SessionId& id, const std::shared_ptr<store::v1::ParkedSession>& read, const absl::Status& status);
  absl::Status TakeBack(const SessionId& id, const store::v1::ParkedSession& parked);
  void BackAgain(Session* session, const Parked& was);
  void NotBack(const SessionId& id, const absl::Status& why);
  void EndParked(const SessionId& id, v1::Reason reason, const std::string& why, bool keep, bool tell = true);
  void SweepParked(uint64_t now);
  uint16_t HoldModel(const ServedModelPtr& model);  // for one more parked session
  void RemoveParked(const SessionId& id);           // from the index, and its hold on its model

  const size_t index_;
  const Options options_;
  const ShardServices services_;
  MemoryBudget* const budget_;
  SessionStore* const store_;
  SessionTable table_;
  core::BatchEngine engine_{this};
  uint32_t alone_ = 0;  // batches to come that are not divided
  std::unordered_map<uint64_t, Stream*> streams_;  // by key
  uint64_t next_stream_ = 1;
  std::vector<core::Turn*> finished_;
  std::vector<Refused> refused_;
  std::vector<TurnRecordPtr> spare_records_;
  // State rows to compute into, by length in floats; wiped when given back.
  std::unordered_map<size_t, std::vector<core::AlignedBuffer<float>>> spare_rows_;
  std::unordered_map<const v1::PredictResponse*, std::unique_ptr<PredictCall>> predicts_;
  std::unique_ptr<PredictCall> canary_;  // null: none is under way
  ParkedIndex parked_;
  RestingIndex resting_;
  ParkedOwners owners_;
  struct HeldModel {
    ServedModelPtr model;  // null: a free place
    size_t sessions = 0;
  };
  std::vector<HeldModel> models_{1};  // of parked sessions; the first is none
  std::unordered_map<SessionId, std::vector<Session::AfterSync>, SessionIdHash> unparking_;  // being read; who waits
  uint64_t next_alarms_us_ = 0, next_sweep_us_ = 0, next_room_us_ = 0;
  bool draining_ = false;
  size_t attached_ = 0;  // sessions that streams hold
  double row_us_ = 0;    // what a row of a batch has cost of late
  uint64_t spent_us_ = 0;  // on pieces since the last rows were done
  uint64_t refusals_ = 0;
  ShardCounters counters_;
};

}  // namespace lstm::server
