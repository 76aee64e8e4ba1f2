// SPDX-License-Identifier: MIT
#include "server/store/park_log.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/fail_point.h"
#include "core/base/status_macros.h"
#include "server/store/park_log_parts.h"

namespace lstm::server {

ParkLog::~ParkLog() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  if (log_.joinable()) log_.join();  // first: it may wait for a segment that the other one makes
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    syncs_end_ = true;
  }
  sync_wanted_.notify_all();
  if (syncer_.joinable()) syncer_.join();
  if (directory_ >= 0) close(directory_);
}

void ParkLog::Append(const About& about, std::string bytes, std::function<void(absl::StatusOr<Key>)> done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    appends_.push_back({about, std::move(bytes), std::move(done)});
  }
  work_.notify_one();
}

// Without the lock over the eight bytes: nobody moves or ends a record that does not count yet.
absl::Status ParkLog::Seal(Key key) {
  std::unique_lock<std::mutex> lock(mutex_);
  const Entry entry = entries_[key];
  const SegmentRef segment = SegmentOf(entry);
  lock.unlock();
  core::FailPoint("park.before_seal");
  LSTM_RETURN_IF_ERROR(entry.SetTag(*segment, ParkTag::kCounts));
  core::FailPoint("park.after_seal");
  lock.lock();
  entries_[key].state = ParkState::kCounts;
  --segment->unsealed;
  return absl::OkStatus();
}

// Of a record that is being moved, the old place: it goes no sooner than the new one is on the disk.
void ParkLog::Sync(Key key, std::function<void(const absl::Status&)> done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    syncs_.push_back({SegmentOf(entries_[key]), std::move(done)});
  }
  sync_wanted_.notify_one();
}

void ParkLog::Read(Key key, std::function<void(absl::StatusOr<std::string>)> done) {
  auto job = [this, key, done = std::move(done)] {
    std::unique_lock<std::mutex> lock(mutex_);
    const Entry entry = entries_[key];
    const SegmentRef segment = SegmentOf(entry);
    lock.unlock();
    ParkRecordHeader header;
    std::string payload;
    const absl::Status read = entry.Read(*segment, header, payload);
    done(read.ok() ? absl::StatusOr<std::string>(std::move(payload)) : read);
  };
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  work_.notify_one();
}

void ParkLog::Remove(Key key) {
  std::unique_lock<std::mutex> lock(mutex_);
  moved_.wait(lock, [&] { return entries_[key].state != ParkState::kMoving; });  // for eight bytes that another writes
  const Entry entry = entries_[key];
  const SegmentRef segment = SegmentOf(entry), victim = victim_;
  const Twin* twin = TwinOf(key);
  const Entry old = twin != nullptr ? twin->old : Entry();
  entries_[key].state = ParkState::kRemoving;
  lock.unlock();
  core::FailPoint("park.before_remove");
  // Nothing more can be done where the disk fails: the next start finds it again, with the serial that it has.
  if (!old.free()) old.SetTag(*victim, ParkTag::kRemoved).IgnoreError();
  entry.SetTag(*segment, ParkTag::kRemoved).IgnoreError();
  core::FailPoint("park.after_remove");
  lock.lock();
  if (Twin* const still = TwinOf(key); still != nullptr) Gone(std::exchange(still->old, Entry()));
  if (entry.state == ParkState::kWritten) --segment->unsealed;
  Gone(entry);
  FreeKey(key);
  look_ = true;
  lock.unlock();
  work_.notify_one();
}

std::vector<ParkedStore::Found> ParkLog::TakeFound() { return std::exchange(found_, {}); }

ParkLog::Key ParkLog::TakeKey(const Entry& entry) {
  static_assert(sizeof(Entry) == 16);
  if (free_ == UINT32_MAX) {
    entries_.push_back(entry);
    return static_cast<Key>(entries_.size() - 1);
  }
  const Key key = std::exchange(free_, entries_[free_].segment);
  entries_[key] = entry;
  return key;
}

void ParkLog::FreeKey(Key key) {
  entries_[key] = Entry();
  entries_[key].segment = std::exchange(free_, key);
}

ParkLog::SegmentRef ParkLog::SegmentOf(const Entry& entry) const { return segments_.at(entry.segment); }

void ParkLog::Count(const Entry& entry, int by) {
  Segment& segment = *SegmentOf(entry);
  segment.living += static_cast<uint64_t>(by) * entry.bytes();
  segment.records += static_cast<uint32_t>(by);
}

void ParkLog::Gone(const Entry& entry) {
  Count(entry, -1);
  const SegmentRef segment = SegmentOf(entry);
  if (segment->records > 0 || segment == newest_) WipeSoon(entry);
  UnlinkIfEmpty(segment);
}

// The tag too: it is not set yet where the record never counted.
void ParkLog::WipeSoon(const Entry& entry) {
  jobs_.push_back([segment = SegmentOf(entry), entry] {
    entry.SetTag(*segment, ParkTag::kRemoved).IgnoreError();
    ParkWipe(segment->fd, entry.at() + kParkStep, entry.payload_bytes);
  });
}

void ParkLog::UnlinkIfEmpty(const SegmentRef& segment) {
  if (segment->records > 0 || segment == newest_ || segments_.erase(segment->number) == 0) return;
  jobs_.push_back([this, number = segment->number, bytes = segment->end] {
    unlinkat(directory_, Segment::Name(number).c_str(), 0);
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_ -= bytes;  // now, and not when it was decided: until then the disk has them
  });
}

absl::StatusOr<ParkLog::SegmentRef> ParkLog::Room(uint64_t record_bytes, uint64_t limit) {
  if (record_bytes > UINT32_MAX) return absl::ResourceExhaustedError("a session is larger than a parked one can be");
  if (record_bytes + kParkStep > limit - std::min(limit, bytes_)) {
    return absl::ResourceExhaustedError(absl::StrCat("no room for another parked session: the ", options_.max_bytes, " bytes for them are in use"));
  }
  if (newest_ != nullptr && newest_->failed.ok() && (newest_->end + record_bytes <= options_.segment_bytes || newest_->end == kParkStep)) return newest_;
  if (spare_ != nullptr) {
    const SegmentRef before = std::exchange(newest_, std::exchange(spare_, nullptr));
    segments_[newest_->number] = newest_;
    if (before != nullptr) UnlinkIfEmpty(before);
    look_ = true;
    return newest_;
  }
  if (!not_made_.ok()) return std::exchange(not_made_, absl::OkStatus());
  making_ = awaited_ = true;
  sync_wanted_.notify_one();
  return nullptr;
}

// The payload first: a header has one that the file holds.
absl::StatusOr<ParkLog::Entry> ParkLog::Write(Segment& to, const About& about, const std::string& bytes) {
  const ParkRecordHeader header = ParkRecordHeader::Make(to.key, about, bytes);
  absl::Status written = ParkWrite(to.fd, bytes.data(), bytes.size(), to.end + kParkStep);
  if (written.ok()) written = ParkWrite(to.fd, &header, sizeof(header), to.end);
  if (!written.ok()) {
    if (ftruncate(to.fd, static_cast<off_t>(to.end)) != 0) return written;  // the next one is written upon what it leaves
    return written;
  }
  const Entry entry = Entry::At(to, to.end, ParkState::kWritten, header);
  const std::lock_guard<std::mutex> lock(mutex_);
  to.end += entry.bytes();
  bytes_ += entry.bytes();
  if (to.end > options_.segment_bytes / 2 && spare_ == nullptr && !std::exchange(making_, true)) sync_wanted_.notify_one();
  return entry;
}

void ParkLog::LogLoop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    bool worked = false;
    if (!jobs_.empty()) {
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
      worked = true;
    }
    if (!appends_.empty()) {
      const absl::StatusOr<SegmentRef> room = Room(ParkRecordBytes(appends_.front().bytes.size()), options_.max_bytes - options_.segment_bytes);
      if (!room.ok() || *room != nullptr) {
        const Appending one = std::move(appends_.front());
        appends_.pop_front();
        lock.unlock();
        const absl::StatusOr<Entry> written = room.ok() ? Write(**room, one.about, one.bytes) : room.status();
        absl::StatusOr<Key> key = 0;
        lock.lock();
        if (written.ok()) {
          key = TakeKey(*written);
          Count(*written, 1);
          ++(*room)->unsealed;
        } else {
          key = written.status();
          refused_ = look_ = true;
        }
        lock.unlock();
        core::FailPoint("park.after_append");
        one.done(key);
        lock.lock();
        worked = true;
      }
    }
    if (!ending_ && Clean(lock)) worked = true;
    if (worked) continue;
    if (ending_ && jobs_.empty() && appends_.empty()) return;
    work_.wait(lock);
  }
}

// On the syncing thread, that no reader waits for it; on the disk before a record is in it: a header that a loss of power took
// would be damage.
absl::StatusOr<ParkLog::SegmentRef> ParkLog::MakeSegment(uint32_t number) {
  uint64_t key;
  if (RAND_bytes(reinterpret_cast<unsigned char*>(&key), sizeof(key)) != 1) return absl::InternalError("no randomness");
  const std::string name = Segment::Name(number);
  const int fd = openat(directory_, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return absl::ResourceExhaustedError(absl::StrCat("no room for another parked session: ", std::strerror(errno)));
  const auto segment = std::make_shared<Segment>(number, fd);
  segment->key = key;
  const ParkSegmentHeader header = ParkSegmentHeader::Make(key, number, options_.instance);
  core::FailPoint("park.before_header");
  absl::Status made = ParkWrite(fd, &header, sizeof(header), 0);
  if (made.ok() && (fsync(fd) != 0 || fsync(directory_) != 0)) made = absl::ResourceExhaustedError(absl::StrCat("no room for another parked session: ", std::strerror(errno)));
  core::FailPoint("park.after_header");
  if (made.ok()) return segment;
  unlinkat(directory_, name.c_str(), 0);
  return made;
}

void ParkLog::SyncLoop() {
  std::vector<Syncing> group;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    sync_wanted_.wait(lock, [this] { return !syncs_.empty() || making_ || syncs_end_; });
    if (syncs_.empty() && !making_) return;
    if (making_) {
      const uint32_t number = next_number_++;
      lock.unlock();
      absl::StatusOr<SegmentRef> made = MakeSegment(number);
      lock.lock();
      if (made.ok()) {
        spare_ = *std::move(made);
        bytes_ += kParkStep;
      } else if (awaited_) {
        not_made_ = made.status();
      }
      making_ = awaited_ = false;
      work_.notify_one();
    }
    group.swap(syncs_);  // what comes while the disk works goes with the next group
    lock.unlock();
    std::map<SegmentRef, absl::Status> synced;
    for (const Syncing& one : group) {
      if (synced.contains(one.segment)) continue;
      absl::Status status = one.segment->failed;  // this thread's own, but for who looks where to write
      if (status.ok() && fdatasync(one.segment->fd) != 0) status = absl::ErrnoToStatus(errno, "fdatasync");
      synced[one.segment] = status;
      const std::lock_guard<std::mutex> again(mutex_);
      one.segment->failed = status;
    }
    for (const Syncing& one : group) one.done(synced[one.segment]);
    group.clear();
    lock.lock();
  }
}

}  // namespace lstm::server
