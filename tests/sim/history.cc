// SPDX-License-Identifier: MIT
#include "tests/sim/history.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"
#include "core/base/fail_point.h"

namespace lstm::testing {
namespace {

// Kills inside the server's code: an exception out of the n-th fail point from now.
int kill_after = 0;

struct KilledInside {};

constexpr uint32_t kProbeLane = 1000;  // and above: not the clients'

void Point(const char*) {
  if (kill_after > 0 && --kill_after == 0) throw KilledInside();
}

}  // namespace

History::History(uint64_t seed) : random_(seed), seed_(seed) {
  const v1::Durability kinds[] = {v1::PROCESS, v1::PROCESS, v1::HOST, v1::VOLATILE};
  durability_ = kinds[Below(4)];
  store_.grow_by_ = 1 + Below(3);
  parks_ = Below(2) == 0;
  StartServer();
  const size_t clients = 1 + Below(2);
  for (size_t c = 0; c < clients; ++c) {
    Client& client = *clients_.emplace_back(std::make_unique<Client>());
    const size_t sessions = 1 + Below(3);
    for (size_t s = 0; s < sessions; ++s) {
      v1::Open open;
      open.set_model("hash");
      open.set_durability(durability_);
      open.set_window(1 + static_cast<uint32_t>(Below(5)));
      open.set_ttl_seconds(parks_ ? 1000 : 100);
      open.set_answer_bytes(Below(2) == 0 ? 0 : 4096);
      open.mutable_options()->set_timings(true);
      std::string nonce(16, '\0');
      for (char& byte : nonce) byte = static_cast<char>(random_());
      open.set_client_nonce(nonce);
      open.set_holder(random_() | 1);
      client.sessions.push_back(std::make_unique<SimSession>(client::SessionLog(open), std::make_shared<Truth>(), RandomPlan(14)));
      client.sessions.back()->nonce = nonce;
    }
  }
}

History::~History() { core::fail_point_hook = nullptr; }

SimTurn History::RandomTurn() {
  SimTurn turn;
  const uint64_t steps = Below(12) == 0 ? 200 : 1 + Below(4);  // some answers are large enough to fill the room for them
  for (uint64_t t = 0; t < steps; ++t) turn.inputs.push_back(static_cast<int32_t>(Below(900)));
  switch (Below(14)) {
    case 0: turn.inputs.clear(); turn.reset = true; break;
    case 1: turn.reset = true; break;
    case 2: turn.discard = true; turn.reset = Below(3) == 0; break;
    case 3: turn.inputs.back() = HashProgram::kPoison; break;
    case 4: case 5: turn.deadline_us = 1 + Below(40); break;
    default: break;
  }
  return turn;
}

std::deque<SimTurn> History::RandomPlan(size_t most) {
  std::deque<SimTurn> plan;
  for (uint64_t n = 3 + Below(most); n > 0; --n) plan.push_back(RandomTurn());
  return plan;
}

void History::StartServer() {
  world_ = std::make_unique<ShardWorld>(ShardWorld::Options{.shards = 2, .shard = {.park_after_us = parks_ ? 1 + Below(300) : UINT64_MAX / 2}, .seed = random_(), .parked = &parked_}, HashRepository(program_), &store_, &now_us_);
}

void History::KillServer() {
  ++counts_.kills;
  kill_after = 0;
  world_.reset();
  if (durability_ == v1::HOST && Below(3) == 0) {
    ++counts_.power_cuts;
    store_.CutPower(random_);
    parked_.CutPower(random_);
  }
  store_.Reopen();
  parked_.Reopen();
  zombies_.clear();
  // What a client had received it may still take; no more will come. It notices at once or later.
  for (const auto& client : clients_) {
    if (client->connection == nullptr) continue;
    client->connection->stream = nullptr;
    client->connection->up.clear();
    if (Below(2) == 0) Lose(*client);
  }
  StartServer();
}

void History::Guarded(const std::function<void()>& body) {
  try {
    body();
  } catch (const KilledInside&) {
    KillServer();
  }
}

std::string History::Run() {
  kill_after = 0;
  core::fail_point_hook = Point;
  for (int i = 0; i < 400 && error_.empty(); ++i) Act();
  if (error_.empty()) Calm();
  core::fail_point_hook = nullptr;
  return error_.empty() ? "" : absl::StrCat("seed ", seed_, " (", v1::Durability_Name(durability_), ", ", counts_.kills, " kills, ", counts_.power_cuts,
                                             " losses of power): ", error_);
}

void History::Act() {
  Client& client = *clients_[Below(clients_.size())];
  now_us_ += Below(30);
  switch (Below(20)) {
    case 0: case 1: case 2: case 3: case 4: ClientActs(client); break;
    case 5: case 6: case 7:
      if (client.connection != nullptr) Deliver(*client.connection);
      break;
    case 8: case 9: case 10: Guarded([&] { world_->RunTask(); for (size_t i = 0; i < 2; ++i) if (world_->shard(i).has_work()) world_->shard(i).Work(); }); break;
    case 11: case 12: Guarded([&] { store_.Complete(); if (Below(2) == 0) parked_.Complete(); }); break;
    case 13: case 14: case 15: TakeResponse(client); break;
    case 16:
      if (Below(4) == 0) {
        Lose(client);
      } else if (!zombies_.empty()) {
        Connection& old = *zombies_[Below(zombies_.size())];
        if (Below(2) == 0 && !old.up.empty()) {
          Deliver(old);
        } else if (Below(3) == 0) {  // the server notices
          world_->shard(old.shard).Detach(old.stream);
          std::erase_if(zombies_, [&](const auto& zombie) { return zombie.get() == &old; });
        }
      }
      break;
    case 17:
      if (durability_ != v1::VOLATILE && Below(6) == 0) {
        if (Below(2) == 0) KillServer();
        else kill_after = 1 + static_cast<int>(Below(12));
      } else if (Below(6) == 0) {
        program_->FailNext();
      }
      break;
    case 18:
      if (client.connection != nullptr && client.connection->stream != nullptr) Probe(client);
      break;
    default:
      if (Below(3) == 0) Fight();
      else if (Below(6) == 0) client.paused_until = now_us_ + Below(500);
      else if (!std::exchange(waited_, true)) now_us_ += 80'000'000;  // of a TTL of 100 s
      for (size_t i = 0; i < 2; ++i) world_->shard(i).RunTimers();
      break;
  }
  for (size_t i = 0; parks_ && i < 2; ++i) world_->shard(i).RunTimers();
  if (world_->parked() > 0 && Below(40) == 0) KillServer();  // which is rare by chance: most are back soon
  for (const auto& c : clients_) {
    if (c->connection != nullptr) Collect(*c->connection);
  }
  for (const auto& zombie : zombies_) Collect(*zombie);
}

// What the server said goes on its way, and is looked at as it leaves.
void History::Collect(Connection& connection) {
  for (; !connection.sink.responses.empty(); connection.sink.responses.pop_front()) {
    v1::Response& response = connection.sink.responses.front();
    if (Watch(connection, response)) connection.down.push_back(std::move(response));
  }
}

// False: not for the client, which did not ask for it.
bool History::Watch(Connection& connection, const v1::Response& response) {
  const auto epoch = [&](const std::string& id, uint64_t value) {
    if (!epochs_[id].insert(value).second) Fail("R1: an epoch was given twice");  // two that were given in one act are seen in any order
  };
  if (response.has_opened() && response.opened().lane() >= kProbeLane) {
    if (acked_.contains(response.opened().session_id())) Fail("R1: a nonce opened a session of which answers were acknowledged");
    return false;
  }
  if (response.has_reject() && response.reject().lane() >= kProbeLane) return false;
  if (response.has_opened()) {
    connection.held[response.opened().lane()] = response.opened().session_id();
    epoch(response.opened().session_id(), response.opened().epoch());
  } else if (response.has_resumed()) {
    connection.held[response.resumed().lane()] = connection.claimed[response.resumed().lane()];
    epoch(connection.held[response.resumed().lane()], response.resumed().epoch());
  } else if (response.has_result() || (response.has_reject() && response.reject().seq() > 0)) {
    const uint32_t lane = response.has_result() ? response.result().lane() : response.reject().lane();
    const uint64_t seq = response.has_result() ? response.result().seq() : response.reject().seq();
    if (response.has_result() && response.result().replayed() && connection.owed[lane][seq] == 0) {
      auto& [next, last] = connection.replays[lane];
      if (seq == next && next <= last) {
        ++next;
        return true;
      }
    }
    int& copies = connection.copies[lane][seq];
    const bool copy = copies > 0 && connection.owed[lane][seq] <= copies;
    if (copy) --copies;
    if (--connection.owed[lane][seq] < 0) Fail(absl::StrCat("R0: a Step was answered twice, seq ", seq, ": ", response.ShortDebugString().substr(0, 200)));
    return !copy;
  } else if (response.has_closed()) {
    epochs_.erase(connection.held[response.closed().lane()]);  // with a loss of power an older copy of it may come back
  } else if (response.has_fenced()) {
    connection.owed[response.fenced().lane()].clear();
    connection.held.erase(response.fenced().lane());
  }
  return true;
}

void History::Connect(Client& client) {
  client.connection = std::make_unique<Connection>();
  Connection& connection = *client.connection;
  connection.shard = Below(2);
  connection.stream = world_->shard(connection.shard).Attach(&connection.sink, "");
  client.next_lane = 1;
  for (const auto& session : client.sessions) {
    session->lane = client.next_lane++;
    client::SessionLog::Actions out;
    session->log.Connected(session->lane, out);
    Do(client, *session, out);
  }
}

void History::Lose(Client& client) {
  if (client.connection == nullptr) return;
  ++counts_.losses;
  std::unique_ptr<Connection> old = std::move(client.connection);
  for (const auto& session : client.sessions) {
    session->retry_at.reset();
    client::SessionLog::Actions out;
    session->log.Lost(absl::UnavailableError("the connection was lost"), out);
    Do(client, *session, out);
  }
  if (old->stream != nullptr) zombies_.push_back(std::move(old));
}

// Carries out what the client's bookkeeping wants done.
void History::Do(Client& client, SimSession& session, client::SessionLog::Actions& out) {
  for (v1::Request& request : out.requests) {
    if (client.connection == nullptr || client.connection->stream == nullptr) continue;
    auto& up = client.connection->up;
    if (up.empty() || Below(2) == 0) up.emplace_back();
    *up.back().add_requests() = std::move(request);
  }
  for (client::SessionLog::Answer& answer : out.answers) {
    session.Answered(answer, client.turns_before);
    if (!session.error.empty()) Fail(session.error);
    ++counts_.turns;
  }
  if (out.pause_ms) session.retry_at = now_us_ + *out.pause_ms * 10;
  if (session.log.phase() == client::SessionLog::Phase::kEnded && !session.may_be_fenced) {
    Fail(absl::StrCat("a session ended: ", session.log.status().message()));
  }
}

void History::ClientActs(Client& client) {
  if (client.paused_until > now_us_ && !calm_) return;
  if (client.connection == nullptr) return Connect(client);
  SimSession& session = *client.sessions[Below(client.sessions.size())];
  client::SessionLog::Actions out;
  if (session.retry_at && *session.retry_at <= now_us_) {
    session.retry_at.reset();
    session.log.Retry(out);
  } else if (!session.SendNext(out) && !session.planned() && !session.closing && !session.log.over() && !session.log.missing() && session.log.opened().session_id() != "" && (calm_ || Below(10) == 0)) {
    session.closing = true;
    session.log.Close(out);
  }
  Do(client, session, out);
}

void History::Deliver(Connection& connection) {
  if (connection.up.empty() || connection.stream == nullptr) return;
  const v1::StreamRequest message = std::move(connection.up.front());
  connection.up.pop_front();
  for (const v1::Request& request : message.requests()) {
    const uint64_t kills = counts_.kills;
    DeliverOne(connection, request);
    if (counts_.kills != kills) return;  // and the connection may be no more
  }
}

std::optional<v1::SessionInfo> History::Info(const std::string& id) {
  std::vector<v1::SessionInfo> all;
  for (size_t i = 0; i < world_->shards(); ++i) world_->shard(i).List("", SIZE_MAX, &all);
  for (const v1::SessionInfo& info : all) {
    if (info.session_id() == id) return info;
  }
  return std::nullopt;
}

void History::DeliverOne(Connection& connection, const v1::Request& request, bool own) {
  Collect(connection);
  const uint32_t lane = request.has_step() ? request.step().lane() : 0;
  std::optional<v1::SessionInfo> before;
  if (request.has_step()) {
    ++connection.owed[lane][request.step().seq()];
    if (own) connection.delivered[lane][request.step().seq()] = request;
    if (connection.held.contains(lane)) before = Info(connection.held[lane]);
  } else if (request.has_resume()) {
    connection.claimed[request.resume().lane()] = request.resume().session_id();
    connection.replays[request.resume().lane()] = {request.resume().have_seq() + 1, UINT64_MAX};
  }
  v1::StreamRequest one;
  *one.add_requests() = request;
  server::Stream* const stream = connection.stream;
  const uint64_t kills = counts_.kills;
  Guarded([&] { world_->shard(connection.shard).OnMessage(stream, one); });
  if (counts_.kills != kills || !request.has_step() || !before || !before->attached() || before->parked()) return;
  // R3 to R7 once more, from what is known outside: where a Step stands decides what becomes of it.
  const v1::Step& step = request.step();
  const uint64_t applied = before->applied_seq(), last = applied + before->queued_turns();
  const uint64_t acked = std::max(before->acked_seq(), std::min(step.ack(), applied));
  v1::Reason expected = v1::REASON_UNSPECIFIED;
  if (step.seq() <= acked) expected = step.seq() == 0 ? v1::GAP : v1::ALREADY_ACKED;
  else if (step.seq() > last + 1) expected = v1::GAP;
  else if (step.seq() > last && step.seq() > acked + before->window()) expected = v1::WINDOW;
  v1::Reason got = v1::REASON_UNSPECIFIED;
  for (const v1::Response& response : connection.sink.responses) {
    if (response.has_reject() && response.reject().lane() == lane && response.reject().seq() == step.seq()) got = response.reject().reason();
  }
  if (got == v1::NO_SESSION || got == v1::RETRY || got == v1::LOST) return;  // the lane ended, or is not ready
  const bool placed = got == v1::GAP || got == v1::ALREADY_ACKED || (got == v1::WINDOW && step.seq() > last);
  const bool full = got == v1::WINDOW && expected == v1::REASON_UNSPECIFIED && last == applied;  // no room for the answer
  if (expected != v1::REASON_UNSPECIFIED ? got != expected : placed && !full) {
    Fail(absl::StrCat("R3 to R7: seq ", step.seq(), " ack ", step.ack(), " at ", before->ShortDebugString().substr(40, 200), ": ", v1::Reason_Name(got), ", expected ",
                      v1::Reason_Name(expected)));
  }
}

void History::TakeResponse(Client& client) {
  if (client.connection == nullptr || (client.paused_until > now_us_ && !calm_)) return;
  Connection& connection = *client.connection;
  if (connection.down.empty()) {
    if (connection.stream == nullptr) Lose(client);  // the server is dead, and now it is noticed
    return;
  }
  v1::Response response = std::move(connection.down.front());
  connection.down.pop_front();
  uint32_t lane = 0;
  switch (response.kind_case()) {
    case v1::Response::kOpened: lane = response.opened().lane(); break;
    case v1::Response::kResumed: lane = response.resumed().lane(); break;
    case v1::Response::kResult: lane = response.result().lane(); break;
    case v1::Response::kReject: lane = response.reject().lane(); break;
    case v1::Response::kClosed: lane = response.closed().lane(); break;
    case v1::Response::kFenced: lane = response.fenced().lane(); break;
    case v1::Response::kExpiring: return;
    case v1::Response::kEnded: lane = response.ended().lane(); break;
    default: return;
  }
  for (const auto& session : client.sessions) {
    if (session->lane != lane) continue;
    client::SessionLog::Actions out;
    session->log.Take(response, out);
    Do(client, *session, out);
    return;
  }
}

// A client that is wrong: another input under a seq that was used, seqs out of nowhere. Its own session must not suffer.
void History::Probe(Client& client) {
  Connection& connection = *client.connection;
  const auto& sessions = connection.held;
  if (sessions.empty()) return;
  auto it = sessions.begin();
  std::advance(it, static_cast<long>(Below(sessions.size())));
  const auto info = Info(it->second);
  if (!info || !info->attached() || info->parked()) return;
  switch (Below(8)) {
    case 0: return ProbeNonce(client);
    case 1: return ProbeCopy(client, it->first, *info);
    case 2: return ProbeAck(client, it->first, *info);
    default: break;
  }
  const uint64_t applied = info->applied_seq(), acked = info->acked_seq(), last = applied + info->queued_turns();
  uint64_t seq = 0;
  switch (Below(4)) {
    case 0: seq = acked > 0 ? 1 + Below(acked) : 0; break;
    case 1: seq = last + 2 + Below(5); break;
    case 2: seq = last == acked + info->window() ? last + 1 : 0; break;
    default: seq = last > acked ? acked + 1 + Below(last - acked) : 0; break;
  }
  if (seq == 0) return;
  ++counts_.probes;
  v1::Request request;
  request.mutable_step()->set_lane(it->first);
  request.mutable_step()->set_seq(seq);
  request.mutable_step()->add_inputs()->add_ints(901);  // which nobody means
  Collect(connection);
  const size_t before = connection.down.size();
  const uint32_t lane = it->first;
  const uint64_t kills = counts_.kills;
  DeliverOne(connection, request, false);
  if (counts_.kills != kills) return;
  Collect(connection);
  bool answered = false;
  for (size_t i = before; i < connection.down.size(); ++i) {
    const v1::Response& response = connection.down[i];
    if (response.has_result() && response.result().seq() == seq && response.result().lane() == lane) Fail("R3: another input under a used seq was answered");
    answered |= response.has_reject() && response.reject().seq() == seq && response.reject().lane() == lane;
  }
  if (!answered) Fail(absl::StrCat("R0: a Step that is refused at once was not answered, seq ", seq));
  // The client did not ask: what came back is not for it.
  for (size_t i = connection.down.size(); i-- > before;) {
    const v1::Response& r = connection.down[i];
    if (r.has_reject() && r.reject().seq() == seq && r.reject().lane() == lane) connection.down.erase(connection.down.begin() + static_cast<long>(i));
  }
}

// The nonce of a session of which something was acknowledged, once more.
void History::ProbeNonce(Client& client) {
  const SimSession& session = *client.sessions[Below(client.sessions.size())];
  const auto info = Info(session.log.opened().session_id());
  if (!info || info->acked_seq() == 0 || session.nonce.empty()) return;
  ++counts_.probes;
  acked_.insert(info->session_id());
  v1::Request request;
  request.mutable_open()->set_lane(kProbeLane + static_cast<uint32_t>(counts_.probes));
  request.mutable_open()->set_model("hash");
  request.mutable_open()->set_client_nonce(session.nonce);
  DeliverOne(*client.connection, request);
}

// A Step that waits, once more: each of the two must be answered.
void History::ProbeCopy(Client& client, uint32_t lane, const v1::SessionInfo& info) {
  Connection& connection = *client.connection;
  if (info.queued_turns() == 0) return;
  const auto step = connection.delivered[lane].find(info.applied_seq() + 1 + Below(info.queued_turns()));
  if (step == connection.delivered[lane].end()) return;
  ++counts_.probes;
  ++connection.copies[lane][step->first];
  DeliverOne(connection, v1::Request(step->second));
}

// An acknowledgement of what was never answered. (Of what is answered, the client has had all: else the lie would be its loss.)
void History::ProbeAck(Client& client, uint32_t lane, const v1::SessionInfo& info) {
  const auto session = std::find_if(client.sessions.begin(), client.sessions.end(), [&](const auto& s) { return s->lane == lane; });
  if (session == client.sessions.end() || (*session)->log.have_seq() != info.applied_seq() || (*session)->may_be_fenced) return;
  ++counts_.probes;
  v1::Request request;
  request.mutable_touch()->set_lane(lane);
  request.mutable_touch()->set_ack(info.applied_seq() + 3);
  DeliverOne(*client.connection, request);
}

// Another process takes a session up from its saved handle, while the first goes on.
void History::Fight() {
  if (clients_.size() > 3 || calm_) return;
  Client& client = *clients_[Below(clients_.size())];
  SimSession& session = *client.sessions[Below(client.sessions.size())];
  const auto saved = session.log.Save();
  if (!saved.ok() || session.closing || session.may_be_fenced) return;
  auto taken = client::SessionLog::FromSaved(*saved, 0, random_() | 1);
  if (!taken.ok()) return Fail(std::string(taken.status().message()));
  ++counts_.fights;
  session.may_be_fenced = true;
  Client& other = *clients_.emplace_back(std::make_unique<Client>());
  auto second = std::make_unique<SimSession>(*std::move(taken), session.truth, RandomPlan(6));
  second->may_be_fenced = true;
  second->rival = &session;
  other.turns_before = &session.history;
  other.sessions.push_back(std::move(second));
}

bool History::Done() const {
  return std::all_of(clients_.begin(), clients_.end(), [](const auto& client) {
    return std::all_of(client->sessions.begin(), client->sessions.end(), [](const auto& session) { return session->log.over(); });
  });
}

// Nothing goes wrong any more: everybody gets what it is owed, closes, and nothing is left.
void History::Calm() {
  calm_ = true;
  kill_after = 0;
  for (const auto& zombie : zombies_) world_->shard(zombie->shard).Detach(zombie->stream);
  zombies_.clear();
  for (int i = 0; i < 3000 && error_.empty() && !Done(); ++i) {
    now_us_ += 1000;
    for (const auto& client : clients_) {
      for (size_t k = 0; k < client->sessions.size() + 1; ++k) ClientActs(*client);
      while (client->connection != nullptr && !client->connection->up.empty() && error_.empty()) Deliver(*client->connection);
    }
    for (bool more = true; more;) {
      world_->Settle();
      more = store_.Complete();
      more |= parked_.Complete();
    }
    for (const auto& client : clients_) {
      if (client->connection == nullptr) continue;
      Collect(*client->connection);
      for (int k = 0; k < 100 && error_.empty(); ++k) TakeResponse(*client);
    }
  }
  if (error_.empty() && !Done()) {
    std::string waiting;
    for (const auto& client : clients_) {
      for (const auto& session : client->sessions) {
        if (session->log.over()) continue;
        const auto info = Info(session->log.opened().session_id());
        absl::StrAppend(&waiting, "; phase ", static_cast<int>(session->log.phase()), " have_seq ", session->log.have_seq(), " unanswered ",
                        session->log.unanswered(), " planned ", session->planned(), ", the server: ", info ? info->ShortDebugString() : "nothing");
      }
    }
    Fail(absl::StrCat("a client waits for ever", waiting));
  }
  for (const auto& client : clients_) {
    for (const auto& session : client->sessions) {
      if (error_.empty() && session->log.phase() == client::SessionLog::Phase::kClosed && session->planned()) Fail("a session was closed before its turns were answered");
      const bool lost = session->log.phase() == client::SessionLog::Phase::kEnded;
      const bool rival_lost = session->rival != nullptr && session->rival->log.phase() == client::SessionLog::Phase::kEnded;
      if (error_.empty() && lost && rival_lost) Fail(absl::StrCat("two clients fought, and neither has the session: ", session->log.status().message(), "; ", session->rival->log.status().message()));
    }
    if (client->connection != nullptr && client->connection->stream != nullptr) {
      for (const auto& [lane, seqs] : client->connection->owed) {
        for (const auto& [seq, n] : seqs) {
          if (n != 0) Fail(absl::StrCat("R0: a Step was never answered, seq ", seq));
        }
      }
      world_->shard(client->connection->shard).Detach(client->connection->stream);
    }
  }
  if (!error_.empty()) return;
  now_us_ += 2'000'000'000;  // what nobody could close expires
  for (int round = 0; round < 3; ++round, now_us_ += 1000) {  // what was on its way, to the disk above all, comes to its end first and is looked at again
    for (size_t i = 0; i < world_->shards(); ++i) world_->shard(i).RunTimers();
    do world_->Settle();
    while (store_.Complete() || parked_.Complete());
  }
  if (world_->sessions() + world_->parked() > 0) Fail("a session is left");
  if (parked_.size() > 0) Fail("R13: a record of a session that has ended is still in the log");
  if (world_->budget().bytes() != 0 || world_->budget().sessions() != 0) Fail("bytes or sessions are counted that are gone");
  // A session that was being made or wiped when the power went may be left in part: it is set aside.
  if (counts_.power_cuts == 0 && !store_.used().empty()) Fail("R13: a slot of a session that has ended is still in use");
  if (!store_.FreeSlotsAreWiped()) Fail("R13: a free slot was not wiped");
}

}  // namespace lstm::testing
