// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/chaos/process.h"

namespace lstm::bench {

// The core that measured servers run on, and the one for whoever measures; the same where there is but one. By their numbers among those
// that this process may use.
constexpr size_t kServerCore = 0, kClientCore = 1;

// While it lives this thread, and what it starts, runs on these cores alone.
class OnCores {
 public:
  explicit OnCores(const std::vector<size_t>& cores);
  ~OnCores();
  OnCores(const OnCores&) = delete;

 private:
  std::vector<size_t> before_;
};

// A server as a child process on cores of its own, which listens at a free port of 127.0.0.1.
class Served {
 public:
  // `command` says "listening on ADDRESS" once it serves.
  Served(const std::vector<std::string>& command, const std::vector<size_t>& cores);

  const std::string& address() const { return address_; }
  pid_t pid() const { return child_->pid(); }
  // A number out of lstm-server's metrics, all labels together.
  double Metric(const std::string& name);
  testing::Child& child() { return *child_; }

 private:
  std::unique_ptr<testing::Child> child_;
  std::string address_, metrics_;
};

// lstm-server with one shard, or `shards`, on the cores that a measured server has; sessions volatile.
Served ServeModels(const std::string& models, int shards = 1, const std::vector<std::string>& more = {});

}  // namespace lstm::bench
