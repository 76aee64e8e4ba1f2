// SPDX-License-Identifier: MIT
#include "bench/echo_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "bench/measure.h"
#include "echo.grpc.pb.h"

namespace lstm::bench {
namespace {

size_t answer_bytes_of_each = 0;

void Answer(const Step& in, Step& out) {
  out.set_session(in.session());
  out.set_seq(in.seq());
  std::string& x = *out.mutable_x();
  x.assign(in.x(), 0, std::min(in.x().size(), answer_bytes_of_each));
  x.resize(answer_bytes_of_each);
}
void Answer(const Batch& in, Batch& out) {
  const int n = in.steps_size();
  while (out.steps_size() > n) out.mutable_steps()->RemoveLast();
  while (out.steps_size() < n) out.add_steps();
  for (int i = 0; i < n; ++i) Answer(in.steps(i), *out.mutable_steps(i));
}

struct Call {
  virtual ~Call() = default;
  virtual void Done(bool ok) = 0;
};

// One operation is outstanding at a time, so that the call itself is the tag.
template <typename Message>
class Bidi : public Call {
 public:
  using Stream = grpc::ServerAsyncReaderWriter<Message, Message>;
  using Request = void (Echo::AsyncService::*)(grpc::ServerContext*, Stream*, grpc::CompletionQueue*, grpc::ServerCompletionQueue*, void*);

  Bidi(Echo::AsyncService* service, grpc::ServerCompletionQueue* queue, Request request) : service_(service), queue_(queue), request_(request) {
    (service->*request)(&context_, &stream_, queue, queue, this);
  }
  void Done(bool ok) override {
    if (!ok && state_ != State::kFinishing) {
      if (state_ == State::kWaiting) Die("the echo server is shut down");
      state_ = State::kFinishing;
      return stream_.Finish(grpc::Status::OK, this);
    }
    switch (state_) {
      case State::kWaiting:
        new Bidi(service_, queue_, request_);
        state_ = State::kReading;
        return stream_.Read(&in_, this);
      case State::kReading:
        Answer(in_, out_);
        state_ = State::kWriting;
        return stream_.Write(out_, this);
      case State::kWriting:
        state_ = State::kReading;
        return stream_.Read(&in_, this);
      case State::kFinishing: delete this;
    }
  }

 private:
  enum class State { kWaiting, kReading, kWriting, kFinishing };
  Echo::AsyncService* const service_;
  grpc::ServerCompletionQueue* const queue_;
  const Request request_;
  grpc::ServerContext context_;
  Stream stream_{&context_};
  Message in_, out_;
  State state_ = State::kWaiting;
};

}  // namespace

void RunEchoServer(size_t answer_bytes) {
  answer_bytes_of_each = answer_bytes;
  Echo::AsyncService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument("grpc.http2.bdp_probe", 0);  // as lstm-server
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 4096);
  builder.RegisterService(&service);
  const auto queue = builder.AddCompletionQueue();
  const auto server = builder.BuildAndStart();
  if (server == nullptr || port == 0) Die("the echo server does not start");
  new Bidi<Step>(&service, queue.get(), &Echo::AsyncService::RequestSingle);
  new Bidi<Batch>(&service, queue.get(), &Echo::AsyncService::RequestBatched);
  std::fprintf(stderr, "listening on 127.0.0.1:%d\n", port);
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) static_cast<Call*>(tag)->Done(ok);
  Die("the echo server has ended");
}

}  // namespace lstm::bench
