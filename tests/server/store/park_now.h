// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "server/store/park_log.h"
#include "server/store/park_record.h"
#include "tests/server/store/model_session.h"
#include "tests/server/store/temp_dir.h"

namespace lstm::server {

// A ParkLog's calls, waited for, and sessions of which every byte follows from their number and serial.

inline constexpr Instance kParkInstance = {1, 2, 3, 4};

inline std::unique_ptr<ParkLog> OpenLog(const std::string& directory, uint64_t segment_bytes = 64u << 20, uint64_t max_bytes = UINT64_MAX) {
  auto log = ParkLog::Open({.directory = directory, .instance = kParkInstance, .max_bytes = max_bytes, .segment_bytes = segment_bytes});
  EXPECT_TRUE(log.ok()) << log.status();
  return *std::move(log);
}

inline absl::StatusOr<ParkLog::Key> AppendNow(ParkedStore& log, const ParkLog::About& about, std::string bytes) {
  std::promise<absl::StatusOr<ParkLog::Key>> answer;
  log.Append(about, std::move(bytes), [&](absl::StatusOr<ParkLog::Key> key) { answer.set_value(std::move(key)); });
  return answer.get_future().get();
}

inline absl::Status SyncNow(ParkedStore& log, ParkLog::Key key) {
  std::promise<absl::Status> answer;
  log.Sync(key, [&](const absl::Status& status) { answer.set_value(status); });
  return answer.get_future().get();
}

inline absl::StatusOr<std::string> ReadNow(ParkedStore& log, ParkLog::Key key) {
  std::promise<absl::StatusOr<std::string>> answer;
  log.Read(key, [&](absl::StatusOr<std::string> bytes) { answer.set_value(std::move(bytes)); });
  return answer.get_future().get();
}

inline uint64_t NumberOf(const SessionId& id) {
  uint64_t number;
  std::memcpy(&number, id.data(), sizeof(number));
  return number;
}

inline ParkLog::About AboutOf(uint64_t number, uint64_t serial = 1) {
  ParkLog::About about{.serial = serial, .expires_unix_us = static_cast<int64_t>(Mix(number + serial) >> 1)};
  const uint64_t words[2] = {number, Mix(number)};
  std::memcpy(about.id.data(), words, sizeof(words));
  return about;
}

inline bool SameAbout(const ParkLog::About& a, const ParkLog::About& b) {
  return a.id == b.id && a.serial == b.serial && a.expires_unix_us == b.expires_unix_us;
}

inline std::string PayloadOf(uint64_t number, uint64_t serial = 1, size_t most = 3000) {
  Random random(Mix(number) + serial);
  std::string bytes(random() % (most + 1), '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// Appended and sealed.
inline absl::StatusOr<ParkLog::Key> Park(ParkedStore& log, uint64_t number, uint64_t serial = 1, size_t most = 3000) {
  absl::StatusOr<ParkLog::Key> key = AppendNow(log, AboutOf(number, serial), PayloadOf(number, serial, most));
  if (key.ok()) {
    if (const absl::Status sealed = log.Seal(*key); !sealed.ok()) return sealed;
  }
  return key;
}

inline std::set<std::string> Segments(const std::string& directory) {
  std::set<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().filename().string().starts_with("parked-")) out.insert(entry.path().filename());
  }
  return out;
}

// The sizes of all segments, of which one may go meanwhile.
inline uint64_t SegmentBytes(const std::string& directory) {
  // Files grow and go while they are looked at, and a sum over several moments may be one that never was: two looks that see
  // the same saw what there was between them.
  const auto look = [&] {
    std::map<std::string, uint64_t> sizes;
    for (const std::string& name : Segments(directory)) {
      std::error_code gone;
      const uint64_t size = std::filesystem::file_size(directory + "/" + name, gone);
      if (!gone) sizes[name] = size;
    }
    return sizes;
  };
  auto seen = look();
  for (auto again = look(); again != seen; again = look()) seen = again;
  uint64_t bytes = 0;
  for (const auto& [name, size] : seen) bytes += size;
  return bytes;
}

// Records of a session that count, in the files as they are now.
inline int Places(const std::string& directory, uint64_t number) {
  int places = 0;
  for (const std::string& name : Segments(directory)) {
    const int fd = open((directory + "/" + name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;  // gone meanwhile
    ParkSegmentHeader header;
    if (pread(fd, &header, sizeof(header), 0) == sizeof(header)) {
      const absl::Status walked = ParkWalk(fd, header.key, static_cast<uint64_t>(lseek(fd, 0, SEEK_END)), [&](uint64_t, const ParkRecordHeader& record) {
        places += record.tag == ParkTag::kCounts && NumberOf(record.id) == number;
      });
      EXPECT_TRUE(walked.ok()) << walked;
    }
    close(fd);
  }
  return places;
}

}  // namespace lstm::server
