// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/server/store/fake_syncs.h"
#include "tests/server/store/park_now.h"

// Sync against a disk that the test holds in its hand, and threads.
namespace lstm::server {
namespace {

TEST(ParkLogSyncTest, ASlowDiskHoldsUpNeitherReadersNorWritersAndTheWaitingGoTogether) {
  TempDir dir;
  const auto log = OpenLog(dir.path());
  const auto first = Park(*log, 1);
  ASSERT_TRUE(first.ok());
  fake_syncs.Hold();
  const int begun = fake_syncs.begun();
  std::atomic<int> answered = 0;
  const auto count = [&](const absl::Status& status) { answered += status.ok(); };
  log->Sync(*first, count);
  fake_syncs.AwaitCallAfter(begun);
  for (uint64_t i = 2; i < 100; ++i) {
    const auto key = Park(*log, i);
    ASSERT_TRUE(key.ok());
    EXPECT_TRUE(*ReadNow(*log, *key) == PayloadOf(i));
    if (i % 2 == 0) {
      log->Sync(*key, count);
    } else {
      log->Remove(*key);
    }
  }
  EXPECT_EQ(answered, 0);
  fake_syncs.Release();
  EXPECT_TRUE(SyncNow(*log, *first).ok());
  EXPECT_EQ(answered, 50);
  EXPECT_LE(fake_syncs.begun() - begun, 3);
}

TEST(ParkLogSyncTest, AfterAFailureAllLaterSyncsOfThatSegmentFailAndOthersDoNot) {
  TempDir dir;
  const auto log = OpenLog(dir.path());
  const auto first = Park(*log, 1), second = Park(*log, 2);
  fake_syncs.Fail(1);
  EXPECT_FALSE(SyncNow(*log, *first).ok());
  fake_syncs.Fail(0);
  const int calls = fake_syncs.CallsFor(dir / "parked-0");
  EXPECT_FALSE(SyncNow(*log, *first).ok());
  EXPECT_FALSE(SyncNow(*log, *second).ok());
  EXPECT_EQ(fake_syncs.CallsFor(dir / "parked-0"), calls);
  const auto third = Park(*log, 3);  // goes elsewhere
  EXPECT_TRUE(SyncNow(*log, *third).ok());
  EXPECT_TRUE(*ReadNow(*log, *first) == PayloadOf(1));
}

TEST(ParkLogSyncTest, WhatTheProcessBeforeWroteIsSyncedOnceAtTheStart) {
  TempDir dir;
  { ASSERT_TRUE(Park(*OpenLog(dir.path()), 1).ok()); }
  const int calls = fake_syncs.CallsFor(dir / "parked-0");
  { EXPECT_EQ(OpenLog(dir.path())->TakeFound().size(), 1u); }
  EXPECT_EQ(fake_syncs.CallsFor(dir / "parked-0"), calls + 1);
  fake_syncs.Fail(1);
  EXPECT_FALSE(ParkLog::Open({.directory = dir.path(), .instance = kParkInstance}).ok());
  fake_syncs.Fail(0);
}

TEST(ParkLogSyncTest, TheOldPlaceGoesNoSoonerThanTheNewOneIsOnTheDisk) {
  TempDir dir;
  auto log = OpenLog(dir.path(), 16u << 10);
  std::map<uint64_t, ParkLog::Key> keys;
  for (uint64_t i = 0; i < 60; ++i) keys[i] = *Park(*log, i);
  const std::set<std::string> before = Segments(dir.path());
  fake_syncs.Hold();
  const int begun = fake_syncs.begun();
  for (uint64_t i = 0; i < 60; ++i) {
    if (i % 10 != 0) log->Remove(keys[i]);
  }
  fake_syncs.AwaitCallAfter(begun);  // something was moved
  for (uint64_t i = 0; i < 60; i += 10) EXPECT_TRUE(*ReadNow(*log, keys[i]) == PayloadOf(i));
  log->Remove(keys[0]);  // in both of its places, if it has two
  fake_syncs.Fail(1000);
  fake_syncs.Release();
  EXPECT_FALSE(SyncNow(*log, keys[10]).ok());
  for (uint64_t i = 10; i < 60; i += 10) EXPECT_TRUE(*ReadNow(*log, keys[i]) == PayloadOf(i));
  log.reset();
  fake_syncs.Fail(0);
  EXPECT_EQ(OpenLog(dir.path(), 16u << 10)->TakeFound().size(), 5u);
}

// Three full segments; of the first one record lives, which is to be moved once enough has gone from the others.
std::function<void(std::string_view)> at_fail_point;
void CallIt(const char* name) { at_fail_point(name); }

struct ParkLogMoveTest : testing::Test {
  static constexpr uint64_t kSegment = 16u << 10, kOfEach = 15;
  ParkLogMoveTest() {
    for (uint64_t i = 0; i < 3 * kOfEach + 1; ++i) {
      keys.push_back(*AppendNow(*log, AboutOf(i), std::string(1000, 'x')));
      EXPECT_TRUE(log->Seal(keys.back()).ok());
    }
    for (uint64_t i = 1; i < kOfEach; ++i) log->Remove(keys[i]);
  }
  void StartTheMove() {
    for (uint64_t i = kOfEach; i < 3 * kOfEach; ++i) {
      if (i % kOfEach != 0) log->Remove(keys[i]);
    }
  }
  // In what a kill would leave now.
  bool IsThere(uint64_t number) {
    TempDir left;
    for (const std::string& name : Segments(dir.path())) {
      std::error_code gone;
      std::filesystem::copy_file(dir / name, left / name, gone);
    }
    for (const auto& found : OpenLog(left.path(), kSegment)->TakeFound()) {
      if (NumberOf(found.about.id) == number) return true;
    }
    return false;
  }
  TempDir dir;
  std::unique_ptr<ParkLog> log = OpenLog(dir.path(), kSegment);
  std::vector<ParkLog::Key> keys;
  std::atomic<bool> reached = false, removed = false;
};

TEST_F(ParkLogMoveTest, ARecordThatIsRemovedWhileItIsCopiedIsGone) {
  bool there = true;
  at_fail_point = [&](std::string_view name) {
    if (name != "park.after_copy" || reached.exchange(true)) return;
    reached.notify_all();
    removed.wait(false);
  };
  const ArmedFailPoints armed(CallIt);
  StartTheMove();
  reached.wait(false);
  EXPECT_TRUE(IsThere(0));
  log->Remove(keys[0]);
  there = IsThere(0);
  removed = true;
  removed.notify_all();
  EXPECT_FALSE(there);
  while (Segments(dir.path()).contains("parked-0")) EXPECT_TRUE(ReadNow(*log, keys[kOfEach]).ok());
  EXPECT_FALSE(IsThere(0));
  log.reset();
  EXPECT_FALSE(IsThere(0));
}

TEST_F(ParkLogMoveTest, ARecordThatIsRemovedWhileItsCopyIsSealedIsGone) {
  at_fail_point = [&](std::string_view name) {
    if (name != "park.after_move" || reached.exchange(true)) return;
    reached.notify_all();
    for (int chances = 0; chances < 2000 && !removed; ++chances) std::this_thread::yield();  // for a Remove that would not wait
  };
  const ArmedFailPoints armed(CallIt);
  StartTheMove();
  reached.wait(false);
  log->Remove(keys[0]);
  removed = true;
  EXPECT_FALSE(IsThere(0));
  log.reset();
  EXPECT_FALSE(IsThere(0));
}

TEST_F(ParkLogMoveTest, ARecordThatIsBeingRemovedIsNotMoved) {
  std::atomic<bool> cleaned = false;
  at_fail_point = [&](std::string_view name) {
    if (name == "park.before_unlink") {
      cleaned = true;
      cleaned.notify_all();
    }
    if (name != "park.after_remove" || reached.exchange(true)) return;
    reached.notify_all();
    cleaned.wait(false);
  };
  const ArmedFailPoints armed(CallIt);
  std::thread remover([&] { log->Remove(keys[0]); });
  reached.wait(false);
  StartTheMove();
  remover.join();
  EXPECT_FALSE(IsThere(0));
  log.reset();
  EXPECT_FALSE(IsThere(0));
}

TEST_F(ParkLogMoveTest, ARecordThatIsInTwoPlacesIsRemovedFromBoth) {
  fake_syncs.Hold();
  const int begun = fake_syncs.begun();
  StartTheMove();
  fake_syncs.AwaitCallAfter(begun);
  EXPECT_EQ(Places(dir.path(), 0), 2);
  log->Remove(keys[0]);
  EXPECT_EQ(Places(dir.path(), 0), 0);
  fake_syncs.Release();
}

TEST(ParkLogThreadsTest, ReadsSealsSyncsAndRemovesAreRightWhileRecordsAreMoved) {
  TempDir dir;
  std::atomic<int> syncs = 0, answered = 0;
  {
    const auto log = OpenLog(dir.path(), 32u << 10);
    const auto work = [&](uint64_t thread) {
      Random random(thread);
      std::map<uint64_t, std::pair<ParkLog::Key, uint64_t>> mine;
      for (uint64_t turn = 1; turn < 1500; ++turn) {
        const uint64_t number = thread << 32 | random() % 24;
        const auto it = mine.find(number);
        if (it == mine.end()) {
          const auto key = Park(*log, number, turn);
          ASSERT_TRUE(key.ok()) << key.status();
          mine[number] = {*key, turn};
          continue;
        }
        const auto [key, serial] = it->second;
        const uint64_t what = random() % 4;
        if (what == 0) {
          ++syncs;
          ASSERT_TRUE(SyncNow(*log, key).ok());
          ++answered;
        } else if (what == 1) {
          const auto bytes = ReadNow(*log, key);
          ASSERT_TRUE(bytes.ok()) << bytes.status();
          ASSERT_TRUE(*bytes == PayloadOf(number, serial));
        } else {
          log->Remove(key);
          mine.erase(it);
        }
      }
      for (const auto& [number, record] : mine) {
        if (number % 2 == 0) log->Remove(record.first);
      }
    };
    std::thread other(work, 1), third(work, 2);
    work(3);
    other.join();
    third.join();
  }
  EXPECT_EQ(answered, syncs);
  const auto log = OpenLog(dir.path(), 32u << 10);
  for (const auto& [key, about] : log->TakeFound()) {
    EXPECT_EQ(NumberOf(about.id) % 2, 1u);
    EXPECT_TRUE(*ReadNow(*log, key) == PayloadOf(NumberOf(about.id), about.serial));
  }
}

TEST(ParkLogThreadsTest, AllThatWasAskedForIsAnsweredBeforeTheEnd) {
  TempDir dir;
  std::atomic<int> answered = 0;
  {
    const auto log = OpenLog(dir.path(), 16u << 10);
    const auto key = *Park(*log, 1);
    for (uint64_t i = 0; i < 200; ++i) {
      log->Append(AboutOf(100 + i), PayloadOf(i), [&](const absl::StatusOr<ParkLog::Key>& appended) { answered += appended.ok(); });
      log->Read(key, [&](const absl::StatusOr<std::string>& bytes) { answered += bytes.ok(); });
      log->Sync(key, [&](const absl::Status& status) { answered += status.ok(); });
    }
  }
  EXPECT_EQ(answered, 600);
  EXPECT_EQ(OpenLog(dir.path(), 16u << 10)->TakeFound().size(), 1u);
}

}  // namespace
}  // namespace lstm::server
