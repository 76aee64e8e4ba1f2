// SPDX-License-Identifier: MIT
#include "server/rpc/inference_stream.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/status_mapping.h"

namespace lstm::server {
namespace {

constexpr size_t kJobBytes = 1024;  // what a request costs besides its message
constexpr char kErrorsEndIt[] = "triton_grpc_error";

size_t BytesOf(const inference::ModelInferResponse& response) {
  size_t bytes = 0;
  for (const std::string& raw : response.raw_output_contents()) bytes += raw.size();
  return bytes + 256;
}

}  // namespace

struct InferenceStreamCall::Link : Holder {
  bool gone() const override { return ended.load(std::memory_order_relaxed); }
  std::atomic<bool> ended{false};
  InferenceStreamCall* call = nullptr;  // of the loop's thread
};

void InferenceStreamCall::Arm(const InferenceCalls& calls) {
  if (!calls.loop->ending()) new InferenceStreamCall(calls);
}

InferenceStreamCall::InferenceStreamCall(const InferenceCalls& calls)
    : BidiCall(calls.loop, calls.spread, calls.service, &inference::GRPCInferenceService::AsyncService::RequestModelStreamInfer), calls_(calls) {}

void InferenceStreamCall::Attach() {
  const auto& metadata = context().client_metadata();
  const auto wish = metadata.find(kErrorsEndIt);
  errors_end_it_ = wish != metadata.end() && wish->second == "true";
  link_ = std::make_shared<Link>();
  link_->call = this;
}

void InferenceStreamCall::Detach() {
  link_->call = nullptr;
  link_->ended.store(true, std::memory_order_relaxed);
  for (const InferJobPtr& job : std::exchange(jobs_, {})) calls_.front->Cancel(job);
}

bool InferenceStreamCall::Take(inference::ModelInferRequest& message) {
  auto job = std::make_shared<InferJob>();
  const size_t bytes = message.ByteSizeLong() + kJobBytes;
  job->request.Swap(&message);
  job->principal = caller().principal;
  job->holder = link_;
  job->shard = loop()->index();
  job->done = [link = link_, job = job.get(), bytes](const absl::Status& status) {
    if (link->call != nullptr) link->call->Answer(*job, bytes, status);
  };
  share_ -= std::min(share_, bytes >> 10);
  backlog_bytes_ += bytes;
  ++under_way_;
  jobs_.insert(job);
  calls_.front->Infer(job);
  return true;
}

void InferenceStreamCall::Answer(InferJob& job, size_t bytes, const absl::Status& status) {
  backlog_bytes_ -= bytes;
  --under_way_;
  MarkDirty();
  if (status.ok()) begun_ += (job.parameters.start ? 1 : 0) - (job.parameters.end ? 1 : 0);
  if (!ending() && !status.ok() && errors_end_it_) {
    FinishAfterAnswers(ToGrpc(status));
  } else if (!ending() && status.ok()) {
    NextMessage(BytesOf(job.response), false)->mutable_infer_response()->Swap(&job.response);
  } else if (!ending()) {
    inference::ModelStreamInferResponse* message = NextMessage(status.message().size() + 256, false);
    message->set_error_message(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", ToGrpc(status).error_message()));
    message->mutable_infer_response()->set_id(job.request.id());
  }
  jobs_.erase(job.shared_from_this());  // perhaps the last to hold it
}

std::optional<grpc::Status> InferenceStreamCall::EndUnused() {
  if (!loop()->shard().draining()) return std::nullopt;
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is going away; connect to another, or again in a moment");
}

}  // namespace lstm::server
