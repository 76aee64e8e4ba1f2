// SPDX-License-Identifier: MIT
#pragma once

#include "core/model/model.h"

// What passes that take ops apart leave behind them.
namespace lstm::core {

// A selection from selections takes what they take.
void JoinSelections(Model& model);

// Takes away selections and constants that nobody reads any more, and their values.
void DropUnused(Model& model);

}  // namespace lstm::core
