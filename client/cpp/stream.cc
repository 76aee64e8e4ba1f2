// SPDX-License-Identifier: MIT
#include "client/cpp/stream.h"

#include <chrono>
#include <random>
#include <string>
#include <utility>

#include "client/cpp/error.h"
#include "client/cpp/session.h"

namespace lstm::client {
namespace {

constexpr std::chrono::milliseconds kFarewell(1000);

std::string Nonce() {
  std::random_device device;  // the system's CSPRNG
  std::string nonce;
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = device();
    nonce.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return nonce;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> Stream::Start(v1::Prediction::Stub* stub, std::unique_ptr<grpc::ClientContext> context) {
  std::unique_ptr<Stream> stream(new Stream(std::move(context)));
  stream->call_ = stub->Stream(stream->context_.get());
  stream->reader_ = std::thread([raw = stream.get()] { raw->ReadLoop(); });
  stream->writer_ = std::thread([raw = stream.get()] { raw->WriteLoop(); });
  return stream;
}

Stream::~Stream() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    closing_ = true;
    queued_.notify_all();
    // What is queued (a Close, as a rule) goes out and the call ends by itself, where the server answers at all.
    over_.wait_for(lock, kFarewell, [this] { return !ended_.ok(); });
  }
  context_->TryCancel();
  writer_.join();
  reader_.join();
}

absl::StatusOr<std::unique_ptr<Session>> Stream::Open(v1::Open open, absl::Duration timeout) {
  std::unique_ptr<Session> session;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_.ok()) return ended_;
    const uint32_t lane = next_lane_++;
    session.reset(new Session(this, lane));
    sessions_.emplace(lane, session.get());
    open.set_lane(lane);
  }
  if (!open.simple()) open.set_client_nonce(Nonce());
  v1::Request request;
  *request.mutable_open() = std::move(open);
  Send(std::move(request));

  std::unique_lock<std::mutex> lock(session->mutex_);
  const auto settled = [&] { return session->is_open_ || !session->ended_.ok(); };
  if (!session->changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), settled)) {
    return absl::DeadlineExceededError("the server did not open the session in time");
  }
  if (!session->ended_.ok()) return session->ended_;
  lock.unlock();
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
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_.ok()) return;  // the session learns it from End
    queue_.add_requests()->Swap(&request);
  }
  queued_.notify_one();
}

void Stream::WriteLoop() {
  v1::StreamRequest message;
  while (true) {
    message.Clear();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      queued_.wait(lock, [this] { return queue_.requests_size() > 0 || closing_ || !ended_.ok(); });
      if (!ended_.ok()) return;
      if (queue_.requests_size() == 0) break;
      message.Swap(&queue_);
    }
    if (!call_->Write(message)) return;  // the reader learns why
  }
  call_->WritesDone();
}

void Stream::ReadLoop() {
  v1::StreamResponse message;
  while (call_->Read(&message)) {
    for (v1::Response& response : *message.mutable_responses()) Dispatch(response);
  }
  const grpc::Status status = call_->Finish();
  End(status.ok() ? absl::UnavailableError("the server ended the stream")
                  : absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()));
}

void Stream::Dispatch(v1::Response& response) {
  uint32_t lane = 0;
  switch (response.kind_case()) {
    case v1::Response::kOpened: lane = response.opened().lane(); break;
    case v1::Response::kResult: lane = response.result().lane(); break;
    case v1::Response::kReject: lane = response.reject().lane(); break;
    case v1::Response::kClosed: lane = response.closed().lane(); break;
    case v1::Response::kEnded: lane = response.ended().lane(); break;
    case v1::Response::kDraining: {
      const std::lock_guard<std::mutex> lock(mutex_);
      draining_ = true;
      return;
    }
    default: return;  // what this version does not use
  }
  const std::lock_guard<std::mutex> calling(dispatch_);
  Session* session = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = sessions_.find(lane);
    if (it == sessions_.end()) return;
    session = it->second;
  }
  switch (response.kind_case()) {
    case v1::Response::kOpened: session->OnOpened(response.opened()); break;
    case v1::Response::kResult: session->OnResult(*response.mutable_result()); break;
    case v1::Response::kReject: session->OnReject(response.reject()); break;
    case v1::Response::kClosed: session->OnEnd(absl::OkStatus(), true); break;
    default: {
      v1::Reject reject;
      reject.set_reason(response.ended().reason());
      reject.set_code(static_cast<int>(response.ended().reason() == v1::EXPIRED ? absl::StatusCode::kNotFound : absl::StatusCode::kAborted));
      reject.set_message(response.ended().message());
      session->OnEnd(ToStatus(reject), false);
    }
  }
}

void Stream::End(const absl::Status& status) {
  const std::lock_guard<std::mutex> calling(dispatch_);
  std::map<uint32_t, Session*> sessions;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = status;
    sessions = sessions_;
  }
  queued_.notify_all();
  over_.notify_all();
  for (const auto& [lane, session] : sessions) session->OnEnd(status, false);
}

void Stream::Forget(Session* session) {
  const std::lock_guard<std::mutex> calling(dispatch_);  // no call into it is under way any more
  const std::lock_guard<std::mutex> lock(mutex_);
  sessions_.erase(session->lane_);
}

}  // namespace lstm::client
