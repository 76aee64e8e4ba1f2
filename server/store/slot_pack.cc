// SPDX-License-Identifier: MIT
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session/digest.h"
#include "server/store/crc32c.h"
#include "server/store/slot.h"

// A session between its slot and the log of parked ones.
namespace lstm::server {
namespace {

constexpr uint32_t kMostRing = 64u << 20;

std::string FloatBytes(std::span<const float> floats) {
  return std::string(reinterpret_cast<const char*>(floats.data()), floats.size_bytes());
}

}  // namespace

store::v1::ParkedSession Slot::Pack() const {
  store::v1::ParkedSession out;
  *out.mutable_identity() = identity();
  out.set_epoch(position_.epoch);
  out.set_applied_seq(position_.applied);
  out.set_acked_seq(position_.acked);
  out.set_steps(position_.steps);
  out.set_state_digest(position_.state_digest);
  out.set_last_used_unix_us(position_.last_used_unix_us);
  out.set_holder(position_.holder);
  out.set_attempt(position_.attempt);
  out.set_token_hash(position_.token_hash.data(), position_.token_hash.size());
  out.set_serial(serial_);
  out.set_state(FloatBytes(state()));
  out.set_initial_state(FloatBytes(initial()));
  for (size_t i = 0; i < answers_.size(); ++i) {
    const StoredAnswer& from = answers_[i];
    store::v1::ParkedSession::Answer* answer = out.add_answers();
    answer->set_input_low(from.input.low);
    answer->set_input_high(from.input.high);
    answer->set_state_digest(from.state_digest);
    answer->set_steps(from.steps);
    answer->set_answer(ring() + from.offset, from.bytes);
  }
  return out;
}

bool Slot::IsSane(const store::v1::ParkedSession& parked) {
  const store::v1::SessionIdentity& identity = parked.identity();
  if (identity.ring_bytes() > kMostRing || parked.state().size() != identity.state_floats() * sizeof(float)) return false;
  if (parked.initial_state().size() != (identity.own_initial_state() ? parked.state().size() : 0)) return false;
  if (!Fits(identity, BytesFor(identity))) return false;
  const uint64_t answers = static_cast<uint64_t>(parked.answers_size());
  if (parked.acked_seq() > parked.applied_seq() || parked.applied_seq() - parked.acked_seq() != answers || answers > identity.window()) return false;
  uint64_t bytes = 0;
  for (const store::v1::ParkedSession::Answer& answer : parked.answers()) bytes += answer.answer().size();
  return bytes <= identity.ring_bytes() && parked.token_hash().size() == sizeof(StoredPosition::token_hash);
}

absl::StatusOr<Slot> Slot::Unpack(std::span<std::byte> memory, const store::v1::ParkedSession& parked) {
  Slot slot(memory);
  slot.BeginHead(parked.identity(), parked.initial_state().data());
  StoredPosition position{.epoch = parked.epoch(), .applied = parked.applied_seq(), .acked = parked.acked_seq(), .steps = parked.steps(),
                          .state_digest = parked.state_digest(), .last_used_unix_us = parked.last_used_unix_us(), .holder = parked.holder(),
                          .attempt = parked.attempt(), .token_hash = {}};
  std::memcpy(position.token_hash.data(), parked.token_hash().data(), position.token_hash.size());
  size_t at = 0;
  for (const store::v1::ParkedSession::Answer& from : parked.answers()) {
    std::memcpy(slot.ring() + at, from.answer().data(), from.answer().size());
    slot.answers_.push_back({{from.input_low(), from.input_high()}, from.state_digest(), static_cast<uint32_t>(at), static_cast<uint32_t>(from.answer().size()),
                             Crc32c(slot.ring() + at, from.answer().size()), from.steps()});
    at += from.answer().size();
  }
  slot.serial_ = parked.serial();
  // By way of the half that is to be written: there it is aligned.
  float* state = slot.state_of(1 - slot.current_);
  std::memcpy(state, parked.state().data(), parked.state().size());
  if (StateDigest({state, slot.state_floats_}) != parked.state_digest()) return absl::DataLossError("the parked session is damaged: its state has another digest");
  slot.WriteHalf(position, {state, slot.state_floats_});
  slot.SealHead();
  return slot;
}

}  // namespace lstm::server
