// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "inference/grpc_service.pb.h"
#include "server/inference/infer_parameters.h"

namespace lstm::server {

// Who used a sequence last: a stream, or a connection. While it is there nobody else begins a sequence of the same id. Asked
// by the threads of the shards.
class Holder {
 public:
  virtual ~Holder() = default;
  virtual bool gone() const = 0;
};

// One request of the Open Inference Protocol on its way through the shards, whichever face it came by.
struct InferJob : std::enable_shared_from_this<InferJob> {
  // `shard` of one that came by no shard's thread.
  static constexpr size_t kNoShard = SIZE_MAX;

  inference::ModelInferRequest request;  // is taken apart on the way; its id, outputs and parameters stay
  std::string principal;                 // who its client proved to be; empty: anonymous
  std::shared_ptr<const Holder> holder;
  size_t shard = kNoShard;               // on whose thread `done` is called; kNoShard: on any
  // Once, unless the job was cancelled. Must not call back into the front. May change the response.
  std::function<void(const absl::Status&)> done;
  inference::ModelInferResponse response;

  // The client is gone: what was not begun will not be.
  std::atomic<bool> cancelled{false};

  // Set on the way.
  InferParameters parameters;
  std::string key;  // of the sequence
  uint64_t received_us = 0;
  uint64_t charged_bytes = 0;
  uint32_t attempts = 0;
};
using InferJobPtr = std::shared_ptr<InferJob>;

}  // namespace lstm::server
