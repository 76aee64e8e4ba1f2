// SPDX-License-Identifier: MIT
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/session/expiry.h"
#include "server/shard/shard.h"

// What time does to sessions: warnings, ends, and a place to be idle in.
namespace lstm::server {
namespace {

constexpr size_t kSmallResponse = 256;
constexpr uint64_t kMicros = 1'000'000;
// Thousands may become idle at once, after a restart above all: steps go on in between.
constexpr size_t kParkedAtOnce = 32;
constexpr uint64_t kParkPauseUs = 2'000;
constexpr size_t kRestingAtOnce = 256;

}  // namespace

void Shard::SetAlarm(Session* session) {
  const uint64_t now = services_.clock();
  const Expiry expiry = ExpiryOf(now, session->last_used_us, session->ttl_us, session->stream != nullptr, session->warned);
  table_.SetAlarm(session, expiry.expired || expiry.warn ? now : std::min(expiry.look_again_us, IdleAt(*session, now)));
}

// When to see whether it is idle enough to be parked, or to rest.
uint64_t Shard::IdleAt(const Session& session, uint64_t now) const {
  if (services_.parked == nullptr && session.stored()) return UINT64_MAX;
  const uint64_t idle_at = session.last_used_us + options_.park_after_us;
  return idle_at > now ? idle_at : now + options_.park_after_us;
}

void Shard::RunTimers() {
  const uint64_t now = services_.clock();
  Sweep(now);  // what it wakes may have an alarm that is due
  for (size_t parked = 0, resting = 0; now >= next_alarms_us_;) {
    if (parked == kParkedAtOnce || resting == kRestingAtOnce) next_alarms_us_ = now + kParkPauseUs;
    Session* const session = now >= next_alarms_us_ ? table_.PopDue(now) : nullptr;
    if (session == nullptr) break;
    const bool busy = session->machine.waiting() > 0 || session->syncing;
    const Expiry expiry = ExpiryOf(now, busy ? now : session->last_used_us, session->ttl_us, session->stream != nullptr && !busy, session->warned);
    if (expiry.expired) {
      const std::string why = absl::StrCat("the session expired: no step for ", session->ttl_us / kMicros, " s; open another, with a longer ttl_seconds where it pauses");
      Tell(session, v1::EXPIRED, why);
      EndSession(session, v1::EXPIRED, why);
      continue;
    }
    if (expiry.warn) {
      v1::Expiring* expiring = session->stream->sink_->Next(kSmallResponse)->mutable_expiring();
      expiring->set_lane(session->lane);
      expiring->set_in_ms(static_cast<uint32_t>(expiry.left_us / 1000));
      session->warned = true;
    }
    table_.SetAlarm(session, std::min(expiry.look_again_us, IdleAt(*session, now)));
    if (session->last_used_us + options_.park_after_us > now) continue;
    if (MayPark(*session)) {
      ++parked;
      Park(session);
    } else if (MayRest(*session)) {
      ++resting;
      LayToRest(session);
    }
  }
}

void Shard::BeginSweeping() {
  if (parked_.size() + resting_.size() == 0) next_sweep_us_ = services_.clock() + kSweepEveryUs;
}

// One part of those that nobody uses.
void Shard::Sweep(uint64_t now) {
  if (parked_.size() + resting_.size() == 0 || now < next_sweep_us_) return;
  const uint64_t parts = std::min<uint64_t>(ParkedIndex::kParts, 1 + (now - next_sweep_us_) / kSweepEveryUs);
  next_sweep_us_ = now + kSweepEveryUs;
  for (uint64_t part = 0; part < parts; ++part) {
    SweepParked(now);
    SweepResting(now);
  }
}

}  // namespace lstm::server
