// SPDX-License-Identifier: MIT
#include "server/rpc/unary_calls.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/unary_call.h"

namespace lstm::server {
namespace {

using Service = v1::Prediction::AsyncService;
using Loops = std::vector<std::unique_ptr<ShardLoop>>;

struct Around {  // what handlers need besides their call
  ShardLoop* loop;
  std::shared_ptr<const ModelRepository> models;
  const Loops* loops;
  const SessionDirectory* directory;
};

template <typename Request, typename Response>
using Rpc = UnaryCall<Service, Around, Request, Response>;
using PredictRpc = Rpc<v1::PredictRequest, v1::PredictResponse>;
using ListModelsRpc = Rpc<v1::ListModelsRequest, v1::ListModelsResponse>;
using GetModelRpc = Rpc<v1::GetModelRequest, v1::GetModelResponse>;
using ListSessionsRpc = Rpc<v1::ListSessionsRequest, v1::ListSessionsResponse>;
using GetSessionRpc = Rpc<v1::GetSessionRequest, v1::GetSessionResponse>;
using CloseSessionRpc = Rpc<v1::CloseSessionRequest, v1::CloseSessionResponse>;
using ForkSessionRpc = Rpc<v1::ForkSessionRequest, v1::ForkSessionResponse>;
using ExportSessionRpc = Rpc<v1::ExportSessionRequest, v1::ExportSessionResponse>;
using ImportSessionRpc = Rpc<v1::ImportSessionRequest, v1::ImportSessionResponse>;

void HandlePredict(PredictRpc* call) {
  Shard& shard = call->around().loop->shard();
  call->OnCancel([call, &shard] {
    shard.ForgetPredict(call->response());
    call->Abandon();
  });
  shard.Predict(call->request(), call->response(), [call](const absl::Status& status) { call->Finish(status); }, call->principal());
}

void HandleListModels(ListModelsRpc* call) {
  for (v1::ModelInfo& info : call->around().models->DescribeAll()) call->response()->add_models()->Swap(&info);
  call->Finish(absl::OkStatus());
}

void HandleGetModel(GetModelRpc* call) {
  auto model = call->around().models->Describe(call->request().name(), call->request().version());
  if (model.ok()) call->response()->mutable_model()->Swap(&*model);
  call->Finish(model.status());
}

// Asks every loop in turn, then comes back to the call's own.
void AskEach(const Around& around, size_t next, const std::function<void(Shard&)>& ask, const std::function<void()>& done) {
  for (; next < around.loops->size(); ++next) {
    ShardLoop* loop = (*around.loops)[next].get();
    const bool posted = loop->Post([around, next, loop, ask, done] {
      ask(loop->shard());
      AskEach(around, next + 1, ask, done);
    });
    if (posted) return;  // else that loop has ended, and its sessions with it
  }
  around.loop->Post(done);
}

constexpr uint32_t kListedByDefault = 1000, kListedAtMost = 10'000;

void HandleListSessions(ListSessionsRpc* call) {
  auto found = std::make_shared<std::vector<v1::SessionInfo>>();
  AskEach(
      call->around(), 0,
      [call, found](Shard& shard) {
        call->response()->set_total(call->response()->total() + shard.List(call->request().model(), kListedAtMost, found.get(), call->owner()));
      },
      [call, found] {
        std::sort(found->begin(), found->end(),
                  [](const auto& a, const auto& b) { return a.session_id() < b.session_id(); });
        const uint32_t asked = call->request().limit();
        const size_t limit = std::min<size_t>(found->size(), asked == 0 ? kListedByDefault : std::min(asked, kListedAtMost));
        for (size_t i = 0; i < limit; ++i) call->response()->add_sessions()->Swap(&(*found)[i]);
        call->Finish(absl::OkStatus());
      });
}

absl::StatusOr<SessionId> IdOf(const std::string& bytes) {
  SessionId id;
  if (bytes.size() != id.size()) {
    return absl::InvalidArgumentError(absl::StrCat("session_id has ", bytes.size(), " bytes, expected ", id.size()));
  }
  std::copy(bytes.begin(), bytes.end(), id.begin());
  return id;
}

// Asks the loop that has the session; `ask(shard, done)` may call `done` on any thread.
template <typename Call, typename Ask>
void OfOneSession(Call* call, Ask ask) {
  const absl::StatusOr<SessionId> id = IdOf(call->request().session_id());
  if (!id.ok()) return call->Finish(id.status());
  const auto shard = call->around().directory->ShardOf(*id);
  if (!shard) return call->Finish(absl::NotFoundError(call->around().directory->WhyAbsent(*id).why));
  const auto done = [call, home = call->around().loop](const absl::Status& status) {
    home->Post([call, status] { call->Finish(status); });
  };
  ShardLoop* loop = (*call->around().loops)[*shard].get();
  if (!loop->Post([loop, ask, id = *id, done] { ask(loop->shard(), id, done); })) call->Finish(absl::UnavailableError("the server is going away; ask another, or again in a moment"));
}

// The same where the session is the caller's, or they are an admin.
template <typename Call, typename Ask>
void OfOwnSession(Call* call, Ask ask) {
  OfOneSession(call, [ask, owner = call->owner()](Shard& shard, const SessionId& id, const Shard::Done& done) {
    if (!owner) return ask(shard, id, done);
    shard.CheckOwner(id, *owner, [ask, &shard, id, done](const absl::Status& theirs) { theirs.ok() ? ask(shard, id, done) : done(theirs); });
  });
}

void HandleGetSession(GetSessionRpc* call) {
  OfOwnSession(call, [call](Shard& shard, const SessionId& id, const Shard::Done& done) {
    auto info = shard.Get(id);
    if (info.ok()) *call->response()->mutable_session() = *info;
    done(info.status());
  });
}

void HandleCloseSession(CloseSessionRpc* call) {
  OfOwnSession(call, [call](Shard& shard, const SessionId& id, const Shard::Done& done) {
    auto applied = std::make_shared<uint64_t>();
    shard.CloseByOperator(id, applied.get(), [call, applied, done](const absl::Status& status) {
      if (status.ok()) call->response()->set_applied_seq(*applied);
      done(status);
    });
  });
}

void HandleForkSession(ForkSessionRpc* call) {
  OfOneSession(call, [call](Shard& shard, const SessionId&, const Shard::Done& done) {
    shard.Fork(call->request(), call->principal(), call->response(), done);
  });
}

void HandleExportSession(ExportSessionRpc* call) {
  OfOneSession(call, [call](Shard& shard, const SessionId&, const Shard::Done& done) {
    shard.Export(call->request(), call->principal(), call->response(), done);
  });
}

void HandleImportSession(ImportSessionRpc* call) {
  ShardLoop* home = call->around().loop;
  home->shard().Import(call->request(), call->principal(), call->response(), [call, home](const absl::Status& status) {
    home->Post([call, status] { call->Finish(status); });
  });
}

}  // namespace

void ArmUnaryCalls(ShardLoop* loop, Service* service, std::shared_ptr<const ModelRepository> models, const Loops* loops,
                   const SessionDirectory* directory) {
  const Around around{loop, std::move(models), loops, directory};
  PredictRpc::Arm(around, service, &Service::RequestPredict, HandlePredict);
  ListModelsRpc::Arm(around, service, &Service::RequestListModels, HandleListModels);
  GetModelRpc::Arm(around, service, &Service::RequestGetModel, HandleGetModel);
  ListSessionsRpc::Arm(around, service, &Service::RequestListSessions, HandleListSessions);
  GetSessionRpc::Arm(around, service, &Service::RequestGetSession, HandleGetSession);
  CloseSessionRpc::Arm(around, service, &Service::RequestCloseSession, HandleCloseSession);
  ForkSessionRpc::Arm(around, service, &Service::RequestForkSession, HandleForkSession);
  ExportSessionRpc::Arm(around, service, &Service::RequestExportSession, HandleExportSession);
  ImportSessionRpc::Arm(around, service, &Service::RequestImportSession, HandleImportSession);
}

}  // namespace lstm::server
