// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "server/store/parked_store.h"

namespace lstm::server {

// The parked sessions in files of a directory ("segments", `parked-<n>`), each a log: records one behind the other, of which
// only the tag changes later (docs/state_format.md). Where few of a segment's records live they are moved to the end of the
// log, and the file goes. The directory is a Slab's, which its caller holds for as long.
//
// Two threads of its own: one writes, reads, wipes and moves, the other waits for the disk. Seal and Remove write eight bytes
// in the calling thread. A record costs 16 bytes of memory. Thread-safe.
class ParkLog : public ParkedStore {
 public:
  struct Options {
    std::string directory;               // is there
    Instance instance{};                 // the directory's
    uint64_t max_bytes = UINT64_MAX;     // of all segments; one segment's worth of it is kept for moving
    uint64_t segment_bytes = 64u << 20;  // at most a quarter of max_bytes; a larger record has a segment for itself
  };
  // DATA_LOSS: a segment is not ours or its header is damaged; it is named, and nothing was touched.
  static absl::StatusOr<std::unique_ptr<ParkLog>> Open(const Options& options);
  ~ParkLog() override;  // all that was asked for is answered first

  void Append(const About& about, std::string bytes, std::function<void(absl::StatusOr<Key>)> done) override;
  absl::Status Seal(Key key) override;
  void Sync(Key key, std::function<void(const absl::Status&)> done) override;
  void Read(Key key, std::function<void(absl::StatusOr<std::string>)> done) override;
  void Remove(Key key) override;
  std::vector<Found> TakeFound() override;

 private:
  struct Segment;
  using SegmentRef = std::shared_ptr<Segment>;  // keeps the file open for who works on it without the lock
  struct Entry;  // where a record is
  struct Twin;   // a record that was moved, and counts in its old place too until the new one is on the disk
  struct Appending;
  struct Syncing;
  enum class Cleaning { kIdle, kMoves, kSyncs, kEnds, kFailed };

  explicit ParkLog(const Options& options);
  absl::Status Load();
  absl::Status LoadSegment(uint32_t number, std::vector<Entry>& unsealed);
  absl::Status KeepOneOfEach();
  // These work without the lock, on the thread that is named.
  void LogLoop();
  void SyncLoop();
  absl::StatusOr<Entry> Write(Segment& to, const About& about, const std::string& bytes);  // the log's
  absl::StatusOr<SegmentRef> MakeSegment(uint32_t number);                                  // the syncing one
  // These are called with the lock held.
  Key TakeKey(const Entry& entry);
  void FreeKey(Key key);
  SegmentRef SegmentOf(const Entry& entry) const;
  Twin* TwinOf(Key key);
  absl::StatusOr<SegmentRef> Room(uint64_t record_bytes, uint64_t limit);  // null: soon, once the next segment is made
  void Count(const Entry& entry, int by);                                   // records that live in its segment
  void Gone(const Entry& entry);                                            // it does not live any more
  void WipeSoon(const Entry& entry);
  void UnlinkIfEmpty(const SegmentRef& segment);
  bool PickVictim();
  bool Clean(std::unique_lock<std::mutex>& lock);  // a step of it, the lock let go of for the disk; false: nothing to do now
  bool MoveOne(std::unique_lock<std::mutex>& lock);
  void EndMoves();

  const Options options_;
  int directory_ = -1;
  std::vector<Found> found_;

  std::mutex mutex_;           // never held over the disk's work; guards all up to the threads
  std::vector<Entry> entries_;  // by key
  Key free_ = UINT32_MAX;      // the first free entry
  std::map<uint32_t, SegmentRef> segments_;
  SegmentRef newest_, spare_;  // written to; made ahead of need, and in no map yet
  uint32_t next_number_ = 0;
  uint64_t bytes_ = 0;  // of all segments
  std::list<Appending> appends_;
  std::deque<std::function<void()>> jobs_;
  std::vector<Syncing> syncs_;
  bool making_ = false, awaited_ = false, refused_ = false;  // a spare; by a record; a record, for want of room
  absl::Status not_made_;
  std::condition_variable work_, sync_wanted_, moved_;
  bool ending_ = false, syncs_end_ = false;

  Cleaning cleaning_ = Cleaning::kIdle;
  bool look_ = true;  // for a victim
  SegmentRef victim_;
  Key cursor_ = 0;           // the next to move, if it is there
  std::vector<Twin> twins_;  // by key, rising
  size_t twins_ended_ = 0, moves_unsynced_ = 0;
  std::map<uint32_t, SegmentRef> moved_to_;

  std::thread log_, syncer_;
};

}  // namespace lstm::server
