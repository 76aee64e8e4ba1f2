// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "core/model/model.h"

namespace lstm::core {

// Nodes that run together when many steps do. Alone and not `in_turn`: its rows of all steps at once. `in_turn`: what one of
// them computes in a step another reads in the next, so that all of them take a step, in this order, before any takes the next.
struct BlockUnit {
  std::vector<size_t> nodes;
  bool in_turn = false;
};

// The nodes of a model in an order in which each unit finds what it reads: values, and states as the steps before left them. Pure.
std::vector<BlockUnit> BlockSchedule(const Model& model);

}  // namespace lstm::core
