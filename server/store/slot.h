// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/ring_buffer.h"
#include "lstm/store/v1/session_record.pb.h"
#include "server/session/session_id.h"
#include "server/session/session_machine.h"

namespace lstm::server {

// Where a session stands: what a half of its slot says beside the state itself.
struct StoredPosition {
  uint64_t epoch = 0;
  uint64_t applied = 0;
  uint64_t acked = 0;
  uint64_t steps = 0;         // time steps computed in its life
  uint64_t state_digest = 0;  // XXH3 of the state: what a Result carries, and what guards the state here
  int64_t last_used_unix_us = 0;
  uint64_t holder = 0, attempt = 0;  // the Open or Resume that took the session last
  Sha256 token_hash{};
};

// CRC32C of the first `bytes` of an answer.
struct AnswerCrc {
  size_t bytes = 0;
  uint32_t crc = 0;

  // Goes on to `to` bytes of it. REQUIRES: bytes <= to <= answer.size().
  void Extend(std::span<const std::byte> answer, size_t to);
};

// An answer in the ring, of a seq in (acked, applied].
struct StoredAnswer {
  InputDigest input;
  uint64_t state_digest = 0;  // after its turn
  uint32_t offset = 0;
  uint32_t bytes = 0;
  uint32_t crc = 0;  // CRC32C of the bytes
  uint32_t steps = 0;
};

// One session's bytes in a store: identity, initial state, two halves and a ring of answers; docs/state_format.md has them
// one by one. A commit writes the half that is not current and seals it last, so that a kill at any instant leaves one half
// whole. An answer's place in the ring is not used again before a commit has said that it was acknowledged. The bytes are
// read back with suspicion: seals, digests and CRCs decide, never trust; a half's seal covers the identity too, so that one which
// another session left in the slot never counts. Confined to the session's shard.
class Slot {
 public:
  // Bytes for a session like this.
  static size_t BytesFor(const store::v1::SessionIdentity& identity);

  // A new session: `initial` is its own initial state where identity says so; `state` its first. Nothing of it counts
  // before the identity's seal, which is written last.
  static Slot Create(std::span<std::byte> memory, const store::v1::SessionIdentity& identity, std::span<const float> initial,
                     const StoredPosition& position, std::span<const float> state);

  // True where the sizes that it names are those that it has, and within what any session has.
  static bool IsSane(const store::v1::ParkedSession& parked);
  // One that IsSane. DATA_LOSS: it is not whole, and nothing of `memory` counts.
  static absl::StatusOr<Slot> Unpack(std::span<std::byte> memory, const store::v1::ParkedSession& parked);
  // All that is needed to go on, the unacknowledged answers included.
  store::v1::ParkedSession Pack() const;

  // What a slot holds. NOT_FOUND: nothing. DATA_LOSS: neither half is whole, or the identity is not. Looks at no state.
  static absl::StatusOr<Slot> Open(std::span<std::byte> memory, store::v1::SessionIdentity* identity);

  // State and answers of the current half against their digests; where one is damaged, the older half takes over if it is
  // whole (position() says which): a loss of power can leave the newer one so, whose answer then never left. DATA_LOSS:
  // neither is.
  absl::Status Verify();

  // After the last commit. The state stays in place until the second commit from now.
  const StoredPosition& position() const { return position_; }
  std::span<const float> state() const;
  std::span<const float> initial() const;

  // Answers of the seqs in (position().acked, position().applied].
  size_t answers() const { return answers_.size(); }
  const StoredAnswer& answer(size_t i) const { return answers_[i]; }
  // DATA_LOSS: its bytes are not those that were written.
  absl::StatusOr<std::span<const std::byte>> ReadAnswer(size_t i) const;

  // A place in the ring for an answer of `bytes`; none: commit an acknowledgement first.
  std::optional<uint32_t> Place(size_t bytes) const;
  // What lies there: an answer may be written in place before the Commit that it is given to, which does not copy it then.
  std::span<std::byte> AnswerAt(uint32_t place, size_t bytes) { return {ring() + place, bytes}; }

  // Where the next state may be computed in place; what Commit is then given it does not copy. The half there counts no more
  // from now on, the current one does as before. Anything between this and that Commit but another Begin takes the place away.
  std::span<float> BeginState();

  // The next Commit is near: what it writes, besides state and answer, is fetched from memory.
  void PrefetchCommit() const;

  // One turn: its answer to where Place said, then position and state to the other half. `input` and `steps` describe the
  // turn; `crc` what is known of the answer's already. REQUIRES: position.applied is one more than before.
  void Commit(const StoredPosition& position, std::span<const float> state, const InputDigest& input, uint32_t steps,
              uint32_t place, std::span<const std::byte> answer, AnswerCrc crc = {});

  // A new epoch, acknowledgement or token: the state stays as it is. REQUIRES: position.applied as before.
  void Commit(const StoredPosition& position);

  std::span<std::byte> memory() const { return memory_; }
  size_t ring_bytes() const { return ring_bytes_; }
  uint64_t serial() const { return serial_; }  // of the last commit

 private:
  struct Half;
  explicit Slot(std::span<std::byte> memory) : memory_(memory) {}
  void Lay(const store::v1::SessionIdentity& identity);
  void BeginHead(const store::v1::SessionIdentity& identity, const void* initial);
  void SealHead();
  store::v1::SessionIdentity identity() const;
  static bool Fits(const store::v1::SessionIdentity& identity, size_t memory);
  Half* half(size_t i) const;
  float* state_of(size_t i) const;
  std::byte* ring() const { return memory_.data() + ring_at_; }
  bool ReadHalf(size_t i, StoredPosition* position, std::vector<StoredAnswer>* answers, uint64_t* serial) const;
  bool UseHalf(size_t i);
  void WriteHalf(const StoredPosition& position, std::span<const float> state);

  std::span<std::byte> memory_;
  uint32_t window_ = 0, state_floats_ = 0, ring_bytes_ = 0, initial_floats_ = 0;
  size_t initial_at_ = 0, half_at_ = 0, half_bytes_ = 0, state_in_half_ = 0, ring_at_ = 0;
  uint32_t head_crc_ = 0;
  size_t current_ = 0;
  uint64_t serial_ = 0;
  StoredPosition position_;
  core::RingBuffer<StoredAnswer> answers_;
};

}  // namespace lstm::server
