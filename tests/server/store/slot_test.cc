// SPDX-License-Identifier: MIT
#include "server/store/slot.h"

#include <gtest/gtest.h>

#include <deque>
#include <string_view>

#include "server/store/session_store.h"
#include "tests/server/store/model_session.h"

namespace lstm::server {
namespace {

constexpr Shape kShapes[] = {
    {},
    {.state_floats = 1, .window = 1, .ring_bytes = 4096, .most_answer = 4096},
    {.state_floats = 512, .window = 64, .ring_bytes = 3001, .most_answer = 100, .own_initial = true},
    {.state_floats = 77, .window = 8, .ring_bytes = 1000, .most_answer = 333, .own_initial = true},
};

void Flip(Image& image, size_t byte) { image.data()[byte] ^= std::byte{0x10}; }

class SlotTest : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, SlotTest, testing::ValuesIn(kShapes));

TEST_P(SlotTest, OpensAsItWasCreated) {
  ModelSession model(1, GetParam());
  EXPECT_EQ(model.bytes(), Layout(model.identity).total);
  Image image(model.bytes());
  const Slot made = model.Create(image.span());
  EXPECT_TRUE(SamePosition(made.position(), model.first()));
  const Reading reading = model.Read(image.span(), model.first());
  EXPECT_EQ(reading.served, Served::kRight) << reading.what;
  store::v1::SessionIdentity identity;
  const Slot opened = *Slot::Open(image.span(), &identity);
  EXPECT_EQ(opened.initial().size(), GetParam().own_initial ? GetParam().state_floats : 0);
  EXPECT_EQ(opened.ring_bytes(), GetParam().ring_bytes);
  EXPECT_EQ(opened.answers(), 0u);
}

TEST_P(SlotTest, EveryCommitOfARandomHistoryIsServedWhole) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    ModelSession model(seed, GetParam());
    Random random(seed);
    Image image(model.bytes());
    Slot slot = model.Create(image.span());
    for (int commit = 0; commit < 150; ++commit) {
      const ModelSession::Plan plan = model.Next(slot, random);
      model.Commit(slot, plan);
      const Reading reading = model.Read(image.span(), plan.position);
      ASSERT_EQ(reading.served, Served::kRight) << reading.what << ", seed " << seed << ", commit " << commit;
      if (random() % 16 == 0) {  // a start in between changes nothing
        store::v1::SessionIdentity identity;
        slot = *Slot::Open(image.span(), &identity);
      }
    }
  }
}

TEST_P(SlotTest, CommitsAlternateBetweenTheHalves) {
  ModelSession model(2, GetParam());
  Random random(2);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  for (int commit = 0; commit < 20; ++commit) {
    const std::span<const float> before = slot.state();
    const std::vector<float> copy(before.begin(), before.end());
    model.Commit(slot, model.Next(slot, random));
    EXPECT_NE(slot.state().data(), before.data());
    EXPECT_EQ(std::memcmp(before.data(), copy.data(), before.size_bytes()), 0) << "the state before stays until the next commit";
  }
}

TEST_P(SlotTest, WhatIsBeingComputedChangesNothingThatIsServed) {
  ModelSession model(4, GetParam());
  Random random(4);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  for (int commit = 0; commit < 20; ++commit) {
    const ModelSession::Plan plan = model.Next(slot, random);
    model.Commit(slot, plan);
    const std::span<float> next = slot.BeginState();
    ASSERT_NE(next.data(), slot.state().data());
    ASSERT_EQ(next.size(), slot.state().size());
    std::fill(next.begin(), next.end(), 7.0f);
    const size_t bytes = random() % (GetParam().ring_bytes + 1);
    if (const std::optional<uint32_t> place = slot.Place(bytes)) {
      const std::span<std::byte> answer = slot.AnswerAt(*place, bytes);
      std::fill(answer.begin(), answer.end(), std::byte{7});
    }
    const Reading reading = model.Read(image.span(), plan.position);  // as after a kill at this instant
    ASSERT_EQ(reading.served, Served::kRight) << reading.what;
  }
}

// Against the answers that the last commit says are not acknowledged, as byte ranges.
TEST_P(SlotTest, NoPlaceInTheRingIsReusedBeforeACommitSaidThatItWasAcknowledged) {
  struct Range {
    size_t from, to;
  };
  for (uint64_t seed = 100; seed < 120; ++seed) {
    ModelSession model(seed, GetParam());
    Random random(seed);
    Image image(model.bytes());
    Slot slot = model.Create(image.span());
    std::deque<Range> live;
    for (int commit = 0; commit < 500; ++commit) {
      const size_t wanted = random() % (GetParam().ring_bytes + 2);
      const std::optional<uint32_t> place = slot.Place(wanted);
      EXPECT_FALSE(wanted > GetParam().ring_bytes && place);
      EXPECT_TRUE(place || wanted > GetParam().ring_bytes || !live.empty()) << "an empty ring has room";
      ASSERT_TRUE(!place || *place + wanted <= GetParam().ring_bytes);
      const auto overlaps = [&](const Range& r) { return place && *place < r.to && r.from < *place + wanted; };
      ASSERT_TRUE(std::none_of(live.begin(), live.end(), overlaps)) << "seed " << seed << ", commit " << commit;
      const ModelSession::Plan plan = model.Next(slot, random);
      model.Commit(slot, plan);
      if (plan.turn) live.push_back({plan.place, plan.place + model.AnswerOf(plan.position.applied).size()});
      while (live.size() > plan.position.applied - plan.position.acked) live.pop_front();
    }
  }
}

TEST(SlotRingTest, AFullRingHasNoPlaceUntilAnAcknowledgementIsCommitted) {
  ModelSession model(3, {.ring_bytes = 100});
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  const std::vector<std::byte> answer(50);
  StoredPosition position = slot.position();
  for (uint32_t turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(slot.Place(50), turn * 50);
    ++position.applied;
    slot.Commit(position, model.StateOf(position.applied), {}, 1, turn * 50, answer);
  }
  EXPECT_EQ(slot.Place(1), std::nullopt);
  EXPECT_EQ(slot.Place(101), std::nullopt);
  EXPECT_NE(slot.Place(0), std::nullopt);
  position.acked = 1;
  EXPECT_EQ(slot.Place(50), std::nullopt) << "not before it is committed";
  slot.Commit(position);
  EXPECT_EQ(slot.Place(51), std::nullopt);
  EXPECT_EQ(slot.Place(50), 0u);
}

TEST(SlotRingTest, AnAnswerWithoutBytesDoesNotHideTheRoomBehindTheOthers) {
  ModelSession model(4, {.ring_bytes = 1000});
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  StoredPosition position = slot.position();
  for (const size_t bytes : {100u, 0u, 100u, 0u, 0u, 800u, 0u}) {
    const std::optional<uint32_t> place = slot.Place(bytes);
    ASSERT_TRUE(place) << bytes << " bytes after " << position.applied << " answers";
    ++position.applied;
    slot.Commit(position, model.StateOf(position.applied), {}, 1, *place, std::vector<std::byte>(bytes));
    if (position.applied == 4) break;  // the window
  }
  EXPECT_EQ(slot.answer(2).offset, 100u);
}

TEST(SlotVerifyTest, TheOlderHalfTakesOverWhereTheStateIsDamagedAndTheNextCommitsAreRight) {
  ModelSession model(5);
  Random random(5);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  for (int commit = 0; commit < 200; ++commit) {
    const StoredPosition before = slot.position();
    model.Commit(slot, model.Next(slot, random));
    const auto offset = static_cast<size_t>(reinterpret_cast<const std::byte*>(slot.state().data()) - image.data());
    Flip(image, offset + random() % slot.state().size_bytes());
    const Reading reading = model.Read(image.span(), before);
    ASSERT_NE(reading.served, Served::kWrong) << reading.what;  // the older half's answers may have gone
    store::v1::SessionIdentity identity;
    slot = *Slot::Open(image.span(), &identity);
    ASSERT_TRUE(slot.Verify().ok());
    ASSERT_TRUE(SamePosition(slot.position(), before));
    const ModelSession::Plan plan = model.Next(slot, random);
    model.Commit(slot, plan);
    ASSERT_TRUE(SamePosition(Slot::Open(image.span(), &identity)->position(), plan.position));
  }
}

// After a power cut: the newest half reached the disk, the answer that it speaks of did not, and the one before is whole.
TEST(SlotVerifyTest, TheOlderHalfTakesOverWhereTheNewestAnswerIsNotThere) {
  ModelSession model(14);
  Random random(14);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  int turns = 0;
  for (int commit = 0; commit < 100; ++commit) {
    const StoredPosition before = slot.position();
    const ModelSession::Plan plan = model.Next(slot, random);
    model.Commit(slot, plan);
    if (!plan.turn || model.AnswerOf(plan.position.applied).empty()) continue;
    ++turns;
    Flip(image, Layout(model.identity).ring_at + plan.place);
    const Reading reading = model.Read(image.span(), before);
    ASSERT_EQ(reading.served, Served::kRight) << reading.what;
    Flip(image, Layout(model.identity).ring_at + plan.place);
  }
  EXPECT_GT(turns, 20);
}

TEST(SlotVerifyTest, TwoDamagedStatesAreDataLoss) {
  ModelSession model(6);
  Random random(6);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  model.Commit(slot, model.Next(slot, random));
  const Layout at(model.identity);
  Flip(image, at.state(0));
  Flip(image, at.state(1) + 4);
  EXPECT_TRUE(absl::IsDataLoss(slot.Verify()));
}

TEST(SlotOpenTest, SaysFreeOfNothingButAFreeSlot) {
  ModelSession model(7);
  Image image(model.bytes());
  store::v1::SessionIdentity identity;
  EXPECT_TRUE(absl::IsNotFound(Slot::Open(image.span(), &identity).status()));
  std::memcpy(image.data(), &kPartialSlot, sizeof(kPartialSlot));
  EXPECT_TRUE(absl::IsNotFound(Slot::Open(image.span(), &identity).status()));
  model.Create(image.span());
  for (size_t byte = 0; byte < 8; ++byte) {
    Flip(image, byte);
    EXPECT_TRUE(absl::IsDataLoss(Slot::Open(image.span(), &identity).status())) << "byte " << byte << " of the seal";
    Flip(image, byte);
  }
  Flip(image, 9);
  EXPECT_TRUE(absl::IsFailedPrecondition(Slot::Open(image.span(), &identity).status())) << "another format version";
}

// A token is renewed without a turn, an acknowledgement or an epoch.
TEST(SlotOpenTest, TheLaterCommitWinsWhereNothingButTheTokenTellsThemApart) {
  ModelSession model(8);
  Image image(model.bytes());
  Slot slot = model.Create(image.span());
  StoredPosition position = slot.position();
  for (uint8_t token = 1; token < 6; ++token) {
    position.token_hash.fill(token);
    slot.Commit(position);
    store::v1::SessionIdentity identity;
    EXPECT_EQ(Slot::Open(image.span(), &identity)->position().token_hash[0], token);
  }
}

// A wipe that did not reach the disk before the power went: parts of the session before are still there.
TEST(SlotOpenTest, AHalfThatAnotherSessionLeftNeverCounts) {
  ModelSession before(9), after(10);
  Random random(9);
  Image old(before.bytes()), image(after.bytes());
  Slot slot = before.Create(old.span());
  for (int commit = 0; commit < 9; ++commit) before.Commit(slot, before.Next(slot, random));
  after.Create(image.span());
  const Layout at(after.identity);
  ASSERT_EQ(before.bytes(), after.bytes());
  std::memcpy(image.data() + at.half(0), old.data() + at.half(0), at.half_bytes);
  EXPECT_EQ(after.Read(image.span(), after.first()).served, Served::kRight);
  std::memcpy(image.data() + at.half(1), old.data() + at.half(1), at.half_bytes);
  store::v1::SessionIdentity identity;
  EXPECT_TRUE(absl::IsDataLoss(Slot::Open(image.span(), &identity).status()));
}

std::string_view killed_at;
void KillThere(const char* name) {
  if (killed_at == name) throw Killed();
}

class SlotKillTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Commit, SlotKillTest,
                         testing::Values("commit.before_answer", "commit.after_answer", "commit.before_half", "commit.before_state",
                                         "commit.before_flip", "commit.after_flip"));

TEST_P(SlotKillTest, LeavesTheOldOrTheNewPositionWholeAndWhatFollowsIsRight) {
  killed_at = GetParam();
  const bool after = killed_at == "commit.after_flip";
  for (const Shape& shape : kShapes) {
    ModelSession model(11, shape);
    Random random(11);
    Image image(model.bytes());
    Slot slot = model.Create(image.span());
    int kills = 0;
    for (int round = 0; round < 300; ++round) {
      const StoredPosition before = slot.position();
      const ModelSession::Plan plan = model.Next(slot, random);
      bool killed = false;
      try {
        const ArmedFailPoints armed(KillThere);
        model.Commit(slot, plan);
      } catch (const Killed&) {
        killed = true;
      }
      kills += killed;
      const Reading reading = model.Read(image.span(), killed && !after ? before : plan.position);
      ASSERT_EQ(reading.served, Served::kRight) << reading.what << ", round " << round;
      store::v1::SessionIdentity identity;
      slot = *Slot::Open(image.span(), &identity);
      for (uint64_t more = random() % 4; more > 0; --more) {
        const ModelSession::Plan next = model.Next(slot, random);
        model.Commit(slot, next);
        ASSERT_EQ(model.Read(image.span(), next.position).served, Served::kRight) << "after the kill in round " << round;
      }
    }
    EXPECT_GT(kills, 50);
  }
}

TEST(SlotCreateKillTest, LeavesNothingBeforeTheSealAndTheWholeSessionAfterIt) {
  for (const char* name : {"commit.before_half", "commit.before_state", "commit.before_flip", "commit.after_flip", "open.before_seal",
                           "open.after_seal"}) {
    killed_at = name;
    ModelSession model(12, kShapes[2]);
    Image image(model.bytes());
    const ArmedFailPoints armed(KillThere);
    EXPECT_THROW(model.Create(image.span()), Killed) << name;
    store::v1::SessionIdentity identity;
    if (killed_at == "open.after_seal") {
      EXPECT_EQ(model.Read(image.span(), model.first()).served, Served::kRight);
    } else {
      EXPECT_TRUE(absl::IsNotFound(Slot::Open(image.span(), &identity).status())) << name;
      uint64_t mark;
      std::memcpy(&mark, image.data(), sizeof(mark));
      EXPECT_EQ(mark, kPartialSlot) << "the store wipes it";
    }
  }
}

}  // namespace
}  // namespace lstm::server
