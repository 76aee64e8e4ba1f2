// SPDX-License-Identifier: MIT
// What ParkLog finds in its directory.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"
#include "server/store/directory.h"
#include "server/store/park_log_parts.h"

namespace lstm::server {
namespace {

ParkLog::Options Sane(ParkLog::Options options) {
  options.segment_bytes = std::min({options.segment_bytes, options.max_bytes / 4, uint64_t{1} << 30});
  return options;
}

}  // namespace

ParkLog::ParkLog(const Options& options) : options_(Sane(options)) {}

absl::StatusOr<std::unique_ptr<ParkLog>> ParkLog::Open(const Options& options) {
  std::unique_ptr<ParkLog> self(new ParkLog(options));
  self->directory_ = open(options.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (self->directory_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat("'", options.directory, "' cannot be opened"));
  LSTM_RETURN_IF_ERROR(self->Load());
  self->log_ = std::thread([raw = self.get()] { raw->LogLoop(); });
  self->syncer_ = std::thread([raw = self.get()] { raw->SyncLoop(); });
  return self;
}

absl::Status ParkLog::Load() {
  std::set<uint32_t> numbers;
  LSTM_ASSIGN_OR_RETURN(const std::set<std::string> names, FileNames(directory_));
  for (const std::string& name : names) {
    absl::string_view digits = name;
    uint32_t number = 0;
    if (absl::ConsumePrefix(&digits, "parked-") && absl::SimpleAtoi(digits, &number) && name == Segment::Name(number)) numbers.insert(number);
  }
  if (!numbers.empty()) next_number_ = *numbers.rbegin() + 1;
  std::vector<Entry> unsealed;
  for (const uint32_t number : numbers) LSTM_RETURN_IF_ERROR(LoadSegment(number, unsealed));
  // What the process before wrote may not be on the disk yet. What is removed here must not be all that there is then.
  for (const auto& [number, segment] : segments_) {
    if (fdatasync(segment->fd) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("'", options_.directory, "/", Segment::Name(number), "'"));
  }
  LSTM_RETURN_IF_ERROR(KeepOneOfEach());
  const std::map<uint32_t, SegmentRef> all = segments_;
  for (const auto& [number, segment] : all) UnlinkIfEmpty(segment);
  for (const Entry& entry : unsealed) {
    if (segments_.contains(entry.segment)) WipeSoon(entry);
  }
  return absl::OkStatus();
}

absl::Status ParkLog::LoadSegment(uint32_t number, std::vector<Entry>& unsealed) {
  const std::string name = Segment::Name(number), path = absl::StrCat("'", options_.directory, "/", name, "'");
  const int fd = openat(directory_, name.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return absl::ErrnoToStatus(errno, path);
  const auto segment = std::make_shared<Segment>(number, fd);  // closes it
  ParkSegmentHeader header{};
  struct stat info;
  const ssize_t n = pread(fd, &header, sizeof(header), 0);
  if (n < 0 || fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, path);
  const auto size = static_cast<uint64_t>(info.st_size);
  // Its making was cut short, and nothing was ever in it. A zeroed header above records is damage.
  if (size < sizeof(header) || (header.magic == 0 && AllZero(fd))) {
    unlinkat(directory_, name.c_str(), 0);
    return absl::OkStatus();
  }
  if (n != static_cast<ssize_t>(sizeof(header)) || !header.Valid(number, options_.instance)) {
    return absl::DataLossError(absl::StrCat(path, " is damaged, or of another state directory; move it away to start without its sessions"));
  }
  if (size / kParkStep >= 1u << 30) return absl::DataLossError(absl::StrCat(path, " is larger than a segment can be"));
  segment->key = header.key;
  segment->end = (size + kParkStep - 1) / kParkStep * kParkStep;
  segments_[number] = segment;
  bytes_ += segment->end;
  const absl::Status walked = ParkWalk(fd, header.key, size, [&](uint64_t at, const ParkRecordHeader& record) {
    const Entry entry = Entry::At(*segment, at, ParkState::kCounts, record);
    if (record.tag == ParkTag::kWritten) unsealed.push_back(entry);
    if (record.tag != ParkTag::kCounts) return;
    Count(entry, 1);
    found_.push_back({TakeKey(entry), record.about()});
  });
  if (!walked.ok()) return absl::Status(walked.code(), absl::StrCat(path, ": ", walked.message()));
  return absl::OkStatus();
}

// Of one session the record with the largest serial. Of the two that a kill in the middle of a move leaves, one that is
// whole: a loss of power may have taken the new one's payload, while the old one was promised to be there.
absl::Status ParkLog::KeepOneOfEach() {
  std::sort(found_.begin(), found_.end(), [](const Found& a, const Found& b) {
    return std::tie(a.about.id, a.about.serial, a.key) < std::tie(b.about.id, b.about.serial, b.key);
  });
  const auto whole = [&](const Found& one) {
    const Entry& entry = entries_[one.key];
    const SegmentRef segment = SegmentOf(entry);
    ParkRecordHeader header;
    std::string payload;
    return entry.Read(*segment, header, payload).ok();
  };
  std::vector<Found> kept;
  for (const Found& one : found_) {
    if (kept.empty() || kept.back().about.id != one.about.id) {
      kept.push_back(one);
      continue;
    }
    Found other = one;
    if (kept.back().about.serial < one.about.serial || !whole(kept.back())) std::swap(kept.back(), other);
    const Entry entry = entries_[other.key];
    // Now: were the one that is kept removed, and this one not yet, a kill would bring it back.
    LSTM_RETURN_IF_ERROR(entry.SetTag(*SegmentOf(entry), ParkTag::kRemoved));
    Gone(entry);
    FreeKey(other.key);
  }
  found_ = std::move(kept);
  return absl::OkStatus();
}

}  // namespace lstm::server
