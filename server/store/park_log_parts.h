// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "server/store/park_log.h"
#include "server/store/park_record.h"

namespace lstm::server {

// What ParkLog's sources share. All of it is guarded by its lock, but for what never changes.

struct ParkLog::Segment {
  Segment(uint32_t its_number, int file) : number(its_number), fd(file) {}
  ~Segment() { close(fd); }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  static std::string Name(uint32_t number) { return absl::StrCat("parked-", number); }

  const uint32_t number;
  const int fd;
  uint64_t key = 0;                    // never changes once it is known
  uint64_t end = kParkStep;            // where the next record begins; the log's thread alone moves it
  uint64_t living = 0;                 // bytes of records that count or may yet
  uint32_t records = 0, unsealed = 0;  // of these; of these that do not count yet
  bool stuck = false;                  // a record of it cannot be moved
  absl::Status failed;                 // after one failure the kernel calls pages clean that are not on the disk
};

enum class ParkState : uint32_t { kWritten, kCounts, kMoving, kRemoving };

struct ParkLog::Entry {
  uint32_t segment = 0;  // of a free entry: the next free one
  uint32_t step : 30 = 0;  // of 64 bytes, where its header is; 0: a free entry
  ParkState state : 2 = ParkState::kWritten;
  uint32_t payload_bytes = 0;
  uint32_t crc = 0;  // of its header

  uint64_t at() const { return uint64_t{step} * kParkStep; }
  uint64_t bytes() const { return ParkRecordBytes(payload_bytes); }
  bool free() const { return step == 0; }
  static Entry At(const Segment& in, uint64_t at, ParkState state, const ParkRecordHeader& header) {
    Entry entry;
    entry.segment = in.number;
    entry.step = static_cast<uint32_t>(at / kParkStep) & ((1u << 30) - 1);
    entry.state = state;
    entry.payload_bytes = header.payload_bytes;
    entry.crc = header.crc;
    return entry;
  }
  absl::Status SetTag(const Segment& in, ParkTag tag) const { return ParkSetTag(in.fd, at(), crc, tag); }
  absl::Status Read(const Segment& in, ParkRecordHeader& header, std::string& payload) const {
    return ParkRead(in.fd, in.key, at(), crc, payload_bytes, header, payload);
  }
};

struct ParkLog::Twin {
  Key key;
  Entry old;  // free: it is no more
};

struct ParkLog::Appending {
  About about;
  std::string bytes;
  std::function<void(absl::StatusOr<Key>)> done;
};

struct ParkLog::Syncing {
  SegmentRef segment;
  std::function<void(const absl::Status&)> done;
};

}  // namespace lstm::server
