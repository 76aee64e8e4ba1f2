// SPDX-License-Identifier: MIT
#include "core/model/model_builder.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/op_shapes.h"

namespace lstm::core {
namespace {

constexpr size_t kMaxParts = 10'000;                    // values, nodes, state tensors
constexpr int64_t kMaxStepElements = int64_t{1} << 24;  // of one value of one step
constexpr int64_t kMaxFreeElements = int64_t{1} << 20;  // of all values and states of a step, beyond one for each weight

absl::Status CheckName(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '/' ||
           c == ':' || c == '-';
  };
  if (name.empty() || name.size() > 200 || !std::all_of(name.begin(), name.end(), allowed)) {
    return absl::InvalidArgumentError(absl::StrCat("a name of ", name.size(),
                                                   " characters, expected 1 to 200 of A-Z a-z 0-9 _ . / : -"));
  }
  return absl::OkStatus();
}

absl::Status CheckStepShape(const std::string& what, const Shape& shape) {
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(shape));
  if (count < 1 || count > kMaxStepElements) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", count, " elements a step, expected 1 to ", kMaxStepElements));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckRoom(const std::vector<T>& parts, const char* what) {
  if (parts.size() < kMaxParts) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxParts, " ", what));
}

}  // namespace

uint64_t ModelBuilder::CountParameters(const Op& op) {
  uint64_t count = 0;
  const auto add = [&](const ConstantPtr& constant) { count += constant && counted_.insert(constant).second ? constant->values.size() : 0; };
  std::visit(
      [&](const auto& typed) {
        using T = std::decay_t<decltype(typed)>;
        if constexpr (std::is_same_v<T, EmbeddingOp>) add(typed.weight);
        if constexpr (std::is_same_v<T, LinearOp> || std::is_same_v<T, Conv1dOp>) add(typed.weight), add(typed.bias);
        if constexpr (std::is_same_v<T, LstmOp>) add(typed.peephole), add(typed.projection);
        if constexpr (std::is_same_v<T, LstmOp> || std::is_same_v<T, GruOp> || std::is_same_v<T, RnnOp>) {
          add(typed.weight), add(typed.recurrent), add(typed.bias);
        }
        if constexpr (std::is_same_v<T, LayerNormOp>) add(typed.scale), add(typed.bias);
      },
      op);
  return count;
}

absl::StatusOr<ValueId> ModelBuilder::Find(const std::string& name) const {
  if (const auto it = names_.find(name); it != names_.end()) return it->second;
  return absl::NotFoundError(absl::StrCat("nothing before it is called '", name.substr(0, 200), "'"));
}

absl::StatusOr<ValueId> ModelBuilder::AddInput(Port port, DType dtype, Shape shape) {
  LSTM_RETURN_IF_ERROR(CheckName(port.name));
  LSTM_RETURN_IF_ERROR(CheckRoom(model_.values, "values"));
  const std::string what = absl::StrCat("input '", port.name, "'");
  if (Find(port.name).ok()) return absl::InvalidArgumentError(absl::StrCat(what, " is there twice"));
  LSTM_RETURN_IF_ERROR(CheckStepShape(what, shape));
  if (!port.labels.empty() && (shape.empty() || port.labels.size() != static_cast<size_t>(shape.back()))) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", port.labels.size(), " labels for shape ", ShapeString(shape)));
  }
  model_.values.push_back({port.name, dtype, std::move(shape)});
  port.value = static_cast<ValueId>(model_.values.size() - 1);
  names_.emplace(port.name, port.value);
  model_.inputs.push_back(std::move(port));
  return model_.inputs.back().value;
}

absl::StatusOr<StateId> ModelBuilder::AddState(std::string name, Shape shape, std::vector<float> initial) {
  LSTM_RETURN_IF_ERROR(CheckName(name));
  LSTM_RETURN_IF_ERROR(CheckRoom(model_.state, "state tensors"));
  const std::string what = absl::StrCat("state '", name, "'");
  LSTM_RETURN_IF_ERROR(CheckStepShape(what, shape));
  for (const StateTensor& state : model_.state) {
    if (state.name == name) return absl::InvalidArgumentError(absl::StrCat(what, " is there twice"));
  }
  if (!initial.empty() && static_cast<int64_t>(initial.size()) != CheckedElementCount(shape)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", initial.size(), " initial values for shape ", ShapeString(shape)));
  }
  if (!std::all_of(initial.begin(), initial.end(), [](float v) { return std::isfinite(v); })) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has an initial value that is not finite"));
  }
  model_.state.push_back({std::move(name), std::move(shape), std::move(initial)});
  return static_cast<StateId>(model_.state.size() - 1);
}

absl::StatusOr<ValueId> ModelBuilder::AddNode(std::string name, Op op, std::vector<ValueId> inputs) {
  const std::string what = absl::StrCat("layer '", name.substr(0, 200), "' (", OpName(op), ")");
  const auto within = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
  };
  if (auto status = CheckName(name); !status.ok()) return within(status);
  LSTM_RETURN_IF_ERROR(CheckRoom(model_.values, "values"));
  if (Find(name).ok()) return absl::InvalidArgumentError(absl::StrCat(what, ": the name is taken"));
  std::vector<const Value*> values;
  for (ValueId id : inputs) {
    if (id < 0 || static_cast<size_t>(id) >= model_.values.size()) return within(absl::InvalidArgumentError("reads an unknown value"));
    values.push_back(&value(id));
  }
  auto shape = InferShape(op, values, model_);
  if (!shape.ok()) return within(shape.status());
  LSTM_RETURN_IF_ERROR(CheckStepShape(what, *shape));
  model_.parameters += CountParameters(op);
  model_.values.push_back({name, DType::kF32, *std::move(shape)});
  const auto output = static_cast<ValueId>(model_.values.size() - 1);
  names_.emplace(name, output);
  model_.nodes.push_back({std::move(name), std::move(op), std::move(inputs), output});
  return output;
}

absl::Status ModelBuilder::AddOutput(Port port) {
  LSTM_RETURN_IF_ERROR(CheckName(port.name));
  LSTM_RETURN_IF_ERROR(CheckRoom(model_.outputs, "outputs"));
  const std::string what = absl::StrCat("output '", port.name, "'");
  for (const Port& other : model_.outputs) {
    if (other.name == port.name) return absl::InvalidArgumentError(absl::StrCat(what, " is there twice"));
  }
  if (port.value < 0 || static_cast<size_t>(port.value) >= model_.values.size()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " shows an unknown value"));
  }
  const Shape& shape = value(port.value).shape;
  if (!port.labels.empty() && (shape.empty() || port.labels.size() != static_cast<size_t>(shape.back()))) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has ", port.labels.size(), " labels for shape ", ShapeString(shape)));
  }
  model_.outputs.push_back(std::move(port));
  return absl::OkStatus();
}

absl::StatusOr<Model> ModelBuilder::Build() && {
  if (model_.inputs.empty() || model_.nodes.empty() || model_.outputs.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the model has ", model_.inputs.size(), " inputs, ", model_.nodes.size(), " layers and ",
                                                   model_.outputs.size(), " outputs, expected at least one of each"));
  }
  return std::move(*this).BuildStage();
}

absl::StatusOr<Model> ModelBuilder::BuildStage() && {
  // Every step of every row has room for all of these, and a file of a few bytes can declare any sizes.
  int64_t elements = 0;
  for (const Value& value : model_.values) elements += CheckedElementCount(value.shape);
  for (const StateTensor& state : model_.state) elements += CheckedElementCount(state.shape);
  const int64_t most = kMaxFreeElements + static_cast<int64_t>(model_.parameters);
  if (elements > most) {
    return absl::InvalidArgumentError(absl::StrCat("its values and states have ", elements, " elements a step, expected at most ", most,
                                                   ": one for each of its weights and ", kMaxFreeElements, " more"));
  }
  for (const Node& node : model_.nodes) {
    const auto* embedding = std::get_if<EmbeddingOp>(&node.op);
    if (embedding == nullptr) continue;
    for (Port& input : model_.inputs) {
      const int64_t rows = embedding->weight->shape[0];
      if (input.value == node.inputs[0] && (input.limit == 0 || rows < input.limit)) input.limit = rows;
    }
  }
  const int64_t tokens = model_.vocabulary ? static_cast<int64_t>(model_.vocabulary->tokens.size()) : 0;
  for (const Port& input : model_.inputs) {
    if (!input.uses_vocabulary) continue;
    if (tokens == 0 || (input.limit > 0 && tokens > input.limit)) {
      return absl::InvalidArgumentError(absl::StrCat("input '", input.name, "' uses a vocabulary of ", tokens, " tokens, its embedding has ",
                                                     input.limit));
    }
  }
  for (const Port& output : model_.outputs) {
    const Shape& shape = value(output.value).shape;
    if (output.uses_vocabulary && (tokens == 0 || shape.empty() || shape.back() != tokens)) {
      return absl::InvalidArgumentError(absl::StrCat("output '", output.name, "' of shape ", ShapeString(shape), " uses a vocabulary of ",
                                                     tokens, " tokens"));
    }
  }
  if (model_.vocabulary && model_.vocabulary->unknown &&
      (*model_.vocabulary->unknown < 0 || *model_.vocabulary->unknown >= tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("vocabulary: unknown is ", *model_.vocabulary->unknown, ", expected 0 to ", tokens - 1));
  }
  return std::move(model_);
}

}  // namespace lstm::core
