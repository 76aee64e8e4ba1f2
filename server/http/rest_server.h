// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/auth/callers.h"
#include "server/inference/front.h"

namespace lstm::server {

// The Open Inference Protocol over HTTP/1.1, without TLS (docs/open_inference.md). Two threads of its own serve all
// connections; none waits for a client or for a computation. Callers are known by their
// tokens, or anonymous. Start, Drain and Stop are for one thread.
class RestServer {
 public:
  struct Options {
    std::string listen;  // IPV4:PORT, [IPV6]:PORT or localhost:PORT; port 0: any free one
    size_t max_body_bytes = 4u << 20;
    size_t max_bodies_bytes = 64u << 20;  // of all that are being received or computed
    size_t max_connections = 512;         // more are closed at once
    uint32_t max_header_bytes = 16u << 10;
    uint32_t idle_s = 60;   // for the first byte of a request to the last of its header
    uint32_t body_s = 30;   // for a body
    uint32_t write_s = 30;  // for the client to take an answer
  };
  // INVALID_ARGUMENT where `listen` is no address, FAILED_PRECONDITION where it can not be had. `front` and
  // `callers` outlive Stop.
  static absl::StatusOr<std::unique_ptr<RestServer>> Start(const Options& options, InferenceFront* front, const Callers* callers);
  ~RestServer();

  // As clients would write it, with the port that was bound.
  const std::string& address() const;

  // No more connections; those that there are end with their next answer.
  void Drain();
  // Waits for the answers to requests that have begun to come; false at the deadline.
  bool WaitForNone(std::chrono::steady_clock::time_point deadline);
  // Ends what is left. The object is to outlive the shards: answers may still come to it.
  void Stop();

  // True where `listen` can be understood and is of this machine alone.
  static bool IsLocal(const std::string& listen);
  static absl::Status Check(const std::string& listen);

 private:
  struct Http;
  explicit RestServer(std::unique_ptr<Http> http);
  const std::unique_ptr<Http> http_;
};

}  // namespace lstm::server
