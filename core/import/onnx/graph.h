// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/shape.h"

// An ONNX file as it lies: views into its bytes, which must outlive all of this. Field numbers are those of the public
// format (onnx.proto); what streaming has no use for is passed over.
namespace lstm::core::onnx {

// Text of a file as a message may show it.
std::string Shown(std::string_view text);

struct StoredTensor {
  std::string_view name;
  int64_t type = 0;  // TensorProto.DataType
  Shape shape;
  std::string_view message;  // the whole TensorProto, its data is read when it is wanted
};

// INVALID_ARGUMENT for what is no tensor, has absurd dimensions or keeps its data in another file.
absl::StatusOr<StoredTensor> ReadTensor(std::string_view message);

struct Attribute {
  std::string_view name;
  float f = 0;
  int64_t i = 0;
  std::string_view s, tensor, graph;  // messages
  std::vector<float> floats;
  std::vector<int64_t> ints;
  std::vector<std::string_view> strings;
};

struct NodeView {
  std::string_view op, name, domain;
  std::vector<std::string_view> inputs, outputs;
  std::vector<Attribute> attributes;

  const Attribute* Find(std::string_view attribute) const;
  int64_t Int(std::string_view attribute, int64_t otherwise) const;
  float Float(std::string_view attribute, float otherwise) const;
  std::string_view Text(std::string_view attribute, std::string_view otherwise) const;
  // "LSTM node 'rnn'", or by its output where it has no name.
  std::string Described() const;
};

absl::StatusOr<NodeView> ReadNode(std::string_view message);

struct Dimension {
  int64_t size = -1;  // -1: not fixed
  std::string_view symbol;
};
struct Declared {  // an input or output
  std::string_view name;
  int64_t type = 0;
  bool has_shape = false;
  std::vector<Dimension> shape;
};

struct GraphView {
  std::vector<std::string_view> nodes;         // messages, read one by one
  std::vector<std::string_view> initializers;  // messages
  std::vector<Declared> inputs, outputs;
};

absl::StatusOr<GraphView> ReadGraph(std::string_view message);

struct FileView {
  int64_t opset = 0;
  std::string_view producer;
  GraphView graph;
  size_t nodes = 0;  // of all graphs
  size_t bytes = 0;
};

// Walks the whole file once before anything of it is kept: INVALID_ARGUMENT where it is not well-formed, has more than
// 100,000 nodes or values, nests graphs deeper than 8, keeps data in other files, or has an opset that is not 7 to 24.
absl::StatusOr<FileView> ReadFile(std::span<const std::byte> file);

}  // namespace lstm::core::onnx
