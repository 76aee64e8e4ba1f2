// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "lstm/v1/model.pb.h"
#include "lstm/v1/session.pb.h"

namespace lstm::client {

// Text to ids and back, as the model's vocabulary says. Immutable.
class Tokens {
 public:
  explicit Tokens(const v1::Vocabulary& vocabulary);
  bool words() const { return words_; }
  // INVALID_ARGUMENT for a token that is not in the vocabulary, where that has no `unknown`.
  absl::StatusOr<int64_t> Id(const std::string& token) const;
  const std::string& Text(size_t id) const { return tokens_[id]; }
  size_t size() const { return tokens_.size(); }
  // The tokens of a text; characters are UTF-8 code points.
  std::vector<std::string> Split(const std::string& text) const;

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int64_t> ids_;
  std::optional<int64_t> unknown_;
  bool words_;
};

// One time step of input, and how to show it.
struct InputStep {
  std::vector<v1::Tensor> tensors;
  std::string shown;  // the token, or empty
};

// A source of steps, read as they come: a pipe that stays open is followed. Confined to one thread.
class InputReader {
 public:
  virtual ~InputReader() = default;
  // The next step, nothing at the end, or INVALID_ARGUMENT with the line, what was expected and what came.
  virtual absl::StatusOr<std::optional<InputStep>> Next() = 0;
};

// `path` "-": standard input. `format` empty: by the file's ending, text or CSV for standard input. One of text, csv,
// ndjson, npy, wav.
absl::StatusOr<std::unique_ptr<InputReader>> OpenInput(const std::string& path, std::string format, const v1::ModelInfo& model);

// The elements of one step of a tensor.
int64_t ElementsOf(const v1::TensorSpec& spec);

}  // namespace lstm::client
