// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace lstm::client {

// CPU time of the server that a client talks to: out of the kernel where its process is on this machine, else out of its
// metrics. A number is only given where it is the right server's.
class ServerCpu {
 public:
  // `server`: as --server has it. `metrics`: HOST:PORT, or empty: none.
  ServerCpu(const std::string& server, const std::string& metrics);

  void Begin();
  // Microseconds of CPU for each of `steps` steps in `turns` turns since Begin. NOT_FOUND or FAILED_PRECONDITION: why that is
  // not known.
  absl::StatusOr<double> PerStep(uint64_t turns, uint64_t steps) const;
  // Where it is from: "process 1234", "metrics at ...".
  const std::string& source() const { return source_; }

 private:
  struct Look {
    double seconds = 0;
    double turns = -1;  // not known: -1
  };
  absl::StatusOr<Look> Now() const;

  std::string metrics_, source_;
  std::optional<pid_t> pid_;
  absl::StatusOr<Look> begin_;
};

// The process of this machine, named lstm-server, that listens at HOST:PORT with a host of loopback, or at unix:PATH.
std::optional<pid_t> ListenerOf(const std::string& address);

}  // namespace lstm::client
