// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <utility>

namespace lstm::testing {

// `n` floats that end where a page begins which may not be touched: a read or a write beyond them ends the test.
class Guarded {
 public:
  explicit Guarded(size_t n) : size_(n) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t body = (n * sizeof(float) + page - 1) / page * page;
    bytes_ = body + 2 * page;
    base_ = static_cast<std::byte*>(mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, body, PROT_READ | PROT_WRITE) != 0) std::abort();
    data_ = reinterpret_cast<float*>(base_ + page + body) - n;
  }
  Guarded(Guarded&& other) noexcept : base_(std::exchange(other.base_, nullptr)), bytes_(other.bytes_), data_(other.data_), size_(other.size_) {}
  ~Guarded() {
    if (base_ != nullptr) munmap(base_, bytes_);
  }
  float* data() { return data_; }
  const float* data() const { return data_; }
  size_t size() const { return size_; }
  float* begin() { return data_; }
  float* end() { return data_ + size_; }

 private:
  std::byte* base_ = nullptr;
  size_t bytes_ = 0;
  float* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lstm::testing
