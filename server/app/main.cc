// SPDX-License-Identifier: MIT
#include "server/app/options.h"
#include "server/app/server.h"

int main(int argc, char** argv) {
  const lstm::server::CommandLine line = lstm::server::ParseCommandLine(argc, argv);
  return line.exit ? line.exit_code : lstm::server::RunServer(line.options);
}
