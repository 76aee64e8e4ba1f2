// SPDX-License-Identifier: MIT
#include "server/store/slot.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/fail_point.h"
#include "server/session/digest.h"
#include "server/session/mutant.h"
#include "server/store/crc32c.h"
#include "server/store/session_store.h"

namespace lstm::server {
namespace {

static_assert(std::endian::native == std::endian::little, "slots are little-endian");

constexpr uint32_t kFormatVersion = 1;
constexpr uint64_t kHeadTag = uint64_t{0x4d54534c} << 32;  // "LSTM"
constexpr uint64_t kHalfTag = uint64_t{0x464c4148} << 32;  // "HALF"
constexpr uint64_t kTagMask = uint64_t{0xffffffff} << 32;
constexpr uint32_t kMaxWindow = 1u << 16;

constexpr size_t Aligned(size_t n, size_t to = 64) { return (n + to - 1) / to * to; }
constexpr size_t kBlock = 512;  // what a disk writes whole or not at all: the halves and the ring share none
constexpr size_t kMostPrefetched = 1024;  // of a half: what is behind has more answers than most

// A seal counts once all that it covers is in place, and stops counting before any of that changes. Release fences on both
// sides: a store passes neither, and unlike a seq_cst store they do not wait for the copied state to reach the cache.
void SetSeal(uint64_t* seal, uint64_t value) {
#if defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"  // it does not understand fences; who reads after a kill is no thread of ours
#endif
  std::atomic_thread_fence(std::memory_order_release);
  std::atomic_ref<uint64_t>(*seal).store(value, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
#if defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic pop
#endif
}

struct Head {
  uint64_t seal;  // kHeadTag | CRC32C of what follows, of the identity and of the initial state
  uint32_t format_version;
  uint32_t identity_bytes;
  uint32_t initial_floats;
  uint32_t reserved;
};
static_assert(sizeof(Head) == 24);

uint32_t HeadCrc(const Head& head, const std::byte* identity, const float* initial) {
  uint32_t crc = Crc32c(&head.format_version, sizeof(Head) - sizeof(head.seal));
  crc = Crc32c(identity, head.identity_bytes, crc);
  return Crc32c(initial, head.initial_floats * sizeof(float), crc);
}

}  // namespace

// The fixed part of a half; one Entry for each answer follows, then, aligned, the state.
struct Slot::Half {
  uint64_t seal;  // kHalfTag | CRC32C of all that the head's seal covers, then of what follows up to the last entry
  uint64_t epoch, applied, acked, steps, state_digest;
  int64_t last_used_unix_us;
  uint32_t answers, reserved;
  uint8_t token_hash[32];
  uint64_t serial;  // of the commit: the later one has the larger
  uint64_t holder, attempt;

  struct Entry {
    uint64_t input_low, input_high, state_digest;
    uint32_t offset, bytes, crc, steps;
  };
  Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
  const Entry* entries() const { return reinterpret_cast<const Entry*>(this + 1); }
  uint64_t Seal(uint32_t head_crc) const {
    return kHalfTag | Crc32c(&epoch, sizeof(Half) - sizeof(seal) + answers * sizeof(Entry), head_crc);
  }
};

void Slot::Lay(const store::v1::SessionIdentity& identity) {
  static_assert(sizeof(Half) == 120 && sizeof(Half::Entry) == 40, "docs/state_format.md");
  window_ = identity.window();
  state_floats_ = identity.state_floats();
  ring_bytes_ = identity.ring_bytes();
  initial_floats_ = identity.own_initial_state() ? state_floats_ : 0;
  initial_at_ = Aligned(sizeof(Head) + identity.ByteSizeLong());
  half_at_ = Aligned(initial_at_ + initial_floats_ * sizeof(float), kBlock);
  state_in_half_ = Aligned(sizeof(Half) + window_ * sizeof(Half::Entry));
  half_bytes_ = Aligned(state_in_half_ + state_floats_ * sizeof(float), kBlock);
  ring_at_ = half_at_ + 2 * half_bytes_;
}

size_t Slot::BytesFor(const store::v1::SessionIdentity& identity) {
  Slot slot({});
  slot.Lay(identity);
  return slot.ring_at_ + slot.ring_bytes_;
}

Slot::Half* Slot::half(size_t i) const { return reinterpret_cast<Half*>(memory_.data() + half_at_ + i * half_bytes_); }
float* Slot::state_of(size_t i) const { return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(half(i)) + state_in_half_); }
std::span<const float> Slot::state() const { return {state_of(current_), state_floats_}; }
std::span<const float> Slot::initial() const {
  return {reinterpret_cast<const float*>(memory_.data() + initial_at_), initial_floats_};
}

// Everything of the head but its seal, by which it counts.
void Slot::BeginHead(const store::v1::SessionIdentity& identity, const void* initial) {
  Lay(identity);
  auto* head = reinterpret_cast<Head*>(memory_.data());
  const std::string bytes = identity.SerializeAsString();
  SetSeal(&head->seal, kPartialSlot);
  head->format_version = kFormatVersion;
  head->identity_bytes = static_cast<uint32_t>(bytes.size());
  head->initial_floats = initial_floats_;
  head->reserved = 0;
  std::memcpy(memory_.data() + sizeof(Head), bytes.data(), bytes.size());
  if (initial_floats_ > 0) std::memcpy(memory_.data() + initial_at_, initial, initial_floats_ * sizeof(float));
  head_crc_ = HeadCrc(*head, memory_.data() + sizeof(Head), this->initial().data());
}

void Slot::SealHead() {
  core::FailPoint("open.before_seal");
  SetSeal(&reinterpret_cast<Head*>(memory_.data())->seal, kHeadTag | head_crc_);
  core::FailPoint("open.after_seal");
}

Slot Slot::Create(std::span<std::byte> memory, const store::v1::SessionIdentity& identity, std::span<const float> initial,
                  const StoredPosition& position, std::span<const float> state) {
  Slot slot(memory);
  slot.BeginHead(identity, initial.data());
  slot.WriteHalf(position, state);
  slot.SealHead();
  return slot;
}

store::v1::SessionIdentity Slot::identity() const {
  store::v1::SessionIdentity out;
  out.ParseFromArray(memory_.data() + sizeof(Head), static_cast<int>(reinterpret_cast<const Head*>(memory_.data())->identity_bytes));
  return out;
}

bool Slot::Fits(const store::v1::SessionIdentity& identity, size_t memory) {
  return identity.session_id().size() == sizeof(SessionId) && identity.window() > 0 && identity.window() <= kMaxWindow &&
         identity.state_floats() <= memory / sizeof(float) && identity.ring_bytes() <= memory && BytesFor(identity) <= memory;
}

void AnswerCrc::Extend(std::span<const std::byte> answer, size_t to) {
  crc = Crc32c(answer.data() + bytes, to - bytes, crc);
  bytes = to;
}

absl::StatusOr<Slot> Slot::Open(std::span<std::byte> memory, store::v1::SessionIdentity* identity) {
  const auto* head = reinterpret_cast<const Head*>(memory.data());
  const auto damaged = [](const char* what) { return absl::DataLossError(absl::StrCat("the stored session is damaged: ", what)); };
  if (memory.size() < sizeof(Head)) return damaged("it has no room for a head");
  if (head->seal == 0 || head->seal == kPartialSlot) return absl::NotFoundError("the slot is free");
  if ((head->seal & kTagMask) != kHeadTag) return damaged("its first word");
  if (head->format_version != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the slot has format version ", head->format_version, ", expected ", kFormatVersion));
  }
  const size_t room = memory.size() - sizeof(Head);
  if (head->identity_bytes > std::min<size_t>(room, INT_MAX) || !identity->ParseFromArray(memory.data() + sizeof(Head), static_cast<int>(head->identity_bytes)) ||
      !Fits(*identity, memory.size())) {
    return damaged("its identity does not fit its slot");
  }
  Slot slot(memory);
  slot.Lay(*identity);
  // The layout comes from the sizes that the writer's encoding had: another encoding of the same message is not followed.
  if (identity->ByteSizeLong() != head->identity_bytes || head->initial_floats != slot.initial_floats_) return damaged("its identity");
  slot.head_crc_ = HeadCrc(*head, memory.data() + sizeof(Head), slot.initial().data());
  if (head->seal != (kHeadTag | slot.head_crc_)) return damaged("its identity's seal");
  StoredPosition positions[2];
  std::vector<StoredAnswer> unused;
  uint64_t serials[2] = {};
  const bool whole[2] = {slot.ReadHalf(0, &positions[0], &unused, &serials[0]), slot.ReadHalf(1, &positions[1], &unused, &serials[1])};
  if (!whole[0] && !whole[1]) return damaged("neither half is whole");
  slot.UseHalf(whole[1] && (!whole[0] || serials[1] > serials[0]) ? 1 : 0);
  return slot;
}

bool Slot::ReadHalf(size_t i, StoredPosition* position, std::vector<StoredAnswer>* answers, uint64_t* serial) const {
  const Half& h = *half(i);
  if ((h.seal & kTagMask) != kHalfTag || h.answers > window_ || h.seal != h.Seal(head_crc_)) return false;
  if (h.acked > h.applied || h.applied - h.acked != h.answers) return false;
  *position = {h.epoch, h.applied, h.acked, h.steps, h.state_digest, h.last_used_unix_us, h.holder, h.attempt, {}};
  std::memcpy(position->token_hash.data(), h.token_hash, sizeof(h.token_hash));
  *serial = h.serial;
  answers->clear();
  for (uint32_t k = 0; k < h.answers; ++k) {
    const Half::Entry& e = h.entries()[k];
    if (e.offset > ring_bytes_ || e.bytes > ring_bytes_ - e.offset) return false;
    answers->push_back({{e.input_low, e.input_high}, e.state_digest, e.offset, e.bytes, e.crc, e.steps});
  }
  return true;
}

bool Slot::UseHalf(size_t i) {
  std::vector<StoredAnswer> answers;
  if (!ReadHalf(i, &position_, &answers, &serial_)) return false;
  current_ = i;
  answers_ = {};
  for (const StoredAnswer& answer : answers) answers_.push_back(answer);
  return true;
}

absl::Status Slot::Verify() {
  // The answers too: a power cut may leave the newest half and not the answer that it speaks of, and the one before is whole.
  const auto good = [this] {
    bool all = StateDigest(state()) == position_.state_digest;
    for (size_t i = 0; all && i < answers_.size(); ++i) all = ReadAnswer(i).ok();
    return all;
  };
  if (good()) return absl::OkStatus();
  if (UseHalf(1 - current_) && good()) return absl::OkStatus();
  return absl::DataLossError("the stored state or an answer is damaged: neither half has both as they were written");
}

absl::StatusOr<std::span<const std::byte>> Slot::ReadAnswer(size_t i) const {
  if (i >= answers_.size()) return absl::DataLossError("an answer that was given is not stored");  // a rule was broken
  const StoredAnswer& stored = answers_[i];
  const std::span<const std::byte> bytes(ring() + stored.offset, stored.bytes);
  if (Crc32c(bytes.data(), bytes.size()) != stored.crc) {
    return absl::DataLossError(absl::StrCat("the stored answer to seq ", position_.acked + i + 1, " is damaged"));
  }
  return bytes;
}

std::optional<uint32_t> Slot::Place(size_t bytes) const {
  if (bytes > ring_bytes_) return std::nullopt;
  if (Mutant(22)) return 0;
  const auto is_free = [&](size_t at) {
    if (at + bytes > ring_bytes_) return false;
    for (size_t i = 0; i < answers_.size(); ++i) {
      const StoredAnswer& a = answers_[i];
      if (at < size_t{a.offset} + a.bytes && a.offset < at + bytes) return false;
    }
    return true;
  };
  // An answer of no bytes stays behind the newest: the place of the one after it is looked for there.
  if (bytes > 0 && is_free(0)) return 0;  // the beginning first: what is warm in the cache stays small
  if (answers_.empty()) return bytes > 0 ? std::nullopt : std::optional<uint32_t>(0);
  const StoredAnswer& newest = answers_[answers_.size() - 1];
  const size_t behind = size_t{newest.offset} + newest.bytes;
  return is_free(behind) ? std::optional(static_cast<uint32_t>(behind)) : std::nullopt;
}

std::span<float> Slot::BeginState() {
  if (Mutant(25) && serial_ > 0) SetSeal(&half(current_)->seal, half(current_)->Seal(head_crc_));
  SetSeal(&half(1 - current_)->seal, 0);
  return {state_of(1 - current_), state_floats_};
}

void Slot::PrefetchCommit() const {
  constexpr size_t kLine = 64;
  const auto* next = reinterpret_cast<const std::byte*>(half(1 - current_));
  for (size_t at = 0; at < std::min(state_in_half_, kMostPrefetched); at += kLine) __builtin_prefetch(next + at, 1);
}

void Slot::Commit(const StoredPosition& position, std::span<const float> state, const InputDigest& input, uint32_t steps,
                  uint32_t place, std::span<const std::byte> answer, AnswerCrc crc) {
  core::FailPoint("commit.before_answer");
  if (answer.data() != ring() + place) std::memcpy(ring() + place, answer.data(), answer.size());
  crc.Extend(answer, answer.size());
  answers_.push_back({input, position.state_digest, place, static_cast<uint32_t>(answer.size()), crc.crc, steps});
  core::FailPoint("commit.after_answer");
  WriteHalf(position, state);
}

void Slot::Commit(const StoredPosition& position) { WriteHalf(position, state()); }

void Slot::WriteHalf(const StoredPosition& position, std::span<const float> state) {
  const size_t next = Mutant(23) ? current_ : 1 - current_;
  const bool late = Mutant(25) && position.applied > position_.applied;  // a turn counts only when the next one begins
  if (Mutant(25) && serial_ > 0) SetSeal(&half(current_)->seal, half(current_)->Seal(head_crc_));
  Half* h = half(next);
  SetSeal(&h->seal, 0);
  core::FailPoint("commit.before_half");
  while (!answers_.empty() && position.applied - answers_.size() < position.acked) answers_.pop_front();
  h->epoch = position.epoch;
  h->applied = position.applied;
  h->acked = position.acked;
  h->steps = position.steps;
  h->state_digest = position.state_digest;
  h->last_used_unix_us = position.last_used_unix_us;
  h->holder = position.holder;
  h->attempt = position.attempt;
  h->answers = static_cast<uint32_t>(answers_.size());
  h->reserved = 0;
  std::memcpy(h->token_hash, position.token_hash.data(), sizeof(h->token_hash));
  h->serial = serial_ + 1;
  for (uint32_t k = 0; k < h->answers; ++k) {
    const StoredAnswer& a = answers_[k];
    h->entries()[k] = {a.input.low, a.input.high, a.state_digest, a.offset, a.bytes, a.crc, a.steps};
  }
  const uint64_t seal = h->Seal(head_crc_);  // before the state is copied: it reads what was written just now
  core::FailPoint("commit.before_state");
  if (state.data() != state_of(next)) std::memcpy(state_of(next), state.data(), state.size_bytes());
  core::FailPoint("commit.before_flip");
  if (!late) SetSeal(&h->seal, seal);
  current_ = next;
  ++serial_;
  position_ = position;
  core::FailPoint("commit.after_flip");
}

}  // namespace lstm::server
