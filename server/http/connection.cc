// SPDX-License-Identifier: MIT
#include "server/http/connection.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/write.hpp>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/log/log.h"

namespace lstm::server {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace net = boost::asio;

constexpr char kJsonBytes[] = "Inference-Header-Content-Length";

constexpr size_t kMostDiscarded = 8u << 20;
constexpr auto kLinger = std::chrono::seconds(2);

// HEAD must not be answered with a body, not even one that says so.
RestResponse Headless() {
  RestResponse response;
  response.status = 405;
  response.allow = "GET, POST";
  return response;
}

std::string Text(beast::string_view view) { return std::string(view.data(), view.size()); }

}  // namespace

struct HttpConnection::Here : Holder {
  bool gone() const override { return closed.load(std::memory_order_relaxed); }
  std::atomic<bool> closed{false};
};

void HttpConnection::Begin(net::ip::tcp::socket socket, HttpShared* shared) {
  auto connection = std::make_shared<HttpConnection>(std::move(socket), shared);
  net::dispatch(connection->stream_.get_executor(), [connection] { connection->ReadHeader(); });
}

HttpConnection::HttpConnection(net::ip::tcp::socket socket, HttpShared* shared)
    : stream_(std::move(socket)), shared_(shared), here_(std::make_shared<Here>()), buffer_(shared->options.max_header_bytes * 4) {
  shared_->connections.fetch_add(1);
  beast::error_code ignored;
  stream_.socket().set_option(net::ip::tcp::no_delay(true), ignored);
}

HttpConnection::~HttpConnection() {
  Count(false);
  here_->closed.store(true, std::memory_order_relaxed);
  shared_->bodies.fetch_sub(reserved_);
  shared_->connections.fetch_sub(1);
}

bool HttpConnection::Reserve(size_t bytes) {
  shared_->bodies.fetch_sub(std::exchange(reserved_, 0));
  if (shared_->bodies.fetch_add(bytes) + bytes > shared_->options.max_bodies_bytes) {
    shared_->bodies.fetch_sub(bytes);
    return false;
  }
  reserved_ = bytes;
  return true;
}

void HttpConnection::Count(bool counted) {
  if (std::exchange(counted_, counted) == counted) return;
  counted ? shared_->requests.Add() : shared_->requests.Remove();
}

void HttpConnection::ReadHeader() {
  Count(false);
  Reserve(0);
  parser_.emplace();
  trace_ = {};
  parser_->header_limit(shared_->options.max_header_bytes);
  parser_->body_limit(shared_->options.max_body_bytes);
  stream_.expires_after(std::chrono::seconds(shared_->options.idle_s));
  http::async_read_header(stream_, buffer_, *parser_, [self = shared_from_this()](beast::error_code error, size_t) { self->OnHeader(error); });
}

void HttpConnection::OnHeader(beast::error_code error) {
  if (error) return Refuse(error);
  Count(true);
  version_ = parser_->get().version();
  const auto trace = parser_->get()["traceparent"];
  trace_ = ParseTraceparent({trace.data(), trace.size()});
  keep_alive_ = parser_->get().keep_alive() && !shared_->draining.load();
  absl::StatusOr<Caller> caller = WhoAsks();
  if (!caller.ok()) return Write(RestError(caller.status()), false);
  caller_ = *std::move(caller);
  const auto length = parser_->content_length();
  if (length && *length > shared_->options.max_body_bytes) return Refuse(http::error::body_limit);
  if (!Reserve(length ? static_cast<size_t>(*length) : parser_->chunked() ? shared_->options.max_body_bytes : 0)) {
    return Write(RestError(503, "too many requests are being received at a time; send it again later"), false);
  }
  // Pages of the web could ask a server on loopback through their visitor's browser, which says so; no other client does.
  if (!parser_->get()[http::field::origin].empty()) return Write(RestError(403, "requests of web pages (Origin) are not served; ask from a program"), false);
  if (!parser_->get()[http::field::content_encoding].empty()) {
    return Write(RestError(415, "Content-Encoding is not offered; send the body as it is"), false);
  }
  if (!absl::EqualsIgnoreCase(Text(parser_->get()[http::field::expect]), "100-continue")) return ReadBody();
  go_on_.emplace(http::status::continue_, version_);
  stream_.expires_after(std::chrono::seconds(shared_->options.write_s));
  http::async_write(stream_, *go_on_, [self = shared_from_this()](beast::error_code written, size_t) {
    if (written) return self->Close();
    self->ReadBody();
  });
}

absl::StatusOr<Caller> HttpConnection::WhoAsks() const {
  const auto& header = parser_->get();
  if (!NeedsCaller(Text(header.target()))) return Caller();
  Callers::Shown shown;
  const auto [begin, end] = header.equal_range(http::field::authorization);
  for (auto it = begin; it != end; ++it) shown.authorization.emplace_back(it->value().data(), it->value().size());
  return shared_->callers->Find(shown);
}

void HttpConnection::ReadBody() {
  stream_.expires_after(std::chrono::seconds(shared_->options.body_s));
  http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](beast::error_code error, size_t) { self->OnBody(error); });
}

void HttpConnection::OnBody(beast::error_code error) {
  if (error) return Refuse(error);
  stream_.expires_never();
  auto message = parser_->release();
  RestRequest request;
  request.method = Text(message.method_string());
  request.target = Text(message.target());
  request.json_bytes = Text(message[kJsonBytes]);
  request.body = std::move(message.body());
  request.holder = here_;
  request.caller = caller_;
  request.later = [executor = stream_.get_executor()](std::function<void()> task) { net::post(executor, std::move(task)); };
  if (message.method() == http::verb::head) return Write(Headless(), false);
  Route(shared_->front, std::move(request), [self = shared_from_this()](RestResponse response) mutable {
    // Perhaps on a shard's thread, which goes on with its own.
    net::post(self->stream_.get_executor(), [self, response = std::move(response)]() mutable { self->Answer(std::move(response)); });
  });
}

// What came is no request, or none that is taken; a client that is gone, or too slow, is told nothing.
void HttpConnection::Refuse(beast::error_code error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return Write(RestError(431, absl::StrCat("the header is too large, expected at most ", shared_->options.max_header_bytes, " bytes")), false);
  if (error == http::error::body_limit) return Write(RestError(413, absl::StrCat("the body is too large, expected at most ", shared_->options.max_body_bytes, " bytes (--max-message-bytes); send fewer steps in each request")), false);
  if (error == beast::error::timeout || error == http::error::end_of_stream || error == http::error::partial_message) return;
  if (error.category() == make_error_code(http::error::bad_method).category()) return Write(RestError(400, "this is no HTTP/1.1 request: " + error.message()), false);
}

void HttpConnection::Answer(RestResponse response) { Write(std::move(response), keep_alive_ && !shared_->draining.load()); }

// As of a gRPC call: what is the server's fault is an error of ours, other refusals are between the client and what it asked for.
void HttpConnection::LogRefusal(const RestResponse& response) const {
  const LogLevel level = response.status == 500 ? LogLevel::kError : LogLevel::kDebug;
  if (response.status < 400 || !Logs(level)) return;
  beast::error_code gone;
  const net::ip::tcp::endpoint peer = stream_.socket().remote_endpoint(gone);
  const std::string address = gone ? "" : absl::StrCat(peer.address().to_string(), ":", peer.port());
  LogEvent(level, "request refused", {{"trace_id", trace_.trace_id()}, {"parent_id", trace_.parent_id()}, {"peer", address}, {"code", response.status}, {"why", response.body}});
}

void HttpConnection::Write(RestResponse response, bool keep_alive) {
  LogRefusal(response);
  response_.emplace(static_cast<http::status>(response.status), version_);
  if (response.binary) {
    response_->set(http::field::content_type, "application/octet-stream");
    response_->set(kJsonBytes, std::to_string(response.json_bytes));
  } else if (!response.body.empty()) {
    response_->set(http::field::content_type, "application/json");
  }
  if (response.challenge) response_->set(http::field::www_authenticate, "Bearer");
  if (!response.allow.empty()) response_->set(http::field::allow, response.allow);
  response_->body() = std::move(response.body);
  response_->keep_alive(keep_alive);
  response_->prepare_payload();
  stream_.expires_after(std::chrono::seconds(shared_->options.write_s));
  http::async_write(stream_, *response_, [self = shared_from_this(), keep_alive](beast::error_code error, size_t) {
    self->response_.reset();
    if (error || !keep_alive) return self->Close();
    self->ReadHeader();
  });
}

// What the client still sends is taken for a moment: a connection that is closed over it would be reset, and the answer lost.
void HttpConnection::Close() {
  Count(false);
  beast::error_code ignored;
  stream_.socket().shutdown(net::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(kLinger);
  Discard();
}

void HttpConnection::Discard() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](beast::error_code error, size_t bytes) {
    self->discarded_ += bytes;
    if (!error && self->discarded_ < kMostDiscarded) self->Discard();
  });
}

}  // namespace lstm::server
