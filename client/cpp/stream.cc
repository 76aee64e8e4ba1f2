// SPDX-License-Identifier: MIT
#include "client/cpp/stream.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/backoff.h"
#include "client/cpp/nonce.h"

namespace lstm::client {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFarewell(1000);
constexpr milliseconds kSlice(100);             // how long the end of the stream may go unnoticed while there is no server
constexpr milliseconds kToLearnWhy(2000);       // from a failed write until the reader knows how the call ended
constexpr milliseconds kSettled(5000);          // a connection that held so long was one, even if nothing came over it
constexpr milliseconds kLongest = std::chrono::hours(24 * 365);
constexpr uint32_t kLongestMoveMs = 30'000;     // whatever a draining server asks for
constexpr size_t kMessageBytes = 1 << 20;       // the server takes 4 MB; a larger request goes alone

// Proxies turn a dead server into any of these; a stream that nobody used for long ends with DEADLINE_EXCEEDED, for ours have no deadline.
bool MendsByItself(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNKNOWN: return true;
    default: return false;
  }
}

absl::Status WhyItEnded(const grpc::Status& status) {
  if (status.ok()) return absl::UnavailableError("the server ended the stream");
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      absl::StrCat("the stream to the server broke off: ", status.error_message()));
}

uint32_t LaneOf(const v1::Response& response) {
  switch (response.kind_case()) {
    case v1::Response::kOpened: return response.opened().lane();
    case v1::Response::kResumed: return response.resumed().lane();
    case v1::Response::kResult: return response.result().lane();
    case v1::Response::kReject: return response.reject().lane();
    case v1::Response::kFenced: return response.fenced().lane();
    case v1::Response::kClosed: return response.closed().lane();
    case v1::Response::kEnded: return response.ended().lane();
    default: return 0;  // no lane of ours
  }
}

}  // namespace

Stream::Stream(Wiring wiring)
    : wiring_(std::move(wiring)), patience_(std::min(absl::ToChronoMilliseconds(wiring_.reconnect_timeout), kLongest)) {}

std::unique_ptr<Stream> Stream::Start(Wiring wiring) {
  std::unique_ptr<Stream> stream(new Stream(std::move(wiring)));
  stream->connector_ = std::thread([raw = stream.get()] { raw->ConnectLoop(); });
  stream->writer_ = std::thread([raw = stream.get()] { raw->WriteLoop(); });
  return stream;
}

Stream::~Stream() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    closing_ = half_close_ = true;
    queued_.notify_all();
    over_.notify_all();
    // What is queued (a Close, as a rule) goes out and the call ends by itself, where the server answers at all.
    over_.wait_for(lock, kFarewell, [this] { return !ended_.ok(); });
    if (call_) call_->context->TryCancel();
  }
  connector_.join();
  writer_.join();
}

absl::StatusOr<std::unique_ptr<Session>> Stream::Open(v1::Open open, absl::Duration timeout) {
  if (!open.simple()) {
    open.set_client_nonce(Nonce());
    open.set_holder(Holder());
  }
  return Add(SessionLog(std::move(open), wiring_.keep_turns), {}, timeout);
}

absl::StatusOr<std::unique_ptr<Session>> Stream::Resume(const std::string& saved, Session::Missed on_missed, absl::Duration timeout) {
  auto log = SessionLog::FromSaved(saved, wiring_.keep_turns, Holder());
  if (!log.ok()) return log.status();
  return Add(*std::move(log), std::move(on_missed), timeout);
}

absl::StatusOr<std::unique_ptr<Session>> Stream::Add(SessionLog log, Session::Missed missed, absl::Duration timeout) {
  const bool saved = log.phase() == SessionLog::Phase::kResuming;
  std::unique_ptr<Session> session;
  {
    // The connecting thread tells every session of each connection: this one either now or then.
    const std::lock_guard<std::mutex> calling(dispatch_);
    bool connected = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!ended_.ok()) return ended_;
      const uint32_t lane = next_lane_++;
      session.reset(new Session(this, lane, std::move(log), std::move(missed)));
      sessions_.emplace(lane, session.get());
      connected = accepting_;
    }
    over_.notify_all();  // perhaps the first
    if (connected) session->OnConnected();
  }
  const absl::Status opened = session->WaitOpen(timeout);
  if (!opened.ok()) {
    if (saved) session->Release();
    return opened;
  }
  return session;
}

absl::Status Stream::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ended_;
}

bool Stream::draining() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return draining_;
}

void Stream::Send(v1::Request request) {
  const size_t bytes = request.ByteSizeLong();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!accepting_) return;  // the session learns it from Detach, and sends again what must be
    queue_.add_requests()->Swap(&request);
    queued_bytes_ += bytes;
  }
  queued_.notify_one();
}

void Stream::RetryAfter(uint32_t lane, uint32_t pause_ms) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    retries_.emplace(Clock::now() + milliseconds(Uniform(pause_ms, pause_ms + pause_ms / 2)), lane);
  }
  queued_.notify_one();
}

void Stream::Forget(Session* session, bool close) {
  const std::lock_guard<std::mutex> calling(dispatch_);  // no call into it is under way any more
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sessions_.erase(session->lane_);
  }
  if (!close) return;
  v1::Request request;
  request.mutable_close()->set_lane(session->lane_);
  Send(std::move(request));
}

// Moves what fits from the queue into a message.
void Stream::TakeSome(v1::StreamRequest& message) {
  message.Clear();
  if (queued_bytes_ <= kMessageBytes) {
    message.Swap(&queue_);
    queued_bytes_ = 0;
    return;
  }
  size_t bytes = 0;
  int n = 0;
  for (; n < queue_.requests_size(); ++n) {
    const size_t more = queue_.requests(n).ByteSizeLong();
    if (n > 0 && bytes + more > kMessageBytes) break;
    bytes += more;
    message.add_requests()->Swap(queue_.mutable_requests(n));
  }
  queue_.mutable_requests()->DeleteSubrange(0, n);
  queued_bytes_ -= bytes;
}

void Stream::WriteLoop() {
  v1::StreamRequest message;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto wanted = [this] { return !ended_.ok() || (writable_ && (queue_.requests_size() > 0 || half_close_)); };
  const auto held = [this] { return ended_.ok() && !half_close_ && hold_.holds(Clock::now()); };
  while (true) {
    if (wanted() && held()) {
      queued_.wait_until(lock, hold_.until(), [&] { return !wanted() || !held(); });
    } else if (retries_.empty()) {
      queued_.wait(lock, [&] { return wanted() || !retries_.empty(); });
    } else {
      const auto next = retries_.begin()->first;
      queued_.wait_until(lock, next, [&] { return wanted() || retries_.begin()->first < next; });
    }
    if (!ended_.ok()) return;
    RetryDue(lock);
    if (!wanted() || held() || !ended_.ok()) continue;
    const std::shared_ptr<Call> call = writable_;
    const bool last = queue_.requests_size() == 0;
    if (!last) {
      TakeSome(message);
      hold_.Wrote(message, Clock::now());
    }
    lock.unlock();
    const bool written = last ? (call->rpc->WritesDone(), false) : call->rpc->Write(message);
    lock.lock();
    if (!written && writable_ == call) writable_ = nullptr;  // the reader learns why
    // Where it does not by itself: a call that can not be written to any more has been seen to stay open for reading, its sessions waiting for ever. Not at
    // once: a status that has come is lost if the call is cancelled before its reader asks, and with it that another attempt would not help.
    if (!written && !last && !over_.wait_for(lock, kToLearnWhy, [&] { return call_ != call; })) call->context->TryCancel();
  }
}

void Stream::RetryDue(std::unique_lock<std::mutex>& lock) {
  const auto now = Clock::now();
  std::vector<uint32_t> lanes;
  while (!retries_.empty() && retries_.begin()->first <= now) {
    lanes.push_back(retries_.begin()->second);
    retries_.erase(retries_.begin());
  }
  if (lanes.empty()) return;
  lock.unlock();
  for (uint32_t lane : lanes) {
    const std::lock_guard<std::mutex> calling(dispatch_);
    lock.lock();
    const auto it = sessions_.find(lane);
    Session* const session = it == sessions_.end() ? nullptr : it->second;
    lock.unlock();
    if (session != nullptr) session->OnRetry();
  }
  lock.lock();
}

// Makes calls, one after another, until the stream ends.
void Stream::ConnectLoop() {
  Backoff backoff;
  auto lost_at = Clock::now();
  while (true) {
    if (WaitForSession()) lost_at = Clock::now();
    const auto call = std::make_shared<Call>();
    call->context = wiring_.context();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = call;  // from here on it can be cancelled
      if (closing_) call->context->TryCancel();
    }
    const auto begin = Clock::now();
    std::optional<Clock::time_point> heard;
    call->rpc = wiring_.stub->Stream(call->context.get());
    Attach(call);
    v1::StreamResponse message;
    while (call->rpc->Read(&message)) {
      if (!heard) heard = Clock::now();
      for (v1::Response& response : *message.mutable_responses()) Dispatch(response);
    }
    const grpc::Status status = call->rpc->Finish();
    absl::Status why = WhyItEnded(status);
    const auto now = Clock::now();
    if (heard || now - begin > kSettled) {
      lost_at = now;
      backoff.Had(now - heard.value_or(begin));
    }
    std::chrono::microseconds pause(0);
    bool last = false, unused = false;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      unused = sessions_.empty();
      last = closing_ || !MendsByItself(status) || (patience_ <= milliseconds(0) && !unused);
      const bool told = std::exchange(moving_, false);
      pause = backoff.Next(told);
      if (told) {
        why = absl::UnavailableError("the server is going away");
        pause += milliseconds(resume_after_ms_);
        lost_at += milliseconds(resume_after_ms_);
      }
    }
    Detach(why, last);
    if (last) return;
    if (unused) continue;  // nobody misses it
    if (!std::exchange(down_, true)) {
      down_since_ = now;
      if (wiring_.on_event) wiring_.on_event({StreamEvent::Kind::kLost, why, 0});
    }
    if (!WaitForServer(pause, lost_at + patience_)) {
      const std::string how_long = absl::FormatDuration(wiring_.reconnect_timeout);
      return Detach(absl::Status(why.code(), absl::StrCat(why.message(), "; no server answered for ", how_long)), true);
    }
  }
}

// A call that says nothing is ended by the server within seconds: none is made before there is a session. True where it had to wait.
bool Stream::WaitForSession() {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto ready = [this] { return closing_ || !sessions_.empty(); };
  if (ready()) return false;
  over_.wait(lock, ready);
  return true;
}

// False where there is none in time, or the stream is to end.
bool Stream::WaitForServer(Clock::duration pause, Clock::time_point until) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (over_.wait_until(lock, std::min(until, Clock::now() + pause), [this] { return closing_; })) return false;
  }
  while (Clock::now() < until) {
    if (wiring_.channel->WaitForConnected(std::chrono::system_clock::now() + kSlice)) return true;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) return false;
  }
  return false;
}

// Every session puts its Open or Resume into the queue before the first message is written.
void Stream::Attach(const std::shared_ptr<Call>& call) {
  const std::lock_guard<std::mutex> calling(dispatch_);
  std::map<uint32_t, Session*> sessions;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    accepting_ = true;
    draining_ = false;
    half_close_ = closing_;
    sessions = sessions_;
  }
  for (const auto& [lane, session] : sessions) session->OnConnected();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    writable_ = call;
  }
  queued_.notify_all();
}

void Stream::Detach(const absl::Status& why, bool for_good) {
  const std::lock_guard<std::mutex> calling(dispatch_);
  std::map<uint32_t, Session*> sessions;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    accepting_ = false;
    call_ = writable_ = nullptr;
    hold_.Clear();
    queue_.Clear();
    queued_bytes_ = 0;
    if (for_good) ended_ = why;
    sessions = sessions_;
  }
  queued_.notify_all();
  over_.notify_all();
  for (const auto& [lane, session] : sessions) for_good ? session->OnGivenUp(why) : session->OnLost(why);
}

void Stream::Dispatch(v1::Response& response) {
  if (response.has_draining()) return Drain(response.draining());
  const bool resumed = response.has_resumed() || response.has_opened();
  {
    const std::lock_guard<std::mutex> calling(dispatch_);
    Session* session = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (hold_.Answered(response) && queue_.requests_size() > 0) queued_.notify_one();
      const auto it = sessions_.find(LaneOf(response));
      if (it == sessions_.end()) return;
      session = it->second;
    }
    session->OnResponse(response);
  }
  if (!resumed || !std::exchange(down_, false) || !wiring_.on_event) return;
  wiring_.on_event({StreamEvent::Kind::kResumed, absl::OkStatus(), std::chrono::duration<double>(Clock::now() - down_since_).count()});
}

// Where all sessions can go on elsewhere, nothing more is sent here: what is in the queue is dropped as if the connection
// were gone already, the answers that are due come, and the call ends by itself.
void Stream::Drain(const v1::Draining& draining) {
  const std::lock_guard<std::mutex> calling(dispatch_);
  std::map<uint32_t, Session*> sessions;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
    sessions = sessions_;
  }
  if (patience_ <= milliseconds(0)) return;
  if (!std::all_of(sessions.begin(), sessions.end(), [](const auto& s) { return s.second->MayMove(); })) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    accepting_ = false;
    half_close_ = moving_ = true;
    queue_.Clear();
    queued_bytes_ = 0;
    resume_after_ms_ = std::min(draining.resume_after_ms(), kLongestMoveMs);
  }
  queued_.notify_all();
}

}  // namespace lstm::client
