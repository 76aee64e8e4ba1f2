// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

namespace lstm::server {

// Tells the service manager that started this process, where one did and asked for it: READY=1, STOPPING=1, WATCHDOG=1. The
// protocol is sd_notify's, one datagram; libsystemd, which has it too, would bring five libraries into the image. To be called
// on one thread. Never blocks, never fails: who is not there to hear it is not told.
void NotifyManager(std::string_view state);

// Whether the manager wants to hear WATCHDOG=1 every few seconds.
bool WatchdogWanted();

}  // namespace lstm::server
