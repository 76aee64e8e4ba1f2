// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "tests/server/store/model_session.h"

// HOST durability on a disk that can lose its power: it writes blocks of 512 bytes whole or not at all, in any order, at
// any time, and only a finished sync says that they are there. The rule under test (docs/protocol.md): the next commit
// begins once the sync of the one before has ended; what was acknowledged then is never lost.
namespace lstm::server {
namespace {

int Images() {
  const char* images = std::getenv("LSTM_POWER_CUTS");
  return images != nullptr ? std::atoi(images) : 10000;
}

constexpr Shape kShapes[] = {
    {},
    {.state_floats = 3, .window = 2, .ring_bytes = 300, .most_answer = 150},  // all of it in few blocks
    {.state_floats = 700, .window = 16, .ring_bytes = 3000, .most_answer = 500, .own_initial = true},
};

class Disk {
 public:
  explicit Disk(size_t bytes) : memory(bytes), platter_(bytes) {}
  void Sync() { platter_ = memory; }
  // The kernel writes some of the dirty blocks back, perhaps while the process is at work on one.
  static void WriteBack(Image& from, Image& to, Random& random) {
    const uint64_t share = random() % 5;  // of 4: none to all
    for (size_t i = 0; i < from.blocks(); ++i) {
      if (random() % 4 >= share || std::memcmp(from.block(i).data(), to.block(i).data(), kBlock) == 0) continue;
      const size_t upto = random() % 8 == 0 ? random() % (kBlock / 8) * 8 : kBlock;
      std::memcpy(to.block(i).data(), from.block(i).data(), upto);
    }
  }
  void WriteBack(Random& random) { WriteBack(memory, platter_, random); }
  // What a start would find, if the power went now.
  Image AfterCut(Random& random) {
    Image image = platter_;
    WriteBack(memory, image, random);
    return image;
  }
  void Become(const Image& image) { memory = platter_ = image; }

  Image memory;

 private:
  Image platter_;
};

// Called at every fail point of what runs.
std::function<void()> at_fail_point;
void CallIt(const char*) { at_fail_point(); }

struct Rules {
  bool commits_wait_for_syncs = true;
  bool restarts_sync = true;  // Slab::Open does, before anything is written upon what the process before left
};

struct Found {
  int images = 0, lost = 0, wrong = 0;
  std::string first{};
};

// One session for a while, the power cut in thought at every fail point, and in earnest now and then.
void Live(uint64_t seed, const Rules& rules, Found& found) {
  Random random(seed);
  ModelSession model(seed, kShapes[seed % std::size(kShapes)]);
  Disk disk(model.bytes());
  std::vector<StoredPosition> acceptable;  // what a cut may leave: what was acknowledged, and what is or was in flight upon it
  bool acknowledged = false;
  const auto note = [&](int& count, const Reading& reading) {
    if (count++ == 0) found.first = absl::StrCat("seed ", seed, ": ", reading.what);
  };
  const auto look = [&](Image image) {
    ++found.images;
    const Reading reading = model.Read(image.span(), acceptable);
    if (reading.served == Served::kWrong) note(found.wrong, reading);
    if (reading.served == Served::kRefused && acknowledged) note(found.lost, reading);
  };

  int kill_in = 0;  // fail points from now; 0: never
  at_fail_point = [&] {
    look(disk.AfterCut(random));
    if (random() % 4 == 0) disk.WriteBack(random);
    if (kill_in > 0 && --kill_in == 0) throw Killed();
  };
  const ArmedFailPoints armed(CallIt);
  acceptable = {model.first()};
  Slot slot = model.Create(disk.memory.span());
  disk.Sync();
  acknowledged = true;
  store::v1::SessionIdentity identity;
  for (int commit = 0; commit < 40; ++commit) {
    const ModelSession::Plan plan = model.Next(slot, random);
    acceptable.push_back(plan.position);
    kill_in = random() % 4 == 0 ? static_cast<int>(1 + random() % 7) : 0;
    bool killed = false;
    try {
      model.Commit(slot, plan);
    } catch (const Killed&) {
      killed = true;
    }
    look(disk.AfterCut(random));
    if (killed) {
      const bool power_too = random() % 2 == 0;
      if (power_too) disk.Become(disk.AfterCut(random));
      if (rules.restarts_sync) disk.Sync();
      const absl::StatusOr<Slot> opened = Slot::Open(disk.memory.span(), &identity);
      if (!opened.ok()) return;  // found above already, or broken rules
      slot = *opened;
      if (!slot.Verify().ok()) return;
      // Where the older half took over, the torn one keeps its seal until the next commit: should that restore what was
      // missing, the commit in flight comes true after all. Nobody was told otherwise.
      const bool older = SamePosition(slot.position(), acceptable[0]);
      if ((rules.restarts_sync || power_too) && !older) acceptable = {slot.position()};
    } else if (rules.commits_wait_for_syncs || commit % 2 == 1) {
      if (random() % 2 == 0) disk.WriteBack(random);
      disk.Sync();
      acceptable = {plan.position};
    }
  }
}

Found LiveUntil(int images, const Rules& rules) {
  Found found;
  for (uint64_t seed = 0; found.images < images; ++seed) Live(seed, rules, found);
  return found;
}

TEST(PowerCutTest, LosesNothingThatWasAcknowledged) {
  const Found found = LiveUntil(Images(), {});
  EXPECT_EQ(found.lost, 0) << found.first;
  EXPECT_EQ(found.wrong, 0) << found.first;
}

TEST(PowerCutControlTest, LossIsFoundWhereTheNextCommitDoesNotWaitForTheSync) {
  EXPECT_GT(LiveUntil(10000, {.commits_wait_for_syncs = false}).lost, 10);
}

TEST(PowerCutControlTest, LossIsFoundWhereARestartWritesUponWhatNeverReachedTheDisk) {
  EXPECT_GT(LiveUntil(10000, {.restarts_sync = false}).lost, 10);
}

// A slot changes hands: the session before was wiped, and none of that need be on the disk yet.
TEST(PowerCutTest, MixesNoTwoSessionsOfOneSlot) {
  int images = 0, old_ones = 0, new_ones = 0;
  for (uint64_t seed = 0; images < Images(); ++seed) {
    Random random(seed);
    const Shape& shape = kShapes[seed % std::size(kShapes)];
    ModelSession before(2 * seed, shape), after(2 * seed + 1, shape);
    Disk disk(before.bytes());
    Slot slot = before.Create(disk.memory.span());
    std::vector<StoredPosition> last = {slot.position()};
    for (uint64_t commits = random() % 10; commits > 0; --commits) {
      const ModelSession::Plan plan = before.Next(slot, random);
      before.Commit(slot, plan);
      last = {last.back(), plan.position};
    }
    disk.Sync();
    const auto look = [&](Image image) {
      ++images;
      Reading reading = after.Read(image.span(), after.first());
      new_ones += reading.served == Served::kRight;
      if (reading.what == "another identity") {
        reading = before.Read(image.span(), last);
        old_ones += reading.served == Served::kRight;
      }
      ASSERT_NE(reading.served, Served::kWrong) << reading.what << ", seed " << seed;
    };
    std::memset(disk.memory.data(), 0, disk.memory.span().size());
    look(disk.AfterCut(random));
    if (random() % 2 == 0) disk.WriteBack(random);
    at_fail_point = [&] {
      look(disk.AfterCut(random));
      if (random() % 4 == 0) disk.WriteBack(random);
    };
    const ArmedFailPoints armed(CallIt);
    Slot made = after.Create(disk.memory.span());
    look(disk.AfterCut(random));
    if (HasFatalFailure()) return;
    disk.Sync();
    ASSERT_EQ(after.Read(disk.AfterCut(random).span(), after.first()).served, Served::kRight);
  }
  EXPECT_GT(old_ones, 100);
  EXPECT_GT(new_ones, 100);
}

}  // namespace
}  // namespace lstm::server
