// SPDX-License-Identifier: MIT
#include "server/app/server_main.h"

#include <openssl/crypto.h>

#include <iostream>

#include "absl/synchronization/mutex.h"
#include "server/app/caller_file.h"
#include "server/app/check_config.h"
#include "server/app/options.h"
#include "server/app/probe.h"
#include "server/app/server.h"

namespace lstm::server {

int ServerMain(int argc, char** argv) {
  // Else OpenSSL is cleaned up when the process exits, under a thread of gRPC's that may be shaking hands.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  const CommandLine line = ParseCommandLine(argc, argv);
  if (line.exit) return line.exit_code;
  if (!line.options.new_token.empty()) return PrintNewToken(line.options.new_token);
  if (line.options.check_config) return CheckConfig(line.options, std::cout, std::cerr) ? 0 : 1;
  // Abseil as distributions build it looks for deadlocks at every lock that gRPC takes, in one graph for all threads: the work of debugging.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  if (!line.options.probe) return RunServer(line.options);
  const absl::Status serving = Probe(line.options);
  if (!serving.ok()) std::cerr << serving.message() << "\n";
  return serving.ok() ? 0 : 1;
}

}  // namespace lstm::server
