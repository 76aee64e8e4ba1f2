// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "server/auth/callers.h"
#include "server/models/model_repository.h"
#include "server/session/session_id.h"
#include "server/session/session_machine.h"
#include "server/shard/parted_map.h"

namespace lstm::server {

class Stream;

// What sessions that were opened alike have in common.
struct RestTerms {
  ServedModelPtr model;
  SessionMachine::Options options;
  std::string principal;
  std::shared_ptr<Account> account;
  std::vector<uint32_t> selected;
  bool last_step_only = false, timings = false, accept_value_equal = false, own_ttl = false;
  size_t max_turn_answer_bytes = 0;

  bool operator==(const RestTerms&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const RestTerms& t) {
    return H::combine(std::move(h), t.model.get(), t.principal, t.selected, t.options.window);
  }
};

// A volatile session that rests: nobody has used it for a while, and no turn of it waits. All that it needs to go on, in
// its state and some 400 bytes. Wiped when it ends.
struct Rest {
  // One block: state, initial state where it has its own, unacknowledged answers, holders, nonce (shard_rest.cc).
  explicit Rest(size_t n) : bytes(std::make_unique<std::byte[]>(n)), size(n) {}
  ~Rest();
  Rest(const Rest&) = delete;
  Rest& operator=(const Rest&) = delete;

  std::shared_ptr<const RestTerms> terms;
  const std::unique_ptr<std::byte[]> bytes;
  const size_t size;
  uint64_t epoch = 0, base = 0, applied = 0, acked = 0, steps = 0;
  uint64_t state_digest = 0;
  uint64_t last_used_us = 0, ttl_us = 0;
  uint64_t charged_bytes = 0;  // now
  Sha256 token_hash{};
  Stream* stream = nullptr;  // null: no stream holds it
  uint32_t lane = 0;
  bool own_initial = false, has_nonce = false;
  uint8_t holders = 0;

  uint64_t end_us() const { return last_used_us + ttl_us; }
};

// The resting sessions of one shard. Confined to the shard's thread.
class RestingIndex {
 public:
  // The same terms once for all.
  std::shared_ptr<const RestTerms> Share(RestTerms terms);

  void Add(const SessionId& id, std::unique_ptr<Rest> rest) { rests_.Add(id, std::move(rest)); }
  // Null: it does not rest.
  Rest* Find(const SessionId& id) {
    auto* rest = rests_.Find(id);
    return rest == nullptr ? nullptr : rest->get();
  }
  const Rest* Find(const SessionId& id) const { return const_cast<RestingIndex*>(this)->Find(id); }
  std::unique_ptr<Rest> Take(const SessionId& id);

  PartedMap<std::unique_ptr<Rest>>& all() { return rests_; }
  const PartedMap<std::unique_ptr<Rest>>& all() const { return rests_; }
  size_t size() const { return rests_.size(); }

 private:
  struct Hash {
    size_t operator()(const std::shared_ptr<const RestTerms>& terms) const { return absl::Hash<RestTerms>()(*terms); }
  };
  struct Same {
    bool operator()(const std::shared_ptr<const RestTerms>& a, const std::shared_ptr<const RestTerms>& b) const { return *a == *b; }
  };
  absl::flat_hash_set<std::shared_ptr<const RestTerms>, Hash, Same> terms_;
  PartedMap<std::unique_ptr<Rest>> rests_;
};

}  // namespace lstm::server
