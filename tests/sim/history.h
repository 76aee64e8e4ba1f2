// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/sim_session.h"
#include "tests/support/memory_parked.h"
#include "tests/support/shard_world.h"

namespace lstm::testing {

// One seeded history: real shards, the real slot format and the real client bookkeeping over a network, a clock and a disk
// that are made up here. Servers are killed, inside commits too; connections are lost, and the server notices late;
// messages wait; the disk is slow; the power goes (where sessions are HOST); idle sessions are parked; turns fail, expire, are poisoned, have many steps,
// reset and discard; two clients fight for a session; some requests are those of a client that is wrong. What must hold is checked as it goes; then all becomes calm, every client gets
// what it is owed, closes, and nothing may be left. A seed replays exactly.
class History {
 public:
  explicit History(uint64_t seed);
  ~History();
  // Empty: all held. Else what did not.
  std::string Run();

  struct Counts {
    uint64_t kills = 0, power_cuts = 0, losses = 0, turns = 0, probes = 0, fights = 0, parked = 0;
  };
  const Counts& counts() {
    counts_.parked = parked_.sealed();
    return counts_;
  }

 private:
  // One connection with its stream. Once its client has given it up, what is on its way may still arrive.
  struct Connection {
    size_t shard = 0;
    server::Stream* stream = nullptr;
    Sink sink;
    std::deque<v1::StreamRequest> up;
    std::deque<v1::Response> down;
    std::map<uint32_t, std::map<uint64_t, int>> owed;  // by lane and seq: Steps without their Result or Reject (R0)
    std::map<uint32_t, std::string> held;     // by lane: ids of the sessions on it, as the server told
    std::map<uint32_t, std::string> claimed;  // by lane: session ids that Resumes named
    std::map<uint32_t, std::map<uint64_t, v1::Request>> delivered;  // by lane and seq: the Steps that arrived
    std::map<uint32_t, std::map<uint64_t, int>> copies;  // of those, how many times more than the client sent them
    std::map<uint32_t, std::pair<uint64_t, uint64_t>> replays;  // by lane: seqs that come behind Resumed by themselves
  };
  struct Client {
    std::vector<std::unique_ptr<SimSession>> sessions;
    std::unique_ptr<Connection> connection;
    uint32_t next_lane = 1;
    uint64_t paused_until = 0;
    const std::map<uint64_t, SimTurn>* turns_before = nullptr;
  };
  struct Killed {};

  void StartServer();
  void KillServer();
  void Act();
  void Calm();
  bool Done() const;
  void Connect(Client& client);
  void Lose(Client& client);
  void ClientActs(Client& client);
  void Do(Client& client, SimSession& session, client::SessionLog::Actions& out);
  void Deliver(Connection& connection);
  void DeliverOne(Connection& connection, const v1::Request& request, bool own = true);
  void Collect(Connection& connection);
  void TakeResponse(Client& client);
  void Probe(Client& client);
  void ProbeNonce(Client& client);
  void ProbeCopy(Client& client, uint32_t lane, const v1::SessionInfo& info);
  void ProbeAck(Client& client, uint32_t lane, const v1::SessionInfo& info);
  void Fight();
  void Guarded(const std::function<void()>& body);
  bool Watch(Connection& connection, const v1::Response& response);
  std::optional<v1::SessionInfo> Info(const std::string& id);
  SimTurn RandomTurn();
  std::deque<SimTurn> RandomPlan(size_t most);
  uint64_t Below(uint64_t n) { return random_() % n; }
  void Fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

  std::mt19937_64 random_;
  uint64_t now_us_ = 1'000'000'000;
  uint64_t seed_;
  v1::Durability durability_;
  bool calm_ = false;
  bool waited_ = false;  // longer than half a TTL, once
  std::set<std::string> acked_;  // ids of sessions whose nonce is not good any more
  Counts counts_;
  MemoryStore store_;
  MemoryParked parked_;
  bool parks_ = false;
  std::shared_ptr<HashProgram> program_ = std::make_shared<HashProgram>();
  std::unique_ptr<ShardWorld> world_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<std::unique_ptr<Connection>> zombies_;  // given up by their clients
  std::map<std::string, std::set<uint64_t>> epochs_;  // by session id
  std::string error_;
};

}  // namespace lstm::testing
