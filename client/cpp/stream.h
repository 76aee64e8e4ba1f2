// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/hold.h"
#include "client/cpp/session.h"
#include "lstm/v1/prediction.grpc.pb.h"

namespace lstm::client {

// What becomes of a stream's connection, for who wants to show it.
struct StreamEvent {
  enum class Kind { kLost, kResumed };
  Kind kind;
  absl::Status status;  // kLost: why
  double seconds = 0;   // kResumed: since the connection was lost
};

// One bidirectional stream with any number of sessions on its lanes, begun with the first of them. Thread-safe. What is queued while a message is being
// written, or while the server is behind (hold.h), goes with the next one: requests coalesce under load and wait for nothing when there is none.
//
// A call that breaks off, or ends without our asking, is made again: at once where it had held, else after a pause that
// grows and has jitter (backoff.h). The sessions are resumed on it (Session says what that promises). Where the server says
// that it drains, and no session here is VOLATILE, the stream moves by itself. After Wiring::reconnect_timeout without a
// server that answers, or an error that another attempt would not mend, the stream ends: every session and everything that
// waits gets the reason as a status.
class Stream {
 public:
  struct Wiring {  // from Client
    std::shared_ptr<grpc::Channel> channel;
    v1::Prediction::Stub* stub = nullptr;
    std::function<std::unique_ptr<grpc::ClientContext>()> context;
    absl::Duration reconnect_timeout;
    size_t keep_turns = 0;
    std::function<void(const StreamEvent&)> on_event;  // on the stream's thread; must not block, nor call the stream
  };
  static std::unique_ptr<Stream> Start(Wiring wiring);
  ~Stream();  // sends what is queued and ends the call, within a second or so; sessions of it must be gone

  // Opens a session. `open` says what is wanted; lane and, unless it is simple, nonce are set here. DEADLINE_EXCEEDED
  // where the server does not answer in time; UNAVAILABLE where it refused for the moment, all that time.
  absl::StatusOr<std::unique_ptr<Session>> Open(v1::Open open, absl::Duration timeout = absl::Seconds(10));

  // Takes up a session from what Session::Save gave. Returns once the answers that were missed have been given to
  // `on_missed`. Whatever stream had the session gets Fenced. A session that could not be taken up is left as it was.
  absl::StatusOr<std::unique_ptr<Session>> Resume(const std::string& saved, Session::Missed on_missed = {},
                                                  absl::Duration timeout = absl::Seconds(30));

  // OK while the stream lives, reconnecting included, else why it ended.
  absl::Status status() const;
  // The server announced that it is going away.
  bool draining() const;

 private:
  friend class Session;
  using Clock = std::chrono::steady_clock;
  struct Call {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> rpc;
  };

  explicit Stream(Wiring wiring);
  absl::StatusOr<std::unique_ptr<Session>> Add(SessionLog log, Session::Missed missed, absl::Duration timeout);
  // For sessions.
  void Send(v1::Request request);
  void RetryAfter(uint32_t lane, uint32_t pause_ms);
  void Forget(Session* session, bool close);
  std::chrono::milliseconds patience() const { return patience_; }

  void WriteLoop();
  void RetryDue(std::unique_lock<std::mutex>& lock);
  void TakeSome(v1::StreamRequest& message);
  void ConnectLoop();
  bool WaitForSession();
  void Attach(const std::shared_ptr<Call>& call);
  void Detach(const absl::Status& why, bool for_good);
  bool WaitForServer(Clock::duration pause, Clock::time_point until);
  void Dispatch(v1::Response& response);
  void Drain(const v1::Draining& draining);

  const Wiring wiring_;
  const std::chrono::milliseconds patience_;
  std::thread writer_, connector_;  // the second reads, too

  mutable std::mutex mutex_;
  std::condition_variable queued_, over_;
  v1::StreamRequest queue_;                // guarded by mutex_, as all below
  size_t queued_bytes_ = 0;
  Hold hold_;
  bool accepting_ = false;                 // requests are for a connection; else they are dropped, and the sessions know
  bool half_close_ = false;                // once the queue is empty
  bool closing_ = false, draining_ = false;
  bool moving_ = false;                    // the server drains, and we leave
  uint32_t resume_after_ms_ = 0;
  absl::Status ended_;
  uint32_t next_lane_ = 1;
  std::shared_ptr<Call> call_;             // under way, perhaps not connected yet
  std::shared_ptr<Call> writable_;         // the same, while it can be written to
  std::map<uint32_t, Session*> sessions_;
  std::multimap<Clock::time_point, uint32_t> retries_;  // lanes

  std::mutex dispatch_;  // held while a session is called; taken before a session's mutex, and that before mutex_
  // Of the connecting thread alone.
  bool down_ = false;
  Clock::time_point down_since_;
};

}  // namespace lstm::client
