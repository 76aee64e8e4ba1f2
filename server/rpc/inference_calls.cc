// SPDX-License-Identifier: MIT
#include "server/rpc/inference_calls.h"

#include <utility>

#include "server/rpc/unary_call.h"

namespace lstm::server {
namespace {

using Service = inference::GRPCInferenceService::AsyncService;
template <typename Request, typename Response>
using Rpc = UnaryCall<Service, InferenceCalls, Request, Response>;

using ServerLiveRpc = Rpc<inference::ServerLiveRequest, inference::ServerLiveResponse>;
using ServerReadyRpc = Rpc<inference::ServerReadyRequest, inference::ServerReadyResponse>;
using ModelReadyRpc = Rpc<inference::ModelReadyRequest, inference::ModelReadyResponse>;
using ServerMetadataRpc = Rpc<inference::ServerMetadataRequest, inference::ServerMetadataResponse>;
using ModelMetadataRpc = Rpc<inference::ModelMetadataRequest, inference::ModelMetadataResponse>;
using ModelConfigRpc = Rpc<inference::ModelConfigRequest, inference::ModelConfigResponse>;
using ModelStatisticsRpc = Rpc<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>;
using ModelInferRpc = Rpc<inference::ModelInferRequest, inference::ModelInferResponse>;
using RepositoryIndexRpc = Rpc<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>;
using LoadRpc = Rpc<inference::RepositoryModelLoadRequest, inference::RepositoryModelLoadResponse>;
using UnloadRpc = Rpc<inference::RepositoryModelUnloadRequest, inference::RepositoryModelUnloadResponse>;

// For an answer from another thread: a call lives until it is finished, and its loop as long.
template <typename Call>
ModelAdmin::Done FinishOnLoop(Call* call) {
  return [call, loop = call->around().loop](const absl::Status& status) { loop->Post([call, status] { call->Finish(status); }); };
}

void HandleServerLive(ServerLiveRpc* call) {
  call->response()->set_live(true);
  call->Finish(absl::OkStatus());
}

void HandleServerReady(ServerReadyRpc* call) {
  call->response()->set_ready(call->around().front->ready());
  call->Finish(absl::OkStatus());
}

void HandleModelReady(ModelReadyRpc* call) {
  const absl::Status ready = call->around().front->ModelReady(call->request().name(), call->request().version());
  call->response()->set_ready(ready.ok());
  call->Finish(absl::IsNotFound(ready) ? absl::OkStatus() : ready);  // the answer is no
}

void HandleServerMetadata(ServerMetadataRpc* call) {
  call->around().front->ServerMetadata(call->response());
  call->Finish(absl::OkStatus());
}

void HandleModelMetadata(ModelMetadataRpc* call) {
  call->Finish(call->around().front->ModelMetadata(call->request().name(), call->request().version(), call->response()));
}

void HandleModelConfig(ModelConfigRpc* call) {
  call->Finish(call->around().front->ModelConfig(call->request().name(), call->request().version(), call->response()->mutable_config()));
}

void HandleModelStatistics(ModelStatisticsRpc* call) {
  call->around().front->ModelStatistics(
      call->request().name(), call->request().version(), [call, loop = call->around().loop](const absl::Status& status, inference::ModelStatisticsResponse response) {
        loop->Post([call, status, response = std::move(response)]() mutable {
          call->response()->Swap(&response);
          call->Finish(status);
        });
      });
}

void HandleRepositoryIndex(RepositoryIndexRpc* call) {
  call->around().front->RepositoryIndex(call->request().ready(), call->response());
  call->Finish(absl::OkStatus());
}

void HandleLoad(LoadRpc* call) { call->around().front->LoadModel(call->request(), call->by_admin(), FinishOnLoop(call)); }
void HandleUnload(UnloadRpc* call) { call->around().front->UnloadModel(call->request(), call->by_admin(), FinishOnLoop(call)); }

void HandleInfer(ModelInferRpc* call) {
  auto job = std::make_shared<InferJob>();
  job->request.Swap(call->mutable_request());
  job->principal = call->principal();
  job->holder = call->around().holder_of(call->peer());
  job->shard = call->around().loop->index();
  // Of this thread: whichever comes first, the answer or the client's going.
  auto waiting = std::make_shared<ModelInferRpc*>(call);
  call->OnCancel([job, waiting, front = call->around().front] {
    front->Cancel(job);
    std::exchange(*waiting, nullptr)->Abandon();
  });
  job->done = [job = job.get(), waiting](const absl::Status& status) {
    ModelInferRpc* const waits = std::exchange(*waiting, nullptr);
    if (waits == nullptr) return;
    waits->response()->Swap(&job->response);
    waits->Finish(status);
  };
  call->around().front->Infer(job);
}

}  // namespace

void ArmInferenceCalls(const InferenceCalls& calls) {
  ServerLiveRpc::Arm(calls, calls.service, &Service::RequestServerLive, HandleServerLive, ServerLiveRpc::For::kAnybody);  // health
  ServerReadyRpc::Arm(calls, calls.service, &Service::RequestServerReady, HandleServerReady, ServerReadyRpc::For::kAnybody);
  ModelReadyRpc::Arm(calls, calls.service, &Service::RequestModelReady, HandleModelReady);
  ServerMetadataRpc::Arm(calls, calls.service, &Service::RequestServerMetadata, HandleServerMetadata);
  ModelMetadataRpc::Arm(calls, calls.service, &Service::RequestModelMetadata, HandleModelMetadata);
  ModelConfigRpc::Arm(calls, calls.service, &Service::RequestModelConfig, HandleModelConfig);
  ModelStatisticsRpc::Arm(calls, calls.service, &Service::RequestModelStatistics, HandleModelStatistics);
  ModelInferRpc::Arm(calls, calls.service, &Service::RequestModelInfer, HandleInfer);
  RepositoryIndexRpc::Arm(calls, calls.service, &Service::RequestRepositoryIndex, HandleRepositoryIndex);
  LoadRpc::Arm(calls, calls.service, &Service::RequestRepositoryModelLoad, HandleLoad);
  UnloadRpc::Arm(calls, calls.service, &Service::RequestRepositoryModelUnload, HandleUnload);
}

}  // namespace lstm::server
