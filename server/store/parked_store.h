// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/session/session_id.h"

namespace lstm::server {

// Where sessions rest that nobody uses: one copy of each, on the disk, found again by the next process. A record comes in three
// steps, so that a process may be killed at any instant and no session is lost, and none comes back that was closed: Append
// writes it (it does not count), Seal makes it count, Remove ends it. Seal and Remove are a few bytes each and have happened when
// they return, kill -9 or not; what has to wait for the disk answers later. Thread-safe.
class ParkedStore {
 public:
  virtual ~ParkedStore() = default;

  using Key = uint32_t;  // names a record while the store is open

  // What is known of a record without reading it.
  struct About {
    SessionId id{};
    uint64_t serial = 0;          // of the session's last commit: of two records with one id the larger is the later
    int64_t expires_unix_us = 0;  // the session's end, unless it is used before
    std::array<uint8_t, 16> model{};  // a mark of the model that it is pinned to, which means nothing to the store
  };
  struct Found {
    Key key;
    About about;
  };

  // Writes a record that does not count yet. `done` is called once, on any thread. RESOURCE_EXHAUSTED: no room. Never blocks.
  virtual void Append(const About& about, std::string bytes, std::function<void(absl::StatusOr<Key>)> done) = 0;

  // From now on the record counts. An error: it does not, and is to be removed.
  virtual absl::Status Seal(Key key) = 0;

  // Calls `done` once, on any thread, when all that was done to the record before survives a loss of power. Never blocks.
  virtual void Sync(Key key, std::function<void(const absl::Status&)> done) = 0;

  // `done` gets the bytes, once, on any thread. DATA_LOSS: they are not those that were written. Never blocks.
  virtual void Read(Key key, std::function<void(absl::StatusOr<std::string>)> done) = 0;

  // The record counts no more, its key is free, and its bytes are wiped soon. REQUIRES: no Read of it is under way; a Sync may be.
  virtual void Remove(Key key) = 0;

  // The records that counted when the store was opened; of two with one id the later alone. They are on the disk too. Once.
  virtual std::vector<Found> TakeFound() = 0;
};

}  // namespace lstm::server
