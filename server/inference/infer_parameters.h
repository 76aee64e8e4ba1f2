// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "inference/grpc_service.pb.h"

namespace lstm::server {

// What the parameters of a request ask for.
struct InferParameters {
  // Of its sequence, with its kind, so that 1 and "1" are two; empty: it belongs to none.
  std::string sequence;
  bool start = false, end = false;
  bool take_over = false;    // start even where a sequence of this id lives
  uint64_t timeout_us = 0;   // from receipt until it begins; 0: none
  bool final_flag = false;   // the answer says that it is the last one

  // As a person would name it; whatever it holds, without what a terminal or a log would act on.
  std::string SequenceName() const;
};

// INVALID_ARGUMENT names the parameter, what was expected and what came.
absl::StatusOr<InferParameters> ReadParameters(const inference::ModelInferRequest& request);

// A text of a client's, cut and made harmless.
std::string Shown(const std::string& text);

}  // namespace lstm::server
