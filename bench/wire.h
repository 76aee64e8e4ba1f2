// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "bench/row.h"

namespace lstm::bench {

struct WireOptions {
  bool quick = false, json = false;
  int rounds() const { return quick ? 3 : 11; }          // of slices, turn about
  double slice_s() const { return quick ? 0.4 : 1.0; }
};

// A measurement of the wire; the rows it makes.
using WireCase = std::vector<Row> (*)(const WireOptions&);

std::vector<Row> BesideEcho(const WireOptions& o);      // 64 streams, ping-pong, one stream of 512 sessions
std::vector<Row> ManySteps(const WireOptions& o);       // in a turn
std::vector<Row> RealModel(const WireOptions& o);
std::vector<Row> TwoShards(const WireOptions& o);
std::vector<Row> LoneMessage(const WireOptions& o);
std::vector<Row> StartToFirst(const WireOptions& o);
std::vector<Row> BesideLargeModel(const WireOptions& o);
std::vector<Row> BesideLongTurns(const WireOptions& o);

}  // namespace lstm::bench
