// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_unary_call.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "server/log/log.h"
#include "server/rpc/caller.h"
#include "server/rpc/shard_loop.h"
#include "server/rpc/status_mapping.h"

namespace lstm::server {

// One unary call. Deletes itself when gRPC has given back its last tag; arms its successor when it begins.
//
// Around: what handlers need besides the call itself, `loop` among it; copied for each call.
template <typename Service, typename Around, typename Request, typename Response>
class UnaryCall {
 public:
  using Responder = grpc::ServerAsyncResponseWriter<Response>;
  using Method = void (Service::*)(grpc::ServerContext*, Request*, Responder*, grpc::CompletionQueue*,
                                   grpc::ServerCompletionQueue*, void*);
  using Handler = void (*)(UnaryCall*);

  // kAnybody: callers need not be known.
  enum class For { kCallers, kAnybody };
  static void Arm(const Around& around, Service* service, Method method, Handler handler, For whom = For::kCallers) {
    if (!around.loop->ending()) new UnaryCall(around, service, method, handler, whom);
  }

  const Around& around() const { return around_; }
  const Request& request() const { return request_; }
  Request* mutable_request() { return &request_; }  // for who takes it over
  Response* response() { return &response_; }
  const std::string& principal() const { return caller_.principal; }
  bool by_admin() const { return caller_.admin; }
  // Whose sessions the call may see and end; nothing: everybody's.
  std::optional<std::string> owner() const { return caller_.admin ? std::nullopt : std::optional(caller_.principal); }
  std::string peer() const { return context_.peer(); }
  // Called when the client goes before the answer.
  void OnCancel(std::function<void()> f) { on_cancel_ = std::move(f); }

  // Once, on the loop's thread.
  void Finish(const absl::Status& status) {
    on_cancel_ = nullptr;
    if (!status.ok()) Log(status);
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
  UnaryCall(const Around& around, Service* service, Method method, Handler handler, For whom)
      : around_(around), service_(service), method_(method), handler_(handler), whom_(whom) {
    context_.AsyncNotifyWhenDone(&done_);
    (service_->*method_)(&context_, &request_, &responder_, around_.loop->queue(), around_.loop->queue(), &accepted_);
  }

  void OnAccepted(bool ok) {
    if (!ok) {  // never began: the done tag does not come either
      delete this;
      return;
    }
    around_.loop->CallBegan();
    Arm(around_, service_, method_, handler_, whom_);
    ++pending_;  // the done tag
    if (whom_ == For::kCallers) {
      absl::StatusOr<Caller> caller = CallerOf(context_, around_.loop->callers());
      if (!caller.ok()) return Finish(caller.status());
      caller_ = *std::move(caller);
    }
    handler_(this);
  }
  // What is the server's fault is an error of ours; other refusals are between the client and what it asked for.
  void Log(const absl::Status& status) const {
    const bool ours = absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status);
    const LogLevel level = ours ? LogLevel::kError : LogLevel::kDebug;
    if (!Logs(level)) return;
    const TraceContext trace = TraceOf(context_.client_metadata());
    LogEvent(level, "call refused", {{"trace_id", trace.trace_id()}, {"parent_id", trace.parent_id()}, {"peer", context_.peer()}, {"of", Request::descriptor()->full_name()},
                                     {"shard", around_.loop->index()}, {"code", static_cast<int>(status.code())}, {"why", std::string_view(status.message().data(), status.message().size())}});
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
  const For whom_;
  grpc::ServerContext context_;
  Caller caller_;
  Request request_;
  Response response_;
  Responder responder_{&context_};
  MemberTag<UnaryCall> accepted_{this, &UnaryCall::OnAccepted}, done_{this, &UnaryCall::OnDone},
      finished_{this, &UnaryCall::OnFinished};
  std::function<void()> on_cancel_;
  int pending_ = 0;
};

}  // namespace lstm::server
