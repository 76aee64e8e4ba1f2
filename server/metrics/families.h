// SPDX-License-Identifier: MIT
#pragma once

#include <prometheus/metric_family.h>

#include <functional>
#include <memory>
#include <vector>

#include "server/auth/callers.h"
#include "server/models/model_repository.h"
#include "server/shard/session.h"
#include "server/shard/shard_counters.h"

namespace lstm::server {

// Where the numbers come from. All of it may be read from any thread at any time.
struct MetricSources {
  std::vector<const ShardCounters*> shards;
  const MemoryBudget* budget = nullptr;
  std::shared_ptr<const ModelRepository> models;
  const Callers* callers = nullptr;
  std::function<bool()> serving;  // empty: not known
  uint64_t not_recovered = 0;  // sessions that the start could not take over
};

// What docs/operations.md lists. No label has text of a client.
std::vector<prometheus::MetricFamily> Families(const MetricSources& sources);

// Of the process, by the names that Prometheus' own libraries use.
std::vector<prometheus::MetricFamily> ProcessFamilies();

// A family of one number without labels.
prometheus::MetricFamily Single(const char* name, const char* help, prometheus::MetricType type, double value);

}  // namespace lstm::server
