// SPDX-License-Identifier: MIT
#include "server/store/directory.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace lstm::server {

absl::StatusOr<std::set<std::string>> FileNames(int directory) {
  std::set<std::string> names;
  DIR* listing = fdopendir(dup(directory));
  if (listing == nullptr) return absl::ErrnoToStatus(errno, "readdir");
  while (const dirent* entry = readdir(listing)) names.insert(entry->d_name);
  closedir(listing);
  return names;
}

bool AllZero(int fd) {
  std::vector<char> some(64u << 10);
  off_t at = 0;
  while (true) {
    const ssize_t n = pread(fd, some.data(), some.size(), at);
    if (n == 0) return true;
    if (n < 0 || std::any_of(some.begin(), some.begin() + n, [](char c) { return c != 0; })) return false;
    at += n;
  }
}

}  // namespace lstm::server
