// SPDX-License-Identifier: MIT
#include "client/cli/server_cpu.h"

#include <time.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/http_get.h"
#include "client/cli/metrics_text.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

namespace fs = std::filesystem;

constexpr double kForeign = 0.02;  // part of the turns that may be others' before the figure says nothing of ours

// Inodes of the sockets that listen there.
std::set<std::string> Listening(const std::string& address) {
  std::set<std::string> out;
  std::string line;
  if (absl::StartsWith(address, "unix:")) {
    std::ifstream table("/proc/net/unix");
    while (std::getline(table, line)) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      if (words.size() == 8 && words[3] == "00010000" && words[7] == address.substr(5)) out.insert(words[6]);
    }
    return out;
  }
  const size_t colon = address.rfind(':');
  const std::string host = address.substr(0, colon);
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) return out;
  if (!absl::StartsWith(host, "127.") && host != "localhost" && host != "[::1]") return out;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream table(path);
    while (std::getline(table, line)) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
      if (words.size() < 10 || words[3] != "0A") continue;
      const size_t at = words[1].rfind(':');
      if (at != std::string::npos && std::strtoul(words[1].c_str() + at + 1, nullptr, 16) == port) out.insert(words[9]);
    }
  }
  return out;
}

}  // namespace

std::optional<pid_t> ListenerOf(const std::string& address) {
  const std::set<std::string> inodes = Listening(address);
  if (inodes.empty()) return std::nullopt;
  std::error_code error;
  for (const fs::directory_entry& process : fs::directory_iterator("/proc", error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(process.path().filename().string(), &pid)) continue;
    std::string name;
    std::getline(std::ifstream(process.path() / "comm"), name);
    if (name != "lstm-server") continue;  // a container's port is held by a proxy, whose time is not the server's
    std::error_code ignored;
    for (fs::directory_iterator fd(process.path() / "fd", ignored), end; !ignored && fd != end; fd.increment(ignored)) {
      const std::string target = fs::read_symlink(fd->path(), error).string();
      if (absl::StartsWith(target, "socket:[") && inodes.contains(target.substr(8, target.size() - 9))) return pid;
    }
  }
  return std::nullopt;
}

ServerCpu::ServerCpu(const std::string& server, const std::string& metrics)
    : metrics_(metrics), pid_(ListenerOf(server)), begin_(absl::FailedPreconditionError("not begun")) {
  source_ = pid_ ? absl::StrCat("process ", *pid_) : absl::StrCat("metrics at ", metrics_);
}

absl::StatusOr<ServerCpu::Look> ServerCpu::Now() const {
  if (pid_) {
    clockid_t clock;
    timespec t{};
    if (clock_getcpuclockid(*pid_, &clock) != 0 || clock_gettime(clock, &t) != 0) return absl::NotFoundError("the server's process is gone");
    return Look{static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9, -1};
  }
  if (metrics_.empty()) return absl::NotFoundError("the server is no process of this machine, and --metrics does not say where its metrics are");
  LSTM_ASSIGN_OR_RETURN(const std::string text, HttpGet(metrics_, "/metrics", absl::Seconds(2)));
  LSTM_ASSIGN_OR_RETURN(const Metrics metrics, Metrics::Parse(text));
  if (!metrics.Has("process_cpu_seconds_total") || !metrics.Has("lstm_turns_total")) return absl::NotFoundError(absl::StrCat("no lstm-server at ", metrics_));
  return Look{metrics.Sum("process_cpu_seconds_total"), metrics.Sum("lstm_turns_total")};
}

void ServerCpu::Begin() { begin_ = Now(); }

absl::StatusOr<double> ServerCpu::PerStep(uint64_t turns, uint64_t steps) const {
  if (!begin_.ok()) return begin_.status();
  LSTM_ASSIGN_OR_RETURN(const Look now, Now());
  if (steps == 0) return absl::FailedPreconditionError("no step was answered");
  const double theirs = now.turns - begin_->turns, ours = static_cast<double>(turns);
  if (now.turns >= 0 && (theirs < ours * (1 - kForeign) || theirs > ours * (1 + kForeign))) {
    return absl::FailedPreconditionError(absl::StrCat(metrics_, " counted ", theirs, " turns where ", turns, " were sent: of another server, or others use it too"));
  }
  return (now.seconds - begin_->seconds) / static_cast<double>(steps) * 1e6;
}

}  // namespace lstm::client
