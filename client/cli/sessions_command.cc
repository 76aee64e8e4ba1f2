// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

absl::Status List(const Connection& connection, const std::string& model) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ListSessionsResponse response, client->ListSessions(model));
  std::cout << absl::StrFormat("%-32s %-20s %9s %9s %7s %10s %9s %s\n", "session", "model", "turns", "steps", "waiting", "bytes", "idle ms", "stream");
  for (const v1::SessionInfo& s : response.sessions()) {
    std::cout << absl::StrFormat("%-32s %-20s %9d %9d %7d %10d %9d %s\n", absl::BytesToHexString(s.session_id()),
                                 absl::StrCat(s.model(), ":", s.version()), s.applied_seq(), s.steps(), s.queued_turns(), s.bytes(), s.idle_ms(),
                                 s.attached() ? "yes" : "gone");
  }
  if (response.total() > static_cast<uint64_t>(response.sessions_size())) {
    std::cout << "... of " << response.total() << "\n";
  }
  return absl::OkStatus();
}

absl::Status Close(const Connection& connection, const std::string& id) {
  if (id.size() != 32 || id.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", id, "' is no session id, expected 32 hexadecimal digits"));
  }
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  std::string bytes;
  for (size_t i = 0; i < id.size(); i += 2) {
    unsigned value = 0;
    std::from_chars(id.data() + i, id.data() + i + 2, value, 16);
    bytes.push_back(static_cast<char>(value));
  }
  return client->CloseSession(bytes);
}

}  // namespace

void AddSessionsCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("sessions", "See or close the sessions of the server");
  command->require_subcommand(1);
  auto model = std::make_shared<std::string>(), id = std::make_shared<std::string>();
  CLI::App* list = command->add_subcommand("list", "List them");
  list->add_option("--model", *model, "Of this model alone");
  list->callback([&connection, &result, model] { result = List(connection, *model); });
  CLI::App* close = command->add_subcommand("close", "Close one; its client is told");
  close->add_option("ID", *id, "As `list` prints it")->required();
  close->callback([&connection, &result, id] { result = Close(connection, *id); });
}

}  // namespace lstm::client
