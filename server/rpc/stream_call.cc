// SPDX-License-Identifier: MIT
#include "server/rpc/stream_call.h"

#include <utility>

namespace lstm::server {

void StreamCall::Arm(ShardLoop* loop, v1::Prediction::AsyncService* service) {
  if (!loop->ending()) new StreamCall(loop, service);
}

StreamCall::StreamCall(ShardLoop* loop, v1::Prediction::AsyncService* service)
    : BidiCall(loop, &loop->spread(), service, &v1::Prediction::AsyncService::RequestStream), service_(service) {}

void StreamCall::Attach() {
  shard_stream_ = loop()->shard().Attach(this, caller().principal);
  shard_stream_->SetTrace(trace());
}

void StreamCall::Detach() { loop()->shard().Detach(std::exchange(shard_stream_, nullptr)); }

}  // namespace lstm::server
