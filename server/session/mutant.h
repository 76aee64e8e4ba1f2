// SPDX-License-Identifier: MIT
#pragma once

// Rules that a test breaks on purpose, one at a time, to see that the tests notice (tests/sim/CMakeLists.txt).
// In the product every Mutant(...) is false; the test's own build of these rooms reads the number from LSTM_MUTANT.
#ifdef LSTM_MUTANTS
#include <cstdlib>
inline bool Mutant(int k) {
  static const int chosen = std::getenv("LSTM_MUTANT") != nullptr ? std::atoi(std::getenv("LSTM_MUTANT")) : -1;
  return k == chosen;
}
#else
#define Mutant(k) false
#endif
