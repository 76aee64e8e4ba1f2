// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace lstm::core {

// The bytes of a regular file, read into memory of their own: a running server loads models, and touching a mapping of a file
// that somebody truncates would end it. Move-only, thread-safe once open.
class MappedFile {
 public:
  // NOT_FOUND where there is none; INVALID_ARGUMENT for what is no regular file (links are not followed) or is larger
  // than `max_bytes`; FAILED_PRECONDITION where it shrinks meanwhile. Messages name the file by its last component alone.
  static absl::StatusOr<MappedFile> Open(const std::string& path, size_t max_bytes);

  MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  MappedFile() = default;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lstm::core
