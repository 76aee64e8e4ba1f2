// SPDX-License-Identifier: MIT
// What gRPC and the protocol cost, and what sessions do to each other: the real server as a child process on one core, its
// clients on another, sessions VOLATILE. CPU is that of the server's process, all threads. What is compared is measured turn about in
// the same run; a ratio is the median of the ratios of a round.
//
//   bench-wire [--quick] [--json] [--only CASE]     from the root of the sources
#include <CLI/CLI.hpp>
#include <algorithm>

#include "bench/echo_server.h"
#include "bench/served.h"
#include "bench/wire.h"

int main(int argc, char** argv) {
  using namespace lstm::bench;
  static const std::vector<std::pair<std::string, WireCase>> kCases = {
      {"echo", BesideEcho},   {"steps", ManySteps},           {"model", RealModel},            {"shards", TwoShards},
      {"lone", LoneMessage}, {"start", StartToFirst}, {"large", BesideLargeModel}, {"turns", BesideLongTurns}};
  WireOptions options;
  std::vector<std::string> only;
  size_t echo = 0;
  CLI::App app("What gRPC and the protocol cost, and what sessions do to each other", "bench-wire");
  app.add_flag("--quick", options.quick, "Fewer and shorter samples");
  app.add_flag("--json", options.json, "A JSON object a line");
  app.add_option("--only", only, "Of: echo, steps, model, shards, lone, start, large, turns")->delimiter(',')->check(CLI::IsMember({"echo", "steps", "model", "shards", "lone", "start", "large", "turns"}));
  app.add_option("--serve-echo", echo, "")->group("");  // the child process: bytes of each answer
  CLI11_PARSE(app, argc, argv);
  if (echo > 0) RunEchoServer(echo);
  const OnCores here({kClientCore});
  for (const auto& [name, run] : kCases) {
    if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) continue;
    for (const Row& row : run(options)) Emit(row, options.json);
  }
}
