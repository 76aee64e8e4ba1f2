// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace lstm::core {

// What lies there is needed soon: fetched while something else is done, so that it need not be waited for. Touches nothing.
inline void Prefetch(const void* at, size_t bytes) {
  constexpr size_t kLine = 64;
  for (size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(static_cast<const char*>(at) + i, 1);
}

}  // namespace lstm::core
