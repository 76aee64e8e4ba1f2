// SPDX-License-Identifier: MIT
#include "client/cli/load_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "client/cli/load_tally.h"

namespace lstm::client {
namespace {

// A server that holds `capacity` sessions, and one less when it is looked at longer.
struct World {
  uint32_t capacity;
  uint32_t longer = capacity;
  std::vector<std::pair<uint32_t, bool>> asked = {};

  Found Find(const SearchOptions& options) {
    const auto found = Search(options, [&](uint32_t n, bool last) -> absl::StatusOr<bool> {
      EXPECT_GE(n, 1u);
      EXPECT_LE(n, options.most);
      asked.emplace_back(n, last);
      return n <= (last ? longer : capacity);
    });
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(Found{});
  }
};

TEST(LoadSearchTest, FindsAnyCapacityFromAnyBeginning) {
  for (const uint32_t first : {1u, 7u, 64u, 5000u}) {
    for (uint32_t capacity = 1; capacity <= 4000; capacity += capacity < 70 ? 1 : 131) {
      World world{capacity};
      const Found found = world.Find({first, 1'000'000, 0.05});
      EXPECT_LE(found.holds, capacity) << first;
      ASSERT_TRUE(found.fails);
      EXPECT_GT(*found.fails, capacity);
      EXPECT_LE(*found.fails - found.holds, std::max(1.0, 0.05 * found.holds + 0.5)) << first << " " << capacity;
      EXPECT_EQ(world.asked.back(), std::pair(found.holds, true)) << "the last word is a longer look";
      EXPECT_LT(world.asked.size(), 60u);
    }
  }
}

TEST(LoadSearchTest, AnEndAtEitherSide) {
  World none{0};
  EXPECT_EQ(none.Find({64, 1000, 0.05}).holds, 0u);
  EXPECT_EQ(none.asked.back().first, 1u);
  World all{5000};
  const Found found = all.Find({64, 1000, 0.05});
  EXPECT_EQ(found.holds, 1000u);
  EXPECT_FALSE(found.fails);
}

TEST(LoadSearchTest, WhatDoesNotHoldLongerIsNotFound) {
  World world{1000, 700};
  const Found found = world.Find({64, 100'000, 0.05});
  EXPECT_LE(found.holds, 700u);
  EXPECT_GT(found.holds, 650u);
  World never{8, 0};
  EXPECT_EQ(never.Find({64, 100'000, 0.05}).holds, 0u);
}

TEST(LoadSearchTest, OneDisturbanceDoesNotEndIt) {
  std::map<uint32_t, int> times;
  const auto found = Search({64, 100'000, 0.05}, [&](uint32_t n, bool last) -> absl::StatusOr<bool> { return (last || times[n]++ > 0) && n <= 1000; });
  ASSERT_TRUE(found.ok());
  EXPECT_GT(found->holds, 900u);
  EXPECT_LE(found->holds, 1000u);
}

TEST(LoadSearchTest, AnErrorEndsIt) {
  const auto found = Search({}, [](uint32_t, bool) -> absl::StatusOr<bool> { return absl::UnavailableError("gone"); });
  EXPECT_EQ(found.status(), absl::UnavailableError("gone"));
}

TEST(LoadTallyTest, CountsWhatCountsFromTheMomentItWasDue) {
  LoadTally tally;
  tally.Reset(4, 1e6);
  const auto now = Clock::now();
  for (int i = 0; i < 5; ++i) tally.Sent();
  tally.Answered(now - std::chrono::hours(1), absl::OkStatus(), true);   // late
  tally.Answered(now - std::chrono::hours(1), absl::OkStatus(), false);  // of the warm-up
  tally.Answered(now - std::chrono::minutes(1), absl::OkStatus(), true);
  tally.Answered(now, absl::AbortedError("first"), true);
  EXPECT_EQ(tally.unanswered(), 1u);
  tally.Abandoned(1);
  EXPECT_EQ(tally.unanswered(), 0u);
  EXPECT_EQ(tally.beyond_bar(), 2u);
  tally.Failed(absl::AbortedError("second"));
  Paced paced;
  tally.Take(paced);
  EXPECT_EQ(paced.turns, 2u);
  EXPECT_EQ(paced.errors, 2u);
  EXPECT_EQ(paced.first_error, "first");
  EXPECT_GE(paced.p(0), 60e6);
  EXPECT_GE(paced.p(1), 3600e6);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

}  // namespace
}  // namespace lstm::client
