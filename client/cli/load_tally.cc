// SPDX-License-Identifier: MIT
#include "client/cli/load_tally.h"

#include <algorithm>
#include <utility>

namespace lstm::client {

double Percentile(const std::vector<float>& sorted, double p) {
  if (sorted.empty()) return 0;
  return static_cast<double>(sorted[std::min(sorted.size() - 1, static_cast<size_t>(p * static_cast<double>(sorted.size())))]);
}

void LoadTally::Reset(size_t expected, double bar_us) {
  const std::lock_guard<std::mutex> lock(mutex_);
  unanswered_ = answered_ = beyond_bar_ = errors_ = 0;
  bar_us_ = bar_us;
  latencies_us_.clear();
  latencies_us_.reserve(std::min(expected, size_t{1} << 26));  // growing would hold up the answers
  first_error_.clear();
}

void LoadTally::Answered(Clock::time_point due, const absl::Status& status, bool counts) {
  const float us = std::chrono::duration<float, std::micro>(Clock::now() - due).count();
  if (!status.ok()) {
    Failed(status);
  } else if (counts) {
    if (bar_us_ > 0 && static_cast<double>(us) > bar_us_) ++beyond_bar_;
    const std::lock_guard<std::mutex> lock(mutex_);
    latencies_us_.push_back(us);
  }
  ++answered_;
  --unanswered_;
}

void LoadTally::Failed(const absl::Status& status) {
  ++errors_;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (first_error_.empty()) first_error_ = std::string(status.message());
}

void LoadTally::Take(Paced& paced) {
  const std::lock_guard<std::mutex> lock(mutex_);
  paced.latencies_us = std::move(latencies_us_);
  latencies_us_ = {};
  std::sort(paced.latencies_us.begin(), paced.latencies_us.end());
  paced.turns = paced.latencies_us.size();
  paced.errors = errors_;
  paced.first_error = first_error_;
}

}  // namespace lstm::client
