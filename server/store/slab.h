// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/store/session_store.h"

namespace lstm::server {

// The store in a directory: files of equal slots ("extents"), mapped into memory, each with its disk space allocated before
// a slot of it is handed out, so that a full disk refuses a new session and never harms one that lives. What a process wrote
// stays when it is killed; a thread of its own makes it safe from a loss of power where Sync asks.
//
// One process at a time: an exclusive lock on the directory, which the kernel drops with its owner, and a generation that
// rises with every start. Files (docs/state_format.md): `lock`, `instance`, `slab-<slot bytes>-<n>`. Thread-safe.
class Slab : public SessionStore {
 public:
  struct Options {
    std::string directory;          // made if it is not there, for its owner alone
    uint64_t max_bytes = UINT64_MAX;  // of all extents
    absl::Duration wait = absl::Seconds(10);  // for another process to let go of the directory
  };
  // UNAVAILABLE: another process holds it. FAILED_PRECONDITION, DATA_LOSS: what is there is not ours or is damaged.
  static absl::StatusOr<std::unique_ptr<Slab>> Open(const Options& options);
  ~Slab() override;  // lets go of the directory; what Sync has not answered is answered first

  absl::StatusOr<std::span<std::byte>> Allocate(size_t bytes) override;
  void Grow(size_t bytes, std::function<void(const absl::Status&)> done) override;
  void Free(std::span<std::byte> slot) override;
  void Sync(std::span<std::byte> slot, std::function<void(const absl::Status&)> done) override;
  bool survives_power_loss() const override { return !on_tmpfs_; }
  std::vector<std::span<std::byte>> TakeRecovered() override;
  const Instance& instance() const override { return instance_; }
  uint64_t generation() const { return generation_; }

 private:
  struct Extent;
  using Done = std::function<void(const absl::Status&)>;
  struct Syncing {
    Extent* extent;
    Done done;
  };
  // The slots of one size.
  struct SizeClass {
    std::vector<std::span<std::byte>> free;
    uint32_t extents = 0;       // the next file's number
    size_t slots_of_last = 0;   // in the newest extent
    bool growing = false;
    absl::Time not_before = absl::InfinitePast();  // to grow ahead of need: not at once where it failed
    std::vector<Done> waiting;  // for more of it
  };
  explicit Slab(const Options& options);
  absl::Status Lock();
  absl::Status ReadInstance();
  absl::Status MapExtents();
  absl::StatusOr<Extent*> Map(const std::string& name, int fd, size_t slot_bytes, size_t slots);
  absl::Status MakeExtent(size_t slot_bytes, uint32_t number);
  Extent* ExtentOf(const std::byte* at);
  void WantMore(size_t slot_bytes, SizeClass& size);  // the lock is held
  void SyncLoop();
  void GrowLoop();

  const Options options_;
  int directory_ = -1, lock_ = -1;
  bool on_tmpfs_ = false;
  Instance instance_{};
  uint64_t generation_ = 0;

  std::mutex mutex_;
  std::map<const std::byte*, std::unique_ptr<Extent>> extents_;  // by address; guarded by mutex_, as all up to `ending_`
  std::map<size_t, SizeClass> sizes_;                            // by slot bytes
  uint64_t bytes_ = 0;
  std::vector<size_t> wanted_;  // sizes that shall grow
  std::condition_variable growth_wanted_;
  std::vector<Syncing> syncs_;
  std::condition_variable sync_wanted_;
  bool ending_ = false;

  std::vector<std::span<std::byte>> recovered_;
  std::thread syncer_, grower_;
};

}  // namespace lstm::server
