// SPDX-License-Identifier: MIT
#pragma once

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>

// A disk that the test holds in its hand: fdatasync of the whole executable. For one source of it. fsync is left alone.
namespace lstm::server {

inline constexpr off_t kNotTheseBytes = 64;  // a file of no more is no extent and no segment with a record: its sync never fails

// What stands for the disk: which files were synced, whether it works, whether it has time.
class FakeSyncs {
 public:
  int Sync(int fd) {
    struct stat info;
    fstat(fd, &info);
    std::unique_lock<std::mutex> lock(mutex_);
    ++calls_[info.st_ino];
    ++begun_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_; });
    if (failures_ > 0 && S_ISREG(info.st_mode) && info.st_size > kNotTheseBytes) {
      --failures_;
      errno = EIO;
      return -1;
    }
    return static_cast<int>(syscall(SYS_fdatasync, fd));
  }
  void Fail(int times) {
    const std::lock_guard<std::mutex> lock(mutex_);
    failures_ = times;
  }
  void Hold() {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = true;
  }
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  int begun() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return begun_;
  }
  void AwaitCallAfter(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return begun_ > count; });
  }
  int CallsFor(const std::string& path) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) return -1;
    const std::lock_guard<std::mutex> lock(mutex_);
    return calls_[info.st_ino];
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<ino_t, int> calls_;
  int begun_ = 0, failures_ = 0;
  bool held_ = false;
} fake_syncs;

}  // namespace lstm::server

// Instead of the C library's.
extern "C" int fdatasync(int fd) { return lstm::server::fake_syncs.Sync(fd); }
