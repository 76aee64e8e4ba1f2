// SPDX-License-Identifier: MIT
#include "core/import/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lstm::core {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path, size_t max_bytes) {
  const std::string name = path.substr(path.rfind('/') + 1);
  // Not blocking: a FIFO in the place of a model must not stop the server.
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  if (file.fd < 0) {
    const int error = errno;
    const std::string text = absl::StrCat("file '", name, "': ", std::strerror(error));
    if (error == ENOENT) return absl::NotFoundError(text);
    return error == ELOOP ? absl::InvalidArgumentError(absl::StrCat("file '", name, "' is a link, expected a regular file"))
                          : absl::FailedPreconditionError(text);
  }
  struct stat info;
  if (fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "' is not a regular file"));
  }
  const auto size = static_cast<size_t>(info.st_size);
  if (size > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("file '", name, "' has ", size, " bytes, expected at most ", max_bytes));
  }
  MappedFile mapped;
  if (size == 0) return mapped;
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat("file '", name, "': ", std::strerror(errno)));
  mapped.data_ = data;
  mapped.size_ = size;
  for (size_t have = 0; have < size;) {
    const ssize_t got = pread(file.fd, static_cast<char*>(data) + have, size - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::UnavailableError(absl::StrCat("file '", name, "': ", std::strerror(errno)));
    if (got == 0) return absl::FailedPreconditionError(absl::StrCat("file '", name, "' was cut while it was read"));
    have += static_cast<size_t>(got);
  }
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace lstm::core
