// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>

namespace lstm::bench {

// The cheapest server that gRPC C++'s asynchronous API makes: one completion queue, one thread, which takes what is ready, answers each
// message with `answer_bytes` bytes of x, and reads the next. Says on standard error where it listens, as lstm-server
// does. Never returns.
[[noreturn]] void RunEchoServer(size_t answer_bytes);

}  // namespace lstm::bench
