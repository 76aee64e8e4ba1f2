// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/auth/account.h"

namespace lstm::server {

// Who calls.
struct Caller {
  std::string principal;  // a SHA-256 of who it is, to which sessions are bound; empty: anonymous
  bool admin = false;     // others' sessions may be seen and closed, models loaded and unloaded
  std::shared_ptr<const std::atomic<bool>> known;  // false: what it proved itself by was withdrawn; null: that can not be

  bool withdrawn() const { return known != nullptr && !known->load(std::memory_order_relaxed); }
};

// Who may call, and the accounts of those with limits. Without a file everybody may: anonymously, or by the names in the
// certificate that the connection showed. Thread-safe.
class Callers {
 public:
  // What a call shows of its client.
  struct Shown {
    std::vector<std::string_view> authorization;  // each header of that name
    std::vector<std::string> certificate;         // names in it
  };
  struct Refusals {
    uint64_t missing, unknown;
  };

  // `admins`: without a file, whoever shows a certificate is an admin. Who can not be told from others is one anyway.
  explicit Callers(bool admins = false) : admins_(admins) {}

  // From now on those of `text` alone (a lstm.config.v1.CallerFile). INVALID_ARGUMENT changes nothing.
  absl::Status Read(const std::string& text);

  // UNAUTHENTICATED says what is missing.
  absl::StatusOr<Caller> Find(const Shown& shown) const;

  // Null: without limits.
  std::shared_ptr<Account> AccountOf(const std::string& principal) const;

  size_t size() const;
  Refusals refusals() const { return {missing_.load(std::memory_order_relaxed), unknown_.load(std::memory_order_relaxed)}; }

  // The principal of a caller of the file.
  static std::string PrincipalOf(std::string_view name);

 private:
  struct Table;

  const bool admins_;
  mutable std::atomic<uint64_t> missing_{0}, unknown_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<const Table> table_;  // guarded by mutex_; null: no file
  std::map<std::string, std::shared_ptr<Account>> accounts_;  // guarded by mutex_; by principal
};

}  // namespace lstm::server
