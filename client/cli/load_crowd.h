// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "client/cli/load_tally.h"
#include "lstm/v1/model.pb.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

class Stream;

struct CrowdOptions {
  std::string model, version;
  v1::Durability durability = v1::DURABILITY_UNSPECIFIED;
  uint32_t streams = 4, steps_per_turn = 1;
  double rate = 50;    // turns a second of each session
  double churn = 0;    // sessions a second, of all together, that end and are replaced by new ones
  double abrupt = 0;   // the part of these that have a connection of their own, which is cut under them
};

// How sessions are paced once.
struct Pace {
  double warm_up_s = 0;  // turns before count for nothing
  double seconds = 5;
  double p99_bar_us = 0;  // not 0: end as soon as it is sure that it is not kept
  std::function<void(uint64_t done, uint64_t all)> progress = {};  // about once a second
  std::function<void()> measured = {};                             // the warm-up is over
};

// Live sessions that send turns at a rate. Confined to one thread.
class Crowd {
 public:
  static absl::StatusOr<std::unique_ptr<Crowd>> Make(const Connection& connection, const CrowdOptions& options);
  ~Crowd();

  // Opens or closes sessions until there are so many. A crowd that could not be opened keeps those that could.
  absl::Status Resize(size_t sessions);
  size_t size() const { return slots_.size(); }

  // Open loop: turn k of session s is due at (k + s / sessions) / rate, whatever became of those before it, and its latency
  // counts from then: a server that stalls cannot hide what it kept waiting. Returns when all that was sent is answered;
  // DEADLINE_EXCEEDED where that does not come.
  absl::StatusOr<Paced> Run(const Pace& pace);

 private:
  struct Live;  // a session, and where it has them a stream and a connection of its own
  struct Slot;

  Crowd(const Connection& connection, const CrowdOptions& options);
  absl::Status Fill(size_t begin, size_t sessions);
  absl::StatusOr<std::unique_ptr<Live>> Open(size_t slot, bool alone);
  uint64_t End(std::unique_ptr<Live> live);
  void Churn(const std::atomic<bool>& stop, Paced& paced);
  absl::Status Send(Slot& slot, Clock::time_point due, bool counts);
  size_t Alone(size_t sessions) const;

  const Connection connection_;
  const CrowdOptions options_;
  std::vector<v1::Step> turns_;  // made once: random numbers are dear
  size_t next_turn_ = 0;
  LoadTally tally_;              // outlives every callback
  std::unique_ptr<Client> client_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<std::unique_ptr<Slot>> slots_;  // the first of them are alone on their connections
  size_t alone_ = 0;
};

}  // namespace lstm::client
