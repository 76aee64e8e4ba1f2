// SPDX-License-Identifier: MIT
#include "server/metrics/exposer.h"

#include <arpa/inet.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::server {
namespace {

// Two that stall must not keep a third one waiting for long.
constexpr char kThreads[] = "4";
constexpr char kTimeoutMs[] = "5000";

struct Address {
  std::string host;
  int port = 0;
};

// Strictly: the library takes lists of addresses and letters behind a port.
absl::StatusOr<Address> Parse(const std::string& text) {
  const size_t colon = text.rfind(':');
  Address out;
  bool good = colon != std::string::npos && text.size() - colon >= 2 && text.size() - colon <= 6 &&
              text.find_first_not_of("0123456789", colon + 1) == std::string::npos && absl::SimpleAtoi(text.substr(colon + 1), &out.port) && out.port <= 65535;
  if (good) {
    out.host = text.substr(0, colon);
    if (out.host == "localhost") out.host = "127.0.0.1";
    in6_addr ignored;
    const bool brackets = out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']';
    good = brackets ? inet_pton(AF_INET6, out.host.substr(1, out.host.size() - 2).c_str(), &ignored) == 1 : inet_pton(AF_INET, out.host.c_str(), &ignored) == 1;
  }
  if (!good) return absl::InvalidArgumentError(absl::StrCat("'", text, "', expected IPV4:PORT, [IPV6]:PORT or localhost:PORT"));
  return out;
}

// Connects and goes again, without waiting.
void Knock(const std::string& host, int port) {
  sockaddr_in6 six{};
  sockaddr_in four{};
  const bool is_six = host.front() == '[';
  six.sin6_family = AF_INET6;
  four.sin_family = AF_INET;
  six.sin6_port = four.sin_port = htons(static_cast<uint16_t>(port));
  if (is_six) {
    inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &six.sin6_addr);
  } else {
    inet_pton(AF_INET, host.c_str(), &four.sin_addr);
  }
  const int fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  const int done = is_six ? connect(fd, reinterpret_cast<const sockaddr*>(&six), sizeof(six)) : connect(fd, reinterpret_cast<const sockaddr*>(&four), sizeof(four));
  static_cast<void>(done);  // whatever became of it
  close(fd);
}

class Collector : public prometheus::Collectable {
 public:
  explicit Collector(const MetricSources& sources) : sources_(sources) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return Families(sources_); }

 private:
  const MetricSources sources_;
};

}  // namespace

struct Exposer::Http {
  std::string host;
  std::shared_ptr<Collector> collector;
  std::unique_ptr<prometheus::Exposer> server;  // ends first: it calls the collector
};

absl::StatusOr<std::unique_ptr<Exposer>> Exposer::Start(const std::string& address, const MetricSources& sources) {
  LSTM_ASSIGN_OR_RETURN(const Address at, Parse(address));
  auto http = std::make_unique<Http>();
  http->host = at.host;
  http->collector = std::make_shared<Collector>(sources);
  try {
    http->server = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", absl::StrCat(at.host, ":", at.port), "num_threads", kThreads, "request_timeout_ms", kTimeoutMs});
  } catch (const std::exception&) {  // the library's way to say it, without a reason
    return absl::FailedPreconditionError(absl::StrCat("can not listen on ", address, " for metrics; is it in use?"));
  }
  http->server->RegisterCollectable(http->collector);
  return std::unique_ptr<Exposer>(new Exposer(std::move(http)));
}

Exposer::Exposer(std::unique_ptr<Http> http) : http_(std::move(http)) {}

Exposer::~Exposer() {
  // The library looks whether it is to end every two seconds, or when somebody connects: that is what we do meanwhile.
  const int at = port();
  std::atomic<bool> ended{false};
  std::thread end([&] {
    http_->server.reset();
    ended = true;
  });
  while (!ended) {
    Knock(http_->host, at);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  end.join();
}

int Exposer::port() const {
  const std::vector<int> ports = http_->server->GetListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

bool Exposer::IsLocal(const std::string& address) {
  const absl::StatusOr<Address> at = Parse(address);
  return at.ok() && (absl::StartsWith(at->host, "127.") || at->host == "[::1]");
}

absl::Status Exposer::Check(const std::string& address) { return Parse(address).status(); }

}  // namespace lstm::server
