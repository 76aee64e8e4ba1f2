// SPDX-License-Identifier: MIT
#include "tests/chaos/proxy.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace lstm::testing {
namespace {

sockaddr_in Local(uint16_t port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  at.sin_port = htons(port);
  return at;
}

// A RST, not a FIN: what a dead host or a cut wire looks like in the end.
void Reset(int fd) {
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd);
}

bool SendAll(int fd, const char* data, size_t n) {
  while (n > 0) {
    const ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    n -= static_cast<size_t>(sent);
  }
  return true;
}

}  // namespace

Proxy::Proxy(std::vector<uint16_t> targets) : targets_(std::move(targets)) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at = Local(0);
  socklen_t size = sizeof(at);
  if (bind(listener_, reinterpret_cast<sockaddr*>(&at), size) != 0 || listen(listener_, 128) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size) != 0 || pipe2(wake_, O_CLOEXEC) != 0) {
    throw std::runtime_error("the proxy cannot listen");
  }
  port_ = ntohs(at.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

Proxy::~Proxy() {
  ending_ = true;
  close(wake_[1]);  // every poll ends
  acceptor_.join();
  close(wake_[0]);
  close(listener_);
}

void Proxy::CutNext(Direction direction, uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cut_next_ = true;
  direction_ = direction;
  bytes_ = bytes;
  passed_[kUp] = passed_[kDown] = 0;
  was_cut_ = false;
}

void Proxy::Accept() {
  while (!ending_) {
    pollfd both[2] = {{listener_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
    poll(both, 2, -1);
    const int client = ending_ || both[0].revents == 0 ? -1 : accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    links_.remove_if([](Link& link) {
      if (link.over) link.thread.join();
      return link.over.load();
    });
    if (client < 0) continue;
    Link& link = links_.emplace_back();
    link.client = client;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      link.counted = std::exchange(cut_next_, false);
    }
    link.thread = std::thread([this, &link] {
      Pass(link);
      link.over = true;
    });
  }
  for (Link& link : links_) link.thread.join();
}

void Proxy::Pass(Link& link) {
  for (const uint16_t target : targets_) {
    link.server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in at = Local(target);
    if (connect(link.server, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) == 0) break;
    close(link.server);
    link.server = -1;
  }
  if (link.server < 0) return Reset(link.client);
  const int yes = 1;
  for (int fd : {link.client, link.server}) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  uint64_t limit[2] = {UINT64_MAX, UINT64_MAX};
  if (link.counted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit[direction_] = bytes_;
  }
  const int from[2] = {link.client, link.server}, to[2] = {link.server, link.client};
  char buffer[16384];
  bool cut = limit[kUp] == 0 || limit[kDown] == 0;
  while (!cut && !ending_) {
    pollfd all[3] = {{from[kUp], POLLIN, 0}, {from[kDown], POLLIN, 0}, {wake_[0], POLLIN, 0}};
    poll(all, 3, -1);
    bool closed = false;
    for (int d = 0; d < 2 && !closed && !cut; ++d) {
      if (all[d].revents == 0) continue;
      const ssize_t n = recv(from[d], buffer, sizeof(buffer), 0);
      if (n <= 0) {
        closed = true;
        break;
      }
      const uint64_t some = std::min<uint64_t>(static_cast<uint64_t>(n), limit[d]);
      closed = !SendAll(to[d], buffer, some);
      if (link.counted) passed_[static_cast<size_t>(d)] += some;
      if (limit[d] != UINT64_MAX) cut = (limit[d] -= some) == 0;
    }
    if (closed) break;
  }
  if (!cut) {
    close(link.client);
    close(link.server);
    return;
  }
  was_cut_ = true;
  // What was sent on must arrive before the reset does, which would take it back: wait until the other side has it.
  const int last = limit[kUp] == 0 ? link.server : link.client;
  for (int unsent = 1; unsent > 0 && !ending_;) {
    tcp_info info{};
    socklen_t size = sizeof(info);
    if (getsockopt(last, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_state != TCP_ESTABLISHED) break;
    unsent = static_cast<int>(info.tcpi_unacked);
    if (unsent > 0) std::this_thread::yield();
  }
  Reset(link.client);
  Reset(link.server);
}

}  // namespace lstm::testing
