// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace grpc {
class ServerBuilder;
class ServerCredentials;
namespace experimental {
class ExternalConnectionAcceptor;
}
}  // namespace grpc

namespace lstm::server {

// Listens on TCP and unix sockets and hands every connection to gRPC. gRPC 1.51's own listener never accepts again after
// the process ran out of descriptors once (CVE-2023-4785); this one waits a moment and goes on. Start and Stop are for one
// thread; the loop runs on a thread of its own.
class Acceptor {
 public:
  // Binds "HOST:PORT" (port 0: any free one; IPv6 in brackets) or "unix:PATH". INVALID_ARGUMENT for what is no address,
  // FAILED_PRECONDITION where it cannot be bound.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Bind(const std::vector<std::string>& addresses);
  ~Acceptor();

  // True for unix sockets and addresses of this machine alone.
  static bool IsLocal(const std::string& address);

  // Whether Bind could have the address, but for what is listened on: it can be understood, is of this machine, and a socket's
  // path can be made. Nothing is listened on. Errors as of Bind.
  static absl::Status Check(const std::string& address);

  // Before the server is built; then, once it is started, Start.
  void Register(grpc::ServerBuilder& builder, const std::shared_ptr<grpc::ServerCredentials>& credentials);
  void Start();
  void Stop();  // no new connections from here on

  // Whether a connection from `peer`, as gRPC writes it (ServerContext::peer), is there still; true where that can not be told.
  // Thread-safe.
  bool IsConnected(const std::string& peer) const;

  // As clients would write them, with the ports that were bound.
  const std::vector<std::string>& addresses() const { return addresses_; }

 private:
  Acceptor() = default;
  absl::Status BindUnix(const std::string& path);
  absl::Status BindTcp(const std::string& address);
  void Loop();
  void Accept(int listener);
  void Note(int fd);

  std::vector<int> listeners_;
  std::vector<std::string> addresses_;
  std::vector<std::string> unix_paths_;
  int stop_fd_ = -1;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> grpc_;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, int> by_peer_;       // guarded by mutex_: TCP connections, by who is at the other end
  std::unordered_map<int, std::string> by_descriptor_;  // guarded by mutex_: the same; a descriptor that is used again replaces
};

}  // namespace lstm::server
