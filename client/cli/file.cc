// SPDX-License-Identifier: MIT
#include "client/cli/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace lstm::client {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream all;
  all << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("'", path, "' cannot be read"));
  return all.str();
}

absl::Status WritePrivateFile(const std::string& path, const std::string& bytes) {
  const auto failed = [&] { return absl::FailedPreconditionError(absl::StrCat("'", path, "' cannot be written: ", std::strerror(errno))); };
  // Beside it and then moved: it is never half written, nor open to others for a moment.
  std::string temporary = path + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);  // 0600
  if (fd < 0) return failed();
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  const bool written = done == bytes.size() && fsync(fd) == 0;
  if (close(fd) == 0 && written && std::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const absl::Status status = failed();
  unlink(temporary.c_str());
  return status;
}

}  // namespace lstm::client
