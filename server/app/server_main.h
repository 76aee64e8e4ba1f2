// SPDX-License-Identifier: MIT
#pragma once

namespace lstm::server {

// The whole of lstm-server, until it is told to end; gives what the process ends with.
int ServerMain(int argc, char** argv);

}  // namespace lstm::server
