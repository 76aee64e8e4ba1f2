// SPDX-License-Identifier: MIT
#pragma once

#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

namespace lstm::server {

// Tells when files have become others. One that is being written is left alone: they must be the same in two looks in a row. For one
// thread, which looks every second or so.
class FileWatch {
 public:
  explicit FileWatch(std::vector<std::string> paths) : paths_(std::move(paths)) { Know(); }

  // They are about to be read: as they are now, they are known.
  void Know() { known_ = seen_ = Stat(); }
  // True once for each time that they have become others; not while one is missing, which may be on its way.
  bool Changed();

 private:
  std::vector<struct stat> Stat() const;

  const std::vector<std::string> paths_;
  std::vector<struct stat> known_, seen_;
};

}  // namespace lstm::server
