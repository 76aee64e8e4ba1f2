// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "core/base/aligned_buffer.h"
#include "server/store/session_store.h"

namespace lstm::testing {

// A store in memory whose disk the test turns: what is written stays when a server is "killed" (Reopen), and what was not
// synced may be lost in part when the power goes (CutPower). Confined to one thread.
class MemoryStore : public server::SessionStore {
 public:
  MemoryStore() = default;
  MemoryStore(const MemoryStore& other) { *this = other; }
  MemoryStore& operator=(const MemoryStore& other);  // an image: nothing is pending in it

  absl::StatusOr<std::span<std::byte>> Allocate(size_t bytes) override;
  void Grow(size_t bytes, std::function<void(const absl::Status&)> done) override;
  void Free(std::span<std::byte> slot) override;
  void Sync(std::span<std::byte> slot, std::function<void(const absl::Status&)> done) override;
  bool survives_power_loss() const override { return survives_power_loss_; }
  std::vector<std::span<std::byte>> TakeRecovered() override;
  const server::Instance& instance() const override { return instance_; }

  // The disk does the oldest thing that was asked of it; false: nothing was.
  bool Complete(const absl::Status& status = absl::OkStatus());
  size_t pending() const { return pending_.size(); }

  // The process is gone: nothing that was asked is answered any more.
  void Reopen() { pending_.clear(); }
  // The power goes: of each block of 512 bytes that was not synced since it changed, the old or the new content stays.
  void CutPower(std::mt19937_64& random);

  std::vector<std::span<std::byte>> used();
  // True where every slot that is free is zero, as it must be.
  bool FreeSlotsAreWiped() const;

  bool survives_power_loss_ = true;
  size_t grow_by_ = 4;  // slots that one growth brings
  size_t max_slots_ = SIZE_MAX;

 private:
  struct Block {
    core::AlignedBuffer<std::byte> memory, disk;
    bool free = true;
  };
  struct Pending {
    Block* block;  // null: a growth
    size_t bytes;
    std::function<void(const absl::Status&)> done;
  };
  Block* Of(std::span<std::byte> slot);

  server::Instance instance_{'t', 'e', 's', 't'};
  std::vector<std::unique_ptr<Block>> blocks_;
  std::deque<Pending> pending_;
};

}  // namespace lstm::testing
