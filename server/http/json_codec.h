// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/grpc_service.pb.h"

// The Open Inference Protocol's JSON, with binary tensors behind it, to its messages and back. Pure functions; everything that
// comes from a client is checked here, before it is used.
namespace lstm::server {

// Which of the outputs the client wants as bytes behind the JSON.
struct BinaryOutputs {
  bool all = false;  // unless named otherwise
  std::vector<std::pair<std::string, bool>> named;
  bool Wants(const std::string& name) const;
};

// `body`: JSON of `json_bytes`, then the binary tensors; values become raw_input_contents in either case. Model and version
// are left to the caller. INVALID_ARGUMENT names the field, what was expected and what came.
absl::Status ReadInferRequest(std::string_view body, size_t json_bytes, inference::ModelInferRequest* request, BinaryOutputs* binary);

// The JSON alone, or with bytes behind it.
struct InferBody {
  std::string body;
  size_t json_bytes = 0;
  bool binary = false;
};
InferBody WriteInferResponse(const inference::ModelInferResponse& response, const BinaryOutputs& binary);

// Any message, its fields named as in the .proto file, numbers as numbers.
std::string MessageJson(const google::protobuf::Message& message);

// {"ready": ...} of a body that may be empty. INVALID_ARGUMENT where it is something else.
absl::StatusOr<bool> ReadIndexRequest(std::string_view body);
// INVALID_ARGUMENT where it is neither empty nor an object; what is in it goes to `request` by name alone.
absl::Status ReadLoadRequest(std::string_view body, inference::RepositoryModelLoadRequest* request);

std::string ErrorJson(const absl::Status& status);

}  // namespace lstm::server
