// SPDX-License-Identifier: MIT
#include "server/app/file_watch.h"

#include <algorithm>

namespace lstm::server {
namespace {

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

bool Same(const std::vector<struct stat>& a, const std::vector<struct stat>& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end(), SameFile); }

}  // namespace

std::vector<struct stat> FileWatch::Stat() const {
  std::vector<struct stat> out(paths_.size());
  for (size_t i = 0; i < paths_.size(); ++i) {
    if (stat(paths_[i].c_str(), &out[i]) != 0) out[i] = {};
  }
  return out;
}

bool FileWatch::Changed() {
  std::vector<struct stat> now = Stat();
  const bool rest = Same(now, seen_), all = std::none_of(now.begin(), now.end(), [](const struct stat& file) { return file.st_ino == 0; });
  seen_ = std::move(now);
  if (!rest || !all || Same(seen_, known_)) return false;
  known_ = seen_;
  return true;
}

}  // namespace lstm::server
