// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "client/cpp/session_log.h"
#include "tests/sim/hash_program.h"

namespace lstm::testing {

// A turn as its client means it.
struct SimTurn {
  std::vector<int32_t> inputs;  // empty: a reset alone
  bool reset = false, discard = false;
  uint64_t deadline_us = 0;
  bool poison() const;
  v1::Step ToStep() const;
};

// What an undisturbed run of one session gives: the judge. Turns are applied as the answers to them are seen.
class Truth {
 public:
  // Empty where `result` is what `turn` gives as turn `seq` of this session; else what is wrong.
  std::string Check(uint64_t seq, const SimTurn& turn, const v1::Result& result);
  uint64_t known() const { return known_; }

 private:
  HashProgram::State state_{};
  uint64_t known_ = 0;  // turns up to here were seen
  std::map<uint64_t, std::pair<SimTurn, std::string>> seen_;  // with their outputs
};

// One holder of one session: the client's real bookkeeping, a plan of turns, and the checks of what comes back.
class SimSession {
 public:
  SimSession(client::SessionLog its_log, std::shared_ptr<Truth> its_truth, std::deque<SimTurn> plan)
      : log(std::move(its_log)), truth(std::move(its_truth)), plan_(std::move(plan)) {}

  // Sends the next turn of the plan if there is room; false: there is not, or nothing is left.
  bool SendNext(client::SessionLog::Actions& out);
  // `turns_before`: those that the process before this one had sent.
  void Answered(client::SessionLog::Answer& answer, const std::map<uint64_t, SimTurn>* turns_before);
  bool planned() const { return !plan_.empty() || !sent.empty(); }

  client::SessionLog log;
  std::shared_ptr<Truth> truth;
  std::map<uint64_t, SimTurn> sent;     // by seq, without an answer
  std::map<uint64_t, SimTurn> history;  // by seq: the last that was sent under it
  uint32_t lane = 0;
  std::string nonce;  // that opened it; empty: taken up from a handle
  std::optional<uint64_t> retry_at;
  bool closing = false;
  bool may_be_fenced = false;
  const SimSession* rival = nullptr;  // whose session this one took up
  uint64_t next_answer = 0;  // answers come in order; 0: none came yet
  std::string error;

 private:
  void Fail(const std::string& what) {
    if (error.empty()) error = what;
  }
  std::deque<SimTurn> plan_;
  std::deque<SimTurn> redo_;  // those behind one that was refused, in order
};

}  // namespace lstm::testing
