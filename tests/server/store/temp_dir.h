// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>

#include "server/store/slab.h"

namespace lstm::server {

class TempDir {
 public:
  TempDir() : path_(::testing::TempDir() + "/lstm-store-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Waits for Grow's answer.
inline absl::Status GrowNow(SessionStore& store, size_t bytes) {
  std::promise<absl::Status> answer;
  store.Grow(bytes, [&answer](const absl::Status& status) { answer.set_value(status); });
  return answer.get_future().get();
}

// As a shard does: what is at hand, or after growth.
inline absl::StatusOr<std::span<std::byte>> Take(SessionStore& store, size_t bytes) {
  while (true) {
    absl::StatusOr<std::span<std::byte>> slot = store.Allocate(bytes);
    if (!absl::IsUnavailable(slot.status())) return slot;
    if (const absl::Status grown = GrowNow(store, bytes); !grown.ok()) return grown;
  }
}

}  // namespace lstm::server
