// SPDX-License-Identifier: MIT
#include "server/app/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace lstm::server {
namespace {

// Of the "quota period" that cpu.max holds, in microseconds; "max" or anything else is none.
uint64_t CoresOf(const std::string& file, uint64_t cores) {
  std::ifstream in(file);
  uint64_t quota = 0, period = 0;
  if (!(in >> quota >> period) || quota == 0 || period == 0) return cores;
  return std::min(cores, quota / period + (quota % period > 0 ? 1 : 0));
}

// "0::/a/b"; empty where there is no group of version 2.
std::string OwnGroup(const std::string& own_groups) {
  std::ifstream in(own_groups);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("0::/")) return line.substr(3);
  }
  return "";
}

}  // namespace

uint32_t AllowedCores(const std::string& own_groups, const std::string& groups) {
  uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) cores = std::clamp<uint64_t>(static_cast<uint64_t>(CPU_COUNT(&allowed)), 1, cores);
  // Each group up to the root has a say; within a container its own group is the root.
  for (std::string group = OwnGroup(own_groups);; group.resize(group.rfind('/'))) {
    cores = CoresOf(groups + group + "/cpu.max", cores);
    if (group.empty()) break;
  }
  return static_cast<uint32_t>(std::max<uint64_t>(cores, 1));
}

}  // namespace lstm::server
