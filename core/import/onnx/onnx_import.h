// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/import/onnx/tensor.h"
#include "core/model/model.h"
#include "lstm/manifest/v1/manifest.pb.h"

namespace lstm::core {

// What was found out about a graph.
struct OnnxNotes {
  std::vector<std::string> lines;     // "input 'x': axis 0 is time", "input 'h0' is state, next value 'hn'"
  std::map<std::string, int> time;    // inputs of the graph whose axis is time
  bool whole = false;                 // the model is of whole sequences alone
  std::vector<std::string> states;    // inputs that the session carries
  std::vector<std::string> data;      // inputs of the graph that sessions send, in the order of the model's inputs
};

// How the manifest says that an input travels. INVALID_ARGUMENT names it.
absl::StatusOr<Wire> ReadWire(const manifest::v1::Input& input);

// The model of one step of one session, of whole sequences where that looks ahead (Model::sequence), or both, from the bytes of an ONNX file. `manifest` says what the graph leaves open; it may be
// empty. `given` has values for inputs of the graph that are no data of a step: weights that are inputs, and initial states.
// Pure. INVALID_ARGUMENT names the node, tensor or input, what was expected and what came; where there are two readings, it
// prints the manifest line that decides. A file that is refused costs at most its size and a little more.
absl::StatusOr<Model> ImportOnnx(std::span<const std::byte> file, const manifest::v1::Manifest& manifest,
                                 const std::map<std::string, onnx::Tensor>& given = {}, OnnxNotes* notes = nullptr);

}  // namespace lstm::core
