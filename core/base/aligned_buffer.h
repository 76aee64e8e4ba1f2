// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace lstm::core {

// `bytes` zeroed bytes on a boundary of kZeroedAlignment, which FreeZeroed takes back; std::bad_alloc where there are none. What is large lies on
// huge pages where the machine has them: the weights of a model are thousands of small ones, and touching, giving back each a trap. Of what is
// large only what is written takes up memory.
inline constexpr size_t kZeroedAlignment = 64;
void* AllocateZeroed(size_t bytes);
void FreeZeroed(void* p, size_t bytes);  // as many as were asked for

// An owned, move-only array of trivial elements, zero-filled, on a 64-byte boundary (a cache line, a vector register).
// Thread-compatible.
template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static_assert(alignof(T) <= kZeroedAlignment);

  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) : size_(size) {
    if (size == 0) return;
    data_ = std::unique_ptr<T, Free>(static_cast<T*>(AllocateZeroed(size * sizeof(T))), Free{size * sizeof(T)});
  }

  AlignedBuffer(AlignedBuffer&& other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  struct Free {
    size_t bytes = 0;
    void operator()(T* p) const { FreeZeroed(p, bytes); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace lstm::core
