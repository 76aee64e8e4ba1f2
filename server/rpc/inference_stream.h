// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "inference/grpc_service.grpc.pb.h"
#include "server/inference/front.h"
#include "server/rpc/bidi_call.h"

namespace lstm::server {

// What the calls of the Open Inference Protocol on one loop need.
struct InferenceCalls {
  ShardLoop* loop = nullptr;
  LoadSpread* spread = nullptr;  // of its streams
  inference::GRPCInferenceService::AsyncService* service = nullptr;
  InferenceFront* front = nullptr;
  // Who a call without a stream came from, by the peer that gRPC names.
  std::function<std::shared_ptr<const Holder>(const std::string& peer)> holder_of;
};

// One call of GRPCInferenceService.ModelStreamInfer. Each request is answered by a message of its own, those of one sequence
// in order. A refusal travels in error_message and the stream goes on; where the client said `triton_grpc_error: true` it is
// the end of the call instead, with its code, after the answers before it.
class InferenceStreamCall : public BidiCall<inference::GRPCInferenceService::AsyncService, inference::ModelInferRequest, inference::ModelStreamInferResponse, HeapBox> {
 public:
  static void Arm(const InferenceCalls& calls);

 private:
  // Shared with its jobs, which may come back after the call has ended.
  struct Link;

  explicit InferenceStreamCall(const InferenceCalls& calls);
  ~InferenceStreamCall() override = default;

  void ArmNext() override { Arm(calls_); }
  void Attach() override;
  void Detach() override;
  bool Take(inference::ModelInferRequest& message) override;
  size_t backlog_bytes() const override { return backlog_bytes_; }
  bool quiet() const override { return under_way_ == 0; }
  bool unused() const override { return under_way_ == 0 && begun_ <= 0; }
  bool SpeaksAtOnce() const override { return false; }  // tritonclient's start_stream, and perf_analyzer, open it long before
  std::optional<grpc::Status> EndUnused() override;
  void Answer(InferJob& job, size_t bytes, const absl::Status& status);

  const InferenceCalls calls_;
  bool errors_end_it_ = false;
  std::shared_ptr<Link> link_;
  std::unordered_set<InferJobPtr> jobs_;
  size_t backlog_bytes_ = 0, under_way_ = 0;
  int64_t begun_ = 0;  // sequences that were begun here and not ended here
};

}  // namespace lstm::server
