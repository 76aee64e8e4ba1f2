// SPDX-License-Identifier: MIT
#include "client/cpp/session.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"
#include "client/cpp/stream.h"

namespace lstm::client {
namespace {

// A VOLATILE session that is ELSEWHERE was in a process that is gone, as a rule: little hope, little patience.
constexpr std::chrono::milliseconds kVolatilePatience(2000);

// With the payload, so that the reason stays known.
absl::Status Explained(const std::string& what, const absl::Status& status) {
  absl::Status out(status.code(), absl::StrCat(what, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) { out.SetPayload(type, payload); });
  return out;
}

absl::Status WasReleased() { return absl::FailedPreconditionError("the session was released"); }

}  // namespace

Session::Session(Stream* stream, uint32_t lane, SessionLog log, Missed missed)
    : stream_(stream), lane_(lane), missed_(std::move(missed)), log_(std::move(log)) {}

Session::~Session() {
  bool close = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    close = !released_ && !log_.over();
  }
  stream_->Forget(this, close);
}

absl::Status Session::Send(v1::Step step, Done done, absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return log_.room() || log_.over() || released_; })) {
    return absl::DeadlineExceededError("the window stayed full; the server does not answer");
  }
  if (released_) return WasReleased();
  if (!log_.status().ok()) return log_.status();
  if (log_.over()) return absl::FailedPreconditionError("the session is closed");
  SessionLog::Actions actions;
  waiting_.push_back(std::move(done));
  log_.Send(std::move(step), actions);
  Perform(actions, lock);
  return absl::OkStatus();
}

absl::StatusOr<v1::Result> Session::Step(v1::Step step, absl::Duration timeout) {
  struct Wait {
    std::mutex mutex;
    std::condition_variable done;
    bool ready = false;
    absl::StatusOr<v1::Result> result = absl::DeadlineExceededError("no answer in time; the turn may still be applied");
  };
  auto wait = std::make_shared<Wait>();  // outlives this call where the answer comes late
  const absl::Time until = absl::Now() + timeout;
  const absl::Status sent = Send(
      std::move(step),
      [wait](absl::StatusOr<v1::Result> result) {
        {
          const std::lock_guard<std::mutex> lock(wait->mutex);
          wait->result = std::move(result);
          wait->ready = true;
        }
        wait->done.notify_all();
      },
      timeout);
  if (!sent.ok()) return sent;
  std::unique_lock<std::mutex> lock(wait->mutex);
  wait->done.wait_for(lock, absl::ToChronoMilliseconds(until - absl::Now()), [&] { return wait->ready; });
  return std::move(wait->result);
}

absl::Status Session::Close(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto until = Clock::now() + absl::ToChronoMilliseconds(timeout);
  if (!changed_.wait_until(lock, until, [&] { return log_.unanswered() == 0 || log_.over() || released_; })) {
    return absl::DeadlineExceededError("turns were still unanswered when the session should close");
  }
  if (released_) return WasReleased();
  if (!log_.over()) {
    SessionLog::Actions actions;
    log_.Close(actions);
    Perform(actions, lock);
    lock.lock();
  }
  if (!changed_.wait_until(lock, until, [&] { return log_.over(); })) {
    return absl::DeadlineExceededError("the server did not close the session in time");
  }
  return log_.status();
}

absl::StatusOr<std::string> Session::Save() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return log_.Save();
}

void Session::Release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  released_ = true;
  changed_.notify_all();
}

absl::Status Session::WaitOpen(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto settled = [&] { return (log_.phase() == SessionLog::Phase::kLive && !log_.missing() && !handing_) || log_.over(); };
  if (!changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), settled)) {
    if (!log_.refusal().ok()) return log_.refusal();
    return absl::DeadlineExceededError("the server did not open the session in time");
  }
  opened_ = log_.opened();
  return log_.status();
}

void Session::OnConnected() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (released_) return;
  SessionLog::Actions actions;
  log_.Connected(lane_, actions);
  Perform(actions, lock);
}

void Session::OnLost(const absl::Status& why) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (released_) return;
  if (log_.phase() == SessionLog::Phase::kLive) {
    since_ = Clock::now();
    refused_.reset();
  }
  SessionLog::Actions actions;
  log_.Lost(why, actions);
  Perform(actions, lock);
}

void Session::OnResponse(v1::Response& response) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (released_) return;
  SessionLog::Actions actions;
  log_.Take(response, actions);
  if (actions.pause_ms && log_.phase() != SessionLog::Phase::kLive) LimitPause(actions);
  Perform(actions, lock);
}

// An Open or a Resume was refused for the moment: for how long it is tried again.
void Session::LimitPause(SessionLog::Actions& actions) {
  const auto now = Clock::now();
  if (!refused_) refused_ = now;
  Clock::duration left = since_ + stream_->patience() - now;
  absl::Status why = log_.refusal();
  if (log_.opened().durability() == v1::VOLATILE && RefusalOf(why)->reason == v1::ELSEWHERE) {
    left = std::min<Clock::duration>(left, *refused_ + kVolatilePatience - now);
    why = Explained("the session was VOLATILE, and its server process is gone", why);
  }
  const auto left_ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count();
  if (left_ms > 0) {
    actions.pause_ms = static_cast<uint32_t>(std::min<int64_t>(left_ms, *actions.pause_ms));
  } else {
    actions.pause_ms.reset();
    log_.GiveUp(why, actions);
  }
}

void Session::OnRetry() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (released_) return;
  SessionLog::Actions actions;
  log_.Retry(actions);
  Perform(actions, lock);
}

void Session::OnGivenUp(const absl::Status& why) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (released_) return;
  SessionLog::Actions actions;
  log_.GiveUp(why, actions);
  Perform(actions, lock);
}

bool Session::MayMove() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (log_.over() || released_ || log_.phase() == SessionLog::Phase::kOpening) return true;  // nothing is on the server that could be lost
  return !log_.simple() && log_.opened().durability() != v1::VOLATILE;
}

// Requests leave under the lock, in the order in which the log gave them. Answers are handed over without it; calls that
// give answers come from the stream, one at a time: they stay in order too.
void Session::Perform(SessionLog::Actions& actions, std::unique_lock<std::mutex>& lock) {
  for (v1::Request& request : actions.requests) stream_->Send(std::move(request));
  if (actions.pause_ms) stream_->RetryAfter(lane_, *actions.pause_ms);
  std::vector<Done> done;
  for (const SessionLog::Answer& answer : actions.answers) {
    if (answer.missed) {
      done.push_back([this](absl::StatusOr<v1::Result> result) { if (result.ok() && missed_) missed_(*std::move(result)); });
    } else {
      done.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
  }
  handing_ = !done.empty();
  changed_.notify_all();
  lock.unlock();
  if (done.empty()) return;
  for (size_t i = 0; i < done.size(); ++i) {
    if (done[i]) done[i](std::move(actions.answers[i].result));
  }
  lock.lock();
  handing_ = false;
  changed_.notify_all();
  lock.unlock();
}

}  // namespace lstm::client
