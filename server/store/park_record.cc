// SPDX-License-Identifier: MIT
#include "server/store/park_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/store/crc32c.h"

namespace lstm::server {
namespace {

static_assert(std::endian::native == std::endian::little, "the log is little-endian");

constexpr uint64_t kSegmentMagic = 0x31304b50'4d54534c;  // "LSTMPK01"
constexpr size_t kManyHeaders = 1u << 20, kOneHeader = 4096;  // what a walk reads at once
constexpr uint64_t kLargeRecord = 64u << 10;                  // from here on a payload is skipped, not read

uint32_t HeaderCrc(uint64_t key, const ParkRecordHeader& header) {
  constexpr size_t kFrom = offsetof(ParkRecordHeader, payload_bytes);
  return Crc32c(reinterpret_cast<const char*>(&header) + kFrom, sizeof(header) - kFrom, Crc32c(&key, sizeof(key)));
}

// The bytes that were there; fewer than `n` at the end of the file; -1: an error.
ssize_t ReadUpTo(int fd, void* bytes, size_t n, uint64_t at) {
  size_t have = 0;
  while (have < n) {
    const ssize_t got = pread(fd, static_cast<char*>(bytes) + have, n - have, static_cast<off_t>(at + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  return static_cast<ssize_t>(have);
}

}  // namespace

ParkSegmentHeader ParkSegmentHeader::Make(uint64_t key, uint32_t number, const Instance& instance) {
  ParkSegmentHeader header{kSegmentMagic, key, number, instance, 0, {}};
  header.crc = Crc32c(&header, offsetof(ParkSegmentHeader, crc));
  return header;
}

bool ParkSegmentHeader::Valid(uint32_t in_name, const Instance& ours) const {
  return magic == kSegmentMagic && number == in_name && instance == ours && crc == Crc32c(this, offsetof(ParkSegmentHeader, crc));
}

ParkRecordHeader ParkRecordHeader::Make(uint64_t key, const ParkedStore::About& about, std::string_view payload) {
  ParkRecordHeader header{0, ParkTag::kWritten, static_cast<uint32_t>(payload.size()), Crc32c(payload.data(), payload.size()),
                          about.id, about.serial, about.expires_unix_us, about.model};
  header.crc = HeaderCrc(key, header);
  return header;
}

bool ParkRecordHeader::Valid(uint64_t key) const {
  return (tag == ParkTag::kWritten || tag == ParkTag::kCounts || tag == ParkTag::kRemoved) && crc == HeaderCrc(key, *this);
}

absl::Status ParkWrite(int fd, const void* bytes, size_t n, uint64_t at) {
  const auto* from = static_cast<const char*>(bytes);
  while (n > 0) {
    const ssize_t wrote = pwrite(fd, from, n, static_cast<off_t>(at));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
      return absl::ResourceExhaustedError(absl::StrCat("no room for another parked session: ", std::strerror(errno)));
    }
    if (wrote < 0) return absl::ErrnoToStatus(errno, "a parked session cannot be written");
    from += wrote;
    at += static_cast<uint64_t>(wrote);
    n -= static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

absl::Status ParkSetTag(int fd, uint64_t at, uint32_t crc, ParkTag tag) {
  const uint64_t word = uint64_t{static_cast<uint32_t>(tag)} << 32 | crc;
  return ParkWrite(fd, &word, sizeof(word), at);
}

absl::Status ParkRead(int fd, uint64_t key, uint64_t at, uint32_t crc, uint32_t payload_bytes, ParkRecordHeader& header, std::string& payload) {
  payload.resize(payload_bytes);
  const ssize_t head = ReadUpTo(fd, &header, sizeof(header), at);
  const ssize_t body = head < 0 ? -1 : ReadUpTo(fd, payload.data(), payload.size(), at + sizeof(header));
  if (body < 0) return absl::DataLossError(absl::StrCat("a parked session cannot be read: ", std::strerror(errno)));
  const bool whole = head == static_cast<ssize_t>(sizeof(header)) && body == static_cast<ssize_t>(payload.size()) && header.Valid(key) && header.crc == crc &&
                     header.payload_bytes == payload_bytes && header.payload_crc == Crc32c(payload.data(), payload.size());
  return whole ? absl::OkStatus() : absl::DataLossError("a parked session is damaged on the disk");
}

void ParkWipe(int fd, uint64_t at, uint64_t bytes) {
  if (bytes == 0 || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(bytes)) == 0) return;
  static constexpr char kZeros[64u << 10] = {};
  for (uint64_t done = 0; done < bytes; done += sizeof(kZeros)) {
    if (!ParkWrite(fd, kZeros, std::min<uint64_t>(sizeof(kZeros), bytes - done), at + done).ok()) return;
  }
}

absl::Status ParkWalk(int fd, uint64_t key, uint64_t size, const std::function<void(uint64_t at, const ParkRecordHeader&)>& each) {
  std::vector<char> some(kManyHeaders);
  uint64_t from = 0, upto = 0;  // what `some` has of the file
  size_t want = kManyHeaders;
  for (uint64_t at = kParkStep; at + kParkStep <= size;) {
    if (at < from || at + kParkStep > upto) {
      const ssize_t n = ReadUpTo(fd, some.data(), want, at);
      if (n < 0) return absl::ErrnoToStatus(errno, "read");
      if (n < static_cast<ssize_t>(kParkStep)) return absl::OkStatus();
      from = at;
      upto = at + static_cast<uint64_t>(n);
    }
    ParkRecordHeader header;
    std::memcpy(&header, some.data() + (at - from), sizeof(header));
    const bool whole = header.Valid(key) && header.payload_bytes <= size - at - kParkStep;
    if (whole) each(at, header);
    const uint64_t bytes = whole ? ParkRecordBytes(header.payload_bytes) : kParkStep;
    want = bytes < kLargeRecord ? kManyHeaders : kOneHeader;
    at += bytes;
  }
  return absl::OkStatus();
}

}  // namespace lstm::server
