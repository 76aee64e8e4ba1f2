// SPDX-License-Identifier: MIT
#include <iostream>

#include "server/app/caller_file.h"
#include "server/app/check_config.h"
#include "server/app/options.h"
#include "server/app/probe.h"
#include "server/app/server.h"

int main(int argc, char** argv) {
  const lstm::server::CommandLine line = lstm::server::ParseCommandLine(argc, argv);
  if (line.exit) return line.exit_code;
  if (!line.options.new_token.empty()) return lstm::server::PrintNewToken(line.options.new_token);
  if (line.options.check_config) return lstm::server::CheckConfig(line.options, std::cout, std::cerr) ? 0 : 1;
  if (!line.options.probe) return lstm::server::RunServer(line.options);
  const absl::Status serving = lstm::server::Probe(line.options);
  if (!serving.ok()) std::cerr << serving.message() << "\n";
  return serving.ok() ? 0 : 1;
}
