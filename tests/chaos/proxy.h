// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/chaos/process.h"

namespace lstm::testing {

// Passes TCP connections on to the first of `targets` (ports of 127.0.0.1) that takes them, and can cut one after an exact
// number of bytes. Thread-safe.
class Proxy {
 public:
  enum Direction { kUp, kDown };  // from the client, to the client
  explicit Proxy(std::vector<uint16_t> targets);
  ~Proxy();

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  // The next connection that is made is reset, on both sides, once exactly `bytes` went in `direction`. Counts begin anew.
  void CutNext(Direction direction, uint64_t bytes);
  // Of the connection that CutNext spoke of.
  uint64_t passed(Direction direction) const { return passed_[direction]; }
  bool was_cut() const { return was_cut_; }

 private:
  struct Link {
    int client, server = -1;
    bool counted = false;
    std::thread thread;
    std::atomic<bool> over{false};
  };
  void Accept();
  void Pass(Link& link);

  const std::vector<uint16_t> targets_;
  int listener_ = -1, wake_[2] = {-1, -1};
  uint16_t port_ = 0;
  std::atomic<bool> ending_{false}, was_cut_{false};
  std::array<std::atomic<uint64_t>, 2> passed_{};
  std::mutex mutex_;
  bool cut_next_ = false;  // guarded by mutex_, as the next two
  Direction direction_ = kUp;
  uint64_t bytes_ = 0;
  std::list<Link> links_;  // of the accepting thread
  std::thread acceptor_;
};

}  // namespace lstm::testing
