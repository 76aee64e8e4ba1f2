// SPDX-License-Identifier: MIT
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

// What programs that measure a server from outside have in common.
namespace lstm::bench {

using Clock = std::chrono::steady_clock;

inline double Ms(Clock::duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

// A figure after a failure would be none. Without destructors, whatever thread calls it; children end with their parent.
[[noreturn]] inline void Die(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::_Exit(1);
}

inline void Must(const absl::Status& status) {
  if (!status.ok()) Die(status.ToString());
}
template <typename T>
T Must(absl::StatusOr<T> value) {
  Must(value.status());
  return *std::move(value);
}

// Of a process, all threads.
inline double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec t{};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0) Die("no CPU clock of the process");
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Durations in milliseconds.
class Sample {
 public:
  void Add(Clock::duration d) { ms_.push_back(Ms(d)); }
  void Add(const Sample& other) { ms_.insert(ms_.end(), other.ms_.begin(), other.ms_.end()); }
  size_t size() const { return ms_.size(); }
  // The value below which `part` of them lie; 1: the largest. 0 of none.
  double At(double part) const {
    if (ms_.empty()) return 0;
    std::vector<double> sorted = ms_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[std::min(sorted.size() - 1, static_cast<size_t>(part * static_cast<double>(sorted.size())))];
  }

 private:
  std::vector<double> ms_;
};

// Cuts this process's TCP connections to a port, as seen from both ends. Whoever has them learns it from the kernel.
inline void CutConnectionsTo(uint16_t port) {
  for (int fd = 3; fd < 1024; ++fd) {
    sockaddr_in6 peer{};  // gRPC's sockets are of this family for IPv4 too; the port of both lies at the same place
    socklen_t size = sizeof(peer);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) continue;
    if ((peer.sin6_family == AF_INET6 || peer.sin6_family == AF_INET) && ntohs(peer.sin6_port) == port) shutdown(fd, SHUT_RDWR);
  }
}

}  // namespace lstm::bench
