// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <google/protobuf/stubs/logging.h>

#include "absl/strings/str_cat.h"
#include "core/base/fail_point.h"
#include "server/session/digest.h"
#include "server/store/slot.h"

namespace lstm::server {

using Random = std::mt19937_64;

inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Memory as a store gives it, in blocks of 512 bytes, which is what a disk writes whole or not at all.
inline constexpr size_t kBlock = 512;
class Image {
 public:
  explicit Image(size_t bytes) : blocks_((bytes + kBlock - 1) / kBlock) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(blocks_.data()); }
  std::span<std::byte> span() { return {data(), blocks_.size() * kBlock}; }
  size_t blocks() const { return blocks_.size(); }
  std::span<std::byte> block(size_t i) { return span().subspan(i * kBlock, kBlock); }

 private:
  struct alignas(kBlock) Block {
    std::byte bytes[kBlock]{};
  };
  std::vector<Block> blocks_;
};

// Where docs/state_format.md says that things are.
struct Layout {
  static constexpr size_t kHead = 24, kHalf = 120, kEntry = 40;
  explicit Layout(const store::v1::SessionIdentity& id) {
    const auto aligned = [](size_t n, size_t to = 64) { return (n + to - 1) / to * to; };
    identity_bytes = id.ByteSizeLong();
    initial_at = aligned(kHead + identity_bytes);
    half_at = aligned(initial_at + (id.own_initial_state() ? size_t{id.state_floats()} * 4 : 0), 512);
    state_in_half = aligned(kHalf + size_t{id.window()} * kEntry);
    half_bytes = aligned(state_in_half + size_t{id.state_floats()} * 4, 512);
    ring_at = half_at + 2 * half_bytes;
    total = ring_at + id.ring_bytes();
  }
  size_t half(size_t i) const { return half_at + i * half_bytes; }
  size_t state(size_t i) const { return half(i) + state_in_half; }
  size_t identity_bytes, initial_at, half_at, state_in_half, half_bytes, ring_at, total;
};

struct Shape {
  uint32_t state_floats = 300;
  uint32_t window = 4;
  uint32_t ring_bytes = 2500;
  uint32_t most_answer = 900;
  bool own_initial = false;
};

inline bool SamePosition(const StoredPosition& a, const StoredPosition& b) {
  return a.epoch == b.epoch && a.applied == b.applied && a.acked == b.acked && a.steps == b.steps && a.state_digest == b.state_digest &&
         a.last_used_unix_us == b.last_used_unix_us && a.token_hash == b.token_hash;
}

// Why a kill ends what runs: thrown out of a fail point, where the real one would end the process.
struct Killed {};

// Calls `hook` at every fail point while it lives.
class ArmedFailPoints {
 public:
  explicit ArmedFailPoints(void (*hook)(const char*)) { core::fail_point_hook = hook; }
  ~ArmedFailPoints() { core::fail_point_hook = nullptr; }
  ArmedFailPoints(const ArmedFailPoints&) = delete;
  ArmedFailPoints& operator=(const ArmedFailPoints&) = delete;
};

// Protobuf says on stderr what it cannot parse; here that would be thousands of lines.
struct QuietProtobuf {
  QuietProtobuf() { google::protobuf::SetLogHandler(nullptr); }
};
inline const QuietProtobuf quiet_protobuf;

enum class Served { kRight, kRefused, kWrong };
struct Reading {
  Served served = Served::kRight;
  StoredPosition position{};
  std::string what{};
};

// A session of which every bit follows from its number: state, answers and inputs of every seq. What a slot gives back is
// held against it.
class ModelSession {
 public:
  explicit ModelSession(uint64_t number, const Shape& shape = {}) : number_(number), shape_(shape) {
    identity.set_session_id(Bytes(16, 1));
    identity.set_client_nonce(Bytes(16, 2));
    identity.set_model("telemetry");
    identity.set_version("7");
    identity.set_model_hash(Bytes(32, 3));
    identity.set_window(shape.window);
    identity.set_state_floats(shape.state_floats);
    identity.set_ring_bytes(shape.ring_bytes);
    identity.set_own_initial_state(shape.own_initial);
    identity.add_outputs("anomaly");
    if (shape.own_initial) initial = Floats(Mix(number ^ 0x1717));
    state_.resize(shape.state_floats);
  }

  const Shape& shape() const { return shape_; }
  size_t bytes() const { return Slot::BytesFor(identity); }
  StoredPosition first() const { return At({.epoch = 1, .last_used_unix_us = 1'700'000'000'000'000}); }
  Slot Create(std::span<std::byte> memory) const {
    const std::vector<float> state(StateOf(0).begin(), StateOf(0).end());
    return Slot::Create(memory, identity, initial, first(), state);
  }

  // Valid until the next call. Some turns leave the state as it is, as `discard` does.
  std::span<const float> StateOf(uint64_t seq) const {
    if (state_seq_ != StateSeq(seq)) {
      state_ = Floats(Mix(number_ + 31 * StateSeq(seq)));
      state_seq_ = StateSeq(seq);
    }
    return state_;
  }
  std::vector<std::byte> AnswerOf(uint64_t seq) const {
    const uint64_t h = Mix(number_ * 7 + seq);
    std::vector<std::byte> out(h % 8 == 0 ? 0 : h / 8 % (shape_.most_answer + 1));
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>((h >> (i % 8 * 8)) + i);
    return out;
  }
  InputDigest InputOf(uint64_t seq) const { return {Mix(seq + number_), Mix(seq ^ number_)}; }
  static uint32_t StepsOf(uint64_t seq) { return static_cast<uint32_t>(seq % 5); }

  // What a shard may commit next: a turn that has a place, mostly; an acknowledgement; a new epoch with a new token.
  struct Plan {
    StoredPosition position;
    bool turn = false;
    uint32_t place = 0;
  };
  Plan Next(const Slot& slot, Random& random) const {
    Plan plan{.position = slot.position()};
    StoredPosition& p = plan.position;
    p.last_used_unix_us += 1000;
    if (random() % 2 == 0) p.acked += random() % (p.applied - p.acked + 1);
    std::optional<uint32_t> place;
    if (random() % 8 != 0 && slot.answers() < shape_.window) place = slot.Place(AnswerOf(p.applied + 1).size());
    if (place) {
      plan.turn = true;
      plan.place = *place;
      ++p.applied;
    } else if (p.acked == slot.position().acked && p.acked < p.applied) {
      ++p.acked;
    } else {
      ++p.epoch;
    }
    p = At(p);
    return plan;
  }
  void Commit(Slot& slot, const Plan& plan) const {
    if (!plan.turn) return slot.Commit(plan.position);
    const uint64_t seq = plan.position.applied;
    const std::vector<float> state(StateOf(seq).begin(), StateOf(seq).end());  // a fail point's hook may ask for other states
    const bool keeps = StateSeq(seq) == StateSeq(seq - 1);
    std::span<const float> from = state;
    if (seq % 3 != 0) {  // in place, as a shard does: what it finds there is of the turn before last
      const std::span<float> place = slot.BeginState();
      std::copy(state.begin(), state.end(), place.begin());
      from = place;
    }
    const auto answer = AnswerOf(seq);
    std::span<const std::byte> said = answer;
    if (seq % 2 != 0) {  // the answer too
      const std::span<std::byte> place = slot.AnswerAt(plan.place, answer.size());
      std::copy(said.begin(), said.end(), place.begin());
      said = place;
    }
    slot.Commit(plan.position, keeps ? slot.state() : from, InputOf(seq), StepsOf(seq), plan.place, said);
  }

  // Everything that the memory serves, as after a start: each bit of it must be of one of the `accepted` positions.
  Reading Read(std::span<std::byte> memory, std::span<const StoredPosition> accepted) const {
    Reading out;
    const auto refused = [&](const absl::Status& status) {
      if (out.served == Served::kRight) out = {Served::kRefused, out.position, status.ToString()};
    };
    const auto wrong = [&](const std::string& what) { out = {Served::kWrong, out.position, what}; };
    store::v1::SessionIdentity read;
    absl::StatusOr<Slot> slot = Slot::Open(memory, &read);
    if (!slot.ok()) return refused(slot.status()), out;
    if (read.SerializeAsString() != identity.SerializeAsString()) return wrong("another identity"), out;
    if (std::memcmp(slot->initial().data(), initial.data(), initial.size() * sizeof(float)) != 0) return wrong("another initial state"), out;
    if (const absl::Status verified = slot->Verify(); !verified.ok()) return refused(verified), out;
    const StoredPosition& p = out.position = slot->position();
    if (std::none_of(accepted.begin(), accepted.end(), [&](const StoredPosition& a) { return SamePosition(a, p); })) {
      return wrong(absl::StrCat("epoch ", p.epoch, ", applied ", p.applied, ", acked ", p.acked, " is none of the last commits")), out;
    }
    if (std::memcmp(slot->state().data(), StateOf(p.applied).data(), slot->state().size_bytes()) != 0) return wrong("another state"), out;
    if (slot->answers() != p.applied - p.acked) return wrong(absl::StrCat(slot->answers(), " answers")), out;
    for (size_t i = 0; i < slot->answers(); ++i) {
      const uint64_t seq = p.acked + 1 + i;
      const StoredAnswer& answer = slot->answer(i);
      if (answer.input != InputOf(seq) || answer.steps != StepsOf(seq) || answer.state_digest != DigestOf(seq)) {
        return wrong(absl::StrCat("what is said of the answer to seq ", seq)), out;
      }
      const auto bytes = slot->ReadAnswer(i);
      if (!bytes.ok()) refused(bytes.status());
      if (bytes.ok() && !std::ranges::equal(*bytes, AnswerOf(seq))) return wrong(absl::StrCat("another answer to seq ", seq)), out;
    }
    return out;
  }
  Reading Read(std::span<std::byte> memory, const StoredPosition& accepted) const { return Read(memory, {&accepted, 1}); }

  uint64_t DigestOf(uint64_t seq) const { return StateDigest(StateOf(seq)); }
  StoredPosition At(StoredPosition p) const {
    p.steps = 3 * p.applied;
    p.state_digest = DigestOf(p.applied);
    for (size_t i = 0; i < p.token_hash.size(); ++i) p.token_hash[i] = static_cast<uint8_t>(Mix(number_ + p.epoch * 64 + i));
    return p;
  }

  store::v1::SessionIdentity identity;
  std::vector<float> initial;

 private:
  static uint64_t StateSeq(uint64_t seq) { return seq % 7 == 3 ? seq - 1 : seq; }
  std::string Bytes(size_t n, uint64_t salt) const {
    std::string out(n, '\0');
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<char>(Mix(number_ + salt * 1000 + i));
    return out;
  }
  std::vector<float> Floats(uint64_t seed) const {
    std::vector<uint32_t> words(shape_.state_floats);
    const auto low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (size_t i = 0; i < words.size(); ++i) words[i] = (low + static_cast<uint32_t>(i)) * 2654435761u ^ high;
    std::vector<float> out(words.size());
    std::memcpy(out.data(), words.data(), words.size() * sizeof(uint32_t));
    return out;
  }

  const uint64_t number_;
  const Shape shape_;
  mutable std::vector<float> state_;
  mutable uint64_t state_seq_ = UINT64_MAX;
};

inline void PrintTo(const Reading& reading, std::ostream* out) {
  static constexpr const char* kNames[] = {"right", "refused", "WRONG"};
  *out << kNames[static_cast<size_t>(reading.served)] << " (" << reading.what << ")";
}

}  // namespace lstm::server
