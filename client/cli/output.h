// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/input.h"
#include "lstm/v1/model.pb.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

// What is known of one step's answer.
struct OutputStep {
  uint64_t step = 0;                       // from 0
  std::string label;                       // of the session, where several run; else empty
  std::string shown;                       // the input token, or empty
  const v1::Result* result = nullptr;
  uint32_t row = 0;                        // of the result's T rows
  double round_trip_us = 0;
};

// Where predictions go. Confined to one thread.
class OutputWriter {
 public:
  virtual ~OutputWriter() = default;
  virtual absl::Status Write(const OutputStep& step) = 0;
  // Writes what was held back. To be called once, at the end.
  virtual absl::Status Finish() = 0;
};

struct OutputOptions {
  std::string path;       // empty: standard output
  std::string select;     // the output of an .npy file; empty: the first
  bool timing = false;    // turn and timing fields in NDJSON
};

// A file by its ending (npy, ndjson, csv), or standard output: for a person at a terminal, as NDJSON in a pipe.
absl::StatusOr<std::unique_ptr<OutputWriter>> OpenOutput(const OutputOptions& options, const v1::ModelInfo& model);

// The values of row `row` of an output of T rows.
std::vector<float> RowOf(const v1::Tensor& tensor, uint32_t row);

// True where colour may be used on standard output: a terminal, and NO_COLOR is not set.
bool ColourWanted();

}  // namespace lstm::client
