// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "server/log/log.h"
#include "server/rpc/caller.h"
#include "server/rpc/load_spread.h"
#include "server/rpc/message_box.h"
#include "server/rpc/shard_loop.h"
#include "server/rpc/status_mapping.h"

namespace lstm::server {

// One bidirectional call. Deletes itself when gRPC has given back its last tag. Confined to its loop's thread.
//
//  1. The call is armed; when a stream comes, it sends its initial metadata and reads. Where the server drains, or does not know its
//     client, it is refused.
//  2. A message goes to Take, in parts where it is long, one a round; the next is read, in the same round where little was taken in it and more goes on, unless what
//     was received and not computed, and what was computed and not taken by gRPC, exceeds the budget.
//  3. After each round of the loop, Flush sends what the round answered; one write is in flight at a time, and what comes
//     meanwhile goes with the next.
//  4. When the client has half-closed and nothing waits, the call finishes with OK; a failed read or write ends it too.
template <typename Service, typename Request, typename Response, template <typename> typename Box>
class BidiCall : public LoopCall {
 public:
  void Flush() override {
    dirty_ = false;
    share_ = Shard::kRoundShare;
    if (finishing_) return;
    if (broken_) return Finish(grpc::Status::CANCELLED);
    if (!writing_ && !outgoing_.empty()) {
      writing_ = front_in_flight_ = true;
      write_began_us_ = loop_->now_us();
      ++pending_;
      grpc::WriteOptions options;
      if (outgoing_.size() > 1) options.set_buffer_hint();  // the last of them sends them all
      stream_.Write(*outgoing_.front()->message, options, &written_);
    }
    if (!writing_ && outgoing_.empty()) {
      if (last_) return Finish(*last_);
      if (half_closed_ && quiet()) return Finish(grpc::Status::OK);
    }
    MaybeRead();
  }

  // Ends the call where its client takes no answers, is not to be served any more, or has had no session for too long.
  void Check(uint64_t now_us) override {
    if (writing_ && now_us - write_began_us_ > loop_->options().stalled_write_s * kMicros) {
      stalled_ = true;
      context_.TryCancel();  // the write comes back as failed
    }
    // Its end waits behind what its client does not take.
    if (finishing_ && !done_ && now_us - finish_began_us_ > loop_->options().stalled_write_s * kMicros) context_.TryCancel();
    if (caller_.withdrawn()) FinishAfterAnswers({grpc::StatusCode::UNAUTHENTICATED, "the token was withdrawn; ask the operator of the server for another"});
    if (finishing_ || half_closed_ || writing_ || !outgoing_.empty() || !unused()) return;
    if (const auto status = EndUnused(); status) return Finish(*status);
    if (!heard_ && SpeaksAtOnce() && now_us - began_us_ > loop_->options().first_message_s * kMicros) {
      return Finish({grpc::StatusCode::DEADLINE_EXCEEDED, "no message came on this stream; open a stream when there is something to send"});
    }
    if (now_us - last_message_us_ > loop_->options().idle_stream_s * kMicros) {
      Finish({grpc::StatusCode::DEADLINE_EXCEEDED, "no session on this stream for too long; open a stream when there is work"});
    }
  }

  void GoOn() override {
    if (finishing_) return;
    TakeIncoming();
    MarkDirty();
  }

  void Explain() const override {
    LogEvent(LogLevel::kWarning, "stream is cut: it did not end in the time of the drain",
             {{"trace_id", trace_.trace_id()}, {"parent_id", trace_.parent_id()}, {"peer", context_.peer()}, {"of", Request::descriptor()->full_name()}, {"shard", loop_->index()},
              {"half_closed", half_closed_}, {"quiet", finishing_ || quiet()}, {"writing", writing_}, {"reading", reading_}, {"ending", finishing_}, {"unsent_bytes", outgoing_bytes_}});
  }

 protected:
  using Stream = grpc::ServerAsyncReaderWriter<Response, Request>;
  using Method = void (Service::*)(grpc::ServerContext*, Stream*, grpc::CompletionQueue*, grpc::ServerCompletionQueue*, void*);

  BidiCall(ShardLoop* loop, LoadSpread* spread, Service* service, Method method) : loop_(loop), spread_(spread) {
    ++pending_;
    (service->*method)(&context_, &stream_, loop_->queue(), loop_->queue(), &accepted_);
  }

  // Another call like this one.
  virtual void ArmNext() = 0;
  // A stream has come; Detach is called once in its end.
  virtual void Attach() = 0;
  virtual void Detach() = 0;
  // False: it goes on with the same message when it is called again, in the next round.
  virtual bool Take(Request& message) = 0;
  // Bytes received and not computed.
  virtual size_t backlog_bytes() const = 0;
  // Nothing more will be answered without another message; and nothing lives on it.
  virtual bool quiet() const = 0;
  virtual bool unused() const = 0;
  // Clients of this kind of call open it when there is something to send.
  virtual bool SpeaksAtOnce() const { return true; }
  // What an unused stream is to end with at once.
  virtual std::optional<grpc::Status> EndUnused() { return std::nullopt; }

  // A message to add to, behind those before it: the last one, where `join` and there is room for `bytes` in it.
  Response* NextMessage(size_t bytes, bool join) {
    const size_t in_flight = front_in_flight_ ? 1 : 0;
    if (!join || outgoing_.size() == in_flight || outgoing_.back()->bytes + bytes > kMessageBytes) {
      if (spare_.empty()) {
        outgoing_.push_back(std::make_unique<Outgoing>());
      } else {
        outgoing_.push_back(std::move(spare_.back()));
        spare_.pop_back();
      }
    }
    outgoing_.back()->bytes += bytes;
    outgoing_bytes_ += bytes;
    MarkDirty();
    return &*outgoing_.back()->message;
  }
  // No message is read any more; once all answers are sent the call ends with `status`.
  void FinishAfterAnswers(const grpc::Status& status) {
    if (!last_) last_ = status;
    MarkDirty();
  }
  // Flush is called in this round.
  void MarkDirty() {
    if (!std::exchange(dirty_, true)) loop_->MarkDirty(this);
  }
  ShardLoop* loop() const { return loop_; }
  const grpc::ServerContext& context() const { return context_; }
  const Caller& caller() const { return caller_; }
  const TraceContext& trace() const { return trace_; }
  bool ending() const { return finishing_ || last_.has_value(); }

  size_t share_ = Shard::kRoundShare;  // what Take may still take in this round, in requests and KB

 private:
  static constexpr size_t kMessageBytes = 1u << 20;
  static constexpr size_t kKeptMessageBytes = 64u << 10;
  static constexpr size_t kKeptMessages = 2;
  static constexpr uint64_t kMicros = 1'000'000;

  struct Outgoing {
    Box<Response> message;
    size_t bytes = 0;
  };

  void OnAccepted(bool ok) {
    --pending_;
    if (!ok) {  // the server is shutting down
      delete this;
      return;
    }
    loop_->CallBegan();
    if (loop_->shard().draining()) return Refuse({grpc::StatusCode::UNAVAILABLE, "the server is going away; connect to another, or again in a moment"});
    absl::StatusOr<Caller> caller = CallerOf(context_, loop_->callers());
    if (!caller.ok()) return Refuse(ToGrpc(caller.status()));
    caller_ = *std::move(caller);
    loop_->Add(this);
    last_message_us_ = began_us_ = loop_->now_us();
    trace_ = TraceOf(context_.client_metadata());
    Log(LogLevel::kDebug, "stream began", grpc::Status::OK);
    Attach();
    spread_->Opened(loop_->index());  // may arm the next call
    ++pending_;
    writing_ = true;
    write_began_us_ = last_message_us_;
    stream_.SendInitialMetadata(&metadata_);
    MaybeRead();
  }

  // A client that leaves a draining server may come back over a connection that another of its streams still holds: as a
  // stream it would be told nothing, stay, and be cut when the drain's time is up.
  void Refuse(const grpc::Status& status) {
    ArmNext();
    refused_ = finishing_ = true;
    ++pending_;
    stream_.Finish(status, &finished_);
  }

  void OnRead(bool ok) {
    --pending_;
    reading_ = false;
    if (finishing_) return MaybeDelete();
    if (ok) {
      last_message_us_ = loop_->now_us();
      heard_ = true;
      share_ -= std::min<size_t>(share_, 1);  // for the message itself
      TakeIncoming();
      // Messages that wait are taken now: with one a round, a client of many small ones would wait for a batch with each. But asking for the next one
      // sends the client room for it, which wakes it: where nothing else goes on, the answer goes first.
      if (share_ > 0 && !loop_->calm()) MaybeRead();
    } else {
      half_closed_ = true;
    }
    MarkDirty();
  }

  void TakeIncoming() {
    taking_ = !last_ && !Take(*incoming_);
    if (taking_) return loop_->Again(this);
    incoming_.Renew();
  }

  void MaybeRead() {
    if (taking_ || reading_ || half_closed_ || finishing_ || last_) return;
    if (backlog_bytes() + outgoing_bytes_ > loop_->options().stream_budget_bytes) return;
    reading_ = true;
    ++pending_;
    stream_.Read(&*incoming_, &read_);
  }

  void OnWritten(bool ok) {
    --pending_;
    writing_ = false;
    if (!ok) broken_ = true;
    if (std::exchange(front_in_flight_, false)) {
      std::unique_ptr<Outgoing> sent = std::move(outgoing_.front());
      outgoing_.pop_front();
      outgoing_bytes_ -= sent->bytes;
      if (spare_.size() < kKeptMessages && sent->bytes <= kKeptMessageBytes) {
        sent->message.Renew();
        sent->bytes = 0;
        spare_.push_back(std::move(sent));
      }
    }
    MarkDirty();
  }

  void Finish(const grpc::Status& status) {
    if (std::exchange(finishing_, true)) return;
    if (stalled_) Log(LogLevel::kWarning, "stream cut: its client takes no answers", status);
    else Log(status.ok() || status.error_code() == grpc::StatusCode::CANCELLED ? LogLevel::kDebug : LogLevel::kInfo, "stream ended", status);
    Detach();
    finish_began_us_ = loop_->now_us();
    ++pending_;
    stream_.Finish(status, &finished_);
  }

  void Log(LogLevel level, const char* what, const grpc::Status& status) const {
    if (!Logs(level)) return;
    LogEvent(level, what, {{"trace_id", trace_.trace_id()}, {"parent_id", trace_.parent_id()}, {"peer", context_.peer()}, {"of", Request::descriptor()->full_name()},
                           {"shard", loop_->index()}, {"open_ms", (loop_->now_us() - began_us_) / 1000}, {"code", static_cast<int>(status.error_code())}, {"why", status.error_message()}});
  }

  void OnFinished(bool) {
    --pending_;
    if (!refused_) {
      loop_->Remove(this);
      spread_->Closed(loop_->index());
    }
    done_ = true;
    MaybeDelete();
  }

  void MaybeDelete() {
    if (!done_ || pending_ > 0) return;
    loop_->CallEnded();
    delete this;
  }

  ShardLoop* const loop_;
  LoadSpread* const spread_;
  grpc::ServerContext context_;
  Caller caller_;
  Stream stream_{&context_};
  MemberTag<BidiCall> accepted_{this, &BidiCall::OnAccepted}, metadata_{this, &BidiCall::OnWritten}, read_{this, &BidiCall::OnRead},
      written_{this, &BidiCall::OnWritten}, finished_{this, &BidiCall::OnFinished};
  Box<Request> incoming_;
  std::deque<std::unique_ptr<Outgoing>> outgoing_;
  std::vector<std::unique_ptr<Outgoing>> spare_;
  size_t outgoing_bytes_ = 0;
  std::optional<grpc::Status> last_;
  int pending_ = 0;  // operations that gRPC has not given back
  bool reading_ = false, writing_ = false, finishing_ = false, dirty_ = false, done_ = false;
  bool front_in_flight_ = false;  // what is written is outgoing_.front(), not the metadata
  bool half_closed_ = false;      // no more messages will come
  bool broken_ = false;           // no more answers can go
  bool refused_ = false;          // it never was attached
  bool stalled_ = false;          // its client takes no answers
  bool heard_ = false;            // a message came
  bool taking_ = false;           // what came last is not taken whole yet
  uint64_t began_us_ = 0, write_began_us_ = 0, last_message_us_ = 0, finish_began_us_ = 0;
  TraceContext trace_;
};

}  // namespace lstm::server
