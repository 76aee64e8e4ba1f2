// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "server/auth/callers.h"

namespace lstm::server {

// Whose the parked sessions of a shard are, as a small number that their index has room for. A parked session counts towards the
// sessions of its owner's account, its bytes do not: they are on the disk. Confined to the shard's thread.
class ParkedOwners {
 public:
  static constexpr uint16_t kUnknown = 0;  // nobody, or not told apart
  static constexpr size_t kMost = 0x7fff;  // at a time

  // For one more session.
  uint16_t Add(const std::string& principal, const std::shared_ptr<Account>& account) {
    if (principal.empty()) return kUnknown;
    auto it = places_.find(principal);
    if (it == places_.end()) {
      if (free_.empty() && owners_.size() > kMost) return kUnknown;
      if (free_.empty()) {
        free_.push_back(static_cast<uint16_t>(owners_.size()));
        owners_.emplace_back();
      }
      it = places_.emplace(principal, free_.back()).first;
      free_.pop_back();
      owners_[it->second] = {principal, account, 0};
    }
    Owner& owner = owners_[it->second];
    ++owner.sessions;
    if (owner.account != nullptr) owner.account->ForceSession(0);
    return it->second;
  }
  void Remove(uint16_t place) {
    if (place == kUnknown) return;
    Owner& owner = owners_[place];
    if (owner.account != nullptr) owner.account->GiveSession(0);
    if (--owner.sessions > 0) return;
    places_.erase(owner.principal);
    owner = {};
    free_.push_back(place);
  }
  bool Is(uint16_t place, const std::string& principal) const { return place != kUnknown && owners_[place].principal == principal; }

 private:
  struct Owner {
    std::string principal;
    std::shared_ptr<Account> account;  // null: without limits
    size_t sessions = 0;
  };
  std::vector<Owner> owners_{1};  // the first is nobody's
  std::unordered_map<std::string, uint16_t> places_;
  std::vector<uint16_t> free_;
};

}  // namespace lstm::server
