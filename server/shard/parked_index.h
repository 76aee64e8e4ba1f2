// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/session/session_id.h"
#include "server/store/parked_store.h"

namespace lstm::server {

// What a shard keeps in memory of a parked session.
struct Parked {
  uint64_t stream = 0;  // the key of the stream on whose lane it is; 0: none
  ParkedStore::Key key = 0;
  uint32_t expires_s = 0;  // of the shard's clock
  uint32_t lane = 0;
  uint16_t model = 0;      // in the shard's list of models; 0: not known, or not loaded
  uint16_t host : 1 = 0;
  uint16_t owner : 15 = 0;  // in the shard's ParkedOwners; 0: not known before its record is read
};
static_assert(sizeof(Parked) == 24, "a million of them");

// The parked sessions of one shard, by id. In parts, so that looking for what has expired never takes long. Confined to the
// shard's thread.
class ParkedIndex {
 public:
  Parked* Find(const SessionId& id) {
    auto& part = PartOf(id);
    const auto it = part.find(id);
    return it == part.end() ? nullptr : &it->second;
  }
  const Parked* Find(const SessionId& id) const { return const_cast<ParkedIndex*>(this)->Find(id); }
  void Add(const SessionId& id, const Parked& parked) { size_ += PartOf(id).insert_or_assign(id, parked).second ? 1 : 0; }
  void Remove(const SessionId& id) { size_ -= PartOf(id).erase(id); }
  size_t size() const { return size_; }

  // The ids of the next part that end before `second`; kParts calls have seen all.
  std::vector<SessionId> NextExpiring(uint32_t second) {
    std::vector<SessionId> out;
    for (const auto& [id, parked] : parts_[next_++ % kParts]) {
      if (parked.expires_s <= second) out.push_back(id);
    }
    std::sort(out.begin(), out.end());  // the map's order is another in every process
    return out;
  }

  template <typename F>
  void ForEach(F f) const {
    for (const auto& part : parts_) {
      for (const auto& [id, parked] : part) f(id, parked);
    }
  }

  static constexpr size_t kParts = 64;

 private:
  using Part = absl::flat_hash_map<SessionId, Parked, SessionIdHash>;
  Part& PartOf(const SessionId& id) { return parts_[id[7] % kParts]; }  // a byte that SessionIdHash does not use
  std::array<Part, kParts> parts_;
  size_t next_ = 0, size_ = 0;
};

}  // namespace lstm::server
