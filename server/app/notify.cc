// SPDX-License-Identifier: MIT
#include "server/app/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"

namespace lstm::server {

void NotifyManager(std::string_view state) {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  if (path == nullptr || (path[0] != '/' && path[0] != '@') || std::strlen(path) >= sizeof(where.sun_path)) return;
  std::memcpy(where.sun_path, path, std::strlen(path));
  if (path[0] == '@') where.sun_path[0] = 0;  // of no file
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  static_cast<void>(!sendto(fd, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&where), size));
  close(fd);
}

bool WatchdogWanted() {
  uint64_t micros = 0;
  int64_t pid = 0;
  const char* const every = std::getenv("WATCHDOG_USEC");
  const char* const of = std::getenv("WATCHDOG_PID");
  return every != nullptr && absl::SimpleAtoi(every, &micros) && micros > 0 && (of == nullptr || (absl::SimpleAtoi(of, &pid) && pid == getpid()));
}

}  // namespace lstm::server
