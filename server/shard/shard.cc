// SPDX-License-Identifier: MIT
#include "server/shard/shard.h"

#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/shard/predict.h"
#include "server/shard/reject.h"
#include "server/shard/tensor_codec.h"

namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint32_t kFullRetryMs = 1000;
constexpr uint64_t kMicros = 1'000'000;
constexpr uint64_t kWarnBeforeUs = 30 * kMicros;

template <typename Bytes>
std::string AsString(const Bytes& bytes) {
  return std::string(bytes.begin(), bytes.end());
}

}  // namespace

Shard::Shard(const Options& options, std::shared_ptr<const ModelRepository> models, MemoryBudget* budget, Clock clock)
    : options_(options), models_(std::move(models)), budget_(budget), clock_(std::move(clock)), table_(budget) {}

Shard::~Shard() {
  for (Stream* stream : streams_) delete stream;
}

Stream* Shard::Attach(ResponseSink* sink) {
  auto* stream = new Stream;
  stream->sink_ = sink;
  streams_.insert(stream);
  return stream;
}

void Shard::Detach(Stream* stream) {
  const uint64_t now = clock_();
  for (const auto& [lane, session] : stream->lanes_) {
    session->machine.Detach();
    session->stream = nullptr;
    Trim(session);
    if (session->closing || session->machine.options().simple) {
      EndSession(session, "its stream ended");  // nobody can come back to it
    } else if (!session->doomed) {
      if (!session->own_ttl) session->ttl_us = std::min<uint64_t>(session->ttl_us, options_.orphan_ttl_s * kMicros);
      session->last_used_us = now;
      table_.SetAlarm(session, now + session->ttl_us);
    }
  }
  streams_.erase(stream);
  delete stream;
}

void Shard::OnMessage(Stream* stream, const v1::StreamRequest& message) {
  for (const v1::Request& request : message.requests()) {
    switch (request.kind_case()) {
      case v1::Request::kStep: OnStep(stream, request.step()); break;
      case v1::Request::kOpen: OnOpen(stream, request.open()); break;
      case v1::Request::kClose: OnClose(stream, request.close().lane()); break;
      case v1::Request::kTouch:
        if (Session* session = OnLane(stream, request.touch().lane())) {
          session->machine.Acknowledge(request.touch().ack());
          session->last_used_us = clock_();
          session->warned = false;
          Trim(session);
        } else {
          RejectLane(stream, request.touch().lane(), 0, v1::NO_SESSION, "nothing is open on this lane");
        }
        break;
      case v1::Request::kResume:
        RejectLane(stream, request.resume().lane(), 0, v1::UNSUPPORTED,
                   "this server does not resume sessions yet; open a new one");
        break;
      case v1::Request::KIND_NOT_SET:
        RejectLane(stream, 0, 0, v1::INVALID, "a request is none of open, resume, step, touch and close");
        break;
    }
  }
}

void Shard::OnOpen(Stream* stream, const v1::Open& open) {
  const auto refuse = [&](v1::Reason reason, const std::string& text, uint32_t retry_after_ms = 0) {
    FillReject(reason, text, retry_after_ms, [&] {
      v1::Reject* reject = stream->sink_->Next(kSmallResponse)->mutable_reject();
      reject->set_lane(open.lane());
      return reject;
    }());
  };
  if (stream->lanes_.contains(open.lane())) {
    return refuse(v1::LANE_IN_USE, absl::StrCat("lane ", open.lane(), " has a session; wait for its Closed"));
  }
  if (draining_) return refuse(v1::DRAINING, "the server is going away; open on another, or again later", kFullRetryMs);
  if (open.client_nonce().size() != 16 && !(open.simple() && open.client_nonce().empty())) {
    return refuse(v1::INVALID, absl::StrCat("client_nonce has ", open.client_nonce().size(), " bytes, expected 16"));
  }
  if (open.durability() > v1::VOLATILE) {
    return refuse(v1::UNSUPPORTED, "this server offers durability VOLATILE alone");
  }
  if (open.window() > options_.max_window) {
    return refuse(v1::INVALID, absl::StrCat("window is ", open.window(), ", expected at most ", options_.max_window));
  }
  if (open.ttl_seconds() > options_.max_ttl_s) {
    return refuse(v1::INVALID, absl::StrCat("ttl_seconds is ", open.ttl_seconds(), ", expected at most ", options_.max_ttl_s));
  }
  auto model = models_->Find(open.model(), open.version());
  if (!model.ok()) return refuse(v1::NOT_FOUND, std::string(model.status().message()));
  const core::StepProgram& program = *(*model)->program;
  auto selected = SelectOutputs(program, open.options());
  if (!selected.ok()) return refuse(v1::INVALID, std::string(selected.status().message()));
  const size_t answer_step_bytes = AnswerStepBytes(program, *selected);
  if (answer_step_bytes > options_.max_turn_answer_bytes) {
    return refuse(v1::INVALID, absl::StrCat("one step's outputs have ", answer_step_bytes, " bytes, at most ",
                                            options_.max_turn_answer_bytes, " can be answered; select fewer"));
  }
  core::AlignedBuffer<float> initial;
  if (open.initial_state_size() > 0) {
    initial = core::AlignedBuffer<float>(program.state_floats());
    std::copy(program.initial_state().begin(), program.initial_state().end(), initial.data());
    const absl::Status decoded = DecodeState(program, open.initial_state(), initial.span());
    if (!decoded.ok()) return refuse(v1::INVALID, std::string(decoded.message()));
  }
  const SessionMachine::Options machine{.window = open.window() > 0 ? open.window() : options_.default_window,
                                        .simple = open.simple()};
  auto created = table_.Create(*model, machine);
  if (!created.ok()) return refuse(v1::SESSIONS, std::string(created.status().message()), kFullRetryMs);

  Session* session = *created;
  const uint64_t initial_bytes = initial.size() * sizeof(float);
  if (initial_bytes > 0) {
    if (!budget_->TakeBytes(initial_bytes)) {
      table_.Release(session, "never opened");
      return refuse(v1::BYTES, "no memory for an initial_state now", kFullRetryMs);
    }
    session->charged_bytes += initial_bytes;
    std::copy(initial.span().begin(), initial.span().end(), session->state.data());
    session->initial = std::move(initial);
  }
  std::array<uint8_t, 32> token;
  FillRandom(token.data(), token.size());
  SHA256(token.data(), token.size(), session->token_hash.data());
  session->selected = *std::move(selected);
  session->answer_step_bytes = answer_step_bytes;
  session->last_step_only = open.options().last_step_only();
  session->timings = open.options().timings();
  session->stream = stream;
  session->lane = open.lane();
  session->own_ttl = open.ttl_seconds() > 0;
  session->ttl_us = (session->own_ttl ? open.ttl_seconds() : options_.ttl_s) * kMicros;
  session->last_used_us = clock_();
  table_.SetAlarm(session, session->last_used_us + session->ttl_us);
  stream->lanes_.emplace(open.lane(), session);

  v1::Opened* opened = stream->sink_->Next(kSmallResponse)->mutable_opened();
  opened->set_lane(open.lane());
  opened->set_session_id(AsString(session->id));
  opened->set_resume_token(AsString(token));
  opened->set_epoch(1);
  opened->set_model_hash(program.model().hash);
  opened->set_numerics_id(program.numerics_id());
  opened->set_window(machine.window);
  opened->set_max_turn_answer_bytes(options_.max_turn_answer_bytes);
  opened->set_durability(v1::VOLATILE);
  opened->set_ttl_seconds(static_cast<uint32_t>(session->ttl_us / kMicros));
  opened->set_model(session->model->name);
  opened->set_version(session->model->version);
}

void Shard::OnClose(Stream* stream, uint32_t lane) {
  Session* session = OnLane(stream, lane);
  if (session == nullptr) return RejectLane(stream, lane, 0, v1::NO_SESSION, "nothing is open on this lane");
  session->closing = true;
  Advance(session);
}

Session* Shard::OnLane(Stream* stream, uint32_t lane) const {
  const auto it = stream->lanes_.find(lane);
  return it == stream->lanes_.end() || it->second->closing ? nullptr : it->second;
}

void Shard::RejectLane(Stream* stream, uint32_t lane, uint64_t seq, v1::Reason reason, const std::string& message) {
  v1::Reject* reject = stream->sink_->Next(kSmallResponse)->mutable_reject();
  reject->set_lane(lane);
  reject->set_seq(seq);
  FillReject(reason, message, 0, reject);
}

void Shard::LeaveLane(Session* session) {
  if (session->stream == nullptr) return;
  for (size_t i = 0; i < session->records.size(); ++i) SettleBacklog(session, *session->records[i]);
  session->stream->lanes_.erase(session->lane);
  session->stream = nullptr;
}

void Shard::EndSession(Session* session, const char* why) {
  if (session->machine.computing()) {  // the engine reads its state: OnFinished comes back here
    session->doomed = true;
    return;
  }
  LeaveLane(session);
  table_.Release(session, why);
}

void Shard::RunTimers() {
  const uint64_t now = clock_();
  while (Session* session = table_.PopDue(now)) {
    const bool busy = session->machine.waiting() > 0;
    const uint64_t end = (busy ? now : session->last_used_us) + session->ttl_us;
    if (end > now) {
      const bool warn = session->stream != nullptr && !busy && session->ttl_us >= 2 * kWarnBeforeUs;
      if (warn && end - now <= kWarnBeforeUs && !session->warned) {
        v1::Expiring* expiring = session->stream->sink_->Next(kSmallResponse)->mutable_expiring();
        expiring->set_lane(session->lane);
        expiring->set_in_ms(static_cast<uint32_t>((end - now) / 1000));
        session->warned = true;
      }
      table_.SetAlarm(session, warn && !session->warned ? end - kWarnBeforeUs : end);
      continue;
    }
    if (session->stream != nullptr) {
      v1::Ended* ended = session->stream->sink_->Next(kSmallResponse)->mutable_ended();
      ended->set_lane(session->lane);
      ended->set_reason(v1::EXPIRED);
      ended->set_message(absl::StrCat("no step for ", session->ttl_us / kMicros, " s"));
    }
    EndSession(session, "it expired");
  }
}

void Shard::Drain(uint32_t deadline_ms) {
  draining_ = true;
  for (Stream* stream : streams_) {
    v1::Draining* draining = stream->sink_->Next(kSmallResponse)->mutable_draining();
    draining->set_deadline_ms(deadline_ms);
  }
}

v1::SessionInfo Shard::InfoOf(const Session& session) const {
  v1::SessionInfo info;
  info.set_session_id(AsString(session.id));
  info.set_model(session.model->name);
  info.set_version(session.model->version);
  info.set_durability(v1::VOLATILE);
  info.set_epoch(1);
  info.set_applied_seq(session.machine.applied());
  info.set_acked_seq(session.machine.acked());
  info.set_queued_turns(session.machine.waiting());
  uint64_t bytes = session.charged_bytes;
  for (size_t i = 0; i < session.records.size(); ++i) bytes += session.records[i]->charged_bytes;
  info.set_bytes(bytes);
  info.set_attached(session.stream != nullptr);
  const uint64_t now = clock_();
  info.set_idle_ms(static_cast<uint32_t>((now - std::min(now, session.last_used_us)) / 1000));
  info.set_ttl_seconds(static_cast<uint32_t>(session.ttl_us / kMicros));
  info.set_steps(session.steps);
  return info;
}

void Shard::List(const std::string& model, std::vector<v1::SessionInfo>* out) const {
  for (const auto& [id, session] : table_.all()) {
    if (model.empty() || session->model->name == model) out->push_back(InfoOf(*session));
  }
}

absl::StatusOr<v1::SessionInfo> Shard::Get(const SessionId& id) const {
  const auto it = table_.all().find(id);
  if (it != table_.all().end()) return InfoOf(*it->second);
  const char* why = table_.GoneBecause(id);
  return absl::NotFoundError(why != nullptr ? absl::StrCat("the session is gone: ", why) : "no such session");
}

absl::StatusOr<uint64_t> Shard::CloseByOperator(const SessionId& id) {
  Session* session = table_.Find(id);
  if (session == nullptr || session->doomed) return Get(id).status();
  const uint64_t applied = session->machine.applied();
  if (session->stream != nullptr) {
    v1::Ended* ended = session->stream->sink_->Next(kSmallResponse)->mutable_ended();
    ended->set_lane(session->lane);
    ended->set_reason(v1::CANCELLED_BY_OPERATOR);
    ended->set_message("an operator closed the session");
  }
  session->machine.Detach();
  Trim(session);
  LeaveLane(session);
  EndSession(session, "an operator closed it");
  return applied;
}

}  // namespace lstm::server
