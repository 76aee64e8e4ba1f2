// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "server/http/rest_server.h"
#include "server/log/trace_context.h"
#include "server/http/routes.h"

namespace lstm::server {

// Requests that have begun to come and are not answered. Thread-safe.
class RequestCount {
 public:
  void Add() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++count_;
  }
  void Remove() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  bool WaitForNone(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    return none_.wait_until(lock, deadline, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  size_t count_ = 0;  // guarded by mutex_
};

// What all connections of a server share; outlives them.
struct HttpShared {
  HttpShared(const RestServer::Options& o, InferenceFront* f, const Callers* c) : options(o), front(f), callers(c) {}
  const RestServer::Options options;
  InferenceFront* const front;
  const Callers* const callers;
  std::atomic<size_t> connections{0};
  std::atomic<size_t> bodies{0};  // bytes that are held for bodies
  std::atomic<bool> draining{false};
  RequestCount requests;
};

// One connection: a request is read, answered, and then the next is read. Held by the operation that is under way; confined to
// its strand. Every wait for the client has an end: a deadline for all of a header, of a body, of an answer that is taken.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  static void Begin(boost::asio::ip::tcp::socket socket, HttpShared* shared);
  HttpConnection(boost::asio::ip::tcp::socket socket, HttpShared* shared);
  ~HttpConnection();

 private:
  using StringBody = boost::beast::http::string_body;
  struct Here;  // the holder of its sequences

  void ReadHeader();
  void OnHeader(boost::beast::error_code error);
  absl::StatusOr<Caller> WhoAsks() const;
  void ReadBody();
  void OnBody(boost::beast::error_code error);
  void Refuse(boost::beast::error_code error);
  void Answer(RestResponse response);
  void Write(RestResponse response, bool keep_alive);
  bool Reserve(size_t bytes);
  void Count(bool counted);
  void LogRefusal(const RestResponse& response) const;
  void Close();
  void Discard();

  boost::beast::tcp_stream stream_;
  HttpShared* const shared_;
  const std::shared_ptr<Here> here_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<StringBody>> parser_;
  std::optional<boost::beast::http::response<StringBody>> response_;
  std::optional<boost::beast::http::response<boost::beast::http::empty_body>> go_on_;
  Caller caller_;  // of the request that is read
  TraceContext trace_;  // likewise
  size_t reserved_ = 0, discarded_ = 0;
  unsigned version_ = 11;
  bool keep_alive_ = false, counted_ = false;
};

}  // namespace lstm::server
