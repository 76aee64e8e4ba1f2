// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/file.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

absl::Status List(const Connection& connection, const std::string& model) {
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ListSessionsResponse response, client->ListSessions(model));
  std::cout << absl::StrFormat("%-32s %-20s %9s %9s %7s %10s %9s %s\n", "session", "model", "turns", "steps", "waiting", "bytes", "idle ms", "stream");
  for (const v1::SessionInfo& s : response.sessions()) {
    if (s.parked()) {
      const std::string which = s.model().empty() ? "-" : absl::StrCat(s.model(), ":", s.version());
      std::cout << absl::StrFormat("%-32s %-20s parked, %d s left %39s\n", absl::BytesToHexString(s.session_id()), which, s.ttl_seconds(), s.attached() ? "yes" : "gone");
      continue;
    }
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

absl::Status Fork(const Connection& connection, const std::string& from, const std::string& to) {
  LSTM_ASSIGN_OR_RETURN(const std::string handle, ReadFile(from));
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const std::string forked, client->Fork(handle));
  return WritePrivateFile(to, forked);
}

absl::Status Export(const Connection& connection, const std::string& from, const std::string& to) {
  LSTM_ASSIGN_OR_RETURN(const std::string handle, ReadFile(from));
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const std::string blob, client->Export(handle));
  return WritePrivateFile(to, blob);
}

absl::Status Import(const Connection& connection, const std::string& from, const std::string& to, const ImportOptions& options) {
  LSTM_ASSIGN_OR_RETURN(const std::string blob, ReadFile(from));
  LSTM_ASSIGN_OR_RETURN(auto client, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const std::string handle, client->Import(blob, options));
  return WritePrivateFile(to, handle);
}

}  // namespace

void AddSessionsCommand(CLI::App& app, const Connection& connection, absl::Status& result) {
  CLI::App* command = app.add_subcommand("sessions", "See, close, copy and move sessions");
  command->require_subcommand(1);
  auto model = std::make_shared<std::string>(), id = std::make_shared<std::string>();
  CLI::App* list = command->add_subcommand("list", "List them");
  list->add_option("--model", *model, "Of this model alone");
  list->callback([&connection, &result, model] { result = List(connection, *model); });
  CLI::App* close = command->add_subcommand("close", "Close one; its client is told");
  close->add_option("ID", *id, "As `list` prints it")->required();
  close->callback([&connection, &result, id] { result = Close(connection, *id); });
  // Files of secrets: they are written for their owner alone.
  auto from = std::make_shared<std::string>(), to = std::make_shared<std::string>();
  CLI::App* fork = command->add_subcommand("fork", "Make another session with the state of a saved one");
  fork->add_option("HANDLE", *from, "As `stream --save` wrote it; that session goes on undisturbed")->required();
  fork->add_option("NEW", *to, "File for the new one's handle")->required();
  fork->callback([&connection, &result, from, to] { result = Fork(connection, *from, *to); });
  CLI::App* out = command->add_subcommand("export", "Write the state of a saved session to a file");
  out->add_option("HANDLE", *from, "As `stream --save` wrote it")->required();
  out->add_option("BLOB", *to, "File for the state")->required();
  out->callback([&connection, &result, from, to] { result = Export(connection, *from, *to); });
  auto options = std::make_shared<ImportOptions>();
  CLI::App* in = command->add_subcommand("import", "Make a session of an exported state, here or on another server with the model");
  in->add_option("BLOB", *from, "As `sessions export` wrote it")->required();
  in->add_option("HANDLE", *to, "File for the session's handle")->required();
  AddDurabilityOption(*in, options->durability);
  in->add_flag("--accept-value-equal", options->accept_value_equal, "Also where this server's numerics are not those of the state");
  in->callback([&connection, &result, from, to, options] { result = Import(connection, *from, *to, *options); });
}

}  // namespace lstm::client
