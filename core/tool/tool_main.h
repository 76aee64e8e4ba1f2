// SPDX-License-Identifier: MIT
#pragma once

namespace lstm::core {

// The whole of lstm-model; gives what the process ends with: 1 where something did not hold, 2 for a command line that is none.
int ModelToolMain(int argc, char** argv);

}  // namespace lstm::core
