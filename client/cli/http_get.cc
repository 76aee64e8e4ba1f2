// SPDX-License-Identifier: MIT
#include "client/cli/http_get.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lstm::client {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Error = boost::system::error_code;

constexpr uint64_t kMostBytes = 16u << 20;

// Asynchronous, for only so has it a time limit; each step begins the next, and run() ends with the last.
class Get {
 public:
  Get(const std::string& host, const std::string& path, absl::Duration timeout) : stream_(io_), request_(http::verb::get, path, 11) {
    request_.set(http::field::host, host);
    response_.body_limit(kMostBytes);
    stream_.expires_after(absl::ToChronoMilliseconds(timeout));
  }

  Error Run(const asio::ip::tcp::resolver::results_type& where) {
    stream_.async_connect(where, [this](Error error, const asio::ip::tcp::endpoint&) {
      if (Fails(error)) return;
      http::async_write(stream_, request_, [this](Error of_write, size_t) {
        if (Fails(of_write)) return;
        http::async_read(stream_, buffer_, response_, [this](Error of_read, size_t) { Fails(of_read); });
      });
    });
    io_.run();
    return error_;
  }
  const http::response<http::string_body>& response() const { return response_.get(); }
  asio::io_context& io() { return io_; }

 private:
  bool Fails(Error error) {
    error_ = error;
    return static_cast<bool>(error);
  }
  asio::io_context io_;
  beast::tcp_stream stream_;
  http::request<http::empty_body> request_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> response_;
  Error error_;
};

}  // namespace

absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path, absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == address.size() || address.find_first_not_of("0123456789", colon + 1) != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no address, expected HOST:PORT"));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  Get get(address, path, timeout);
  Error error;
  const auto where = asio::ip::tcp::resolver(get.io()).resolve(host, address.substr(colon + 1), asio::ip::tcp::resolver::numeric_service, error);
  if (!error) error = get.Run(where);
  if (error) return absl::UnavailableError(absl::StrCat("no answer from http://", address, path, ": ", error.message()));
  if (get.response().result() != http::status::ok) {
    return absl::FailedPreconditionError(absl::StrCat("http://", address, path, " answers with status ", get.response().result_int(), ", expected 200"));
  }
  return get.response().body();
}

}  // namespace lstm::client
