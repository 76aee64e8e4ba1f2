// SPDX-License-Identifier: MIT
#pragma once

#include <compare>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "server/store/parked_store.h"
#include "server/store/session_store.h"

namespace lstm::server {

// What a new process takes over. A session can be found in two places where the process before was killed as it moved it, or
// where a loss of power brought an older copy back.
struct Recovery {
  struct Model {
    std::string name, version, hash;
    auto operator<=>(const Model&) const = default;
  };
  std::vector<std::span<std::byte>> slots;
  std::vector<ParkedStore::Found> parked;
  std::set<Model> models;  // of the slots; those of the parked are in their marks
};

// Takes what both stores found and leaves each session in one place, with its latest commit; a damaged slot yields to another
// copy. `parked` null: there is no such store.
Recovery TakeLatest(SessionStore* store, ParkedStore* parked);

}  // namespace lstm::server
