// SPDX-License-Identifier: MIT
#include "client/cpp/backoff.h"

#include <gtest/gtest.h>

namespace lstm::client {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

void ExpectWithin(microseconds pause, microseconds low, microseconds high) {
  EXPECT_GE(pause, low);
  EXPECT_LE(pause, high);
}

void ExpectSpread(Backoff& backoff) {
  ExpectWithin(backoff.Next(), milliseconds(20), milliseconds(100));
  for (const int longest : {200, 400, 800, 1600, 3200, 5000, 5000}) ExpectWithin(backoff.Next(), milliseconds(longest / 2), milliseconds(longest));
}

TEST(BackoffTest, ThePausesGrow) {
  Backoff backoff;
  ExpectSpread(backoff);
}

TEST(BackoffTest, AConnectionThatHadHeldIsMadeAgainAtOnce) {
  Backoff backoff;
  ExpectSpread(backoff);
  for (int i = 0; i < 3; ++i) {
    backoff.Had(Backoff::kHeld);
    ExpectWithin(backoff.Next(), microseconds(300), milliseconds(1));
  }
  for (int i = 0; i < 2; ++i) ExpectWithin(backoff.Next(), milliseconds(1), milliseconds(3));  // the channel may not have known yet
  ExpectSpread(backoff);                                                                       // the server is gone
}

TEST(BackoffTest, ConnectionsThatDoNotHoldAreNoLoop) {
  Backoff backoff;
  for (int i = 0; i < 100; ++i) {
    backoff.Had(Backoff::kHeld - milliseconds(1));
    ExpectWithin(backoff.Next(), milliseconds(20), milliseconds(100));
  }
}

TEST(BackoffTest, NobodyComesAtOnceWhereAllAreTold) {
  Backoff backoff;
  backoff.Had(std::chrono::hours(1));
  ExpectWithin(backoff.Next(true), milliseconds(20), milliseconds(100));
}

}  // namespace
}  // namespace lstm::client
