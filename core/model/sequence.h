// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/model.h"

// How a whole sequence is computed where one pass, step after step, does not do: models that read it from its end, or need
// all of it before they answer. A sequence model is a list of stages. Each is a model of one step and runs over the sequence
// once, from its first step to its last; the next begins when it has ended and may read what it gave in any order.
namespace lstm::core {

struct SequencePort {  // an input or output of the whole
  std::string name;
  DType dtype = DType::kF32;
  Shape shape = {};   // of one step; of all where it comes `once`
  bool once = false;  // one for the sequence
  bool optional = false;  // an input that may be left out: zeros; as a length all steps
  int64_t limit = 0;
  std::vector<std::string> labels = {};
  bool uses_vocabulary = false;
  Wire wire = {};
  int length = -1;  // of an output: it has so many frames, an index into lengths; -1: as many as the sequence has steps
};

// Where a stage, or an output of the whole, gets its numbers.
struct SequenceRead {
  enum Kind {
    kEach,   // one step for each step of the reader; zeros where the source has none
    kAfter,  // a state of the source stage after its last step; of an input: what came once
    kAt,     // one step of the source
  } kind = kEach;
  int stage = -1;        // -1: an input of the sequence, else an earlier stage
  int port = 0;          // of the inputs; of the outputs of the stage's model; kAfter of a stage: the StateId
  int64_t shift = 0;     // kEach: step t reads step t * stride + shift
  bool reversed = false; // kEach: step t reads the (t + 1)-th from the end
  int64_t at = 0;        // kAt: from the front, or below 0 from the end
  int64_t offset = 0;    // kAfter: the first element that is read
  int64_t stride = 1;    // kEach

  friend bool operator==(const SequenceRead&, const SequenceRead&) = default;
};

struct SequenceLength {
  int input = -1;         // the input that says it, one number for the sequence
  int64_t constant = 0;   // where no input does
  // Above 0: it follows from the T steps of the sequence, as what strides over time or pads it less than it reaches gives
  // (T - less) / stride + 1 frames. T must be at least `least`.
  int64_t stride = 0, less = 1, least = 1;

  int64_t Of(int64_t steps) const { return (steps - less) / stride + 1; }
  std::string Text() const;
};

struct SequenceStage {
  std::shared_ptr<const Model> model;  // its inputs and outputs are in the order of `inputs` and of SequenceRead::port
  int length = -1;    // it runs over so many steps, an index into lengths; -1: as many as the sequence has
  bool once = false;  // nothing in it changes over time: one step is enough
  std::vector<SequenceRead> inputs;                      // kEach
  std::vector<std::pair<StateId, SequenceRead>> states;  // before the first step; others begin as the model says
};

struct SequenceModel {
  std::vector<SequencePort> inputs, outputs;
  std::vector<SequenceRead> results;  // per output
  std::vector<SequenceLength> lengths;
  std::vector<SequenceStage> stages;
};

// Of one that follows from T: "T - 2", "(T - 1) / 2 + 1".
inline std::string SequenceLength::Text() const {
  if (stride == 1) return less > 1 ? absl::StrCat("T - ", less - 1) : absl::StrCat("T + ", 1 - less);
  return absl::StrCat(less == 0 ? "T" : less > 0 ? absl::StrCat("(T - ", less, ")") : absl::StrCat("(T + ", -less, ")"), " / ", stride, " + 1");
}

}  // namespace lstm::core
