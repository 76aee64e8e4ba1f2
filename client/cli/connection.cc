// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>

#include "absl/strings/str_format.h"
#include "client/cli/command.h"
#include "client/cli/file.h"
#include "client/cpp/stream.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

// Of several streams to one server: the first that loses it and the last that has it again. Thread-safe.
struct Notices {
  std::mutex mutex;
  int down = 0;

  void Show(const StreamEvent& event) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (event.kind == StreamEvent::Kind::kLost) {
      if (down++ == 0) std::cerr << "lstm-client: connection lost: " << event.status.message() << "; resuming\n" << std::flush;
    } else if (--down == 0) {
      std::cerr << absl::StreamFormat("lstm-client: resumed after %.2f s\n", event.seconds) << std::flush;
    }
  }
};

}  // namespace

void Connection::Describe(CLI::App& app) {
  app.add_option("--server", server, "Address of the server: HOST:PORT or unix:PATH")->type_name("ADDR")->capture_default_str();
  app.add_option("--tls-ca", tls_ca, "Use TLS; the CA that signed the server's certificate (PEM)")->type_name("FILE");
  app.add_option("--cert", cert, "Our own certificate (PEM)")->type_name("FILE");
  app.add_option("--key", key, "Its key (PEM)")->type_name("FILE");
  app.add_option("--token", token, "Bearer token; better by the environment, where other users do not see it")->envname("LSTM_TOKEN");
  app.add_option("--affinity", affinity, "Sent as lstm-affinity, for a proxy that chooses the server by it; default: a random value");
  app.add_option("--timeout", timeout_s, "Seconds to wait for a connection or an answer")->capture_default_str();
  app.add_option("--reconnect", reconnect_s, "Seconds to look for a server that was lost, before giving up; 0: none")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
}

absl::StatusOr<std::unique_ptr<Client>> Connection::Connect() const {
  ConnectOptions options;
  options.address = server;
  options.token = token;
  options.affinity = affinity;
  options.timeout = absl::Seconds(timeout_s);
  options.reconnect_timeout = absl::Seconds(reconnect_s);
  options.on_event = [notices = std::make_shared<Notices>()](const StreamEvent& event) { notices->Show(event); };
  for (const auto& [path, text] : {std::pair{&tls_ca, &options.tls_ca}, {&cert, &options.tls_cert}, {&key, &options.tls_key}}) {
    if (path->empty()) continue;
    LSTM_ASSIGN_OR_RETURN(*text, ReadFile(*path));
  }
  return Client::Connect(options);
}

void AddDurabilityOption(CLI::App& command, v1::Durability& durability) {
  static const std::map<std::string, v1::Durability> kNames = {{"volatile", v1::VOLATILE}, {"process", v1::PROCESS}, {"host", v1::HOST}};
  command
      .add_option("--durability", durability, "What a session survives: nothing, the server's death, or the loss of power; default: as the server is set")
      ->transform(CLI::CheckedTransformer(kNames, CLI::ignore_case).description(""))
      ->type_name("volatile|process|host");
}

}  // namespace lstm::client
