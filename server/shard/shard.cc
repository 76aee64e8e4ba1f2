// SPDX-License-Identifier: MIT
#include "server/shard/shard.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log/log.h"
#include "server/shard/predict.h"
#include "server/shard/reject.h"

// Streams and lanes.
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint32_t kResumeAfterMs = 100;
constexpr uint64_t kMicros = 1'000'000;
constexpr size_t kRefusalShare = 3;
constexpr size_t kWaitingRequests = 256;  // behind an Open or a Resume that is under way

}  // namespace

Shard::Shard(size_t index, const Options& options, const ShardServices& services)
    : index_(index),
      options_(options),
      services_(services),
      budget_(services.budget),
      store_(services.store),
      table_(index, services_) {}

Shard::~Shard() {
  for (const auto& [key, stream] : streams_) delete stream;
}

Stream* Shard::Attach(ResponseSink* sink, const std::string& principal) {
  auto* stream = new Stream;
  stream->sink_ = sink;
  stream->key_ = next_stream_++;
  stream->principal_ = principal;
  stream->account_ = AccountOf(principal);
  streams_.emplace(stream->key_, stream);
  return stream;
}

void Shard::Detach(Stream* stream) {
  const uint64_t now = services_.clock();
  for (auto& [number, lane] : stream->lanes_) {
    Session* session = lane.session;
    if (Parked* parked = lane.parked ? parked_.Find(*lane.parked) : nullptr; parked != nullptr) parked->stream = 0;
    if (Rest* rest = lane.parked ? resting_.Find(*lane.parked) : nullptr; rest != nullptr) {
      if (!rest->terms->options.simple) {
        Orphan(rest);
        continue;
      }
      session = Wake(*lane.parked);
    }
    if (session == nullptr) {  // what is under way will find no stream
      TakeWaiting(stream, lane);
      continue;
    }
    session->machine.Detach();
    Trim(session);
    Hold(session, nullptr);
    session->closing = false;  // its client does not know what became of the turns before: it may come back for them
    if (session->machine.options().simple) {
      EndSession(session, v1::NOT_FOUND, "the session is gone: its stream ended; open another");  // nobody can come back to it
    } else {
      Orphan(session, now);
    }
  }
  streams_.erase(stream->key_);
  delete stream;
}

void Shard::Orphan(Session* session, uint64_t now) {
  const uint64_t most = options_.orphan_ttl_s * kMicros;
  if (!session->stored() && !session->own_ttl) session->ttl_us = std::min(session->ttl_us, most);
  session->last_used_us = now;
  SetAlarm(session);
}

void Shard::OnMessage(Stream* stream, const v1::StreamRequest& message) {
  for (const v1::Request& request : message.requests()) OnRequest(stream, request);
}

int Shard::OnPart(Stream* stream, const v1::StreamRequest& message, int next, size_t* share) {
  for (; next < message.requests_size() && *share > 0; ++next) {
    const uint64_t refusals = refusals_;
    OnRequest(stream, message.requests(next));
    *share -= std::min(*share, 1 + (message.requests(next).ByteSizeLong() >> 10) + (refusals_ != refusals ? kRefusalShare : 0));
  }
  return next;
}

void Shard::Arrived(Stream* stream) {
  --stream->pending_;
  stream->sink_->Settled();
}

void Shard::OnRequests(Stream* stream, const std::vector<v1::Request>& requests) {
  for (const v1::Request& request : requests) OnRequest(stream, request);
}

std::vector<v1::Request> Shard::TakeWaiting(Stream* stream, Stream::Lane& lane) {
  for (const v1::Request& request : lane.waiting) {
    const uint64_t bytes = request.ByteSizeLong();
    stream->backlog_bytes_ -= bytes;
    budget_->GiveBytes(bytes);
  }
  return std::exchange(lane.waiting, {});
}

void Shard::OnRequest(Stream* stream, const v1::Request& request) {
  uint32_t number = 0;
  switch (request.kind_case()) {
    case v1::Request::kStep: number = request.step().lane(); break;
    case v1::Request::kOpen: number = request.open().lane(); break;
    case v1::Request::kResume: number = request.resume().lane(); break;
    case v1::Request::kTouch: number = request.touch().lane(); break;
    case v1::Request::kClose: number = request.close().lane(); break;
    case v1::Request::KIND_NOT_SET: return RejectLane(stream, 0, 0, v1::INVALID, "a request is none of open, resume, step, touch and close, expected one of them");
  }
  const auto lane = stream->lanes_.find(number);
  if (lane != stream->lanes_.end() && (request.has_open() || request.has_resume())) {
    return RejectLane(stream, number, 0, v1::LANE_IN_USE, absl::StrCat("lane ", number, " has a session; wait for its end"));
  }
  if (lane != stream->lanes_.end() && lane->second.session == nullptr && !(lane->second.parked && Find(*lane->second.parked) != nullptr)) {
    const uint64_t bytes = request.ByteSizeLong();
    if (lane->second.waiting.size() >= kWaitingRequests || !budget_->TakeBytes(bytes)) {
      if (request.has_step()) {
        RejectLane(stream, number, request.step().seq(), v1::RETRY, "the session is not ready yet; nothing was applied, send it again", kResumeAfterMs);
      }
      return;
    }
    stream->backlog_bytes_ += bytes;
    lane->second.waiting.push_back(request);
    if (lane->second.parked && lane->second.waiting.size() == 1) {
      ++stream->pending_;
      Unpark(*lane->second.parked, [](const auto*) {});
    }
    return;
  }
  switch (request.kind_case()) {
    case v1::Request::kStep: return OnStep(stream, request.step());
    case v1::Request::kOpen: return OnOpen(stream, request.open());
    case v1::Request::kResume: return OnResume(stream, request.resume());
    case v1::Request::kTouch: return OnTouch(stream, request.touch());
    default: return OnClose(stream, number);
  }
}

void Shard::OnTouch(Stream* stream, const v1::Touch& touch) {
  Session* session = OnLane(stream, touch.lane());
  if (session == nullptr) return RejectLane(stream, touch.lane(), 0, v1::NO_SESSION, "nothing is open on this lane; open or resume a session on it first");
  session->machine.Acknowledge(touch.ack());
  session->last_used_us = services_.clock();
  session->warned = false;
  Trim(session);
}

void Shard::OnClose(Stream* stream, uint32_t lane) {
  Session* session = OnLane(stream, lane);
  if (session == nullptr) return RejectLane(stream, lane, 0, v1::NO_SESSION, "nothing is open on this lane; open or resume a session on it first");
  session->closing = true;
  Advance(session);
}

Session* Shard::OnLane(Stream* stream, uint32_t lane) const {
  const auto it = stream->lanes_.find(lane);
  return it == stream->lanes_.end() || it->second.session == nullptr || it->second.session->closing ? nullptr : it->second.session;
}

void Shard::RejectLane(Stream* stream, uint32_t lane, uint64_t seq, v1::Reason reason, const std::string& message, uint32_t retry_after_ms) {
  v1::Reject* reject = stream->sink_->Next(kSmallResponse + message.size())->mutable_reject();
  reject->set_lane(lane);
  reject->set_seq(seq);
  FillReject(reason, message, retry_after_ms, reject);
  CountReject(*reject);
}

void Shard::Hold(Session* session, Stream* stream) {
  attached_ += stream != nullptr ? 1 : 0;
  attached_ -= session->stream != nullptr ? 1 : 0;
  session->stream = stream;
}

void Shard::PublishGauges() {
  counters_.sessions.Set(sessions());
  counters_.attached.Set(attached_);
  counters_.parked.Set(parked_.size());
  counters_.streams.Set(streams_.size());
}

void Shard::Tell(Session* session, v1::Reason reason, const std::string& message) {
  if (session->stream != nullptr) Tell(session->stream, session->lane, reason, message);
}

void Shard::Tell(Stream* stream, uint32_t lane, v1::Reason reason, const std::string& message) {
  v1::Ended* ended = stream->sink_->Next(kSmallResponse + message.size())->mutable_ended();
  ended->set_lane(lane);
  ended->set_reason(reason);
  ended->set_message(message);
}

void Shard::LeaveLane(Session* session) {
  if (session->stream == nullptr) return;
  for (size_t i = 0; i < session->records.size(); ++i) SettleBacklog(session, *session->records[i]);
  session->stream->lanes_.erase(session->lane);
  Hold(session, nullptr);
}

void Shard::StopComputing(Session* session) {
  // A commit that waits for the disk has left the engine; one that waits for nothing is in it.
  if (!session->machine.computing() || session->syncing) return;
  TurnRecord* record = session->records[session->machine.applied() - session->first_record].get();
  engine_.Remove(record);
  GiveScratch(record);
}

std::vector<Session::AfterSync> Shard::Part(Session* session) {
  StopComputing(session);
  LeaveLane(session);
  std::vector<Session::AfterSync> waiting = std::exchange(session->waiting, {});
  if (session->after_sync) waiting.push_back(std::exchange(session->after_sync, nullptr));
  return waiting;
}

void Shard::EndSession(Session* session, v1::Reason reason, const std::string& why) {
  const SessionDirectory::Absent absent{reason, why};
  const std::vector<Session::AfterSync> waiting = Part(session);
  (reason == v1::EXPIRED ? counters_.expired : counters_.closed).Add();
  table_.Release(session, absent);
  for (const Session::AfterSync& tell : waiting) tell(&absent);
}

void Shard::SetAside(Session* session, v1::Reason reason, const std::string& why) {
  const SessionDirectory::Absent absent{reason, why};
  LogFault("session set aside: it is damaged, and what is stored of it is kept", *session, why);
  Tell(session, reason, why);
  const std::vector<Session::AfterSync> waiting = Part(session);
  counters_.set_aside.Add();
  table_.SetAside(session, absent);
  for (const Session::AfterSync& tell : waiting) tell(&absent);
}

void Shard::LogFault(const char* what, const Session& session, std::string_view why) const {
  const TraceContext none;
  const TraceContext& trace = session.stream != nullptr ? session.stream->trace_ : none;
  LogEvent(LogLevel::kError, what, {{"trace_id", trace.trace_id()}, {"parent_id", trace.parent_id()}, {"session", LogId(session.id)}, {"model", session.model->name},
                                    {"version", session.model->version}, {"shard", index_}, {"turn", session.machine.applied() + 1}, {"why", why}});
}

void Shard::Drain(uint32_t deadline_ms) {
  draining_ = true;
  for (const auto& [key, stream] : streams_) {
    v1::Draining* draining = stream->sink_->Next(kSmallResponse)->mutable_draining();
    draining->set_resume_after_ms(kResumeAfterMs);
    draining->set_deadline_ms(deadline_ms);
  }
}

}  // namespace lstm::server
