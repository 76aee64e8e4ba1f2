// SPDX-License-Identifier: MIT
#include "server/rpc/shard_loop.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "server/rpc/clock.h"
#include "server/rpc/load_spread.h"

namespace lstm::server {
namespace {

constexpr size_t kEventsPerRound = 4096;
constexpr uint64_t kMostLooks = 16, kUsALook = 50;
constexpr uint64_t kCheckEveryUs = 1'000'000;

}  // namespace

ShardLoop::ShardLoop(size_t index, const Options& options, const ShardServices& services, LoadSpread* spread,
                     std::unique_ptr<grpc::ServerCompletionQueue> queue)
    : index_(index),
      options_(options),
      spread_(spread),
      callers_(services.callers),
      queue_(std::move(queue)),
      shard_(index, options.shard, services) {}

ShardLoop::~ShardLoop() { Join(); }

uint64_t ShardLoop::now_us() const { return MonotonicMicros(); }

void ShardLoop::Start(std::function<void()> arm) {
  thread_ = std::thread([this, arm = std::move(arm)] {
    pthread_setname_np(pthread_self(), ("shard-" + std::to_string(index_)).c_str());
    if (options_.pin) {
      cpu_set_t allowed, one;
      CPU_ZERO(&one);
      // The index-th of the cores that the process may use: in a container not the machine's own numbering.
      if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
        size_t seen = 0;
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
          if (CPU_ISSET(cpu, &allowed) && seen++ == index_ % static_cast<size_t>(CPU_COUNT(&allowed))) CPU_SET(cpu, &one);
        }
        pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
      }
    }
    arm();
    Run();
  });
}

void ShardLoop::Join() {
  if (thread_.joinable()) thread_.join();
}

bool ShardLoop::Post(std::function<void()> task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (shut_down_) return false;
  posted_.push_back(std::move(task));
  if (wake_pending_) return true;
  wake_pending_ = true;
  alarm_ = std::make_unique<grpc::Alarm>();
  // A time that has passed: the event is queued from here. Now, which gRPC rounds up to a millisecond, would go through its thread
  // of timers, which is late.
  alarm_->Set(queue_.get(), gpr_time_0(GPR_CLOCK_MONOTONIC), &wake_);
  return true;
}

void ShardLoop::RunPosted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    tasks.swap(posted_);
    wake_pending_ = false;
  }
  for (const auto& task : tasks) task();
}

void ShardLoop::Shutdown() {
  Post([this] { ending_ = true; });
}

void ShardLoop::Run() {
  bool open = true;
  while (TakeEvents(!shard_.has_work() && again_.empty())) {
    GoOn();
    if (shard_.next_timer_us() <= MonotonicMicros()) shard_.RunTimers();
    if (shard_.has_work()) shard_.Work();
    Flush();
    shard_.PublishGauges();
    if (!calls_.empty() && MonotonicMicros() >= next_check_us_) DropStalled();
    // On this thread and after the last call, so that nothing is asked of the queue after its end: gRPC aborts on that.
    if (open && ending_ && live_calls_ == 0) {
      const std::lock_guard<std::mutex> lock(mutex_);
      open = false;
      shut_down_ = true;
      queue_->Shutdown();
    }
  }
}

bool ShardLoop::TakeEvents(bool wait) {
  // A time that has passed: gRPC rounds up to a millisecond, and would wait that long for each step of a session that is computed alone.
  gpr_timespec until = gpr_time_0(GPR_CLOCK_MONOTONIC);
  if (wait) {
    const gpr_timespec now = gpr_now(GPR_CLOCK_MONOTONIC);
    uint64_t at = shard_.next_timer_us();
    if (!calls_.empty()) at = std::min(at, next_check_us_);
    const uint64_t now_micros = MonotonicMicros();
    until = at == UINT64_MAX ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                             : gpr_time_add(now, gpr_time_from_micros(static_cast<int64_t>(at - std::min(at, now_micros)), GPR_TIMESPAN));
  }
  // gRPC handles one connection at a look, and a look that brings but a part of a message says that there is nothing. After a long
  // computation several connections wait: one look each, or who sends much would have all others wait a computation for each part of it.
  uint64_t looks = wait ? 0 : std::min<uint64_t>({(MonotonicMicros() - looked_us_) / kUsALook, kMostLooks, calls_.size()});
  void* tag = nullptr;
  bool ok = false;
  events_ = 0;
  if (wait) idle_.store(true, std::memory_order_relaxed);
  auto status = queue_->AsyncNext(&tag, &ok, until);
  if (wait) idle_.store(false, std::memory_order_relaxed);
  while (status == grpc::CompletionQueue::GOT_EVENT || (status == grpc::CompletionQueue::TIMEOUT && looks > 0)) {
    if (status == grpc::CompletionQueue::TIMEOUT) {
      --looks;
    } else {
      static_cast<Tag*>(tag)->Done(ok);
      // A look for more costs a system call: a lone stream in ping-pong is spared it.
      if (++events_ == 1 && calls_.size() <= 1 && last_events_ <= 1) break;
      if (events_ == kEventsPerRound) break;
    }
    status = queue_->AsyncNext(&tag, &ok, gpr_time_0(GPR_CLOCK_MONOTONIC));
  }
  last_events_ = events_;
  looked_us_ = MonotonicMicros();
  return status != grpc::CompletionQueue::SHUTDOWN;
}

void ShardLoop::GoOn() {
  std::vector<LoopCall*> calls;
  calls.swap(again_);
  for (LoopCall* call : calls) {
    if (call != nullptr) call->GoOn();
  }
}

void ShardLoop::Flush() {
  if (after_work_) after_work_();
  // A call that ends while it is flushed leaves the list by Remove, as a null.
  for (size_t i = 0; i < dirty_.size(); ++i) {
    if (dirty_[i] != nullptr) dirty_[i]->Flush();
  }
  dirty_.clear();
}

void ShardLoop::Remove(LoopCall* call) {
  calls_.erase(call);
  std::replace(dirty_.begin(), dirty_.end(), call, static_cast<LoopCall*>(nullptr));
  std::replace(again_.begin(), again_.end(), call, static_cast<LoopCall*>(nullptr));
}

void ShardLoop::DropStalled() {
  const uint64_t now = MonotonicMicros();
  next_check_us_ = now + kCheckEveryUs;
  for (LoopCall* call : calls_) call->Check(now);
  Flush();
}

}  // namespace lstm::server
