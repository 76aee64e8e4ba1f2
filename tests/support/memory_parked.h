// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "server/store/parked_store.h"

namespace lstm::testing {

// Parked sessions in memory, on a disk that the test turns; as MemoryStore.
class MemoryParked : public server::ParkedStore {
 public:
  void Append(const About& about, std::string bytes, std::function<void(absl::StatusOr<Key>)> done) override {
    pending_.push_back([this, about, bytes = std::move(bytes), done = std::move(done)] {
      if (records_.size() >= most_) return done(absl::ResourceExhaustedError("the log is full"));
      records_[++last_] = {about, bytes, false, false};
      done(last_);
    });
  }
  absl::Status Seal(Key key) override {
    records_.at(key).sealed = true;
    ++sealed_;
    return absl::OkStatus();
  }
  void Sync(Key key, std::function<void(const absl::Status&)> done) override {
    pending_.push_back([this, key, done = std::move(done)] {
      if (const auto it = records_.find(key); it != records_.end()) it->second.on_disk = it->second.sealed;
      done(absl::OkStatus());
    });
  }
  void Read(Key key, std::function<void(absl::StatusOr<std::string>)> done) override {
    pending_.push_back([this, key, done = std::move(done)] { done(records_.at(key).bytes); });
  }
  void Remove(Key key) override {
    auto node = records_.extract(key);
    if (node.mapped().on_disk) removed_.push_back(std::move(node.mapped()));  // until the disk has that too
  }
  std::vector<Found> TakeFound() override {
    std::erase_if(records_, [](const auto& record) { return !record.second.sealed; });
    std::map<server::SessionId, Key> latest;
    for (const auto& [key, record] : records_) {
      const auto [it, is_new] = latest.emplace(record.about.id, key);
      if (!is_new && record.about.serial > records_.at(it->second).about.serial) it->second = key;
    }
    std::erase_if(records_, [&](const auto& record) { return latest.at(record.second.about.id) != record.first; });
    std::vector<Found> out;
    for (auto& [key, record] : records_) {
      record.on_disk = true;
      out.push_back({key, record.about});
    }
    return out;
  }

  // The disk does the oldest thing that was asked of it; false: nothing was.
  bool Complete() {
    if (pending_.empty()) return false;
    const std::function<void()> next = std::move(pending_.front());
    pending_.pop_front();
    next();
    return true;
  }
  // The process is gone.
  void Reopen() { pending_.clear(); }
  // The power goes: what was not synced is there or not, and what was removed may be back.
  void CutPower(std::mt19937_64& random) {
    pending_.clear();
    std::erase_if(records_, [&](const auto& record) { return !record.second.on_disk && random() % 2 == 0; });
    for (Record& record : removed_) {
      if (random() % 2 == 0) records_[++last_] = std::move(record);
    }
    removed_.clear();
    for (auto& [key, record] : records_) record.on_disk = record.sealed;
  }

  size_t size() const { return records_.size(); }
  uint64_t sealed() const { return sealed_; }  // ever
  std::string& bytes(Key key) { return records_.at(key).bytes; }
  size_t most_ = SIZE_MAX;  // records

 private:
  struct Record {
    About about;
    std::string bytes;
    bool sealed, on_disk;
  };
  std::map<Key, Record> records_;
  std::vector<Record> removed_;
  std::deque<std::function<void()>> pending_;
  Key last_ = 0;
  uint64_t sealed_ = 0;
};

}  // namespace lstm::testing
