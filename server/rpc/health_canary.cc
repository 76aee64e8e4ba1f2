// SPDX-License-Identifier: MIT
#include "server/rpc/health_canary.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "server/log/log.h"

namespace lstm::server {
namespace {

constexpr std::chrono::milliseconds kTick(250);
constexpr std::chrono::seconds kFirst(1);

}  // namespace

void HealthCanary::Start() {
  Tick();
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, kFirst, [this] { return serving_; });
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "canary");
    std::unique_lock<std::mutex> mine(mutex_);
    while (!changed_.wait_for(mine, kTick, [this] { return closed_; })) {
      mine.unlock();
      Tick();
      mine.lock();
    }
  });
}

void HealthCanary::Close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    Judge();
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool HealthCanary::serving() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return serving_;
}

void HealthCanary::Tick() {
  for (size_t i = 0; i < shards_.size(); ++i) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (shards_[i].under_way) {
        if (++shards_[i].ticks == kTicksOfPatience) LogEvent(LogLevel::kError, "a shard hangs: no step has gone through it for a second", {{"shard", i}});
        continue;
      }
      shards_[i].under_way = true;
      shards_[i].ticks = 0;
    }
    begin_(i, [this, i](bool computed) { OnDone(i, computed); });
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  Judge();
}

void HealthCanary::OnDone(size_t shard, bool computed) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (shards_[shard].ticks >= kTicksOfPatience) LogEvent(LogLevel::kWarning, "the shard goes on", {{"shard", shard}});
  shards_[shard] = {.under_way = false, .computed = computed};
  Judge();
}

void HealthCanary::Judge() {
  const bool good = !closed_ && std::all_of(shards_.begin(), shards_.end(), [](const One& one) { return one.computed && one.ticks < kTicksOfPatience; });
  if (good == serving_) return;
  serving_ = good;
  tell_(good);
  changed_.notify_all();
}

}  // namespace lstm::server
