// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/store/parked_store.h"

namespace lstm::server {

// The bytes of the log of parked sessions, as docs/state_format.md has them, and their way to a file. Only ParkLog's.

inline constexpr uint64_t kParkStep = 64;  // segment header, record header, and where a record may begin

// What a record is. No single bit makes one of another.
enum class ParkTag : uint32_t {
  kWritten = 0x54495257,  // "WRIT": does not count yet
  kCounts = 0x5450454b,   // "KEPT"
  kRemoved = 0x454e4f47,  // "GONE"
};

struct ParkSegmentHeader {
  uint64_t magic;
  uint64_t key;  // random: what a client put into a payload is no record of this segment, wherever it lands
  uint32_t number;
  Instance instance;
  uint32_t crc;  // of all before
  uint8_t unused[36];

  static ParkSegmentHeader Make(uint64_t key, uint32_t number, const Instance& instance);
  bool Valid(uint32_t number, const Instance& instance) const;
};
static_assert(sizeof(ParkSegmentHeader) == kParkStep);

struct ParkRecordHeader {
  uint32_t crc;  // of the segment's key, then of all after the tag, which may change
  ParkTag tag;
  uint32_t payload_bytes;
  uint32_t payload_crc;
  SessionId id;
  uint64_t serial;
  int64_t expires_unix_us;
  std::array<uint8_t, 16> model;

  static ParkRecordHeader Make(uint64_t key, const ParkedStore::About& about, std::string_view payload);
  bool Valid(uint64_t key) const;
  ParkedStore::About about() const { return {id, serial, expires_unix_us, model}; }
};
static_assert(sizeof(ParkRecordHeader) == kParkStep);

// Of a record with its header, up to where the next may begin.
constexpr uint64_t ParkRecordBytes(uint64_t payload_bytes) { return kParkStep + (payload_bytes + kParkStep - 1) / kParkStep * kParkStep; }

// RESOURCE_EXHAUSTED where the file or the disk cannot hold more; some of it may be written then.
absl::Status ParkWrite(int fd, const void* bytes, size_t n, uint64_t at);

// Eight bytes on their boundary: they have changed or they have not.
absl::Status ParkSetTag(int fd, uint64_t at, uint32_t crc, ParkTag tag);

// The record at `at`. DATA_LOSS: it is not the one with `crc` and `payload_bytes`, or not whole.
absl::Status ParkRead(int fd, uint64_t key, uint64_t at, uint32_t crc, uint32_t payload_bytes, ParkRecordHeader& header, std::string& payload);

// Zeros, and the disk's blocks given back where the file system can.
void ParkWipe(int fd, uint64_t at, uint64_t bytes);

// Calls `each` for every record of the first `size` bytes of which the header is whole and the payload's place is there, whatever
// its tag; what is damaged is stepped over. Reads headers alone where records are large. An error: the file cannot be read.
absl::Status ParkWalk(int fd, uint64_t key, uint64_t size, const std::function<void(uint64_t at, const ParkRecordHeader&)>& each);

}  // namespace lstm::server
