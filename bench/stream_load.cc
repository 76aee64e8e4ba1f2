// SPDX-License-Identifier: MIT
#include "bench/stream_load.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

namespace lstm::bench {

struct StreamLoad::Queue {
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
};

struct StreamLoad::Stream {
  enum Kind { kStarted, kRead, kWritten };
  struct Tag {
    Stream* stream;
    Kind kind;
  };
  std::unique_ptr<Talk> talk;
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call;
  grpc::ByteBuffer in;
  std::vector<uint32_t> ready, answered;
  std::vector<Clock::time_point> sent;  // by session
  bool writing = false, open = false;
  Tag tags[3] = {{this, kStarted}, {this, kRead}, {this, kWritten}};
};

StreamLoad::StreamLoad(const std::string& address, pid_t server, const Layout& layout, std::vector<std::unique_ptr<Talk>> talks)
    : server_(server), layout_(layout), queue_(std::make_unique<Queue>()) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else all channels share one connection
  for (int c = 0; c < layout.connections; ++c) {
    queue_->stubs.push_back(std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
  }
  for (int s = 0; s < layout.streams; ++s) {
    Stream& stream = *streams_.emplace_back(std::make_unique<Stream>());
    stream.talk = std::move(talks[static_cast<size_t>(s)]);
    stream.sent.resize(static_cast<size_t>(layout.sessions));
    stream.context.set_wait_for_ready(true);
    stream.call = queue_->stubs[static_cast<size_t>(s % layout.connections)]->PrepareCall(&stream.context, stream.talk->method(), &queue_->queue);
    stream.call->StartCall(&stream.tags[Stream::kStarted]);
  }
  void* tag = nullptr;
  bool ok = false;
  while (opened_ < streams_.size() && queue_->queue.Next(&tag, &ok)) Handle(tag, ok);
}

StreamLoad::~StreamLoad() {
  for (auto& stream : streams_) stream->context.TryCancel();
  queue_->queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->queue.Next(&tag, &ok)) continue;
}

void StreamLoad::Write(Stream& stream, const grpc::ByteBuffer& message) {
  stream.writing = true;
  stream.call->Write(message, &stream.tags[Stream::kWritten]);
}

void StreamLoad::SendReady(Stream& stream) {
  if (!sending_ || stream.writing || stream.ready.empty()) return;
  // A session is answered in order, so that one time of each is enough at a window of 1; latency is taken of that alone.
  const auto now = Clock::now();
  for (const uint32_t session : stream.ready) stream.sent[session] = now;
  outstanding_ += stream.ready.size();
  Write(stream, stream.talk->Turns(stream.ready));
  stream.ready.clear();
}

void StreamLoad::Handle(void* tag, bool ok) {
  const auto& t = *static_cast<Stream::Tag*>(tag);
  Stream& stream = *t.stream;
  if (!ok) {
    grpc::Status status;
    stream.call->Finish(&status, &stream.tags[Stream::kStarted]);
    void* last = nullptr;
    while (queue_->queue.Next(&last, &ok) && last != &stream.tags[Stream::kStarted]) continue;
    Die("a stream broke off: " + status.error_message());
  }
  switch (t.kind) {
    case Stream::kStarted:
      stream.call->Read(&stream.in, &stream.tags[Stream::kRead]);
      if (grpc::ByteBuffer opening = stream.talk->Opening(); opening.Length() > 0) {
        Write(stream, opening);
      } else {
        stream.open = true;
        ++opened_;
      }
      return;
    case Stream::kWritten:
      stream.writing = false;
      return SendReady(stream);
    case Stream::kRead:
      if (!stream.open) {
        stream.open = stream.talk->Opened(stream.in);
        opened_ += stream.open;
      } else {
        stream.answered.clear();
        answer_bytes_ += stream.in.Length();
        stream.talk->Answers(stream.in, stream.answered);
        answered_ += stream.answered.size();
        outstanding_ -= stream.answered.size();
        const auto now = Clock::now();
        for (const uint32_t session : stream.answered) {
          if (latency_ != nullptr && layout_.window == 1) latency_->Add(now - stream.sent[session]);
          stream.ready.push_back(session);
        }
      }
      stream.call->Read(&stream.in, &stream.tags[Stream::kRead]);
      SendReady(stream);
  }
}

Slice StreamLoad::Run(double seconds) {
  sending_ = true;
  for (auto& stream : streams_) {
    stream->ready.clear();
    for (int w = 0; w < layout_.window; ++w) {
      for (int s = 0; s < layout_.sessions; ++s) stream->ready.push_back(static_cast<uint32_t>(s));
    }
    SendReady(*stream);
  }
  Slice slice;
  void* tag = nullptr;
  bool ok = false;
  // The beginning, where everything is sent at once, does not count.
  const auto after = [](double s) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s)); };
  auto begin = Clock::now();
  const auto warm = begin + after(seconds / 5);
  auto until = warm + after(seconds);
  uint64_t answered = 0, answer_bytes = 0;
  double server = 0, client = 0;
  bool measuring = false;
  while (true) {
    if (!queue_->queue.Next(&tag, &ok)) Die("the completion queue has ended");
    Handle(tag, ok);
    const auto now = Clock::now();
    if (!measuring && now >= warm) {
      measuring = true;
      begin = now;
      until = now + after(seconds);
      answered = answered_;
      answer_bytes = answer_bytes_;
      server = CpuSeconds(server_);
      client = CpuSeconds(getpid());
      latency_ = &slice.latency;
    } else if (measuring && now >= until) {
      break;
    }
  }
  slice.turns = answered_ - answered;
  slice.answer_bytes = static_cast<size_t>((answer_bytes_ - answer_bytes) / std::max<uint64_t>(slice.turns, 1));
  const double turns = static_cast<double>(std::max<uint64_t>(slice.turns, 1));
  slice.server_cpu_us = (CpuSeconds(server_) - server) / turns * 1e6;
  slice.client_cpu_us = (CpuSeconds(getpid()) - client) / turns * 1e6;
  slice.turns_per_second = turns / (Ms(Clock::now() - begin) / 1e3);
  latency_ = nullptr;
  sending_ = false;
  const auto unsent = [&] {
    for (const auto& stream : streams_) {
      if (stream->writing) return true;
    }
    return false;
  };
  while ((outstanding_ > 0 || unsent()) && queue_->queue.Next(&tag, &ok)) Handle(tag, ok);
  return slice;
}

}  // namespace lstm::bench
