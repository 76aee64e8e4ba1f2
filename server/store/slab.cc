// SPDX-License-Identifier: MIT
#include "server/store/slab.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "core/base/fail_point.h"
#include "core/base/status_macros.h"
#include "server/store/directory.h"

namespace lstm::server {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kExtentHeader = kPage;
constexpr size_t kSmallestExtent = 1u << 20;
constexpr size_t kLargestExtent = 64u << 20;
constexpr uint64_t kExtentMagic = 0x31304c53'4d54534c;    // "LSTMSL01"
constexpr uint64_t kInstanceMagic = 0x31304e49'4d54534c;  // "LSTMIN01"

struct ExtentHeader {
  uint64_t magic;
  uint64_t slot_bytes;
  uint64_t slots;
  Instance instance;
};

struct InstanceFile {
  uint64_t magic;
  uint64_t generation;
  Instance instance;
  uint8_t unused[4];
};

absl::Status Errno(const std::string& what) {
  return absl::ErrnoToStatus(errno, what);
}

// A few sizes for all sessions, so that slots find new owners: steps of an eighth of a power of two, whole pages.
size_t RoundUp(size_t bytes) {
  size_t step = kPage;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// Half a session is none: the mark first, and last the zero that makes the slot free.
void Wipe(std::span<std::byte> slot) {
  const std::atomic_ref<uint64_t> seal(*reinterpret_cast<uint64_t*>(slot.data()));
  seal.store(kPartialSlot);
  explicit_bzero(slot.data() + sizeof(uint64_t), slot.size() - sizeof(uint64_t));
  seal.store(0);
}

absl::Status WriteAll(int fd, const void* data, size_t n) {
  const auto* at = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t wrote = write(fd, at, n);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return Errno("write");
    at += wrote;
    n -= static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

}  // namespace

struct Slab::Extent {
  int fd;
  std::byte* memory;
  size_t bytes;
  size_t slot_bytes;
  absl::Status failed;  // the syncing thread's: after one failure the kernel calls pages clean that are not on the disk
  ~Extent() {
    munmap(memory, bytes);
    close(fd);
  }
};

absl::StatusOr<std::unique_ptr<Slab>> Slab::Open(const Options& options) {
  std::unique_ptr<Slab> self(new Slab(options));
  if (mkdir(options.directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return Errno(absl::StrCat("--state-dir '", options.directory, "' cannot be made"));
  }
  self->directory_ = open(options.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (self->directory_ < 0) return Errno(absl::StrCat("--state-dir '", options.directory, "' cannot be opened"));
  struct statfs fs;
  if (fstatfs(self->directory_, &fs) != 0) return Errno(absl::StrCat("--state-dir '", options.directory, "'"));
  self->on_tmpfs_ = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
  LSTM_RETURN_IF_ERROR(self->Lock());
  LSTM_RETURN_IF_ERROR(self->ReadInstance());
  LSTM_RETURN_IF_ERROR(self->MapExtents());
  self->syncer_ = std::thread([raw = self.get()] { raw->SyncLoop(); });
  self->grower_ = std::thread([raw = self.get()] { raw->GrowLoop(); });
  return self;
}

Slab::Slab(const Options& options) : options_(options) {}

Slab::~Slab() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  sync_wanted_.notify_all();
  growth_wanted_.notify_all();
  if (syncer_.joinable()) syncer_.join();
  if (grower_.joinable()) grower_.join();
  extents_.clear();
  if (lock_ >= 0) close(lock_);
  if (directory_ >= 0) close(directory_);
}

absl::Status Slab::Lock() {
  lock_ = openat(directory_, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock_ < 0) return Errno(absl::StrCat("--state-dir '", options_.directory, "': its lock"));
  const absl::Time until = absl::Now() + options_.wait;
  // The kernel has no lock with a time-out: an upgrade waits here for the process before it, looking now and then.
  while (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return Errno("flock");
    if (absl::Now() >= until) {
      return absl::UnavailableError(absl::StrCat("--state-dir '", options_.directory, "' is in use by another server"));
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return absl::OkStatus();
}

absl::Status Slab::ReadInstance() {
  InstanceFile file{};
  const int fd = openat(directory_, "instance", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd >= 0) {
    const ssize_t n = read(fd, &file, sizeof(file));
    close(fd);
    if (n != static_cast<ssize_t>(sizeof(file)) || file.magic != kInstanceMagic) {
      return absl::DataLossError(absl::StrCat("'", options_.directory, "/instance' is damaged, or not ours; nothing was touched"));
    }
  } else if (errno != ENOENT) {
    return Errno(absl::StrCat("'", options_.directory, "/instance'"));
  } else {
    file.magic = kInstanceMagic;
    if (RAND_bytes(file.instance.data(), static_cast<int>(file.instance.size())) != 1) return absl::InternalError("no randomness");
  }
  ++file.generation;
  instance_ = file.instance;
  generation_ = file.generation;
  // By a new file and a rename: one or the other is whole at any instant.
  const int out = openat(directory_, "instance.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (out < 0) return Errno(absl::StrCat("'", options_.directory, "/instance.new'"));
  absl::Status written = WriteAll(out, &file, sizeof(file));
  if (written.ok() && fdatasync(out) != 0) written = Errno("fdatasync");
  close(out);
  LSTM_RETURN_IF_ERROR(written);
  if (renameat(directory_, "instance.new", directory_, "instance") != 0) return Errno("rename");
  if (fsync(directory_) != 0) return Errno("fsync");
  return absl::OkStatus();
}

absl::Status Slab::MapExtents() {
  LSTM_ASSIGN_OR_RETURN(const std::set<std::string> names, FileNames(directory_));
  for (const std::string& name : names) {
    const std::vector<std::string> parts = absl::StrSplit(name, '-');
    uint64_t slot_bytes = 0;
    uint32_t number = 0;
    if (parts.size() != 3 || parts[0] != "slab" || !absl::SimpleAtoi(parts[1], &slot_bytes) || !absl::SimpleAtoi(parts[2], &number)) continue;
    SizeClass& size = sizes_[slot_bytes];
    size.extents = std::max(size.extents, number + 1);
    const int fd = openat(directory_, name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return Errno(absl::StrCat("'", options_.directory, "/", name, "'"));
    ExtentHeader header{};
    struct stat info;
    const ssize_t n = pread(fd, &header, sizeof(header), 0);
    if (n < 0) {
      const absl::Status unread = Errno(absl::StrCat("'", options_.directory, "/", name, "'"));
      close(fd);
      return unread;
    }
    // Its making was cut short, and nothing was ever in it. A zeroed header above slots in use is damage.
    if ((n < static_cast<ssize_t>(sizeof(header)) || header.magic == 0) && AllZero(fd)) {
      close(fd);
      unlinkat(directory_, name.c_str(), 0);
      continue;
    }
    const bool sane = n == static_cast<ssize_t>(sizeof(header)) && header.magic == kExtentMagic && header.instance == instance_ && header.slot_bytes == slot_bytes &&
                      slot_bytes % kPage == 0 && slot_bytes > 0 && header.slots > 0 && header.slots < (uint64_t{1} << 40) / slot_bytes &&
                      fstat(fd, &info) == 0 && static_cast<uint64_t>(info.st_size) >= kExtentHeader + header.slots * slot_bytes;
    if (!sane) {
      close(fd);
      return absl::DataLossError(absl::StrCat("'", options_.directory, "/", name, "' is damaged, or of another state directory; move it away to start without its sessions"));
    }
    LSTM_ASSIGN_OR_RETURN(Extent* const extent, Map(name, fd, slot_bytes, header.slots));
    size.slots_of_last = header.slots;
    for (size_t i = 0; i < header.slots; ++i) {
      const std::span<std::byte> slot(extent->memory + kExtentHeader + i * slot_bytes, slot_bytes);
      uint64_t seal;
      std::memcpy(&seal, slot.data(), sizeof(seal));
      if (seal == kPartialSlot) Wipe(slot);
      if (seal != 0 && seal != kPartialSlot) {
        recovered_.push_back(slot);
      } else {
        size.free.push_back(slot);
      }
    }
    // What the process before wrote may not be on the disk yet. A commit upon it must not tear what that one promised.
    if (fdatasync(fd) != 0) return Errno(absl::StrCat("'", options_.directory, "/", name, "'"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Slab::Extent*> Slab::Map(const std::string& name, int fd, size_t slot_bytes, size_t slots) {
  const size_t bytes = kExtentHeader + slots * slot_bytes;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    close(fd);
    return Errno(absl::StrCat("'", options_.directory, "/", name, "' cannot be mapped"));
  }
  bytes_ += bytes;
  auto* at = static_cast<std::byte*>(memory);
  return (extents_[at] = std::unique_ptr<Extent>(new Extent{fd, at, bytes, slot_bytes, {}})).get();
}

// On the growing thread: everything that waits for the disk happens without the lock.
absl::Status Slab::MakeExtent(size_t slot_bytes, uint32_t number) {
  // Each extent as large as all before it of its size, within bounds: few files, little unused.
  const size_t wanted = std::clamp<size_t>(kSmallestExtent << std::min(number, 6u), kSmallestExtent, kLargestExtent);
  const size_t slots = std::max<size_t>(1, wanted / slot_bytes);
  const size_t bytes = kExtentHeader + slots * slot_bytes;
  const auto full = [&](const std::string& why) {
    return absl::ResourceExhaustedError(absl::StrCat("no room for another session in the state directory: ", why));
  };
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (bytes > options_.max_bytes - std::min(options_.max_bytes, bytes_)) return full(absl::StrCat("its ", options_.max_bytes, " bytes are in use"));
  }
  const std::string name = absl::StrCat("slab-", slot_bytes, "-", number);
  const int fd = openat(directory_, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return full(std::strerror(errno));
  const auto give_up = [&](const std::string& why) {
    close(fd);
    unlinkat(directory_, name.c_str(), 0);
    return full(why);
  };
  // Now, not at the first write: a write into a mapped file that has no disk block left is a SIGBUS.
  if (const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes)); error != 0) return give_up(std::strerror(error));
  const ExtentHeader header{kExtentMagic, slot_bytes, slots, instance_};
  core::FailPoint("grow.before_header");
  if (!WriteAll(fd, &header, sizeof(header)).ok() || fsync(fd) != 0 || fsync(directory_) != 0) return give_up(std::strerror(errno));
  core::FailPoint("grow.after_header");
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<Extent*> mapped = Map(name, fd, slot_bytes, slots);
  if (!mapped.ok()) {
    unlinkat(directory_, name.c_str(), 0);
    return full(std::string(mapped.status().message()));
  }
  const Extent* extent = *mapped;
  SizeClass& size = sizes_[slot_bytes];
  size.extents = number + 1;
  size.slots_of_last = slots;
  for (size_t i = slots; i-- > 0;) size.free.push_back({extent->memory + kExtentHeader + i * slot_bytes, slot_bytes});
  return absl::OkStatus();
}

void Slab::GrowLoop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    growth_wanted_.wait(lock, [this] { return !wanted_.empty() || ending_; });
    if (wanted_.empty()) return;
    const size_t slot_bytes = wanted_.back();
    wanted_.pop_back();
    const uint32_t number = sizes_[slot_bytes].extents;
    lock.unlock();
    const absl::Status grown = MakeExtent(slot_bytes, number);
    lock.lock();
    sizes_[slot_bytes].growing = false;
    if (!grown.ok()) sizes_[slot_bytes].not_before = absl::Now() + absl::Seconds(1);
    const std::vector<Done> waiting = std::exchange(sizes_[slot_bytes].waiting, {});
    lock.unlock();
    for (const Done& done : waiting) done(grown);
    lock.lock();
  }
}

void Slab::WantMore(size_t slot_bytes, SizeClass& size) {
  if (std::exchange(size.growing, true)) return;
  wanted_.push_back(slot_bytes);
  growth_wanted_.notify_one();
}

absl::StatusOr<std::span<std::byte>> Slab::Allocate(size_t bytes) {
  const size_t slot_bytes = RoundUp(bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  SizeClass& size = sizes_[slot_bytes];
  if (size.free.size() <= size.slots_of_last / 8 && absl::Now() >= size.not_before) WantMore(slot_bytes, size);  // ahead of need
  if (size.free.empty()) return absl::UnavailableError("no slot at hand");
  const std::span<std::byte> slot = size.free.back();
  size.free.pop_back();
  return slot;
}

void Slab::Grow(size_t bytes, Done done) {
  const size_t slot_bytes = RoundUp(bytes);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    SizeClass& size = sizes_[slot_bytes];
    if (size.free.empty()) {
      size.waiting.push_back(std::move(done));
      WantMore(slot_bytes, size);
      return;
    }
  }
  done(absl::OkStatus());  // there is one again
}

void Slab::Free(std::span<std::byte> slot) {
  core::FailPoint("close.before_wipe");
  Wipe(slot);
  core::FailPoint("close.after_wipe");
  const std::lock_guard<std::mutex> lock(mutex_);
  sizes_[slot.size()].free.push_back(slot);
}

Slab::Extent* Slab::ExtentOf(const std::byte* at) { return std::prev(extents_.upper_bound(at))->second.get(); }

void Slab::Sync(std::span<std::byte> slot, Done done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    syncs_.push_back({ExtentOf(slot.data()), std::move(done)});
  }
  sync_wanted_.notify_one();
}

void Slab::SyncLoop() {
  std::vector<Syncing> group;
  while (true) {
    group.clear();
    {
      std::unique_lock<std::mutex> lock(mutex_);
      sync_wanted_.wait(lock, [this] { return !syncs_.empty() || ending_; });
      if (syncs_.empty()) return;
      group.swap(syncs_);  // what comes while the disk works goes with the next group
    }
    std::map<Extent*, absl::Status> synced;
    for (const Syncing& one : group) {
      if (synced.contains(one.extent)) continue;
      if (one.extent->failed.ok() && fdatasync(one.extent->fd) != 0) one.extent->failed = Errno("fdatasync");
      synced[one.extent] = one.extent->failed;
    }
    for (const Syncing& one : group) one.done(synced[one.extent]);
  }
}

std::vector<std::span<std::byte>> Slab::TakeRecovered() { return std::exchange(recovered_, {}); }

}  // namespace lstm::server
