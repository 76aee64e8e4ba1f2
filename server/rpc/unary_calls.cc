// SPDX-License-Identifier: MIT
#include "server/rpc/unary_calls.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_unary_call.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/principal.h"
#include "server/rpc/status_mapping.h"

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

// One unary call. Deletes itself when gRPC has given back its last tag; arms its successor when it begins.
template <typename Request, typename Response>
class UnaryCall {
 public:
  using Responder = grpc::ServerAsyncResponseWriter<Response>;
  using Method = void (Service::*)(grpc::ServerContext*, Request*, Responder*, grpc::CompletionQueue*,
                                   grpc::ServerCompletionQueue*, void*);
  using Handler = void (*)(UnaryCall*);

  static void Arm(const Around& around, Service* service, Method method, Handler handler) {
    if (!around.loop->ending()) new UnaryCall(around, service, method, handler);
  }

  const Around& around() const { return around_; }
  const Request& request() const { return request_; }
  Response* response() { return &response_; }
  std::string principal() const { return PrincipalOf(context_); }
  // Called when the client goes before the answer.
  void OnCancel(std::function<void()> f) { on_cancel_ = std::move(f); }

  // Once, on the loop's thread.
  void Finish(const absl::Status& status) {
    on_cancel_ = nullptr;
    ++pending_;
    if (status.ok()) {
      responder_.Finish(response_, grpc::Status::OK, &finished_);
    } else {
      responder_.FinishWithError(ToGrpc(status), &finished_);
    }
  }
  // Instead of Finish, when the client has gone and nothing will come any more.
  void Abandon() { Finish(absl::CancelledError("the client has gone")); }

 private:
  UnaryCall(const Around& around, Service* service, Method method, Handler handler)
      : around_(around), service_(service), method_(method), handler_(handler) {
    context_.AsyncNotifyWhenDone(&done_);
    (service_->*method_)(&context_, &request_, &responder_, around_.loop->queue(), around_.loop->queue(), &accepted_);
  }

  void OnAccepted(bool ok) {
    if (!ok) {  // never began: the done tag does not come either
      delete this;
      return;
    }
    around_.loop->CallBegan();
    Arm(around_, service_, method_, handler_);
    ++pending_;  // the done tag
    handler_(this);
  }
  void OnDone(bool) {
    if (context_.IsCancelled() && on_cancel_) std::exchange(on_cancel_, nullptr)();
    Release();
  }
  void OnFinished(bool) { Release(); }
  void Release() {
    if (--pending_ > 0) return;
    around_.loop->CallEnded();
    delete this;
  }

  const Around around_;
  Service* const service_;
  const Method method_;
  const Handler handler_;
  grpc::ServerContext context_;
  Request request_;
  Response response_;
  Responder responder_{&context_};
  MemberTag<UnaryCall> accepted_{this, &UnaryCall::OnAccepted}, done_{this, &UnaryCall::OnDone},
      finished_{this, &UnaryCall::OnFinished};
  std::function<void()> on_cancel_;
  int pending_ = 0;
};

using PredictRpc = UnaryCall<v1::PredictRequest, v1::PredictResponse>;
using ListModelsRpc = UnaryCall<v1::ListModelsRequest, v1::ListModelsResponse>;
using GetModelRpc = UnaryCall<v1::GetModelRequest, v1::GetModelResponse>;
using ListSessionsRpc = UnaryCall<v1::ListSessionsRequest, v1::ListSessionsResponse>;
using GetSessionRpc = UnaryCall<v1::GetSessionRequest, v1::GetSessionResponse>;
using CloseSessionRpc = UnaryCall<v1::CloseSessionRequest, v1::CloseSessionResponse>;
using ForkSessionRpc = UnaryCall<v1::ForkSessionRequest, v1::ForkSessionResponse>;
using ExportSessionRpc = UnaryCall<v1::ExportSessionRequest, v1::ExportSessionResponse>;
using ImportSessionRpc = UnaryCall<v1::ImportSessionRequest, v1::ImportSessionResponse>;

void HandlePredict(PredictRpc* call) {
  Shard& shard = call->around().loop->shard();
  call->OnCancel([call, &shard] {
    shard.ForgetPredict(call->response());
    call->Abandon();
  });
  shard.Predict(call->request(), call->response(), [call](const absl::Status& status) { call->Finish(status); });
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
        call->response()->set_total(call->response()->total() + shard.List(call->request().model(), kListedAtMost, found.get()));
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
template <typename Rpc, typename Ask>
void OfOneSession(Rpc* call, Ask ask) {
  const absl::StatusOr<SessionId> id = IdOf(call->request().session_id());
  if (!id.ok()) return call->Finish(id.status());
  const auto shard = call->around().directory->ShardOf(*id);
  if (!shard) return call->Finish(absl::NotFoundError(call->around().directory->WhyAbsent(*id).why));
  const auto done = [call, home = call->around().loop](const absl::Status& status) {
    home->Post([call, status] { call->Finish(status); });
  };
  ShardLoop* loop = (*call->around().loops)[*shard].get();
  if (!loop->Post([loop, ask, id = *id, done] { ask(loop->shard(), id, done); })) call->Finish(absl::UnavailableError("the server is going away"));
}

void HandleGetSession(GetSessionRpc* call) {
  OfOneSession(call, [call](Shard& shard, const SessionId& id, const Shard::Done& done) {
    auto info = shard.Get(id);
    if (info.ok()) *call->response()->mutable_session() = *info;
    done(info.status());
  });
}

void HandleCloseSession(CloseSessionRpc* call) {
  OfOneSession(call, [call](Shard& shard, const SessionId& id, const Shard::Done& done) {
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
