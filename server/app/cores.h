// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace lstm::server {

// Cores' worth of time that this process may use, at least 1: those that it may run on, of which the quota of its control groups (version 2,
// cpu.max: a container's, a service's) leaves it some, a part of one counting as one. Threads beyond it take each other's turns, and batches of
// theirs are smaller. The files are those that are read; what cannot be read sets no limit.
uint32_t AllowedCores(const std::string& own_groups = "/proc/self/cgroup", const std::string& groups = "/sys/fs/cgroup");

}  // namespace lstm::server
