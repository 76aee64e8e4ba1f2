// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>

namespace lstm::core {

// Instants at which a test may end the process, or pretend to. Unarmed, a point costs one load and a branch that is never
// taken; only tests arm them (tests/sim, tests/chaos).
inline std::atomic<void (*)(const char* name)> fail_point_hook{nullptr};

inline void FailPoint(const char* name) {
  if (const auto hook = fail_point_hook.load(std::memory_order_relaxed); hook != nullptr) [[unlikely]] hook(name);
}

}  // namespace lstm::core
