// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "core/model/model.h"
#include "core/model/trace.h"

// Private to core/model: cells that are written out in parts.
namespace lstm::core {

// Where the parts of a state lie among the state tensors of the model: element j at `at[j]` of `state`.
struct StatePart {
  StateId state = -1;
  std::vector<int64_t> at;
};

struct FoundCell {
  size_t node = 0;       // that gives h
  ValueId sum = -1;      // of an LSTM: the new cell state, which nothing else may read
  StatePart h, c;            // c: LSTM alone
  std::vector<At> x;     // what it reads
  Op op;                 // without its state
};

// Every one, in the order of the nodes. Whether what it keeps to itself is needed elsewhere is not looked at.
std::vector<FoundCell> FindCells(const Model& model);

}  // namespace lstm::core
