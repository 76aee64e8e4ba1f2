// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "server/shard/parted_map.h"
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

using ParkedIndex = PartedMap<Parked>;

}  // namespace lstm::server
