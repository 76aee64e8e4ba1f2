// SPDX-License-Identifier: MIT
#pragma once

#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/model.h"

namespace lstm::core {

// Builds a Model op by op and checks every shape on the way, so that no importer has to. Confined to one thread.
//
// Errors are INVALID_ARGUMENT and name the layer, the tensor, what was expected and what came. After an error the
// builder must not be used again.
class ModelBuilder {
 public:
  // Names of values are unique, of 1 to 200 of the characters A-Za-z0-9_./:-
  absl::StatusOr<ValueId> AddInput(Port port, DType dtype, Shape shape);

  // A state tensor of shape `shape`; `initial` is empty (zeros) or has one finite number for each element.
  absl::StatusOr<StateId> AddState(std::string name, Shape shape, std::vector<float> initial);

  // Adds `op` on `inputs` and infers the shape of its value, which gets the name `name`. The constants of `op` are
  // checked: present, of the right shape, finite. Its state ids must come from AddState, with the right shapes.
  absl::StatusOr<ValueId> AddNode(std::string name, Op op, std::vector<ValueId> inputs);

  absl::Status AddOutput(Port port);

  // The value called `name`, or NOT_FOUND.
  absl::StatusOr<ValueId> Find(const std::string& name) const;
  const std::string& state_name(StateId id) const { return model_.state[static_cast<size_t>(id)].name; }
  bool empty() const { return model_.nodes.empty(); }
  const Value& value(ValueId id) const { return model_.values[static_cast<size_t>(id)]; }

  // Everything but the ports, nodes and state may be set here: name, description, hash, vocabulary.
  Model& model() { return model_; }

  // Checks the whole: at least one input, node and output; values and states not much larger than the weights; vocabulary
  // sizes agree with the ports that use it. Sets ids' limits from the embeddings that read them.
  absl::StatusOr<Model> Build() &&;
  // A stage of a sequence model: it may do without inputs and outputs, for it has states that others read.
  absl::StatusOr<Model> BuildStage() &&;

 private:
  uint64_t CountParameters(const Op& op);

  Model model_;
  std::unordered_map<std::string, ValueId> names_;
  std::set<ConstantPtr> counted_;  // weights of several ops are one parameter each
};

}  // namespace lstm::core
