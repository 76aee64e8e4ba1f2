// SPDX-License-Identifier: MIT
#include "server/auth/account.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr uint64_t kSavedNs = 1'000'000'000;  // what a pause saves at most
constexpr double kMostCostNs = 1e17;          // three years: far below an overflow

}  // namespace

void Account::SetLimits(const Limits& limits) {
  max_sessions_.store(limits.sessions, kRelaxed);
  max_bytes_.store(limits.session_bytes, kRelaxed);
  rate_.store(limits.steps_per_second, kRelaxed);
}

// What it would have then, against the limits.
absl::Status Account::Over(uint64_t sessions, uint64_t bytes) const {
  const uint64_t max_sessions = max_sessions_.load(kRelaxed), max_bytes = max_bytes_.load(kRelaxed);
  if (max_sessions > 0 && sessions > max_sessions) {
    return absl::ResourceExhaustedError(absl::StrCat("'", name_, "' has its ", max_sessions,
                                                     " sessions; close one, or ask the operator for more (limits: sessions, in the token file)"));
  }
  if (max_bytes > 0 && bytes > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the sessions of '", name_, "' would have ", bytes, " bytes, at most ", max_bytes,
                                                     " may be; close some, or ask the operator for more (limits: session_bytes, in the token file)"));
  }
  return absl::OkStatus();
}

absl::Status Account::HasRoom(uint64_t bytes) const { return Over(sessions() + 1, session_bytes() + bytes); }

absl::Status Account::TakeSession(uint64_t bytes) {
  const uint64_t sessions = sessions_.fetch_add(1, kRelaxed) + 1;
  absl::Status over = Over(sessions, bytes_.fetch_add(bytes, kRelaxed) + bytes);
  if (!over.ok()) GiveSession(bytes);
  return over;
}

void Account::ForceSession(uint64_t bytes) {
  sessions_.fetch_add(1, kRelaxed);
  bytes_.fetch_add(bytes, kRelaxed);
}

void Account::GiveSession(uint64_t bytes) {
  sessions_.fetch_sub(1, kRelaxed);
  bytes_.fetch_sub(bytes, kRelaxed);
}

uint64_t Account::TakeSteps(uint64_t steps, uint64_t now_us) {
  const double rate = rate_.load(kRelaxed);
  if (rate <= 0 || steps == 0) return 0;
  const auto cost = static_cast<uint64_t>(std::min(static_cast<double>(steps) * 1e9 / rate, kMostCostNs));
  const uint64_t now = now_us * 1000;
  uint64_t paid = paid_until_ns_.load(kRelaxed), next = 0;
  do {
    if (paid > now) return (paid - now + 999) / 1000;
    next = std::max(paid, now - std::min(now, kSavedNs)) + cost;
  } while (!paid_until_ns_.compare_exchange_weak(paid, next, kRelaxed));
  return 0;
}

absl::Status Account::TooFast(uint64_t wait_us) const {
  return absl::ResourceExhaustedError(absl::StrCat("'", name_, "' may have ", rate_.load(kRelaxed), " steps a second, and had them; nothing was applied, send it again in ",
                                                   (wait_us + 999) / 1000, " ms, or ask the operator for more (limits: steps_per_second, in the token file)"));
}

}  // namespace lstm::server
