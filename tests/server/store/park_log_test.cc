// SPDX-License-Identifier: MIT
#include "server/store/park_log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <map>

#include "server/store/park_record.h"
#include "tests/server/store/park_now.h"

namespace lstm::server {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

absl::Status OpenStatus(const std::string& directory) {
  return ParkLog::Open({.directory = directory, .instance = kParkInstance}).status();
}

TEST(ParkLogTest, WhatWasSealedIsThereAfterAReopenWithEveryByteAndIsGivenOnce) {
  TempDir dir;
  constexpr uint64_t kSessions = 300;
  for (int reopen = 0; reopen < 3; ++reopen) {
    const auto log = OpenLog(dir.path(), 64u << 10);
    std::set<uint64_t> numbers;
    for (const auto& [key, about] : log->TakeFound()) {
      const uint64_t number = NumberOf(about.id);
      EXPECT_TRUE(SameAbout(about, AboutOf(number)));
      const auto bytes = ReadNow(*log, key);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      EXPECT_TRUE(*bytes == PayloadOf(number));
      EXPECT_TRUE(numbers.insert(number).second);
    }
    EXPECT_TRUE(log->TakeFound().empty());
    EXPECT_EQ(numbers.size(), reopen * kSessions);
    for (uint64_t i = 0; i < kSessions; ++i) {
      const uint64_t number = static_cast<uint64_t>(reopen) * kSessions + i;
      const auto key = Park(*log, number);
      ASSERT_TRUE(key.ok()) << key.status();
      if (i % 50 == 0) { EXPECT_TRUE(SyncNow(*log, *key).ok()); }
      const auto bytes = ReadNow(*log, *key);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      EXPECT_TRUE(*bytes == PayloadOf(number));
    }
  }
}

TEST(ParkLogTest, WhatWasNotSealedOrWasRemovedDoesNotComeBackAndItsBytesAreWiped) {
  TempDir dir;
  const std::string secret(200, 'S');
  {
    const auto log = OpenLog(dir.path());
    for (uint64_t i = 0; i < 30; ++i) {
      const auto key = AppendNow(*log, AboutOf(i), secret);
      ASSERT_TRUE(key.ok());
      if (i % 3 != 0) { EXPECT_TRUE(log->Seal(*key).ok()); }
      if (i % 3 == 1) log->Remove(*key);
    }
    EXPECT_TRUE(Park(*log, 100).ok());
  }
  EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 11u);
  std::string all = Content(dir / *Segments(dir.path()).begin());
  size_t left = 0;
  for (size_t at = all.find(secret); at != std::string::npos; at = all.find(secret, at + 1)) ++left;
  EXPECT_EQ(left, 10u);
  EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 11u);
}

TEST(ParkLogTest, KeysAreUsedAgain) {
  TempDir dir;
  const auto log = OpenLog(dir.path(), 64u << 10);
  ParkLog::Key largest = 0;
  std::vector<ParkLog::Key> keys;
  for (uint64_t i = 0; i < 1000; ++i) {
    keys.push_back(*Park(*log, i, 1, 100));
    largest = std::max(largest, keys.back());
    if (keys.size() < 10) continue;
    log->Remove(keys.front());
    keys.erase(keys.begin());
  }
  EXPECT_LT(largest, 10u);
}

TEST(ParkLogTest, TheLargerSerialIsGivenAndTheOtherOneRemoved) {
  TempDir dir;
  for (const bool larger_first : {false, true}) {
    {
      const auto log = OpenLog(dir.path());
      EXPECT_TRUE(Park(*log, 1, larger_first ? 9 : 8).ok());
      EXPECT_TRUE(Park(*log, 1, larger_first ? 8 : 9).ok());
    }
    for (int reopen = 0; reopen < 2; ++reopen) {
      const auto log = OpenLog(dir.path());
      const auto found = log->TakeFound();
      ASSERT_EQ(found.size(), reopen == 0 ? 1u : 0u);
      if (found.empty()) continue;
      EXPECT_EQ(found[0].about.serial, 9u);
      EXPECT_TRUE(*ReadNow(*log, found[0].key) == PayloadOf(1, 9));
      log->Remove(found[0].key);
    }
  }
}

TEST(ParkLogTest, OfTwoThatAreTheSameAWholeOneIsGiven) {
  for (const size_t damaged : {0u, 1u, 2u}) {
    TempDir dir;
    {
      const auto log = OpenLog(dir.path());
      for (int i = 0; i < 2; ++i) ASSERT_TRUE(AppendNow(*log, AboutOf(1), std::string(500, 'x')).ok() && log->Seal(static_cast<ParkLog::Key>(i)).ok());
    }
    std::fstream(dir / "parked-0", std::ios::in | std::ios::out | std::ios::binary).seekp(static_cast<std::streamoff>(64 + damaged * 576 + 300)).put('y');
    for (int reopen = 0; reopen < 2; ++reopen) {
      const auto log = OpenLog(dir.path());
      const auto found = log->TakeFound();
      ASSERT_EQ(found.size(), 1u);
      EXPECT_EQ(*ReadNow(*log, found[0].key), std::string(500, 'x'));
    }
  }
}

TEST(ParkLogTest, TheOtherOnesAreRemovedBeforeTheOpenEnds) {
  TempDir dir;
  {
    const auto log = OpenLog(dir.path());
    for (uint64_t i = 0; i < 2000; ++i) ASSERT_TRUE(Park(*log, i / 1000, i % 1000, 100).ok());
  }
  const auto log = OpenLog(dir.path());
  EXPECT_EQ(Places(dir.path(), 0), 1);
  EXPECT_EQ(Places(dir.path(), 1), 1);
  EXPECT_EQ(log->TakeFound().size(), 2u);
}

TEST(ParkLogTest, APayloadThatHoldsHeadersIsNeverTakenForThem) {
  TempDir dir;
  std::string forged;
  for (uint64_t i = 0; i < 200; ++i) {  // as they are, but for the segment's key
    ParkRecordHeader header = ParkRecordHeader::Make(i % 2 == 0 ? 0 : Mix(i), AboutOf(1000 + i), "");
    header.tag = ParkTag::kCounts;
    forged.append(reinterpret_cast<const char*>(&header), sizeof(header));
  }
  {
    const auto log = OpenLog(dir.path());
    ASSERT_TRUE(AppendNow(*log, AboutOf(1), forged).ok());
    ASSERT_TRUE(Park(*log, 2).ok());
  }
  // The header before it is damaged: what is behind is searched for the next one.
  std::fstream(dir / "parked-0", std::ios::in | std::ios::out | std::ios::binary).seekp(64 + 20).put('\x55');
  const auto log = OpenLog(dir.path());
  const auto found = log->TakeFound();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(NumberOf(found[0].about.id), 2u);
}

TEST(ParkLogTest, ARecordMayBeLargerThanASegmentAndHaveNoBytes) {
  TempDir dir;
  {
    const auto log = OpenLog(dir.path(), 4096);
    for (uint64_t i = 0; i < 6; ++i) {
      const auto key = AppendNow(*log, AboutOf(i), std::string(i % 2 * 300000, 'z'));
      ASSERT_TRUE(key.ok() && log->Seal(*key).ok());
    }
  }
  const auto log = OpenLog(dir.path(), 4096);
  const auto found = log->TakeFound();
  EXPECT_EQ(found.size(), 6u);
  for (const auto& one : found) EXPECT_EQ(ReadNow(*log, one.key)->size(), NumberOf(one.about.id) % 2 * 300000);
}

struct ParkLogFilesTest : testing::Test {
  ParkLogFilesTest() {
    const auto log = OpenLog(dir.path());
    for (uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(Park(*log, i).ok());
  }
  void ExpectRefused(const std::string& name, const std::string& why) {
    const std::string before = Content(dir / name);
    const absl::Status status = OpenStatus(dir.path());
    EXPECT_TRUE(absl::IsDataLoss(status)) << why << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_TRUE(Content(dir / name) == before) << why << ": the file was touched";
  }
  TempDir dir;
};

TEST_F(ParkLogFilesTest, ADamagedHeaderOfASegmentIsRefused) {
  const std::string whole = Content(dir / "parked-0");
  for (size_t byte = 0; byte < 28; ++byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0x40);
    Write(dir / "parked-0", damaged);
    ExpectRefused("parked-0", absl::StrCat("byte ", byte));
  }
  Write(dir / "parked-0", std::string(64, '\0') + whole.substr(64));
  ExpectRefused("parked-0", "no header above records");
  Write(dir / "parked-0", whole);
  EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 3u);
}

TEST_F(ParkLogFilesTest, ASegmentOfAnotherDirectoryOrUnderAnotherNameIsRefused) {
  fs::copy_file(dir / "parked-0", dir / "parked-7");
  ExpectRefused("parked-7", "another name");
  fs::remove(dir / "parked-7");
  const auto other = ParkLog::Open({.directory = dir.path(), .instance = {9, 9, 9, 9}});
  EXPECT_TRUE(absl::IsDataLoss(other.status())) << other.status();
  EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 3u);
}

TEST_F(ParkLogFilesTest, ASegmentOfWhichTheMakingWasCutShortIsRemovedAndItsNumberNotReused) {
  Write(dir / "parked-3", "");
  Write(dir / "parked-4", std::string(63, 'L'));
  Write(dir / "parked-5", std::string(100000, '\0'));
  const auto log = OpenLog(dir.path());
  EXPECT_EQ(log->TakeFound().size(), 3u);
  EXPECT_TRUE(Park(*log, 9).ok());
  EXPECT_EQ(Segments(dir.path()), (std::set<std::string>{"parked-0", "parked-6"}));
}

TEST_F(ParkLogFilesTest, ForeignFilesAreLeftAlone) {
  for (const char* name : {"parked", "parked-", "parked-x", "parked-0-0", "parked-00", "parked-01", "parked--1", "parked- 1", "parked-+1",
                           "parked-4294967296", "Parked-7", "slab-4096-0"}) {
    Write(dir / name, "mine");
  }
  EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 3u);
  EXPECT_EQ(Content(dir / "parked-01"), "mine");
}

TEST_F(ParkLogFilesTest, LinksAndOtherKindsOfFilesAreRefusedAndNotFollowed) {
  TempDir outside;
  Write(outside / "target", "");
  fs::create_symlink(outside / "target", dir / "parked-1");
  EXPECT_FALSE(OpenStatus(dir.path()).ok());
  EXPECT_TRUE(fs::is_symlink(dir / "parked-1"));
  fs::remove(dir / "parked-1");
  fs::create_directory(dir / "parked-1");
  EXPECT_FALSE(OpenStatus(dir.path()).ok());
  fs::remove(dir / "parked-1");
  ASSERT_EQ(mkfifo((dir / "parked-1").c_str(), 0600), 0);
  EXPECT_FALSE(OpenStatus(dir.path()).ok());
  fs::remove(dir / "parked-1");
  for (const std::string& name : Segments(dir.path())) {
    EXPECT_EQ(fs::status(dir / name).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  }
  EXPECT_TRUE(OpenStatus(dir.path()).ok());
}

TEST(ParkLogFullTest, MaxBytesRefuseMoreAndHarmNothingThatLives) {
  TempDir dir;
  constexpr uint64_t kMost = 256u << 10;
  const auto log = OpenLog(dir.path(), 64u << 20, kMost);
  std::map<uint64_t, ParkLog::Key> living;
  uint64_t number = 0;
  for (int round = 0; round < 10; ++round) {
    absl::StatusOr<ParkLog::Key> key;
    for (key = Park(*log, number); key.ok(); key = Park(*log, number)) {
      living[number++] = *key;
      EXPECT_LE(SegmentBytes(dir.path()), kMost);
    }
    EXPECT_TRUE(absl::IsResourceExhausted(key.status())) << key.status();
    if (round == 0) { EXPECT_GT(living.size(), 100u); }
    for (auto it = living.begin(); it != living.end();) {  // every other one
      log->Remove(it->second);
      it = living.erase(it);
      if (it != living.end()) ++it;
    }
    // Without end where what was removed gives no room again.
    for (key = Park(*log, number); !key.ok(); key = Park(*log, number)) ASSERT_LE(SegmentBytes(dir.path()), kMost);
    living[number++] = *key;
  }
  EXPECT_GT(number, 400u);
  for (const auto& [which, key] : living) EXPECT_TRUE(*ReadNow(*log, key) == PayloadOf(which));
}

// A file that the system lets not grow, as a full disk does: in a child, that nothing else is bound by it.
TEST(ParkLogFullTest, AFullDiskRefusesMoreAndHarmsNothingThatLives) {
  TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100001, 100001};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
    const auto log = OpenLog(dir.path());
    std::map<uint64_t, ParkLog::Key> living;
    int refused = 0;
    for (uint64_t i = 0; i < 200; ++i) {
      const auto key = Park(*log, i);
      if (key.ok()) living[i] = *key;
      if (!key.ok() && !absl::IsResourceExhausted(key.status())) _exit(2);
      refused += !key.ok();
    }
    if (refused < 100 || living.size() < 20) _exit(3);
    for (const auto& [number, key] : living) {
      if (*ReadNow(*log, key) != PayloadOf(number)) _exit(4);
      if (!SyncNow(*log, key).ok()) _exit(5);
      if (number % 2 == 1) log->Remove(key);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0);
  const auto log = OpenLog(dir.path());
  const auto found = log->TakeFound();
  EXPECT_GT(found.size(), 10u);
  for (const auto& one : found) {
    EXPECT_EQ(NumberOf(one.about.id) % 2, 0u);
    EXPECT_TRUE(*ReadNow(*log, one.key) == PayloadOf(NumberOf(one.about.id)));
  }
}

// Against a map, through appends, removes and reopens: nothing is lost, and the files stay in a bound of what lives.
TEST(ParkLogCleaningTest, KeepsAllThatLivesAndGivesTheRestBack) {
  constexpr uint64_t kSegment = 32u << 10;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    TempDir dir;
    Random random(seed);
    std::map<uint64_t, uint64_t> living;  // serials
    uint64_t appended = 0;
    for (int life = 0; life < 6; ++life) {
      const auto log = OpenLog(dir.path(), kSegment);
      std::map<uint64_t, ParkLog::Key> keys;
      for (const auto& [key, about] : log->TakeFound()) {
        const uint64_t number = NumberOf(about.id);
        ASSERT_TRUE(keys.emplace(number, key).second);
        ASSERT_TRUE(living.contains(number) && SameAbout(about, AboutOf(number, living[number]))) << number << " came back";
      }
      ASSERT_EQ(keys.size(), living.size());
      for (int i = 0; i < 400; ++i) {
        const uint64_t number = random() % 100;
        if (living.contains(number)) {
          const auto bytes = ReadNow(*log, keys[number]);
          ASSERT_TRUE(bytes.ok()) << bytes.status();
          ASSERT_TRUE(*bytes == PayloadOf(number, living[number]));
          log->Remove(keys[number]);
          if (random() % 2 == 0) {
            living.erase(number);
            continue;
          }
        }
        ++living[number] += random() % 3;
        const auto key = Park(*log, number, living[number]);
        ASSERT_TRUE(key.ok()) << key.status();
        keys[number] = *key;
        appended += 1500;
      }
      uint64_t bytes = 0;
      for (const auto& [number, serial] : living) bytes += ParkRecordBytes(PayloadOf(number, serial).size());
      // Without end where it is not so. Each Read lets the log's thread go a step on.
      while (!living.empty() && SegmentBytes(dir.path()) > 2 * bytes + 4 * kSegment) ASSERT_TRUE(ReadNow(*log, keys[living.begin()->first]).ok());
      for (const auto& [number, serial] : living) ASSERT_TRUE(*ReadNow(*log, keys[number]) == PayloadOf(number, serial));
    }
    EXPECT_GT(appended, 10 * kSegment);
  }
}

TEST(ParkLogCleaningTest, ManyStartsLeaveFewFiles) {
  TempDir dir;
  for (uint64_t start = 0; start < 30; ++start) {
    const auto log = OpenLog(dir.path(), 32u << 10);
    EXPECT_EQ(log->TakeFound().size(), start);
    const auto key = Park(*log, start, 1, 100);
    ASSERT_TRUE(key.ok());
    while (Segments(dir.path()).size() > 4) ASSERT_TRUE(ReadNow(*log, *key).ok());
  }
}

TEST(ParkLogCleaningTest, ARecordThatIsDamagedStaysAndSaysSo) {
  TempDir dir;
  std::string damaged;
  const std::string bytes(1000, 'x');
  const auto park = [&](ParkLog& log, uint64_t number) {
    const auto key = AppendNow(log, AboutOf(number), bytes);
    EXPECT_TRUE(key.ok() && log.Seal(*key).ok());
    return *key;
  };
  {
    const auto log = OpenLog(dir.path(), 16u << 10);
    for (uint64_t i = 0; i < 3; ++i) park(*log, i);
    damaged = *Segments(dir.path()).begin();
  }
  std::fstream(dir / damaged, std::ios::in | std::ios::out | std::ios::binary).seekp(64 + 1088 + 500).put('y');
  for (uint64_t life = 1; life < 5; ++life) {  // a few segments of which little lives: they are cleaned
    const auto log = OpenLog(dir.path(), 16u << 10);
    park(*log, 10 * life);
  }
  const auto log = OpenLog(dir.path(), 16u << 10);
  std::map<uint64_t, ParkLog::Key> keys;
  for (const auto& [key, about] : log->TakeFound()) keys[NumberOf(about.id)] = key;
  ASSERT_EQ(keys.size(), 7u);
  const auto check = [&] {
    for (const auto& [number, key] : keys) {
      const auto read = ReadNow(*log, key);
      if (number == 1) {
        EXPECT_TRUE(absl::IsDataLoss(read.status())) << read.status();
      } else {
        EXPECT_TRUE(read.ok() && *read == bytes) << number;
      }
    }
  };
  while (Segments(dir.path()).size() > 4) check();
  check();
  EXPECT_TRUE(Segments(dir.path()).contains(damaged));
  for (const uint64_t number : {0, 2, 1}) {
    log->Remove(keys[number]);
    keys.erase(number);
  }
  while (Segments(dir.path()).contains(damaged)) check();
  check();
}

}  // namespace
}  // namespace lstm::server
