// SPDX-License-Identifier: MIT
#pragma once

#include "lstm/v1/prediction.grpc.pb.h"
#include "server/rpc/bidi_call.h"

namespace lstm::server {

// One call of Prediction.Stream: a stream of the loop's shard. What a round answers goes out as one message, split at 1 MB.
class StreamCall : public BidiCall<v1::Prediction::AsyncService, v1::StreamRequest, v1::StreamResponse, ArenaBox>, private ResponseSink {
 public:
  // Arms a call on the loop's queue.
  static void Arm(ShardLoop* loop, v1::Prediction::AsyncService* service);

 private:
  StreamCall(ShardLoop* loop, v1::Prediction::AsyncService* service);
  ~StreamCall() override = default;

  void ArmNext() override { Arm(loop(), service_); }
  void Attach() override;
  void Detach() override;
  bool Take(v1::StreamRequest& message) override {
    next_request_ = loop()->shard().OnPart(shard_stream_, message, next_request_, &share_);
    if (next_request_ < message.requests_size()) return false;
    next_request_ = 0;
    return true;
  }
  size_t backlog_bytes() const override { return shard_stream_->backlog_bytes(); }
  bool quiet() const override { return shard_stream_->quiet(); }
  bool unused() const override { return shard_stream_->lanes() == 0; }
  v1::Response* Next(size_t bytes) override { return NextMessage(bytes, true)->add_responses(); }
  void Settled() override { MarkDirty(); }

  v1::Prediction::AsyncService* const service_;
  lstm::server::Stream* shard_stream_ = nullptr;
  int next_request_ = 0;  // of the message that is being taken
};

}  // namespace lstm::server
