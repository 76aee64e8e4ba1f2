// SPDX-License-Identifier: MIT
#include "server/store/slab.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <latch>
#include <set>

#include "tests/server/store/model_session.h"
#include "tests/server/store/temp_dir.h"

namespace lstm::server {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::unique_ptr<Slab> Open(const std::string& directory) {
  auto slab = Slab::Open({.directory = directory});
  EXPECT_TRUE(slab.ok()) << slab.status();
  return *std::move(slab);
}

bool AllZero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
}

void Write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string Content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> Extents(const std::string& directory) {
  std::set<std::string> out;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename().string().starts_with("slab-")) out.insert(entry.path().filename());
  }
  return out;
}

TEST(SlabTest, SlotsAreZeroAlignedLargeEnoughAndNotMuchLarger) {
  TempDir dir;
  const auto slab = Open(dir.path());
  for (const size_t bytes : {1u, 4096u, 4097u, 30000u, 70001u, 1000000u, 3000000u, 70000000u}) {
    const auto slot = Take(*slab, bytes);
    ASSERT_TRUE(slot.ok()) << slot.status();
    EXPECT_GE(slot->size(), bytes);
    EXPECT_LE(slot->size(), bytes + std::max<size_t>(4096, bytes / 4));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(slot->data()) % 64, 0u);
    EXPECT_TRUE(AllZero(*slot));
  }
}

TEST(SlabTest, WhatWasWrittenIsThereAfterAReopenAndGivenBackOnce) {
  TempDir dir;
  std::multiset<std::string> written;
  {
    const auto slab = Open(dir.path());
    for (size_t i = 0; i < 40; ++i) {
      const auto slot = *Take(*slab, i % 2 == 0 ? 5000 : 70000);
      std::ranges::fill(slot, static_cast<std::byte>(i + 1));
      written.emplace(reinterpret_cast<const char*>(slot.data()), slot.size());
    }
  }
  const auto slab = Open(dir.path());
  std::multiset<std::string> read;
  std::set<const std::byte*> places;
  for (const auto slot : slab->TakeRecovered()) {
    read.emplace(reinterpret_cast<const char*>(slot.data()), slot.size());
    places.insert(slot.data());
  }
  EXPECT_TRUE(read == written);
  EXPECT_TRUE(slab->TakeRecovered().empty());
  for (int i = 0; i < 300; ++i) {
    const auto slot = *Take(*slab, 5000);
    EXPECT_TRUE(places.insert(slot.data()).second) << "a slot in use was given away";
    EXPECT_TRUE(AllZero(slot));
  }
}

TEST(SlabTest, FreeWipesASlotAndGivesItToTheNext) {
  TempDir dir;
  const auto slab = Open(dir.path());
  std::set<const std::byte*> seen;
  for (int round = 0; round < 50; ++round) {
    const auto slot = *Take(*slab, 100000);
    EXPECT_TRUE(AllZero(slot));
    std::ranges::fill(slot, std::byte{0xee});
    slab->Free(slot);
    EXPECT_TRUE(AllZero(slot));
    seen.insert(slot.data());
  }
  EXPECT_EQ(seen.size(), 1u);
}

TEST(SlabTest, ASlotThatWasBeingMadeOrWipedIsWipedByTheNextStart) {
  TempDir dir;
  {
    const auto slab = Open(dir.path());
    for (int i = 0; i < 3; ++i) {
      const auto slot = *Take(*slab, 500000);
      std::ranges::fill(slot, std::byte{0x77});
      if (i < 2) std::memcpy(slot.data(), &kPartialSlot, sizeof(kPartialSlot));
    }
  }
  const auto slab = Open(dir.path());
  EXPECT_EQ(slab->TakeRecovered().size(), 1u);
  for (auto slot = slab->Allocate(500000); slot.ok(); slot = slab->Allocate(500000)) EXPECT_TRUE(AllZero(*slot));
}

TEST(SlabTest, ASecondProcessIsRefusedAfterItsWait) {
  TempDir dir;
  const auto slab = Open(dir.path());
  const auto second = Slab::Open({.directory = dir.path(), .wait = absl::Milliseconds(20)});
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(dir.path()));
}

TEST(SlabTest, ASecondProcessGetsTheDirectoryWhenTheFirstLetsGoOfIt) {
  TempDir dir;
  auto first = Open(dir.path());
  std::latch begun(1);
  std::thread second([&] {
    begun.count_down();
    const auto slab = Slab::Open({.directory = dir.path(), .wait = absl::Minutes(1)});
    EXPECT_TRUE(slab.ok()) << slab.status();
  });
  begun.wait();
  first.reset();
  second.join();
}

TEST(SlabTest, TheGenerationRisesAndTheInstanceStays) {
  TempDir dir, other;
  const Instance instance = Open(dir.path())->instance();
  for (uint64_t generation = 2; generation < 6; ++generation) {
    const auto slab = Open(dir.path());
    EXPECT_EQ(slab->generation(), generation);
    EXPECT_EQ(slab->instance(), instance);
  }
  EXPECT_NE(Open(other.path())->instance(), instance);
}

TEST(SlabTest, TheDirectoryIsForItsOwnerAlone) {
  TempDir dir;
  { const auto slab = Open(dir / "new"); ASSERT_TRUE(Take(*slab, 100).ok()); }
  EXPECT_EQ(fs::status(dir / "new").permissions(), fs::perms::owner_all);
  for (const auto& entry : fs::directory_iterator(dir / "new")) {
    EXPECT_EQ(entry.status().permissions(), fs::perms::owner_read | fs::perms::owner_write) << entry.path();
  }
  EXPECT_FALSE(Slab::Open({.directory = dir / "not/there"}).ok());
}

// A directory with one extent of 4096-byte slots, two of them in use.
struct SlabFilesTest : testing::Test {
  SlabFilesTest() {
    const auto slab = Open(dir.path());
    for (int i = 0; i < 2; ++i) std::ranges::fill(*Take(*slab, 4096), std::byte{0x55});
  }
  void Damage(const std::string& name, size_t at, const std::string& bytes) {
    std::fstream file(dir / name, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at)).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  absl::Status OpenStatus() { return Slab::Open({.directory = dir.path()}).status(); }
  // Refused by name, and left as it was.
  void ExpectRefused(const std::string& name, const std::string& why) {
    const std::string before = Content(dir / name);
    const absl::Status status = OpenStatus();
    EXPECT_TRUE(absl::IsDataLoss(status)) << why << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_TRUE(Content(dir / name) == before) << why << ": the file was touched";
  }
  TempDir dir;
  const std::string extent = "slab-4096-0";
};

TEST_F(SlabFilesTest, ADamagedHeaderOfAnExtentIsRefused) {
  const std::string whole = Content(dir / extent);
  for (size_t byte = 0; byte < 28; ++byte) {
    Damage(extent, byte, std::string(1, static_cast<char>(whole[byte] ^ 0x40)));
    ExpectRefused(extent, absl::StrCat("byte ", byte));
    Damage(extent, byte, whole.substr(byte, 1));
  }
  Damage(extent, 16, std::string(8, '\xff'));
  ExpectRefused(extent, "more slots than there can be");
  Damage(extent, 0, std::string(4096, '\0'));
  ExpectRefused(extent, "no header above slots that are in use");
  Damage(extent, 0, whole.substr(0, 4096));
  EXPECT_EQ(Open(dir.path())->TakeRecovered().size(), 2u);
}

TEST_F(SlabFilesTest, ATruncatedExtentIsRefused) {
  const std::string whole = Content(dir / extent);
  for (const size_t bytes : {whole.size() - 1, whole.size() - 4096, size_t{8192}, size_t{4096}, size_t{32}, size_t{31}, size_t{9}}) {
    fs::resize_file(dir / extent, bytes);
    ExpectRefused(extent, absl::StrCat(bytes, " bytes"));
  }
  Write(dir / extent, whole);
  EXPECT_EQ(Open(dir.path())->TakeRecovered().size(), 2u);
}

TEST_F(SlabFilesTest, AnExtentOfAnotherDirectoryOrUnderAnotherNameIsRefused) {
  TempDir other;
  { const auto slab = Open(other.path()); ASSERT_TRUE(Take(*slab, 4096).ok()); }
  fs::copy_file(other / extent, dir / "slab-4096-1");
  ExpectRefused("slab-4096-1", "of another directory");
  fs::remove(dir / "slab-4096-1");
  for (const std::string name : {"slab-8192-0", "slab-0-0", "slab-4097-0", "slab-18446744073709547520-4294967295"}) {
    fs::copy_file(dir / extent, dir / name);
    ExpectRefused(name, "under another name");
    fs::remove(dir / name);
  }
}

TEST_F(SlabFilesTest, AnExtentOfWhichTheMakingWasCutShortIsRemovedAndItsNumberNotReused) {
  Write(dir / "slab-4096-1", "");
  Write(dir / "slab-4096-2", std::string(20, '\0'));
  Write(dir / "slab-4096-3", std::string(1u << 20, '\0'));
  const auto slab = Open(dir.path());
  EXPECT_EQ(Extents(dir.path()), std::set<std::string>{extent});
  EXPECT_EQ(slab->TakeRecovered().size(), 2u);
  for (int i = 0; i < 400; ++i) ASSERT_TRUE(Take(*slab, 4096).ok());
  EXPECT_TRUE(Extents(dir.path()).contains("slab-4096-4"));
}

TEST_F(SlabFilesTest, ForeignFilesAreLeftAlone) {
  for (const char* name : {"notes.txt", "slab", "slab-", "slab-4096", "slab-x-0", "slab-4096-x", "slab-4096-0-0", "slab-4096--1",
                           "Slab-4096-7"}) {
    Write(dir / name, "mine");
  }
  fs::create_directory(dir / "folder");
  EXPECT_EQ(Open(dir.path())->TakeRecovered().size(), 2u);
  EXPECT_EQ(Content(dir / "slab-4096-x"), "mine");
  EXPECT_TRUE(fs::exists(dir / "folder"));
}

TEST_F(SlabFilesTest, LinksAndOtherKindsOfFilesAreRefusedAndNotFollowed) {
  TempDir outside;
  Write(outside / "target", "");
  for (const std::string name : {"slab-4096-1", "lock", "instance", "instance.new"}) {
    const bool there = fs::exists(dir / name);
    if (there) fs::rename(dir / name, dir / "aside");
    fs::create_symlink(outside / "target", dir / name);
    EXPECT_FALSE(OpenStatus().ok()) << name;
    EXPECT_TRUE(fs::is_symlink(dir / name)) << name;
    fs::remove(dir / name);
    if (there) fs::rename(dir / "aside", dir / name);
  }
  EXPECT_EQ(fs::file_size(outside / "target"), 0u);
  fs::create_directory(dir / "slab-4096-1");
  EXPECT_FALSE(OpenStatus().ok());
  fs::remove(dir / "slab-4096-1");
  ASSERT_EQ(mkfifo((dir / "slab-4096-1").c_str(), 0600), 0);
  EXPECT_FALSE(OpenStatus().ok());
  EXPECT_TRUE(fs::is_fifo(dir / "slab-4096-1"));
  fs::remove(dir / "slab-4096-1");
  EXPECT_TRUE(OpenStatus().ok());
}

TEST_F(SlabFilesTest, ADamagedOrMissingInstanceIsRefusedWhereThereAreExtents) {
  const std::string whole = Content(dir / "instance");
  Write(dir / "instance", whole.substr(0, 10));
  ExpectRefused("instance", "truncated");
  Write(dir / "instance", "x" + whole.substr(1));
  ExpectRefused("instance", "another magic");
  Write(dir / "instance", whole);
  EXPECT_TRUE(OpenStatus().ok());
  fs::remove(dir / "instance");
  ExpectRefused(extent, "a new instance is not that of the extents");
}

TEST(SlabFullTest, MaxBytesRefuseMoreAndHarmNothingThatLives) {
  TempDir dir;
  const auto slab = *Slab::Open({.directory = dir.path(), .max_bytes = (1u << 20) + 4096});
  std::vector<std::span<std::byte>> slots;
  absl::StatusOr<std::span<std::byte>> slot;
  for (slot = Take(*slab, 100000); slot.ok(); slot = Take(*slab, 100000)) slots.push_back(*slot);
  EXPECT_TRUE(absl::IsResourceExhausted(slot.status())) << slot.status();
  EXPECT_GE(slots.size(), 8u);
  EXPECT_TRUE(absl::IsResourceExhausted(GrowNow(*slab, 200000)));
  for (const auto one : slots) std::ranges::fill(one, std::byte{1});
  slab->Free(slots.back());
  EXPECT_TRUE(GrowNow(*slab, 100000).ok());
  EXPECT_TRUE(Take(*slab, 100000).ok());
  EXPECT_EQ(Extents(dir.path()).size(), 1u);
}

TEST(SlabFullTest, AFullDiskRefusesMoreAndSessionsThatLiveGoOn) {
  TempDir dir;
  if (mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=4m") != 0) {
    GTEST_SKIP() << "a tmpfs cannot be mounted here: " << std::strerror(errno);
  }
  struct Unmount {
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
    std::string path;
  } unmount{dir.path()};
  ModelSession model(1, {.state_floats = 20000, .ring_bytes = 20000, .most_answer = 10000});
  const auto slab = Open(dir.path());
  EXPECT_FALSE(slab->survives_power_loss());
  std::vector<Slot> sessions;
  while (true) {
    const auto slot = Take(*slab, model.bytes());
    if (!slot.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(slot.status())) << slot.status();
      break;
    }
    sessions.push_back(model.Create(*slot));
  }
  const std::set<std::string> extents = Extents(dir.path());
  EXPECT_GE(extents.size(), 1u);
  // To the last byte: what is not there is noticed at growth, never at a write.
  const int ballast = open((dir / "ballast").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const std::vector<char> page(4096, 'x');
  while (write(ballast, page.data(), page.size()) > 0) {}
  close(ballast);
  EXPECT_TRUE(absl::IsResourceExhausted(GrowNow(*slab, model.bytes())));
  EXPECT_EQ(Extents(dir.path()), extents) << "what could not be made is gone";
  Random random(1);
  for (Slot& slot : sessions) {
    for (int commit = 0; commit < 10; ++commit) {
      const ModelSession::Plan plan = model.Next(slot, random);
      model.Commit(slot, plan);
      ASSERT_EQ(model.Read(slot.memory(), plan.position).served, Served::kRight);
    }
  }
  fs::remove(dir / "ballast");
  ASSERT_EQ(mount("tmpfs", dir.path().c_str(), "tmpfs", MS_REMOUNT, "size=16m"), 0);
  EXPECT_TRUE(GrowNow(*slab, model.bytes()).ok());
  EXPECT_TRUE(Take(*slab, model.bytes()).ok());
}

}  // namespace
}  // namespace lstm::server
