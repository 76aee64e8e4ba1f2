// SPDX-License-Identifier: MIT
#include "client/cpp/session.h"

#include <algorithm>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"
#include "client/cpp/stream.h"

namespace lstm::client {
namespace {

constexpr uint32_t kLeastPauseMs = 5;

}  // namespace

Session::~Session() {
  bool open = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    open = is_open_ && !closed_ && ended_.ok();
  }
  if (open) {
    v1::Request request;
    request.mutable_close()->set_lane(lane_);
    stream_->Send(std::move(request));
  }
  stream_->Forget(this);
}

void Session::SendStep(const v1::Step& step) {
  v1::Request request;
  *request.mutable_step() = step;
  stream_->Send(std::move(request));
}

absl::Status Session::Send(v1::Step step, Done done, absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto room = [&] { return (turns_.size() < opened_.window() && ghosts_ == 0) || closed_ || !ended_.ok(); };
  if (!changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), room)) {
    return absl::DeadlineExceededError("the window stayed full; the server does not answer");
  }
  if (!ended_.ok()) return ended_;
  if (closed_) return absl::FailedPreconditionError("the session is closed");
  step.set_lane(lane_);
  step.set_seq(first_seq_ + turns_.size());
  step.set_ack(consumed_seq_);
  turns_.push_back({step, std::move(done)});
  SendStep(step);  // under the lock, so that turns leave in order of their seq
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
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(timeout);
  if (!changed_.wait_until(lock, until, [&] { return turns_.empty() || !ended_.ok(); })) {
    return absl::DeadlineExceededError("turns were still unanswered when the session should close");
  }
  if (ended_.ok() && !closed_) {
    lock.unlock();
    v1::Request request;
    request.mutable_close()->set_lane(lane_);
    stream_->Send(std::move(request));
    lock.lock();
  }
  if (!changed_.wait_until(lock, until, [&] { return closed_ || !ended_.ok(); })) {
    return absl::DeadlineExceededError("the server did not close the session in time");
  }
  return ended_;
}

void Session::OnOpened(const v1::Opened& opened) {
  const std::lock_guard<std::mutex> lock(mutex_);
  opened_ = opened;
  is_open_ = true;
  changed_.notify_all();
}

void Session::OnResult(v1::Result& result) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (turns_.empty() || result.seq() != first_seq_) return;  // a copy of what was answered
  Done done = std::move(turns_.front().done);
  turns_.pop_front();
  consumed_seq_ = first_seq_++;
  changed_.notify_all();
  lock.unlock();
  if (done) done(std::move(result));
}

void Session::OnReject(const v1::Reject& reject) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!is_open_) {  // Open itself was refused
    ended_ = ToStatus(reject);
    changed_.notify_all();
    return;
  }
  if (ghosts_ > 0 && reject.seq() >= first_seq_ + turns_.size()) {
    if (--ghosts_ == 0) changed_.notify_all();
    return;
  }
  if (reject.seq() < first_seq_ || reject.seq() >= first_seq_ + turns_.size()) return;
  const auto index = static_cast<size_t>(reject.seq() - first_seq_);
  if (!IsTransient(reject.reason())) return FailFrom(index, ToStatus(reject), lock);
  turns_[index].answered = true;
  const bool all = std::all_of(turns_.begin(), turns_.end(), [](const Turn& t) { return t.answered; });
  if (all) Resend(std::max(reject.retry_after_ms(), kLeastPauseMs));
}

// The turn at `index` and all behind it fail. Their seqs are free again, once the server's own refusals of those behind it
// have come: until then nothing is sent, so that no answer is taken for another's.
void Session::FailFrom(size_t index, const absl::Status& status, std::unique_lock<std::mutex>& lock) {
  std::vector<Done> failed;
  for (size_t i = index; i < turns_.size(); ++i) {
    if (i > index && !turns_[i].answered) ++ghosts_;
    failed.push_back(std::move(turns_[i].done));
  }
  turns_.resize(index);
  changed_.notify_all();
  lock.unlock();
  for (size_t i = 0; i < failed.size(); ++i) {
    if (!failed[i]) continue;
    failed[i](i == 0 ? status : absl::AbortedError(absl::StrCat("not applied: the turn before it was refused: ", status.message())));
  }
}

void Session::Resend(uint32_t after_ms) {
  // On the reading thread: the pause holds this stream's other answers up by milliseconds, in a moment of overload.
  thread_local std::minstd_rand random(std::random_device{}());
  std::this_thread::sleep_for(std::chrono::milliseconds(std::uniform_int_distribution<uint32_t>(after_ms / 2, after_ms)(random)));
  for (Turn& turn : turns_) {
    turn.answered = false;
    turn.step.set_ack(consumed_seq_);
    SendStep(turn.step);
  }
}

void Session::OnEnd(const absl::Status& status, bool closed) {
  std::unique_lock<std::mutex> lock(mutex_);
  closed_ = closed_ || closed;
  if (!closed && ended_.ok() && !closed_) ended_ = status;
  FailFrom(0, closed ? absl::CancelledError("the session was closed") : status, lock);
}

}  // namespace lstm::client
