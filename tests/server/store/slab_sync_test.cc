// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <latch>
#include <map>
#include <mutex>

#include "tests/server/store/fake_syncs.h"
#include "tests/server/store/model_session.h"
#include "tests/server/store/temp_dir.h"

// Sync against a disk that the test holds in its hand, growth, and threads.
namespace lstm::server {
namespace {

std::unique_ptr<Slab> Open(const std::string& directory) {
  auto slab = Slab::Open({.directory = directory});
  EXPECT_TRUE(slab.ok()) << slab.status();
  return *std::move(slab);
}

absl::Status SyncNow(Slab& slab, std::span<std::byte> slot) {
  std::promise<absl::Status> answer;
  slab.Sync(slot, [&answer](const absl::Status& status) { answer.set_value(status); });
  return answer.get_future().get();
}

TEST(SlabSyncTest, EverySyncIsAnsweredOnce) {
  TempDir dir;
  const auto slab = Open(dir.path());
  const std::span<std::byte> slots[] = {*Take(*slab, 4096), *Take(*slab, 4096), *Take(*slab, 100000)};
  constexpr int kSyncs = 500;
  std::vector<std::atomic<int>> answers(kSyncs);
  std::latch all(kSyncs);
  for (int i = 0; i < kSyncs; ++i) {
    slab->Sync(slots[i % 3], [&, i](const absl::Status& status) {
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(answers[static_cast<size_t>(i)]++, 0);
      all.count_down();
    });
  }
  all.wait();
}

TEST(SlabSyncTest, WhatComesWhileTheDiskWorksGoesTogetherInTheNextGroup) {
  TempDir dir;
  const auto slab = Open(dir.path());
  const auto slot = *Take(*slab, 4096), other = *Take(*slab, 100000);
  const int before = fake_syncs.begun();
  std::latch all(101);
  fake_syncs.Hold();
  slab->Sync(slot, [&](const absl::Status&) { all.count_down(); });
  fake_syncs.AwaitCallAfter(before);
  for (int i = 0; i < 100; ++i) slab->Sync(i % 2 == 0 ? slot : other, [&](const absl::Status&) { all.count_down(); });
  fake_syncs.Release();
  all.wait();
  EXPECT_EQ(fake_syncs.begun() - before, 3) << "one, then one for each extent of the group";
}

TEST(SlabSyncTest, ASyncThatIsAskedForWhileOneRunsIsNotAnsweredByIt) {
  TempDir dir;
  const auto slab = Open(dir.path());
  const auto slot = *Take(*slab, 4096);
  const int before = fake_syncs.begun();
  std::promise<int> first, second;  // the calls that had begun when each was answered
  fake_syncs.Hold();
  slab->Sync(slot, [&](const absl::Status&) { first.set_value(fake_syncs.begun()); });
  fake_syncs.AwaitCallAfter(before);
  slab->Sync(slot, [&](const absl::Status&) { second.set_value(fake_syncs.begun()); });
  fake_syncs.Release();
  EXPECT_EQ(first.get_future().get(), before + 1);
  EXPECT_EQ(second.get_future().get(), before + 2);
}

TEST(SlabSyncTest, TheEndAnswersWhatIsOutstanding) {
  TempDir dir;
  auto slab = Open(dir.path());
  const auto slot = *Take(*slab, 4096);
  std::atomic<int> answered = 0;
  const int before = fake_syncs.begun();
  fake_syncs.Hold();
  for (int i = 0; i < 50; ++i) slab->Sync(slot, [&](const absl::Status& status) { answered += status.ok(); });
  fake_syncs.AwaitCallAfter(before);
  std::thread release([] { fake_syncs.Release(); });
  slab.reset();
  release.join();
  EXPECT_EQ(answered, 50);
}

// After an error the kernel takes pages for clean that never reached the disk: a later sync that succeeds says nothing.
TEST(SlabSyncTest, OnceTheDiskFailedNoSyncOfThatExtentSucceedsAgain) {
  TempDir dir;
  const auto slab = Open(dir.path());
  const auto slot = *Take(*slab, 4096), neighbour = *Take(*slab, 4096), elsewhere = *Take(*slab, 100000);
  EXPECT_TRUE(SyncNow(*slab, slot).ok());
  fake_syncs.Fail(1);
  EXPECT_FALSE(SyncNow(*slab, slot).ok());
  EXPECT_FALSE(SyncNow(*slab, slot).ok());
  EXPECT_FALSE(SyncNow(*slab, neighbour).ok());
  EXPECT_TRUE(SyncNow(*slab, elsewhere).ok());
}

// Else a power cut in the first commit after a kill could take the turn before, which was acknowledged (power_cut_test.cc).
TEST(SlabSyncTest, AStartSyncsWhatTheProcessBeforeLeftAndFailsWhereItCannot) {
  TempDir dir;
  {
    const auto slab = Open(dir.path());
    std::ranges::fill(*Take(*slab, 4096), std::byte{1});
  }
  const int before = fake_syncs.CallsFor(dir / "slab-4096-0");
  EXPECT_EQ(Open(dir.path())->TakeRecovered().size(), 1u);
  EXPECT_EQ(fake_syncs.CallsFor(dir / "slab-4096-0"), before + 1);
  fake_syncs.Fail(1);
  EXPECT_FALSE(Slab::Open({.directory = dir.path()}).ok());
  fake_syncs.Fail(0);
}

TEST(SlabThreadsTest, NoTwoThreadsEverHoldOneSlot) {
  TempDir dir;
  auto slab = Open(dir.path());
  std::atomic<int> syncs = 0, answered = 0;
  const auto work = [&](uint64_t seed) {
    Random random(seed);
    std::vector<std::span<std::byte>> mine;
    for (int i = 0; i < 3000; ++i) {
      if (mine.size() < 20 && random() % 2 == 0) {
        const auto slot = Take(*slab, random() % 2 == 0 ? 4000 : 20000);
        ASSERT_TRUE(slot.ok()) << slot.status();
        ASSERT_EQ(slot->front(), std::byte{0});
        std::memset(slot->data(), static_cast<int>(seed), 64);
        mine.push_back(*slot);
      } else if (!mine.empty()) {
        std::swap(mine[random() % mine.size()], mine.back());
        for (size_t at = 0; at < 64; ++at) ASSERT_EQ(mine.back()[at], static_cast<std::byte>(seed)) << "another thread wrote into it";
        if (random() % 4 == 0) {
          ++syncs;
          slab->Sync(mine.back(), [&](const absl::Status& status) { answered += status.ok(); });
        } else {
          slab->Free(mine.back());
          mine.pop_back();
        }
      }
    }
    for (const auto slot : mine) slab->Free(slot);
  };
  std::thread other(work, 1);
  work(2);
  other.join();
  slab.reset();
  EXPECT_EQ(answered, syncs);
}

TEST(SlabThreadsTest, GrowIsAnsweredOnceThoughManyWaitForItAndTheEndComes) {
  TempDir dir;
  std::atomic<int> answered = 0;
  {
    const auto slab = Open(dir.path());
    std::thread other([&] {
      for (int i = 0; i < 50; ++i) slab->Grow(4096u << i % 4, [&](const absl::Status& status) { answered += status.ok(); });
    });
    for (int i = 0; i < 50; ++i) slab->Grow(4096u << i % 4, [&](const absl::Status& status) { answered += status.ok(); });
    other.join();
  }
  EXPECT_EQ(answered, 100);
}

TEST(SlabThreadsTest, RoomIsMadeAheadOfNeed) {
  TempDir dir;
  const auto slab = Open(dir.path());
  ASSERT_TRUE(GrowNow(*slab, 4096).ok());
  int unavailable = 0;
  for (int i = 0; i < 255; ++i) unavailable += !slab->Allocate(4096).ok();
  EXPECT_EQ(unavailable, 0);
  ASSERT_TRUE(slab->Allocate(4096).ok());  // the last of the first extent; the second was asked for long before
  EXPECT_TRUE(GrowNow(*slab, 4096).ok());
  EXPECT_TRUE(slab->Allocate(4096).ok());
}

}  // namespace
}  // namespace lstm::server
