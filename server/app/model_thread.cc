// SPDX-License-Identifier: MIT
#include "server/app/model_thread.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_split.h"

namespace lstm::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::duration<double> kAgain(1);    // between two looks that were asked for
constexpr std::chrono::duration<double> kCollect(0.2);  // while something is to be freed
constexpr std::chrono::duration<double> kSettle(0.2);   // between two looks for a model that is to be loaded
constexpr int kMostLooks = 50;
constexpr size_t kMostWishes = 100;
constexpr int kNiceness = 10;

absl::Status GoingAway() { return absl::UnavailableError("the server is going away; ask another, or again later"); }

}  // namespace

void LogNotes(const ModelKeeper::Notes& notes) {
  for (const ModelKeeper::Note& note : notes) {
    for (const absl::string_view line : absl::StrSplit(note.text, '\n')) {
      spdlog::log(note.bad ? spdlog::level::err : spdlog::level::info, "{}", std::string(line));
    }
  }
}

void ModelThread::Start(ModelKeeper::Forget forget) {
  forget_ = std::move(forget);
  thread_ = std::thread([this] { Run(); });
}

void ModelThread::LookNow() {
  const std::lock_guard<std::mutex> lock(mutex_);
  asked_ = true;
  changed_.notify_one();
}

void ModelThread::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  for (const Wish& wish : std::exchange(wishes_, {})) wish.done(GoingAway());
}

void ModelThread::Ask(Wish wish) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ending_ && wishes_.size() < kMostWishes) {
      wishes_.push_back(std::move(wish));
      changed_.notify_one();
      return;
    }
    if (!ending_) {
      return wish.done(absl::ResourceExhaustedError("too many models wait to be loaded or unloaded; ask again later"));
    }
  }
  wish.done(GoingAway());
}

bool ModelThread::Pause() {
  std::unique_lock<std::mutex> lock(mutex_);
  return !changed_.wait_for(lock, kSettle, [this] { return ending_; });
}

void ModelThread::Grant(const Wish& wish, ModelKeeper::Notes& notes) {
  if (!wish.load) return wish.done(keeper_->Forbid(wish.model, notes));
  keeper_->Allow(wish.model);
  // Files are taken once two looks have seen them the same: at least two looks, and more while they change.
  bool changes = keeper_->Look(notes);
  for (int looks = 1; changes && looks < kMostLooks; ++looks) {
    if (!Pause()) return wish.done(GoingAway());
    changes = keeper_->Look(notes);
  }
  wish.done(keeper_->StateOf(wish.model));
}

void ModelThread::Run() {
  pthread_setname_np(pthread_self(), "models");
  setpriority(PRIO_PROCESS, 0, kNiceness);  // of this thread alone: steps come before a model that is being loaded
  const auto after = [](std::chrono::duration<double> pause) { return Clock::now() + std::chrono::duration_cast<Clock::duration>(pause); };
  const auto next_poll = [&] { return poll_seconds_ > 0 ? after(std::chrono::duration<double>(poll_seconds_)) : Clock::time_point::max(); };
  Clock::time_point look_at = next_poll(), collect_at = after(kCollect);
  bool until_settled = false;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ending_) {
    const Clock::time_point wake = std::min(look_at, collect_at);
    const auto wanted = [this] { return ending_ || asked_ || !wishes_.empty(); };
    if (wake == Clock::time_point::max()) {
      changed_.wait(lock, wanted);
    } else {
      changed_.wait_until(lock, wake, wanted);
    }
    if (ending_) break;
    const bool asked = std::exchange(asked_, false);
    const std::vector<Wish> wishes = std::exchange(wishes_, {});
    lock.unlock();
    ModelKeeper::Notes notes;
    bool wait = keeper_->Collect(forget_, notes) || !wishes.empty();  // first, for it makes room
    for (const Wish& wish : wishes) Grant(wish, notes);
    if (asked || Clock::now() >= look_at) {
      if (asked) {
        spdlog::info("looking at the model repository, as SIGHUP asks");
        keeper_->TryAgain();
      }
      const bool changes = keeper_->Look(notes);
      until_settled = (asked || until_settled) && changes;
      look_at = until_settled ? std::min(after(kAgain), next_poll()) : next_poll();
      wait = true;  // what was replaced may go at once
    }
    collect_at = wait ? after(kCollect) : Clock::time_point::max();
    LogNotes(notes);
    lock.lock();
  }
}

}  // namespace lstm::server
