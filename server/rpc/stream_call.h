// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <deque>
#include <memory>
#include <vector>

#include "server/rpc/shard_loop.h"

namespace lstm::server {

// One call of Prediction.Stream. Deletes itself when gRPC has given back its last tag. Confined to its loop's thread.
//
//  1. The call is armed; when a stream comes, it sends its initial metadata and reads. Where the server drains it is refused.
//  2. A message goes to the shard; the next is read unless what was received and not computed, and what was computed and
//     not taken by gRPC, exceeds the budget.
//  3. After each round of the loop, Flush sends what the round answered as one message (split at 1 MB); one write is in
//     flight at a time, and what comes meanwhile goes with the next.
//  4. When the client has half-closed and nothing waits, the call finishes with OK; a failed read or write ends it too.
class StreamCall : public ResponseSink {
 public:
  // Arms a call on the loop's queue.
  static void Arm(ShardLoop* loop, v1::Prediction::AsyncService* service);

  v1::Response* Next(size_t bytes) override;
  void Flush();
  // Ends the call where its client takes no answers, or has had no session for too long.
  void Check(uint64_t now_us);

 private:
  StreamCall(ShardLoop* loop, v1::Prediction::AsyncService* service);
  ~StreamCall() override = default;

  struct Outgoing {
    v1::StreamResponse message;
    size_t bytes = 0;
  };

  void OnAccepted(bool ok);
  void OnMetadata(bool ok);
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnFinished(bool ok);
  void Refuse();
  void MarkDirty();
  void MaybeRead();
  void Finish(const grpc::Status& status);
  void MaybeDelete();

  ShardLoop* const loop_;
  v1::Prediction::AsyncService* const service_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<v1::StreamResponse, v1::StreamRequest> stream_{&context_};
  MemberTag<StreamCall> accepted_{this, &StreamCall::OnAccepted}, metadata_{this, &StreamCall::OnMetadata},
      read_{this, &StreamCall::OnRead}, written_{this, &StreamCall::OnWritten}, finished_{this, &StreamCall::OnFinished};
  v1::StreamRequest incoming_;
  std::deque<std::unique_ptr<Outgoing>> outgoing_;
  std::vector<std::unique_ptr<Outgoing>> spare_;
  size_t outgoing_bytes_ = 0;
  Stream* shard_stream_ = nullptr;
  int pending_ = 0;  // operations that gRPC has not given back
  bool reading_ = false, writing_ = false, finishing_ = false, dirty_ = false, done_ = false;
  bool front_in_flight_ = false;  // what is written is outgoing_.front(), not the metadata
  bool half_closed_ = false;  // no more messages will come
  bool broken_ = false;       // no more answers can go
  bool refused_ = false;      // it never was a stream of the shard
  uint64_t write_began_us_ = 0, last_message_us_ = 0;
};

}  // namespace lstm::server
