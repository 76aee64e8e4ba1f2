// SPDX-License-Identifier: MIT
#include "server/http/rest_server.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/http/connection.h"

namespace lstm::server {
namespace {

namespace net = boost::asio;
using net::ip::tcp;

constexpr int kThreads = 2;
constexpr auto kOutOfDescriptors = std::chrono::milliseconds(50);

// Strictly "HOST:PORT" with an address, not a name: what a name means is not this server's to guess.
absl::StatusOr<tcp::endpoint> Parse(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  bool good = colon != std::string::npos && listen.find_first_not_of("0123456789", colon + 1) == std::string::npos &&
              absl::SimpleAtoi(listen.substr(colon + 1), &port) && port <= 65535;
  boost::system::error_code error;
  net::ip::address address;
  if (good) {
    std::string host = listen.substr(0, colon);
    const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (host == "localhost") host = "127.0.0.1";
    if (brackets) host = host.substr(1, host.size() - 2);
    address = net::ip::make_address(host, error);
    good = !error && address.is_v6() == brackets;
  }
  if (!good) return absl::InvalidArgumentError(absl::StrCat("'", listen, "', expected IPV4:PORT, [IPV6]:PORT or localhost:PORT"));
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

}  // namespace

struct RestServer::Http {
  Http(const Options& o, InferenceFront* front, const Callers* callers) : shared(o, front, callers) {}

  absl::Status Bind(const tcp::endpoint& endpoint) {
    boost::system::error_code error;
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error && endpoint.address().is_v6()) acceptor.set_option(net::ip::v6_only(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(1024, error);
    if (error) return absl::FailedPreconditionError(absl::StrCat("cannot listen on ", shared.options.listen, ": ", error.message()));
    const bool six = endpoint.address().is_v6();
    address = absl::StrCat(six ? "[" : "", endpoint.address().to_string(), six ? "]:" : ":", acceptor.local_endpoint().port());
    return absl::OkStatus();
  }

  // On the acceptor's strand, as all that touches it.
  void Accept() {
    acceptor.async_accept(net::make_strand(context), [this](const boost::system::error_code& error, tcp::socket socket) {
      if (!acceptor.is_open()) return;
      if (error) {  // out of descriptors, most likely: the connection waits in the backlog
        pause.expires_after(kOutOfDescriptors);
        return pause.async_wait([this](const boost::system::error_code&) {
          if (acceptor.is_open()) Accept();
        });
      }
      if (shared.connections.load() < shared.options.max_connections) HttpConnection::Begin(std::move(socket), &shared);
      Accept();
    });
  }

  HttpShared shared;  // outlives the connections, of which the context is the last to hold some
  net::io_context context{kThreads};
  tcp::acceptor acceptor{net::make_strand(context)};
  net::steady_timer pause{acceptor.get_executor()};
  std::string address;
  std::vector<std::thread> threads;
};

absl::StatusOr<std::unique_ptr<RestServer>> RestServer::Start(const Options& options, InferenceFront* front, const Callers* callers) {
  LSTM_ASSIGN_OR_RETURN(const tcp::endpoint endpoint, Parse(options.listen));
  auto http = std::make_unique<Http>(options, front, callers);
  LSTM_RETURN_IF_ERROR(http->Bind(endpoint));
  http->Accept();
  for (int i = 0; i < kThreads; ++i) {
    http->threads.emplace_back([http = http.get()] {
      pthread_setname_np(pthread_self(), "http");
      http->context.run();
    });
  }
  return std::unique_ptr<RestServer>(new RestServer(std::move(http)));
}

RestServer::RestServer(std::unique_ptr<Http> http) : http_(std::move(http)) {}

RestServer::~RestServer() { Stop(); }

const std::string& RestServer::address() const { return http_->address; }

void RestServer::Drain() {
  http_->shared.draining.store(true);
  net::post(http_->acceptor.get_executor(), [http = http_.get()] {
    boost::system::error_code ignored;
    http->acceptor.close(ignored);
    http->pause.cancel();
  });
}

bool RestServer::WaitForNone(std::chrono::steady_clock::time_point deadline) { return http_->shared.requests.WaitForNone(deadline); }

void RestServer::Stop() {
  http_->context.stop();
  for (std::thread& thread : http_->threads) thread.join();
  http_->threads.clear();
}

bool RestServer::IsLocal(const std::string& listen) {
  const auto endpoint = Parse(listen);
  return endpoint.ok() && endpoint->address().is_loopback();
}

absl::Status RestServer::Check(const std::string& listen) { return Parse(listen).status(); }

}  // namespace lstm::server
