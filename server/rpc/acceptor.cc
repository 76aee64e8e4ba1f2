// SPDX-License-Identifier: MIT
#include "server/rpc/acceptor.h"

#include <arpa/inet.h>
#include <grpcpp/server_builder.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/status_macros.h"

namespace lstm::server {
namespace {

constexpr int kBacklog = 1024;
constexpr int kOutOfDescriptorsMs = 50;

absl::Status CannotListen(const std::string& address, const char* why) {
  return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", address, ": ", why));
}

// "[::1]:80" to "::1" and "80".
bool Split(const std::string& address, std::string& host, std::string& port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon + 1 == address.size()) return false;
  host = address.substr(0, colon);
  port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return !host.empty() && std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// An address as text, brackets left out: gRPC writes them in one way or another. Empty: not of TCP.
std::string PeerText(const sockaddr_storage& address) {
  char host[INET6_ADDRSTRLEN] = "";
  const auto* six = reinterpret_cast<const sockaddr_in6*>(&address);
  if (address.ss_family == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host));
    return absl::StrCat("ipv4:", host, ":", ntohs(four->sin_port));
  }
  if (address.ss_family != AF_INET6) return "";
  if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
    inet_ntop(AF_INET, six->sin6_addr.s6_addr + 12, host, sizeof(host));
    return absl::StrCat("ipv4:", host, ":", ntohs(six->sin6_port));
  }
  inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
  return absl::StrCat("ipv6:", host, ":", ntohs(six->sin6_port));
}

std::string PeerOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  return getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 ? PeerText(address) : "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Bind(const std::vector<std::string>& addresses) {
  std::unique_ptr<Acceptor> acceptor(new Acceptor);
  acceptor->stop_fd_ = eventfd(0, EFD_CLOEXEC);
  for (const std::string& address : addresses) {
    if (absl::StartsWith(address, "unix:")) {
      LSTM_RETURN_IF_ERROR(acceptor->BindUnix(address.substr(5)));
    } else {
      LSTM_RETURN_IF_ERROR(acceptor->BindTcp(address));
    }
  }
  return acceptor;
}

Acceptor::~Acceptor() {
  Stop();
  if (stop_fd_ >= 0) close(stop_fd_);
}

bool Acceptor::IsLocal(const std::string& address) {
  std::string host, port;
  if (absl::StartsWith(address, "unix:")) return true;
  if (!Split(address, host, port)) return false;
  in_addr four{};  // a name may begin with 127 too
  return host == "localhost" || host == "::1" || (inet_pton(AF_INET, host.c_str(), &four) == 1 && ntohl(four.s_addr) >> 24 == 127);
}

absl::Status Acceptor::Check(const std::string& address) {
  std::string host, port;
  if (absl::StartsWith(address, "unix:")) {
    const std::string path = address.substr(5);
    sockaddr_un where{};
    if (path.empty() || path.size() >= sizeof(where.sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat(address, ": the path must have 1 to ", sizeof(where.sun_path) - 1, " bytes"));
    }
    struct stat info;
    if (lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) return CannotListen(address, "what is there is no socket");
    const size_t slash = path.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    return access(directory.c_str(), W_OK | X_OK) == 0 ? absl::OkStatus() : CannotListen(address, std::strerror(errno));
  }
  uint32_t number = 0;
  if (!Split(address, host, port) || !absl::SimpleAtoi(port, &number) || number > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no address, expected HOST:PORT or unix:PATH"));
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  // With any free port: the one that is meant may be that of a server which runs.
  if (const int error = getaddrinfo(host.c_str(), "0", &hints, &found); error != 0) return CannotListen(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int error = fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ? errno : 0;
  if (fd >= 0) close(fd);
  return error == 0 ? absl::OkStatus() : CannotListen(address, std::strerror(error));
}

absl::Status Acceptor::BindUnix(const std::string& path) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(where.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("unix:", path, ": the path must have 1 to ", sizeof(where.sun_path) - 1, " bytes"));
  }
  std::memcpy(where.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  // A socket that nobody listens on was left behind by a killed server; one that answers belongs to a living one.
  struct stat info;
  if (lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    if (connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)) == 0) {
      close(fd);
      return CannotListen(absl::StrCat("unix:", path), "another process listens there");
    }
    unlink(path.c_str());
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    return CannotListen(absl::StrCat("unix:", path), std::strerror(error));
  }
  listeners_.push_back(fd);
  unix_paths_.push_back(path);
  addresses_.push_back(absl::StrCat("unix:", path));
  return absl::OkStatus();
}

absl::Status Acceptor::BindTcp(const std::string& address) {
  std::string host, port;
  if (!Split(address, host, port)) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no address, expected HOST:PORT or unix:PATH"));
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return CannotListen(address, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return CannotListen(address, std::strerror(error));
  }
  listeners_.push_back(fd);
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  const uint16_t number = bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                      : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
  const bool v6 = host.find(':') != std::string::npos;
  addresses_.push_back(absl::StrCat(v6 ? "[" : "", host, v6 ? "]:" : ":", ntohs(number)));
  return absl::OkStatus();
}

void Acceptor::Register(grpc::ServerBuilder& builder, const std::shared_ptr<grpc::ServerCredentials>& credentials) {
  grpc_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
}

void Acceptor::Start() { thread_ = std::thread([this] { Loop(); }); }

void Acceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    static_cast<void>(!write(stop_fd_, &one, sizeof(one)));
    thread_.join();
  }
  for (int fd : listeners_) close(fd);
  listeners_.clear();
  for (const std::string& path : unix_paths_) unlink(path.c_str());
  unix_paths_.clear();
}

void Acceptor::Loop() {
  std::vector<pollfd> fds;
  for (int fd : listeners_) fds.push_back({fd, POLLIN, 0});
  fds.push_back({stop_fd_, POLLIN, 0});
  while (true) {
    if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (fds.back().revents != 0) return;
    for (const pollfd& entry : fds) {
      if (entry.revents != 0) Accept(entry.fd);
    }
  }
}

void Acceptor::Accept(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    // The connection stays in the backlog until there is a descriptor for it.
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      pollfd stop{stop_fd_, POLLIN, 0};
      poll(&stop, 1, kOutOfDescriptorsMs);
    }
    return;
  }
  Note(fd);
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));  // fails on unix sockets, which need none
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
  connection.listener_fd = listener;
  connection.fd = fd;
  grpc_->HandleNewConnection(&connection);
}

// The descriptor is gRPC's from here on, which closes it without a word: it is asked later whose it is then.
void Acceptor::Note(int fd) {
  std::string peer = PeerOf(fd);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto before = by_descriptor_.find(fd); before != by_descriptor_.end()) {
    if (const auto old = by_peer_.find(before->second); old != by_peer_.end() && old->second == fd) by_peer_.erase(old);
    by_descriptor_.erase(before);
  }
  if (peer.empty()) return;
  by_peer_[peer] = fd;
  by_descriptor_[fd] = std::move(peer);
}

bool Acceptor::IsConnected(const std::string& peer) const {
  const std::string text = absl::StrReplaceAll(peer, {{"%5B", ""}, {"%5D", ""}, {"[", ""}, {"]", ""}});
  if (!absl::StartsWith(text, "ipv4:") && !absl::StartsWith(text, "ipv6:")) return true;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = by_peer_.find(text);
  return found != by_peer_.end() && PeerOf(found->second) == text;
}

}  // namespace lstm::server
