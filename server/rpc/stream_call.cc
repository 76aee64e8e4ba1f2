// SPDX-License-Identifier: MIT
#include "server/rpc/stream_call.h"

#include <utility>

#include "server/rpc/load_spread.h"
#include "server/rpc/principal.h"

namespace lstm::server {
namespace {

constexpr size_t kMessageBytes = 1u << 20;
constexpr size_t kKeptMessageBytes = 64u << 10;
constexpr size_t kKeptMessages = 2;
constexpr uint64_t kMicros = 1'000'000;

}  // namespace

void StreamCall::Arm(ShardLoop* loop, v1::Prediction::AsyncService* service) {
  if (!loop->ending()) new StreamCall(loop, service);
}

StreamCall::StreamCall(ShardLoop* loop, v1::Prediction::AsyncService* service) : loop_(loop), service_(service) {
  ++pending_;
  service_->RequestStream(&context_, &stream_, loop_->queue(), loop_->queue(), &accepted_);
}

void StreamCall::OnAccepted(bool ok) {
  --pending_;
  if (!ok) {  // the server is shutting down
    delete this;
    return;
  }
  loop_->CallBegan();
  if (loop_->shard().draining()) return Refuse();
  loop_->Add(this);
  shard_stream_ = loop_->shard().Attach(this, PrincipalOf(context_));
  last_message_us_ = loop_->now_us();
  loop_->spread().Opened(loop_->index());  // may arm the next call
  ++pending_;
  writing_ = true;
  write_began_us_ = last_message_us_;
  stream_.SendInitialMetadata(&metadata_);
  MaybeRead();
}

// A client that leaves a draining server may come back over a connection that another of its streams still holds: as a stream
// it would be told nothing, stay, and be cut when the drain's time is up.
void StreamCall::Refuse() {
  Arm(loop_, service_);
  refused_ = finishing_ = true;
  ++pending_;
  stream_.Finish({grpc::StatusCode::UNAVAILABLE, "the server is going away; connect to another, or again in a moment"}, &finished_);
}

void StreamCall::OnMetadata(bool ok) { OnWritten(ok); }

void StreamCall::OnRead(bool ok) {
  --pending_;
  reading_ = false;
  if (finishing_) return MaybeDelete();
  if (ok) {
    last_message_us_ = loop_->now_us();
    loop_->shard().OnMessage(shard_stream_, incoming_);
    // A large message is not kept for the next one.
    if (incoming_.SpaceUsedLong() > 4 * kKeptMessageBytes) incoming_ = v1::StreamRequest();
  } else {
    half_closed_ = true;
  }
  MarkDirty();
}

v1::Response* StreamCall::Next(size_t bytes) {
  const size_t in_flight = front_in_flight_ ? 1 : 0;
  if (outgoing_.size() == in_flight || outgoing_.back()->bytes + bytes > kMessageBytes) {
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
  return outgoing_.back()->message.add_responses();
}

void StreamCall::MarkDirty() {
  if (std::exchange(dirty_, true)) return;
  loop_->MarkDirty(this);
}

void StreamCall::Flush() {
  dirty_ = false;
  if (finishing_) return;
  if (broken_) return Finish(grpc::Status::CANCELLED);
  if (!writing_ && !outgoing_.empty()) {
    writing_ = front_in_flight_ = true;
    write_began_us_ = loop_->now_us();
    ++pending_;
    stream_.Write(outgoing_.front()->message, &written_);
  }
  if (half_closed_ && !writing_ && outgoing_.empty() && shard_stream_->quiet()) return Finish(grpc::Status::OK);
  MaybeRead();
}

void StreamCall::MaybeRead() {
  if (reading_ || half_closed_ || finishing_) return;
  if (shard_stream_->backlog_bytes() + outgoing_bytes_ > loop_->options().stream_budget_bytes) return;
  reading_ = true;
  ++pending_;
  stream_.Read(&incoming_, &read_);
}

void StreamCall::OnWritten(bool ok) {
  --pending_;
  writing_ = false;
  if (!ok) broken_ = true;
  if (std::exchange(front_in_flight_, false)) {
    std::unique_ptr<Outgoing> sent = std::move(outgoing_.front());
    outgoing_.pop_front();
    outgoing_bytes_ -= sent->bytes;
    if (spare_.size() < kKeptMessages && sent->bytes <= kKeptMessageBytes) {
      sent->message.Clear();
      sent->bytes = 0;
      spare_.push_back(std::move(sent));
    }
  }
  MarkDirty();
}

void StreamCall::Check(uint64_t now_us) {
  if (writing_ && now_us - write_began_us_ > loop_->options().stalled_write_s * kMicros) {
    context_.TryCancel();  // the write comes back as failed
  }
  if (!finishing_ && !half_closed_ && !writing_ && outgoing_.empty() && shard_stream_->lanes() == 0 &&
      now_us - last_message_us_ > loop_->options().idle_stream_s * kMicros) {
    Finish({grpc::StatusCode::DEADLINE_EXCEEDED, "no session on this stream for too long; open a stream when there is work"});
  }
}

void StreamCall::Finish(const grpc::Status& status) {
  if (std::exchange(finishing_, true)) return;
  loop_->shard().Detach(std::exchange(shard_stream_, nullptr));
  ++pending_;
  stream_.Finish(status, &finished_);
}

void StreamCall::OnFinished(bool) {
  --pending_;
  if (!refused_) {
    loop_->Remove(this);
    loop_->spread().Closed(loop_->index());
  }
  done_ = true;
  MaybeDelete();
}

void StreamCall::MaybeDelete() {
  if (!done_ || pending_ > 0) return;
  loop_->CallEnded();
  delete this;
}

}  // namespace lstm::server
