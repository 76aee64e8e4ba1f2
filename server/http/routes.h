// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/auth/callers.h"
#include "server/inference/front.h"

// What each address of the REST face does, without sockets.
namespace lstm::server {

struct RestRequest {
  std::string method;
  std::string target;
  std::string body;
  std::string json_bytes;  // Inference-Header-Content-Length, as it came
  std::shared_ptr<const Holder> holder;
  Caller caller;
  // Runs a task soon on a thread that is not a shard's: laying tensors out as text takes its time.
  std::function<void(std::function<void()>)> later;
};

struct RestResponse {
  int status = 200;
  std::string body;
  bool binary = false;
  size_t json_bytes = 0;  // with binary
  std::string allow;      // with 405
  bool challenge = false;  // with 401: which scheme is expected
};

// `done` is called once, on any thread, perhaps at once.
using RestDone = std::function<void(RestResponse)>;
void Route(InferenceFront* front, RestRequest request, RestDone done);

// Health is told to anybody.
bool NeedsCaller(std::string_view target);

RestResponse RestError(const absl::Status& status);
RestResponse RestError(int http_status, const std::string& message);

}  // namespace lstm::server
