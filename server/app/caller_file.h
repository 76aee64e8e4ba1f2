// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/app/file_watch.h"
#include "server/auth/callers.h"

namespace lstm::server {

// --token-file: read at the start, and again whenever it has become another. For one thread.
class CallerFile {
 public:
  // Null, for an empty path.
  static absl::StatusOr<std::unique_ptr<CallerFile>> Open(const std::string& path);

  std::shared_ptr<const Callers> callers() const { return callers_; }

  // Reads a file that has changed, or, where `now`, changed or not. What comes of it is logged; a file that can not be read or is
  // wrong changes nothing.
  void Look(bool now);

 private:
  explicit CallerFile(const std::string& path) : path_(path), watch_({path}), callers_(std::make_shared<Callers>()) {}
  absl::Status Read();

  const std::string path_;
  FileWatch watch_;
  const std::shared_ptr<Callers> callers_;
};

// Prints a new token, which is kept nowhere, and the lines that --token-file needs for it. The exit code.
int PrintNewToken(const std::string& name);

}  // namespace lstm::server
