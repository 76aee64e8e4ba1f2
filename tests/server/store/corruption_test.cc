// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "tests/server/store/crc32c.h"
#include "tests/server/store/model_session.h"

// A disk that gives back other bytes than it was given: single bits, and blocks that are older, empty or foreign. Whatever
// is served then is of one of the last two commits, to the bit; all else is an error.
namespace lstm::server {
namespace {

constexpr Shape kShapes[] = {
    {},
    {.state_floats = 3, .window = 1, .ring_bytes = 600, .most_answer = 600, .own_initial = true},
    {.state_floats = 700, .window = 32, .ring_bytes = 5000, .most_answer = 400},
    {.state_floats = 200, .window = 8, .ring_bytes = 3000, .most_answer = 700, .own_initial = true},
};

// An image with a life behind it, and how it looked after each commit.
struct Life {
  explicit Life(uint64_t seed) : model(seed, kShapes[seed % std::size(kShapes)]), random(seed), image(model.bytes()) {
    versions.push_back(image);
    Slot slot = model.Create(image.span());
    positions.push_back(slot.position());
    for (uint64_t commits = 2 + random() % 20; commits > 0 || slot.answers() == 0; commits -= commits > 0) {
      versions.push_back(image);
      model.Commit(slot, model.Next(slot, random));
      positions.push_back(slot.position());
    }
    const Layout at(model.identity);
    newest = reinterpret_cast<const std::byte*>(slot.state().data()) == image.data() + at.state(0) ? at.half(0) : at.half(1);
    answers = slot.answers();
  }
  std::span<const StoredPosition> last_two() const { return std::span(positions).last(2); }

  ModelSession model;
  Random random;
  Image image;
  std::vector<Image> versions;
  std::vector<StoredPosition> positions;
  size_t newest = 0;  // where the current half is
  size_t answers = 0;
};

struct Tally {
  int newest = 0, older = 0, refused = 0;
  void Add(const Reading& reading, const Life& life) {
    if (reading.served == Served::kRefused) {
      ++refused;
    } else {
      ++(SamePosition(reading.position, life.positions.back()) ? newest : older);
    }
  }
};

TEST(CorruptionTest, ASingleFlippedBitIsNeverServed) {
  constexpr uint64_t kLives = 200, kFlips = 500;
  Tally tally;
  for (uint64_t seed = 0; seed < kLives; ++seed) {
    Life life(seed);
    for (uint64_t flip = 0; flip < kFlips; ++flip) {
      std::byte& byte = life.image.data()[life.random() % life.model.bytes()];
      const auto bit = static_cast<std::byte>(1 << life.random() % 8);
      byte ^= bit;
      const Reading reading = life.model.Read(life.image.span(), life.last_two());
      byte ^= bit;
      ASSERT_NE(reading.served, Served::kWrong) << reading.what << ", life " << seed << ", byte " << &byte - life.image.data();
      tally.Add(reading, life);
    }
    ASSERT_EQ(life.model.Read(life.image.span(), life.positions.back()).served, Served::kRight);
  }
  EXPECT_GT(tally.newest, 1000);   // where it hit what nothing refers to
  EXPECT_GT(tally.older, 1000);    // where the older half took over
  EXPECT_GT(tally.refused, 1000);
}

TEST(CorruptionTest, ATornBlockIsNeverServed) {
  constexpr uint64_t kLives = 200, kBlocks = 50;
  Tally tally;
  for (uint64_t seed = 1000; seed < 1000 + kLives; ++seed) {
    Life life(seed);
    Random& random = life.random;
    for (uint64_t torn = 0; torn < kBlocks; ++torn) {
      const size_t i = random() % life.image.blocks();
      const std::span<std::byte> block = life.image.block(i);
      std::array<std::byte, kBlock> right, other{};
      std::ranges::copy(block, right.begin());
      const uint64_t kind = random() % 4;
      if (kind == 0) std::ranges::generate(other, [&] { return static_cast<std::byte>(random()); });
      if (kind >= 2) std::ranges::copy(life.versions[random() % life.versions.size()].block(i), other.begin());
      const size_t from = random() % 4 == 0 ? random() % kBlock : 0;  // a part of it alone, as well
      std::copy(other.begin() + static_cast<std::ptrdiff_t>(from), other.end(), block.begin() + static_cast<std::ptrdiff_t>(from));
      const Reading reading = life.model.Read(life.image.span(), life.last_two());
      std::ranges::copy(right, block.begin());
      ASSERT_NE(reading.served, Served::kWrong) << reading.what << ", life " << seed << ", block " << i << ", kind " << kind;
      tally.Add(reading, life);
    }
  }
  EXPECT_GT(tally.newest, 100);
  EXPECT_GT(tally.older, 100);
  EXPECT_GT(tally.refused, 100);
}

// Timestamps, counters, what is reserved: not only what is read today.
TEST(CorruptionTest, EveryBitOfAHeadAndOfAHalfIsCovered) {
  for (uint64_t seed = 2000; seed < 2004; ++seed) {
    Life life(seed);
    const Layout at(life.model.identity);
    const auto each_bit = [&](size_t from, size_t bytes, auto&& check) {
      for (size_t bit = 8 * from; bit < 8 * (from + bytes); ++bit) {
        std::byte& byte = life.image.data()[bit / 8];
        byte ^= static_cast<std::byte>(1 << bit % 8);
        check(life.model.Read(life.image.span(), life.last_two()), bit / 8 - from);
        byte ^= static_cast<std::byte>(1 << bit % 8);
      }
    };
    const auto refused = [&](const Reading& reading, size_t byte) {
      EXPECT_EQ(reading.served, Served::kRefused) << "byte " << byte << " of the head, the identity or the initial state";
    };
    each_bit(0, Layout::kHead + at.identity_bytes, refused);
    each_bit(at.initial_at, life.model.initial.size() * sizeof(float), refused);
    const auto not_the_newest = [&](const Reading& reading, size_t byte) {
      EXPECT_TRUE(reading.served == Served::kRefused || SamePosition(reading.position, life.positions[life.positions.size() - 2]))
          << "byte " << byte << " of the current half";
    };
    each_bit(life.newest, Layout::kHalf + life.answers * Layout::kEntry, not_the_newest);
    each_bit(life.newest + at.state_in_half, life.model.shape().state_floats * sizeof(float), not_the_newest);
  }
}

// The seals are what docs/state_format.md says, by a CRC of its own.
TEST(CorruptionTest, SealsAreTheDocumentedChecksums) {
  Life life(3000);
  const Layout at(life.model.identity);
  const auto crc = [&](size_t from, size_t bytes, uint32_t before = 0) {
    return PlainCrc32c(life.image.span().subspan(from, bytes), before);
  };
  const auto seal = [&](size_t from) {
    uint64_t value;
    std::memcpy(&value, life.image.data() + from, sizeof(value));
    return value;
  };
  const uint32_t head = crc(at.initial_at, life.model.initial.size() * sizeof(float), crc(8, 16 + at.identity_bytes));
  EXPECT_EQ(seal(0), uint64_t{0x4d54534c} << 32 | head);
  EXPECT_EQ(seal(life.newest), uint64_t{0x464c4148} << 32 | crc(life.newest + 8, 112 + life.answers * Layout::kEntry, head));
}

}  // namespace
}  // namespace lstm::server
