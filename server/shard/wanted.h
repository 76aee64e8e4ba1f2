// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/shard/shard.h"

namespace lstm::server {

// A session that is to be made: what Shard::MakeSession needs, from whichever call it comes.
struct Shard::Wanted {
  ServedModelPtr model;
  store::v1::SessionIdentity identity;  // durability, window, TTL, options, principal; MakeSession fills in the rest
  std::vector<uint32_t> selected;       // of program->outputs()
  bool simple = false;
  std::optional<Nonce> nonce;
  core::AlignedBuffer<float> initial;  // empty: the model's
  core::AlignedBuffer<float> state;    // its first; empty: the initial one
  uint64_t applied = 0, steps = 0;     // where it begins
  Session::Holder holder;

  // What MakeSession leaves here.
  std::string token;
  size_t slot_bytes = 0;
  bool over_quota = false;  // what it was refused for are its owner's limits

  // Puts what the identity says into the session.
  void Describe(Session& session) const;
};

}  // namespace lstm::server
