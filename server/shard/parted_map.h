// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/session/session_id.h"

namespace lstm::server {

// What a shard keeps of sessions that nobody uses, by id; there may be a million. In parts, so that looking for what is due never takes
// long. Confined to the shard's thread.
template <typename T>
class PartedMap {
 public:
  static constexpr size_t kParts = 64;

  T* Find(const SessionId& id) {
    auto& part = PartOf(id);
    const auto it = part.find(id);
    return it == part.end() ? nullptr : &it->second;
  }
  const T* Find(const SessionId& id) const { return const_cast<PartedMap*>(this)->Find(id); }
  void Add(const SessionId& id, T value) { size_ += PartOf(id).insert_or_assign(id, std::move(value)).second ? 1 : 0; }
  void Remove(const SessionId& id) { size_ -= PartOf(id).erase(id); }
  size_t size() const { return size_; }

  // The ids of the next part of which `due` is true; kParts calls have seen all.
  template <typename F>
  std::vector<SessionId> NextDue(F due) {
    std::vector<SessionId> out;
    for (const auto& [id, value] : parts_[next_++ % kParts]) {
      if (due(value)) out.push_back(id);
    }
    std::sort(out.begin(), out.end());  // the map's order is another in every process
    return out;
  }

  template <typename F>
  void ForEach(F f) const {
    for (const auto& part : parts_) {
      for (const auto& [id, value] : part) f(id, value);
    }
  }

 private:
  using Part = absl::flat_hash_map<SessionId, T, SessionIdHash>;
  Part& PartOf(const SessionId& id) { return parts_[id[7] % kParts]; }  // a byte that SessionIdHash does not use
  std::array<Part, kParts> parts_;
  size_t next_ = 0, size_ = 0;
};

}  // namespace lstm::server
