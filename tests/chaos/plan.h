// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/client.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"

namespace lstm::testing {

// The turns of one session, one after another: what comes is a function of the model and the seed alone. 1 to 16 steps; now
// and then a reset, a reset alone, a turn that is discarded.
class Turns {
 public:
  Turns(const v1::ModelInfo& model, uint64_t seed) : model_(model), random_(seed) {}
  v1::Step Next();
  uint64_t Below(uint64_t n) { return random_() % n; }

 private:
  const v1::ModelInfo model_;
  std::mt19937_64 random_;
};

// An answer, to be compared bit for bit: outputs with their names and shapes, and the digest of the state behind it.
std::string BitsOf(const v1::Result& result);

// What a session sends, and what an undisturbed run answers.
struct Plan {
  std::string model;
  uint32_t window = 8;
  std::vector<v1::Step> turns;
  std::vector<std::string> truth;
};

// How an answer, the at-th of a plan from 0 on, is unlike the one that was due: for whoever has to find out why.
std::string Unlike(const v1::Result& got, const std::string& bits, const Plan& plan, size_t at);

std::vector<Plan> RandomPlans(const std::vector<v1::ModelInfo>& models, size_t n, size_t most_turns, uint64_t seed);

// Streams the turns through a VOLATILE session, on a server that nobody disturbs.
absl::StatusOr<std::vector<std::string>> Undisturbed(client::Stream& stream, const std::string& model, const std::vector<v1::Step>& turns);

}  // namespace lstm::testing
