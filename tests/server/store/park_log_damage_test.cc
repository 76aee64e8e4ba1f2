// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>

#include "tests/server/store/park_now.h"

// Disks that give back other bytes than they were given, and disks that lose their power: of these, blocks of 512 bytes are
// written whole or not at all, in any order, at any time, and only a finished sync says that they are there.
namespace lstm::server {
namespace {

using Files = std::map<std::string, std::string>;

std::string Content(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) return {};
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  const ssize_t n = pread(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return bytes;
}

Files ContentOf(const std::string& directory) {
  Files out;
  for (const std::string& name : Segments(directory)) {
    const int fd = open((directory + "/" + name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;  // gone meanwhile
    out[name] = Content(fd);
    close(fd);
  }
  return out;
}

// What a disk has of a directory: what a sync has said, and what the kernel may have written of its own.
struct Platter {
  std::mutex mutex;
  std::string directory;  // that is looked at; empty: none
  Files files;
  std::set<std::string> names;  // that are in the directory for sure
  int OnSync(int fd) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (directory.empty()) return 0;
    char path[4096];
    const ssize_t n = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path, sizeof(path) - 1);
    const std::string file(path, n < 0 ? 0 : static_cast<size_t>(n));
    if (file == directory) names = Segments(directory);
    if (file.starts_with(directory + "/") && !file.ends_with("(deleted)")) files[file.substr(directory.size() + 1)] = Content(fd);
    return 0;
  }
} platter;

}  // namespace
}  // namespace lstm::server

// Instead of the C library's, for all of this executable.
extern "C" int fdatasync(int fd) { return lstm::server::platter.OnSync(fd); }
extern "C" int fsync(int fd) { return lstm::server::platter.OnSync(fd); }

namespace lstm::server {
namespace {

void Put(const std::string& directory, const Files& files) {
  for (const std::string& name : Segments(directory)) std::filesystem::remove(directory + "/" + name);
  for (const auto& [name, bytes] : files) std::ofstream(directory + "/" + name, std::ios::binary) << bytes;
}

constexpr uint64_t kSegment = 8u << 10;
constexpr size_t kMost = 1200;  // of a payload

// A log with a life behind it: what counts, what never counted, what was removed.
struct Life {
  Life() {
    const auto log = OpenLog(dir.path(), kSegment);
    for (uint64_t i = 0; i < 20; ++i) {
      const auto key = AppendNow(*log, AboutOf(i), PayloadOf(i, 1, kMost));
      EXPECT_TRUE(key.ok());
      if (i % 5 == 4) continue;
      EXPECT_TRUE(log->Seal(*key).ok());
      if (i % 5 == 3) {
        log->Remove(*key);
      } else {
        living.insert(i);
      }
      earlier.push_back(ContentOf(dir.path()));
    }
    EXPECT_GT(Segments(dir.path()).size(), 1u);
    files = ContentOf(dir.path());
  }
  TempDir dir;
  std::set<uint64_t> living;
  std::vector<Files> earlier;
  Files files;
};

struct Tally {
  int right = 0, missing = 0, data_loss = 0, refused = 0, came_back = 0;
};

void Look(const std::string& directory, const std::set<uint64_t>& living, bool may_come_back, Tally& tally) {
  auto log = ParkLog::Open({.directory = directory, .instance = kParkInstance, .segment_bytes = kSegment});
  if (!log.ok()) {
    EXPECT_TRUE(absl::IsDataLoss(log.status())) << log.status();
    ++tally.refused;
    return;
  }
  std::set<uint64_t> seen;
  for (const auto& [key, about] : (*log)->TakeFound()) {
    const uint64_t number = NumberOf(about.id);
    ASSERT_TRUE(SameAbout(about, AboutOf(number))) << number << " is not what was written";
    ASSERT_TRUE(seen.insert(number).second) << number << " is there twice";
    if (!living.contains(number)) {
      ASSERT_TRUE(may_come_back) << number << " does not count";
      ++tally.came_back;
    }
    const auto bytes = ReadNow(**log, key);
    if (bytes.ok()) {
      ASSERT_TRUE(*bytes == PayloadOf(number, 1, kMost)) << number << " has other bytes";
      ++tally.right;
    } else {
      ASSERT_TRUE(absl::IsDataLoss(bytes.status())) << bytes.status();
      ++tally.data_loss;
    }
  }
  for (const uint64_t number : living) tally.missing += !seen.contains(number);
}

TEST(ParkLogDamageTest, ASingleFlippedBitGivesNoOtherBytes) {
  const Life life;
  TempDir dir;
  Random random(1);
  Tally tally;
  constexpr int kFlips = 2000;
  for (int i = 0; i < kFlips; ++i) {
    Files files = life.files;
    auto& bytes = std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()))->second;
    // Half of them into headers, which are small.
    size_t at = random() % bytes.size();
    if (i % 2 == 0) at = at / 64 * 64 + random() % 8;
    bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
    Put(dir.path(), files);
    const Tally before = tally;
    Look(dir.path(), life.living, false, tally);
    if (HasFatalFailure()) return;
    const int harmed = tally.missing + tally.data_loss + tally.refused - before.missing - before.data_loss - before.refused;
    ASSERT_LE(harmed, 1) << "one bit, and more than one record";
  }
  EXPECT_GT(tally.missing, 50);
  EXPECT_GT(tally.data_loss, 500);
  EXPECT_GT(tally.refused, 2);
}

// Many more of them, without a start for each.
TEST(ParkLogDamageTest, ASingleFlippedBitLeadsAWalkToNoOtherRecords) {
  const Life life;
  TempDir dir;
  Random random(3);
  const std::string& whole = life.files.begin()->second;
  const int fd = open((dir / "segment").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(pwrite(fd, whole.data(), whole.size(), 0), static_cast<ssize_t>(whole.size()));
  ParkSegmentHeader segment;
  std::memcpy(&segment, whole.data(), sizeof(segment));
  size_t most = 0;
  int right = 0, harmed = 0;
  for (int i = 0; i < 20000; ++i) {
    size_t at = 64 + random() % (whole.size() - 64);
    if (i % 2 == 0) at = at / 64 * 64 + random() % 8;
    const char flipped = static_cast<char>(whole[at] ^ 1 << random() % 8);
    ASSERT_EQ(pwrite(fd, &flipped, 1, static_cast<off_t>(at)), 1);
    size_t whole_ones = 0;
    const absl::Status walked = ParkWalk(fd, segment.key, whole.size(), [&](uint64_t place, const ParkRecordHeader& header) {
      if (header.tag != ParkTag::kCounts) return;
      const uint64_t number = NumberOf(header.id);
      EXPECT_TRUE(life.living.contains(number) && SameAbout(header.about(), AboutOf(number)));
      ParkRecordHeader again;
      std::string payload;
      const absl::Status read = ParkRead(fd, segment.key, place, header.crc, header.payload_bytes, again, payload);
      if (read.ok()) { EXPECT_TRUE(payload == PayloadOf(number, 1, kMost)); }
      whole_ones += read.ok();
    });
    ASSERT_TRUE(walked.ok() && !HasFailure()) << "byte " << at;
    most = std::max(most, whole_ones);
    (whole_ones == most ? right : harmed) += 1;
    ASSERT_GE(whole_ones + 1, most) << "one bit, and more than one record";
    ASSERT_EQ(pwrite(fd, &whole[at], 1, static_cast<off_t>(at)), 1);
  }
  close(fd);
  EXPECT_GT(most, 3u);
  EXPECT_GT(harmed, 5000);
}

// Blocks that are zero, older, or of another place.
TEST(ParkLogDamageTest, TornBlocksGiveNoOtherBytes) {
  const Life life;
  TempDir dir;
  Random random(2);
  Tally tally;
  for (int i = 0; i < 2000; ++i) {
    Files files = life.files;
    for (uint64_t blocks = 1 + random() % 4; blocks > 0; --blocks) {
      auto& [name, bytes] = *std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()));
      if (bytes.size() < kBlock) continue;
      const size_t at = random() % (bytes.size() / kBlock) * kBlock;
      std::string block(kBlock, '\0');
      if (random() % 3 == 0) {
        const Files& before = life.earlier[random() % life.earlier.size()];
        if (const auto it = before.find(name); it != before.end() && at < it->second.size()) block = it->second.substr(at, kBlock);
        block.resize(kBlock);
      } else if (random() % 2 == 0) {
        block = bytes.substr(random() % (bytes.size() / kBlock) * kBlock, kBlock);
      }
      bytes.replace(at, kBlock, block);
    }
    if (random() % 8 == 0) {
      auto& bytes = std::next(files.begin(), static_cast<std::ptrdiff_t>(random() % files.size()))->second;
      bytes.resize(random() % bytes.size());
    }
    Put(dir.path(), files);
    Look(dir.path(), life.living, true, tally);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(tally.right, 1000);
  EXPECT_GT(tally.missing, 1000);
  EXPECT_GT(tally.data_loss, 500);
}

// --- loss of power

struct Cut {
  Files platter, memory, gone;  // gone: removed, which need not be on the disk yet
  std::set<std::string> names;
  std::map<uint64_t, uint64_t> promised;
};

// The whole of the test's knowledge, under the platter's lock: calls at fail points come from all threads.
std::map<uint64_t, uint64_t> promised;  // serials that a Sync has said are there
Files last_seen;
std::vector<Cut>* cuts = nullptr;
int points = 0, every = 1;

void CutHere(const char*) {
  const std::lock_guard<std::mutex> lock(platter.mutex);
  if (++points % every != 0) return;
  Cut cut{platter.files, ContentOf(platter.directory), {}, platter.names, promised};
  for (const auto& [name, bytes] : last_seen) {
    if (!cut.memory.contains(name)) cut.gone[name] = bytes;
  }
  for (const auto& [name, bytes] : cut.memory) last_seen[name] = bytes;
  cuts->push_back(std::move(cut));
}

std::string Mix(const std::string& old, const std::string& now, Random& random) {
  const uint64_t share = random() % 5;  // of 4: none to all
  std::string out = old;
  if (now.size() > out.size() && (share == 4 || random() % 2 == 0)) out.resize(out.size() + random() % (now.size() - out.size() + 1));
  if (share == 4) out.resize(std::max(out.size(), now.size()));
  for (size_t at = 0; at < std::min(out.size(), now.size()); at += kBlock) {
    if (random() % 4 < share) out.replace(at, std::min(kBlock, out.size() - at), now.substr(at, std::min(kBlock, out.size() - at)));
  }
  return out;
}

Files AfterCut(const Cut& cut, Random& random) {
  Files out;
  for (const auto& [name, now] : cut.memory) {
    const auto old = cut.platter.find(name);
    if (!cut.names.contains(name) && random() % 2 == 0) continue;
    out[name] = Mix(old == cut.platter.end() ? std::string() : old->second, now, random);
  }
  for (const auto& [name, now] : cut.gone) {
    if (random() % 2 == 0 && cut.platter.contains(name)) out[name] = Mix(cut.platter.at(name), now, random);
  }
  return out;
}

int Images() {
  const char* images = std::getenv("LSTM_POWER_CUTS");
  return images != nullptr ? std::atoi(images) : 1000;
}

struct Loss {
  int images = 0, lost = 0, wrong = 0, with_gone = 0;
  std::string first{};
};

// Segments so small that there is always something to move. `says_too_soon`: what is sealed counts as promised, synced or not.
Loss CutAgainAndAgain(int images, bool says_too_soon) {
  Loss loss;
  TempDir after;
  for (uint64_t seed = 0; loss.images < images; ++seed) {
    TempDir dir;
    Random random(seed);
    std::vector<Cut> taken;
    {
      const std::lock_guard<std::mutex> lock(platter.mutex);
      platter.directory = std::filesystem::canonical(dir.path());
      platter.files.clear();
      platter.names.clear();
      promised.clear();
      last_seen.clear();
      cuts = &taken;
      points = 0;
      every = 1 + static_cast<int>(random() % 7);
    }
    {
      const ArmedFailPoints armed(CutHere);
      for (uint64_t turn = 1; turn < 120;) {
        const auto log = OpenLog(dir.path(), kSegment);  // in the middle of moves, at times
        std::map<uint64_t, ParkLog::Key> keys;
        for (const auto& [key, about] : log->TakeFound()) keys[NumberOf(about.id)] = key;
        for (uint64_t end = turn + 1 + random() % 60; turn < end; ++turn) {
          const uint64_t number = random() % 16;
          if (const auto it = keys.find(number); it != keys.end()) {
            {
              const std::lock_guard<std::mutex> lock(platter.mutex);
              promised.erase(number);
            }
            log->Remove(it->second);
            keys.erase(it);
            continue;
          }
          const auto key = Park(*log, number, turn, kMost);
          if (!key.ok()) ADD_FAILURE() << key.status();
          keys[number] = *key;
          if (random() % 4 == 0) continue;
          if (!says_too_soon && !SyncNow(*log, *key).ok()) ADD_FAILURE();
          const std::lock_guard<std::mutex> lock(platter.mutex);
          promised[number] = turn;
        }
      }
    }
    {
      const std::lock_guard<std::mutex> lock(platter.mutex);
      platter.directory.clear();
    }
    for (const Cut& cut : taken) {
      ++loss.images;
      loss.with_gone += !cut.gone.empty();
      Put(after.path(), AfterCut(cut, random));
      const auto note = [&](int& count, const std::string& what) {
        if (count++ == 0) loss.first = absl::StrCat("seed ", seed, ": ", what);
      };
      auto log = ParkLog::Open({.directory = after.path(), .instance = kParkInstance, .segment_bytes = kSegment});
      if (!log.ok()) {
        note(loss.lost, log.status().ToString());
        continue;
      }
      std::map<uint64_t, uint64_t> promises = cut.promised;
      for (const auto& [key, about] : (*log)->TakeFound()) {
        const uint64_t number = NumberOf(about.id);
        const auto bytes = ReadNow(**log, key);
        if (!SameAbout(about, AboutOf(number, about.serial)) || (bytes.ok() && *bytes != PayloadOf(number, about.serial, kMost))) {
          note(loss.wrong, absl::StrCat(number, "/", about.serial));
        }
        const auto promise = promises.find(number);
        if (promise == promises.end()) continue;
        if (about.serial < promise->second) note(loss.lost, absl::StrCat(number, "/", about.serial, " and not ", promise->second));
        if (about.serial == promise->second && !bytes.ok()) note(loss.lost, absl::StrCat(number, "/", about.serial, ": ", bytes.status().ToString()));
        promises.erase(promise);
      }
      for (const auto& [number, serial] : promises) note(loss.lost, absl::StrCat(number, "/", serial, " is gone"));
    }
  }
  return loss;
}

TEST(ParkLogPowerCutTest, LosesNothingThatWasSynced) {
  const Loss loss = CutAgainAndAgain(Images(), false);
  EXPECT_EQ(loss.lost, 0) << loss.first;
  EXPECT_EQ(loss.wrong, 0) << loss.first;
  EXPECT_GT(loss.with_gone, loss.images / 4) << "too little was moved";
}

TEST(ParkLogPowerCutControlTest, LossIsFoundWhereNobodyWaitsForTheSync) { EXPECT_GT(CutAgainAndAgain(500, true).lost, 100); }

}  // namespace
}  // namespace lstm::server
