// SPDX-License-Identifier: MIT
// How ParkLog gives space back: the living records of a segment are moved to the end of the log, one a step, so that whoever
// reads or appends waits for one at most. A kill or a loss of power at any instant leaves a record in its old place, in its
// new one, or in both:
//   1. it is copied, and the copy does not count;   2. the copy counts, too;   3. all copies are synced;
//   4. the old ones are removed, and the file goes.
#include <algorithm>
#include <utility>

#include "core/base/fail_point.h"
#include "server/store/park_log_parts.h"

namespace lstm::server {
namespace {

constexpr int kLooks = 4096, kEnds = 64;  // entries, twins a step

}  // namespace

ParkLog::Twin* ParkLog::TwinOf(Key key) {
  const auto it = std::lower_bound(twins_.begin(), twins_.end(), key, [](const Twin& twin, Key k) { return twin.key < k; });
  return it != twins_.end() && it->key == key && !it->old.free() ? &*it : nullptr;
}

bool ParkLog::PickVictim() {
  if (!std::exchange(look_, false)) return false;
  const bool refused = std::exchange(refused_, false);
  uint64_t living = 0, dead = 0, most = 0;
  for (const auto& [number, segment] : segments_) {
    living += segment->living;
    if (segment == newest_ || segment->stuck) continue;
    // What a start left unwritten is dead too: many starts, one segment. Of max_bytes it takes nothing.
    const uint64_t its = std::max(segment->end, refused ? 0 : options_.segment_bytes) - kParkStep - segment->living;
    dead += its;
    if (its <= most || segment->unsealed > 0) continue;
    most = its;
    victim_ = segment;
  }
  const bool worth = dead > living + options_.segment_bytes || (refused && most > options_.segment_bytes / 4);
  if (most == 0 || !worth) {
    victim_ = nullptr;
    return false;
  }
  cursor_ = 0;
  cleaning_ = Cleaning::kMoves;
  return true;
}

bool ParkLog::Clean(std::unique_lock<std::mutex>& lock) {
  if (cleaning_ == Cleaning::kIdle) return PickVictim();
  if (cleaning_ == Cleaning::kMoves) return MoveOne(lock);
  if (cleaning_ != Cleaning::kEnds) return false;
  for (int n = 0; n < kEnds && twins_ended_ < twins_.size(); ++n, ++twins_ended_) {
    const Entry old = twins_[twins_ended_].old;
    if (old.free()) continue;
    lock.unlock();
    const absl::Status tagged = old.SetTag(*victim_, ParkTag::kRemoved);
    lock.lock();
    Twin& twin = twins_[twins_ended_];
    if (twin.old.free()) continue;  // removed meanwhile
    if (!tagged.ok()) {
      cleaning_ = Cleaning::kFailed;
      return true;
    }
    twin.old = Entry();
    Count(old, -1);  // not wiped: the file goes, or what stays of it is moved another time
  }
  if (twins_ended_ < twins_.size()) return true;
  core::FailPoint("park.before_unlink");
  UnlinkIfEmpty(std::exchange(victim_, nullptr));
  if (!twins_.empty()) look_ = true;  // not where nothing could be moved: it would look without end
  twins_ = {};
  twins_ended_ = 0;
  cleaning_ = Cleaning::kIdle;
  return true;
}

bool ParkLog::MoveOne(std::unique_lock<std::mutex>& lock) {
  const auto here = [&](const Entry& e) { return !e.free() && e.segment == victim_->number && e.state == ParkState::kCounts; };
  for (int looks = 0; looks < kLooks && cursor_ < entries_.size() && !here(entries_[cursor_]); ++looks) ++cursor_;
  if (cursor_ == entries_.size()) {
    EndMoves();
    return true;
  }
  if (!here(entries_[cursor_])) return true;
  const absl::StatusOr<SegmentRef> room = Room(entries_[cursor_].bytes(), options_.max_bytes);
  if (room.ok() && *room == nullptr) return false;
  if (!room.ok()) {
    EndMoves();
    return true;
  }
  const Key key = cursor_++;
  const Entry old = entries_[key];
  const SegmentRef to = *room;
  lock.unlock();
  ParkRecordHeader header;
  std::string payload;
  const absl::Status read = old.Read(*victim_, header, payload);
  absl::StatusOr<Entry> copy = read.ok() ? Write(*to, header.about(), payload) : read;
  core::FailPoint("park.after_copy");
  lock.lock();
  if (!read.ok()) {
    victim_->stuck = true;  // it stays where it is, and Read says what it is
    return true;
  }
  if (!copy.ok()) {
    EndMoves();
    return true;
  }
  if (entries_[key].free() || entries_[key].segment != old.segment || entries_[key].step != old.step || entries_[key].state != ParkState::kCounts) {
    WipeSoon(*copy);  // removed meanwhile
    return true;
  }
  entries_[key].state = ParkState::kMoving;
  lock.unlock();
  const absl::Status sealed = copy->SetTag(*to, ParkTag::kCounts);
  core::FailPoint("park.after_move");
  lock.lock();
  entries_[key].state = ParkState::kCounts;
  if (sealed.ok()) {
    copy->state = ParkState::kCounts;
    entries_[key] = *copy;
    Count(*copy, 1);
    twins_.push_back({key, old});
    moved_to_[to->number] = to;
  } else {
    WipeSoon(*copy);
    victim_->stuck = true;
  }
  moved_.notify_all();
  return true;
}

void ParkLog::EndMoves() {
  moves_unsynced_ = moved_to_.size();
  cleaning_ = moved_to_.empty() ? Cleaning::kEnds : Cleaning::kSyncs;
  for (const auto& [number, segment] : std::exchange(moved_to_, {})) {
    syncs_.push_back({segment, [this](const absl::Status& status) {
                        const std::lock_guard<std::mutex> lock(mutex_);
                        --moves_unsynced_;
                        if (!status.ok()) cleaning_ = Cleaning::kFailed;  // both places stay; nothing is moved any more
                        if (moves_unsynced_ == 0 && cleaning_ == Cleaning::kSyncs) cleaning_ = Cleaning::kEnds;
                        work_.notify_one();
                      }});
  }
  sync_wanted_.notify_one();
}

}  // namespace lstm::server
