// SPDX-License-Identifier: MIT
// lstm-server with a bomb in it: LSTM_FAIL_POINT=<name>:<n> kills the process, as kill -9 does, the n-th time that it passes
// the fail point of that name (core/base/fail_point.h). The product reads no such variable.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>

#include "core/base/fail_point.h"
#include "server/app/options.h"
#include "server/app/server.h"

namespace {

std::string g_point;  // set before any thread starts
std::atomic<long> g_left{0};

void Pass(const char* name) {
  if (std::strcmp(name, g_point.c_str()) == 0 && g_left.fetch_sub(1) == 1) kill(getpid(), SIGKILL);
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* const armed = std::getenv("LSTM_FAIL_POINT"); armed != nullptr) {
    const std::string text = armed;
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos) {
      std::cerr << "LSTM_FAIL_POINT is '" << text << "', expected name:count\n";
      return 2;
    }
    g_point = text.substr(0, colon);
    g_left = std::atol(text.c_str() + colon + 1);
    lstm::core::fail_point_hook = Pass;
  }
  const lstm::server::CommandLine line = lstm::server::ParseCommandLine(argc, argv);
  return line.exit ? line.exit_code : lstm::server::RunServer(line.options);
}
