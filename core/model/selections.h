// SPDX-License-Identifier: MIT
#pragma once

#include "core/model/model.h"

// For passes that take ops apart: what they may make, and what they leave behind them.
namespace lstm::core {

inline constexpr size_t kLongestSplitName = 180;         // what is made of it has to be a name too
inline constexpr size_t kMostIndexes = size_t{1} << 20;  // of one selection that is made

// Elements of a value.
inline size_t Count(const Model& model, ValueId id) { return static_cast<size_t>(CheckedElementCount(model.values[static_cast<size_t>(id)].shape)); }

// A selection from selections takes what they take.
void JoinSelections(Model& model);

// Takes away selections and constants that nobody reads any more, and their values.
void DropUnused(Model& model);

}  // namespace lstm::core
