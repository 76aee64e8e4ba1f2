// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/session/session_id.h"

namespace lstm::server {

// A slot that begins with this is being made or wiped: whoever finds it after a kill wipes it.
inline constexpr uint64_t kPartialSlot = 0x45504957'00000000;  // "WIPE"

// Memory that outlives the process: slots of bytes, one a session. What a slot holds is Slot's business (slot.h).
// Thread-safe; a slot's bytes belong to whoever it was given to.
class SessionStore {
 public:
  virtual ~SessionStore() = default;

  // Zero bytes on a 64-byte boundary, at least `bytes`, whose disk space is there. Never blocks. UNAVAILABLE: none are at
  // hand; Grow, and ask again. RESOURCE_EXHAUSTED: a slot can not be that large.
  virtual absl::StatusOr<std::span<std::byte>> Allocate(size_t bytes) = 0;

  // Makes room for slots of `bytes` and calls `done` once, on any thread. RESOURCE_EXHAUSTED: there is no more. Never blocks.
  virtual void Grow(size_t bytes, std::function<void(const absl::Status&)> done) = 0;

  // Wipes the slot and takes it back. `slot` as Allocate or TakeRecovered gave it.
  virtual void Free(std::span<std::byte> slot) = 0;

  // Calls `done` on any thread, soon and once, when all that was written to `slot` before survives a loss of power; with an
  // error where the disk failed. Never blocks.
  virtual void Sync(std::span<std::byte> slot, std::function<void(const absl::Status&)> done) = 0;

  // False where a loss of power takes all (tmpfs): then Sync promises nothing.
  virtual bool survives_power_loss() const = 0;

  // The slots that were in use when the store was opened, as they are on the disk too; once.
  virtual std::vector<std::span<std::byte>> TakeRecovered() = 0;

  // Made once for the store and kept in it.
  virtual const Instance& instance() const = 0;
};

}  // namespace lstm::server
