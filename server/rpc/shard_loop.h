// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lstm/v1/prediction.grpc.pb.h"
#include "server/shard/shard.h"

namespace lstm::server {

class LoadSpread;

// What a completion queue gives back. Done is called on the loop's thread, once per operation.
class Tag {
 public:
  virtual ~Tag() = default;
  virtual void Done(bool ok) = 0;
};

// A tag that calls a member function: one for each kind of operation of a call.
template <typename T>
class MemberTag : public Tag {
 public:
  MemberTag(T* object, void (T::*done)(bool)) : object_(object), done_(done) {}
  void Done(bool ok) override { (object_->*done_)(ok); }

 private:
  T* const object_;
  void (T::*const done_)(bool);
};

// A call that lives through rounds of its loop.
class LoopCall {
 public:
  virtual ~LoopCall() = default;
  // At the end of a round in which it was marked dirty.
  virtual void Flush() = 0;
  // Every second or so.
  virtual void Check(uint64_t now_us) = 0;
  // In the round after one in which it asked for it (ShardLoop::Again).
  virtual void GoOn() {}
  // The time of a drain is up, and it is still there: the log is to say why.
  virtual void Explain() const {}
};

// One core: a completion queue, the thread that polls it, and the shard that the thread drives. A round takes in all that
// has arrived, computes a slice, and sends one message per stream. Everything runs on that thread, but for Start, Post,
// Shutdown and Join; before Start, shard() is its maker's.
class ShardLoop {
 public:
  struct Options {
    Shard::Options shard;
    bool pin = true;                      // the thread to core `index`
    size_t stream_budget_bytes = 4u << 20;  // not computed and not sent: above it the stream is not read
    uint32_t stalled_write_s = 60;        // a client that takes no answer this long is dropped
    uint32_t first_message_s = 5;         // a stream whose first message does not come within this is closed
    uint32_t idle_stream_s = 300;         // a stream without a session is closed after this long, and a connection without a call
  };

  ShardLoop(size_t index, const Options& options, const ShardServices& services, LoadSpread* spread,
            std::unique_ptr<grpc::ServerCompletionQueue> queue);
  ~ShardLoop();

  // Before Start: what is done in each round after the computing, before calls are flushed.
  void AfterWork(std::function<void()> f) { after_work_ = std::move(f); }
  // `arm` posts the first requests; it runs on the thread.
  void Start(std::function<void()> arm);
  // Runs `task` on the thread soon; never blocks. False: the queue has ended, and the task is dropped.
  bool Post(std::function<void()> task);
  // After the gRPC server was shut down: the calls come to their ends, the queue empties, and the thread ends.
  void Shutdown();
  void Join();
  // True where the thread waits for something to do: once while it does. Thread-safe.
  bool TakeIdle() { return idle_.exchange(false, std::memory_order_relaxed); }

  // For calls, on the thread.
  Shard& shard() { return shard_; }
  grpc::ServerCompletionQueue* queue() { return queue_.get(); }
  const Options& options() const { return options_; }
  LoadSpread& spread() { return *spread_; }
  const Callers& callers() const { return *callers_; }
  size_t index() const { return index_; }
  // No new calls are armed.
  bool ending() const { return ending_; }
  // Calls that have begun and not come to their end: as long, the queue stays open for their operations.
  void CallBegan() { ++live_calls_; }
  void CallEnded() { --live_calls_; }
  uint64_t now_us() const;
  // The event that is handled is the only one of this round so far, and the last round had no more: nobody waits for anything else.
  bool calm() const { return events_ == 0 && last_events_ <= 1; }
  void MarkDirty(LoopCall* call) { dirty_.push_back(call); }
  // A call has more to do than is fair in one round.
  void Again(LoopCall* call) { again_.push_back(call); }
  // Has every call say why it is still there.
  void ExplainCalls() const {
    for (const LoopCall* call : calls_) call->Explain();
  }
  void Add(LoopCall* call) { calls_.insert(call); }
  void Remove(LoopCall* call);

 private:
  class Wake : public Tag {
   public:
    explicit Wake(ShardLoop* loop) : loop_(loop) {}
    void Done(bool) override { loop_->RunPosted(); }

   private:
    ShardLoop* const loop_;
  };

  void Run();
  bool TakeEvents(bool wait);  // false: the queue has ended
  void GoOn();
  void RunPosted();
  void Flush();
  void DropStalled();

  const size_t index_;
  const Options options_;
  LoadSpread* const spread_;
  const Callers* const callers_;
  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  Shard shard_;
  std::function<void()> after_work_;
  std::thread thread_;
  std::unordered_set<LoopCall*> calls_;
  std::vector<LoopCall*> dirty_;  // have responses to send, or may read or end
  std::vector<LoopCall*> again_;  // have more to do in the next round
  uint64_t next_check_us_ = 0;
  size_t events_ = 0, last_events_ = 0;  // of gRPC, in this round and in the one before
  std::atomic<bool> idle_{false};
  uint64_t looked_us_ = 0;  // when events were taken last
  bool ending_ = false;
  size_t live_calls_ = 0;

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  bool wake_pending_ = false;                  // guarded by mutex_
  bool shut_down_ = false;                     // guarded by mutex_
  std::unique_ptr<grpc::Alarm> alarm_;         // guarded by mutex_
  Wake wake_{this};
};

}  // namespace lstm::server
