// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tests/sim/history.h"

// LSTM_HISTORIES: how many; LSTM_SEED: the first. A failure names its seed.
#ifndef LSTM_HISTORIES
#define LSTM_HISTORIES 10000
#endif

namespace lstm::testing {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TEST(SimTest, EveryClientGetsEveryAnswerOnceInOrderAsIfUndisturbed) {
  const uint64_t first = FromEnvironment("LSTM_SEED", 1), count = FromEnvironment("LSTM_HISTORIES", LSTM_HISTORIES);
  History::Counts all;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    History history(seed);
    const std::string wrong = history.Run();
    ASSERT_EQ(wrong, "");
    all.kills += history.counts().kills;
    all.power_cuts += history.counts().power_cuts;
    all.losses += history.counts().losses;
    all.turns += history.counts().turns;
    all.probes += history.counts().probes;
    all.fights += history.counts().fights;
    all.parked += history.counts().parked;
  }
  std::printf("%llu histories: %llu turns, %llu kills, %llu losses of power, %llu connections lost, %llu wrong requests, %llu fights, %llu times parked\n",
              static_cast<unsigned long long>(count), static_cast<unsigned long long>(all.turns), static_cast<unsigned long long>(all.kills),
              static_cast<unsigned long long>(all.power_cuts), static_cast<unsigned long long>(all.losses),
              static_cast<unsigned long long>(all.probes), static_cast<unsigned long long>(all.fights),
              static_cast<unsigned long long>(all.parked));
}

}  // namespace
}  // namespace lstm::testing
