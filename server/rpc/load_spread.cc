// SPDX-License-Identifier: MIT
#include "server/rpc/load_spread.h"

#include <algorithm>

namespace lstm::server {

void LoadSpread::Start() {
  for (size_t i = 0; i < shards_.size(); ++i) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      shards_[i].asking = true;
    }
    ask_(i);
  }
}

void LoadSpread::Change(size_t i, int by, bool used_request) {
  std::vector<size_t> now_asking;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    shards_[i].streams += by;
    streams_ += by;
    if (used_request) shards_[i].asking = false;
    const int fewest = std::min_element(shards_.begin(), shards_.end(), [](const Load& a, const Load& b) {
                         return a.streams < b.streams;
                       })->streams;
    for (size_t s = 0; s < shards_.size(); ++s) {
      if (!shards_[s].asking && shards_[s].streams == fewest) {
        shards_[s].asking = true;
        now_asking.push_back(s);
      }
    }
    if (streams_ == 0) none_.notify_all();
  }
  for (size_t s : now_asking) ask_(s);
}

bool LoadSpread::WaitForNone(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  return none_.wait_until(lock, deadline, [this] { return streams_ == 0; });
}

}  // namespace lstm::server
