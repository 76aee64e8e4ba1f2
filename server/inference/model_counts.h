// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "inference/grpc_service.pb.h"

namespace lstm::server {

// What one shard counts of one model version for ModelStatistics. Confined to the shard's thread; copied to be added up.
struct ModelCounts {
  struct Times {
    uint64_t count = 0, ns = 0;
    void Add(uint64_t n) {
      ++count;
      ns += n;
    }
  };
  // Of batches of one size as the requests saw them: each of its rows counts one, so that rows / size are the batches.
  struct Batch {
    uint64_t rows = 0, ns = 0;
  };
  Times success, fail, queue, input, infer, output;
  uint64_t steps = 0;    // answered
  int64_t last_ms = 0;   // since 1970
  std::map<uint32_t, Batch> batches;

  void Add(const ModelCounts& other);
  void Fill(inference::ModelStatistics* out) const;
};
// Added up, by name and version.
using ModelVersion = std::pair<std::string, std::string>;
using CountsByModel = std::map<ModelVersion, ModelCounts>;

}  // namespace lstm::server
