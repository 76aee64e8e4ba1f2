// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <iostream>
#include <memory>
#include <thread>
#include <utility>

#include "client/cli/command.h"
#include "client/cli/http_get.h"
#include "client/cli/top_view.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

using Clock = std::chrono::steady_clock;

struct Top {
  std::string address = "127.0.0.1:8002";
  double interval_s = 1;
  bool once = false;
};

absl::StatusOr<Metrics> Look(const Top& top) {
  LSTM_ASSIGN_OR_RETURN(const std::string text, HttpGet(top.address, "/metrics", absl::Seconds(5)));
  return Metrics::Parse(text);
}

// Until the output is closed or the process is ended; a server that is away meanwhile is looked for.
absl::Status Run(const Top& top) {
  const bool once = top.once || isatty(STDOUT_FILENO) == 0;
  const char* const clear = once ? "" : "\x1b[H\x1b[2J";
  LSTM_ASSIGN_OR_RETURN(Metrics before, Look(top));
  Clock::time_point then = Clock::now();
  while (true) {
    std::this_thread::sleep_for(std::chrono::duration<double>(top.interval_s));
    absl::StatusOr<Metrics> now = Look(top);
    if (!now.ok() && once) return now.status();
    const Clock::time_point at = Clock::now();
    if (now.ok()) {
      std::cout << clear << ShowTop(top.address, before, *now, std::chrono::duration<double>(at - then).count()) << std::flush;
      before = *std::move(now);
      then = at;
    } else {
      std::cout << clear << now.status().message() << "\n" << std::flush;
    }
    if (!std::cout) return absl::DataLossError("standard output can not be written to");
    if (once) return absl::OkStatus();
  }
}

}  // namespace

void AddTopCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command = app.add_subcommand("top", "Show what a server does: sessions, rates, latencies, batches; refreshed at a terminal, once in a pipe");
  auto top = std::make_shared<Top>();
  command->add_option("--metrics", top->address, "Where the server has its metrics (its --metrics-listen): HOST:PORT")->type_name("ADDR")->capture_default_str();
  command->add_option("--interval", top->interval_s, "Seconds between two looks, over which rates are taken")->check(CLI::Range(0.01, 3600.0))->capture_default_str();
  command->add_flag("--once", top->once, "Show it once");
  command->callback([&result, top] { result = Run(*top); });
}

}  // namespace lstm::client
