// SPDX-License-Identifier: MIT
#include "server/models/version_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/models/model_repository.h"

namespace lstm::server {
namespace {

constexpr size_t kMostEntries = 10'000;

class Directory {
 public:
  Directory(int at, const std::string& name, bool links) : fd_(openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | (links ? 0 : O_NOFOLLOW))) {}
  ~Directory() {
    if (fd_ >= 0) close(fd_);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  int fd() const { return fd_; }

  absl::StatusOr<std::vector<std::string>> Names() const {
    const int again = openat(fd_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // fdopendir takes what it is given
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(again < 0 ? nullptr : fdopendir(again), closedir);
    if (entries == nullptr) {
      if (again >= 0) close(again);
      return absl::UnavailableError(std::strerror(errno));
    }
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(entries.get())) {
      if (entry->d_name[0] != '.' && names.size() < kMostEntries) names.emplace_back(entry->d_name);
      errno = 0;
    }
    if (errno != 0) return absl::UnavailableError(std::strerror(errno));
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  const int fd_;
};

absl::StatusOr<FileStamp> StampOf(const Directory& version) {
  if (version.fd() < 0) return absl::AbortedError("it is no directory");
  LSTM_ASSIGN_OR_RETURN(const std::vector<std::string> names, version.Names());
  FileStamp stamp;
  const auto add = [&](const std::string& name, const struct stat& info) {
    absl::StrAppend(&stamp, name, "/", info.st_dev, ":", info.st_ino, ":", info.st_mode, ":", info.st_size, ":", info.st_mtim.tv_sec, ".",
                    info.st_mtim.tv_nsec, ":", info.st_ctim.tv_sec, ".", info.st_ctim.tv_nsec, ";");
  };
  for (const std::string& name : names) {
    struct stat info;
    if (fstatat(version.fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) add(name, info);
  }
  return stamp;
}

}  // namespace

absl::StatusOr<VersionTree> ScanVersions(const std::string& directory) {
  const Directory root(AT_FDCWD, directory, true);
  if (root.fd() < 0) return absl::NotFoundError(absl::StrCat("model repository '", directory, "': ", std::strerror(errno)));
  LSTM_ASSIGN_OR_RETURN(const std::vector<std::string> names, root.Names());
  VersionTree tree;
  for (const std::string& name : names) {
    if (!IsModelName(name)) continue;
    const Directory model(root.fd(), name, false);
    const auto versions = model.fd() < 0 ? std::vector<std::string>() : model.Names().value_or(std::vector<std::string>());
    for (const std::string& version : versions) {
      const uint32_t number = VersionNumber(version);
      if (number == 0) continue;
      auto stamp = StampOf(Directory(model.fd(), version, false));
      if (stamp.ok() && !stamp->empty()) tree[name][number] = *std::move(stamp);
    }
  }
  return tree;
}

absl::Status WithVersion(const std::string& directory, const std::string& name, uint32_t version, const FileStamp& stamp,
                         const std::function<absl::Status(const std::string& path)>& use) {
  const Directory root(AT_FDCWD, directory, true);
  const Directory model(root.fd(), name, false);
  const Directory files(model.fd(), absl::StrCat(version), false);
  const auto same = [&] {
    const auto now = StampOf(files);
    return now.ok() && *now == stamp;
  };
  if (!same()) return absl::AbortedError("its files are changing");
  LSTM_RETURN_IF_ERROR(use(absl::StrCat("/proc/self/fd/", files.fd())));
  return same() ? absl::OkStatus() : absl::AbortedError("its files have changed while they were loaded");
}

}  // namespace lstm::server
