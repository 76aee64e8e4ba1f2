// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lstm/v1/prediction.grpc.pb.h"

namespace lstm::client {

class Session;

// One bidirectional stream with any number of sessions on its lanes. Thread-safe. What is queued while a message is being
// written goes with the next one: requests coalesce under load and wait for nothing when there is none.
//
// When the stream ends, whatever the cause, every session and everything that waits gets the reason as a status.
class Stream {
 public:
  static absl::StatusOr<std::unique_ptr<Stream>> Start(v1::Prediction::Stub* stub, std::unique_ptr<grpc::ClientContext> context);
  ~Stream();  // sends what is queued and ends the call, within a second or so; sessions of it must be gone

  // Opens a session. `open` says what is wanted; lane and, unless it is simple, nonce are set here. DEADLINE_EXCEEDED
  // where the server does not answer in time.
  absl::StatusOr<std::unique_ptr<Session>> Open(v1::Open open, absl::Duration timeout = absl::Seconds(10));

  // OK while the stream lives, else why it ended.
  absl::Status status() const;
  // The server announced that it is going away.
  bool draining() const;

 private:
  friend class Session;

  Stream(std::unique_ptr<grpc::ClientContext> context) : context_(std::move(context)) {}
  void Send(v1::Request request);
  void WriteLoop();
  void ReadLoop();
  void Dispatch(v1::Response& response);
  void End(const absl::Status& status);
  void Forget(Session* session);

  const std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> call_;
  std::thread writer_, reader_;

  mutable std::mutex mutex_;
  std::condition_variable queued_, over_;
  v1::StreamRequest queue_;                // guarded by mutex_
  bool closing_ = false;                   // guarded by mutex_
  bool draining_ = false;                  // guarded by mutex_
  absl::Status ended_;                     // guarded by mutex_
  uint32_t next_lane_ = 1;                 // guarded by mutex_
  std::map<uint32_t, Session*> sessions_;  // guarded by mutex_
  std::mutex dispatch_;  // held while a session is called; taken before mutex_
};

}  // namespace lstm::client
