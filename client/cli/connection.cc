// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"

namespace lstm::client {
namespace {

absl::Status Read(const std::string& path, std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path);
  std::stringstream all;
  all << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("'", path, "' cannot be read"));
  text = all.str();
  return absl::OkStatus();
}

}  // namespace

void Connection::Describe(CLI::App& app) {
  app.add_option("--server", server, "Address of the server: HOST:PORT or unix:PATH")->type_name("ADDR")->capture_default_str();
  app.add_option("--tls-ca", tls_ca, "Use TLS; the CA that signed the server's certificate (PEM)")->type_name("FILE");
  app.add_option("--cert", cert, "Our own certificate (PEM)")->type_name("FILE");
  app.add_option("--key", key, "Its key (PEM)")->type_name("FILE");
  app.add_option("--token", token, "Bearer token");
  app.add_option("--timeout", timeout_s, "Seconds to wait for a connection or an answer")->capture_default_str();
}

absl::StatusOr<std::unique_ptr<Client>> Connection::Connect() const {
  ConnectOptions options;
  options.address = server;
  options.token = token;
  options.timeout = absl::Seconds(timeout_s);
  for (const auto& [path, text] : {std::pair{&tls_ca, &options.tls_ca}, {&cert, &options.tls_cert}, {&key, &options.tls_key}}) {
    const absl::Status read = Read(*path, *text);
    if (!read.ok()) return read;
  }
  return Client::Connect(options);
}

}  // namespace lstm::client
