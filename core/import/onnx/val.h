// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/shape.h"
#include "core/import/onnx/graph.h"
#include "core/import/onnx/tensor.h"

// Private to core/import/onnx: what a graph is read as, and its values while it is lowered.
namespace lstm::core::onnx {

// The length of a sequence in shapes that a graph computes: a prime that no size of a network is a multiple of.
inline constexpr int64_t kTime = 1'048'583;

// How the open questions of a graph are answered. Lowering a graph answers some; then it is lowered anew.
struct Reading {
  std::map<int, int> time;                      // input -> its axis of time
  std::set<std::pair<int, int>> single;         // input and axis: a fixed batch, of which a session is one item
  std::set<int> states;                         // inputs that the session carries
  std::map<int, int> next;                      // such an input -> the output that is its next value
  std::set<int> explicit_states;                // states that are read and written by themselves, not by a cell
  std::set<int> constants;                      // inputs that data given beside the graph fixes
  std::set<std::string, std::less<>> plain_cells;  // cells in plain ops: something reads what a cell's kernel keeps to itself
  std::set<int> floats;                         // inputs of integers, or truth values, that are computed with
  std::map<int, int64_t> looked_up;             // those of them that are ids too, and how many there are
  bool lengths = false;                         // a recurrent node reads how long its sequence is
};

struct GraphInput {
  Declared declared;
  Shape shape;                  // of one step of one session
  std::vector<bool> open;       // axes whose size nobody said
  int time = -1;
  bool decided = false;         // the manifest says what its time is
  bool no_state = false;        // the manifest says that nobody carries it
  int64_t look_back = 0;
  TensorPtr constant;
  TensorPtr initial;            // of a state
};

// An element of a value of the step: one of a source.
struct Element {
  int32_t source;
  int32_t index;
  bool operator==(const Element&) const = default;
};

// What makes weights of 8 bits floats again: (w - zero) * scale. Each has one number, one for each of `items`, or none.
struct Quantized {
  std::vector<float> scale, zero;
  int64_t items = 1, inner = 1;     // item i / inner % items of element i
  int64_t rows = 0, columns = 0;    // not 0: matrices, to be turned, an item is a column of one of them
  void Apply(std::vector<float>& weights) const;
};

// A value of the graph: a constant, or elements that the step computes.
struct Val {
  TensorPtr tensor;
  std::optional<StoredTensor> stored;  // a constant that still lies in the file, ...
  std::shared_ptr<const Quantized> quantized;  // ... as integers of which these are to be made
  bool is_float = true;
  Shape shape;                         // of the step: the axis of time is 1
  int time = -1;
  int64_t head = 0, tail = 0;          // frames of zeros before, and frames beyond the end, that padding added to time
  bool zeros_behind = false;           // those beyond the end are zeros
  std::shared_ptr<const Val> padding;  // of a quantised value: the zero point that stands for these zeros
  bool last = false;                   // it belongs to the end of the sequence
  std::optional<int64_t> number;       // it is how many steps there were before this one, and so many more
  std::shared_ptr<const std::vector<std::shared_ptr<const Val>>> list;  // it is a sequence of values, of ONNX's kind, ...
  bool listed_each = false;            // ... which every step adds one to: the only one here
  std::vector<int> labels;             // per axis: the axis of an input that it is, or -1
  int source = -1;                     // all of this source, in order, ...
  std::shared_ptr<const std::vector<Element>> elements;  // ... or these

  bool constant() const { return source < 0 && !elements; }
  int64_t count() const { return CheckedElementCount(shape); }
  Element at(int64_t i) const { return elements ? (*elements)[static_cast<size_t>(i)] : Element{source, static_cast<int32_t>(i)}; }
};
using ValPtr = std::shared_ptr<const Val>;

}  // namespace lstm::core::onnx
