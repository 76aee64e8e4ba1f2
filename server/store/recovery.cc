// SPDX-License-Identifier: MIT
#include "server/store/recovery.h"

#include <algorithm>
#include <unordered_map>

#include "server/store/slot.h"

namespace lstm::server {
namespace {

// Of the latest commit that is whole, state and answers too: a slot that was being wiped when the power went may have its half's
// seal and not what that speaks of. 0: none is.
uint64_t WholeSerial(std::span<std::byte> memory) {
  store::v1::SessionIdentity identity;
  absl::StatusOr<Slot> slot = Slot::Open(memory, &identity);
  return slot.ok() && slot->Verify().ok() ? slot->serial() : 0;
}

}  // namespace

Recovery TakeLatest(SessionStore* store, ParkedStore* parked) {
  Recovery out;
  std::unordered_map<SessionId, std::span<std::byte>, SessionIdHash> in_slots;
  for (const std::span<std::byte> slot : store->TakeRecovered()) {
    store::v1::SessionIdentity identity;
    Slot::Open(slot, &identity).status().IgnoreError();  // damaged or not: whose is it?
    SessionId id{};
    if (identity.session_id().size() != id.size()) {
      out.slots.push_back(slot);  // nobody can say whose it is
      continue;
    }
    std::copy(identity.session_id().begin(), identity.session_id().end(), id.begin());
    out.models.insert({identity.model(), identity.version(), identity.model_hash()});
    const auto [it, is_new] = in_slots.emplace(id, slot);
    if (is_new) continue;
    const bool later = WholeSerial(slot) > WholeSerial(it->second);
    store->Free(later ? it->second : slot);
    if (later) it->second = slot;
  }
  if (parked != nullptr) {
    for (const ParkedStore::Found& found : parked->TakeFound()) {
      const auto slot = in_slots.find(found.about.id);
      if (slot != in_slots.end() && WholeSerial(slot->second) >= found.about.serial) {
        parked->Remove(found.key);
        continue;
      }
      if (slot != in_slots.end()) {
        store->Free(slot->second);
        in_slots.erase(slot);
      }
      out.parked.push_back(found);
    }
  }
  for (const auto& [id, slot] : in_slots) out.slots.push_back(slot);
  return out;
}

}  // namespace lstm::server
