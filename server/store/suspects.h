// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/session/session_id.h"

namespace lstm::server {

// The sessions whose turns were being computed when a process died of a fault (not of a kill from outside), in a small
// mapped file beside the slab, so that the note outlives the process that makes it. Noted once: the session's turns are
// computed alone from then on, so that a second time names one session for sure. Noted twice: it is set aside.
//
// Note may be called from a signal handler, on any thread; the rest is for start-up and the shards. Thread-safe.
class Suspects {
 public:
  static constexpr uint32_t kSetAsideAfter = 2;

  struct Entry {
    SessionId id{};
    uint64_t seq = 0;  // of the turn
    uint32_t crashes = 0;
    int32_t signal = 0;  // of the last
  };

  // Opens or makes the file. What is damaged in it is forgotten.
  static absl::StatusOr<std::unique_ptr<Suspects>> Open(const std::string& path);
  ~Suspects();

  // Async-signal-safe. Where the file is full, the note is lost.
  void Note(const SessionId& id, uint64_t seq, int signal);
  std::optional<Entry> Find(const SessionId& id) const;
  // Its turn went well after all.
  void Clear(const SessionId& id);

 private:
  explicit Suspects(Entry* entries) : entries_(entries) {}
  Entry* const entries_;
};

}  // namespace lstm::server
