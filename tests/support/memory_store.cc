// SPDX-License-Identifier: MIT
#include "tests/support/memory_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace lstm::testing {

MemoryStore& MemoryStore::operator=(const MemoryStore& other) {
  if (this == &other) return *this;
  pending_.clear();
  blocks_.clear();
  for (const auto& from : other.blocks_) {
    auto& block = *blocks_.emplace_back(std::make_unique<Block>());
    block.free = from->free;
    for (auto [to, source] : {std::pair{&block.memory, &from->memory}, {&block.disk, &from->disk}}) {
      *to = core::AlignedBuffer<std::byte>(source->size());
      std::memcpy(to->data(), source->data(), source->size());
    }
  }
  return *this;
}

absl::StatusOr<std::span<std::byte>> MemoryStore::Allocate(size_t bytes) {
  for (const auto& block : blocks_) {
    if (block->free && block->memory.size() >= bytes && block->memory.size() < 2 * bytes) {
      block->free = false;
      return block->memory.span();
    }
  }
  return absl::UnavailableError("no slot at hand");
}

void MemoryStore::Grow(size_t bytes, std::function<void(const absl::Status&)> done) { pending_.push_back({nullptr, bytes, std::move(done)}); }

MemoryStore::Block* MemoryStore::Of(std::span<std::byte> slot) {
  for (const auto& block : blocks_) {
    if (block->memory.data() == slot.data()) return block.get();
  }
  return nullptr;
}

void MemoryStore::Free(std::span<std::byte> slot) {
  Block* block = Of(slot);
  std::memset(slot.data(), 0, slot.size());
  block->free = true;
}

void MemoryStore::Sync(std::span<std::byte> slot, std::function<void(const absl::Status&)> done) {
  pending_.push_back({Of(slot), 0, std::move(done)});
}

bool MemoryStore::Complete(const absl::Status& status) {
  if (pending_.empty()) return false;
  const Pending next = std::move(pending_.front());
  pending_.pop_front();
  if (next.block != nullptr) {
    if (status.ok()) std::memcpy(next.block->disk.data(), next.block->memory.data(), next.block->memory.size());
  } else if (blocks_.size() >= max_slots_) {
    next.done(absl::ResourceExhaustedError("no room for another session in the state directory"));
    return true;
  } else {
    for (size_t i = 0; i < grow_by_ && blocks_.size() < max_slots_; ++i) {
      auto& block = *blocks_.emplace_back(std::make_unique<Block>());
      block.memory = core::AlignedBuffer<std::byte>(next.bytes);
      block.disk = core::AlignedBuffer<std::byte>(next.bytes);
    }
  }
  next.done(status);
  return true;
}

void MemoryStore::CutPower(std::mt19937_64& random) {
  pending_.clear();
  for (const auto& block : blocks_) {
    for (size_t at = 0; at < block->memory.size(); at += 512) {
      const size_t n = std::min<size_t>(512, block->memory.size() - at);
      if (random() % 2 == 0) {
        std::memcpy(block->memory.data() + at, block->disk.data() + at, n);
      } else {
        std::memcpy(block->disk.data() + at, block->memory.data() + at, n);
      }
    }
  }
}

std::vector<std::span<std::byte>> MemoryStore::used() {
  std::vector<std::span<std::byte>> out;
  for (const auto& block : blocks_) {
    uint64_t seal;
    std::memcpy(&seal, block->memory.data(), sizeof(seal));
    if (seal == server::kPartialSlot) std::memset(block->memory.data(), 0, block->memory.size());
    block->free = seal == 0 || seal == server::kPartialSlot;
    if (block->free) {
      std::memset(block->memory.data(), 0, block->memory.size());  // as a slab's wipe, cut short by a loss of power
    } else {
      out.push_back(block->memory.span());
    }
  }
  return out;
}

std::vector<std::span<std::byte>> MemoryStore::TakeRecovered() {
  const std::vector<std::span<std::byte>> out = used();
  for (const auto& block : blocks_) std::memcpy(block->disk.data(), block->memory.data(), block->memory.size());
  return out;
}

bool MemoryStore::FreeSlotsAreWiped() const {
  return std::all_of(blocks_.begin(), blocks_.end(), [](const auto& block) {
    return !block->free || std::all_of(block->memory.span().begin(), block->memory.span().end(), [](std::byte b) { return b == std::byte{0}; });
  });
}

}  // namespace lstm::testing
