// SPDX-License-Identifier: MIT
#include "server/models/model_repository.h"

namespace lstm::server {
namespace {

v1::TensorSpec Spec(const core::StepProgram::Port& port, const std::vector<std::string>& labels, bool uses_vocabulary) {
  v1::TensorSpec spec;
  spec.set_name(port.name);
  spec.set_type(port.dtype == core::DType::kI32 ? v1::INT32 : v1::FLOAT32);
  for (int64_t dim : port.shape) spec.add_shape(dim);
  spec.set_limit(port.limit);
  for (const std::string& label : labels) spec.add_labels(label);
  spec.set_uses_vocabulary(uses_vocabulary);
  return spec;
}

}  // namespace

v1::ModelInfo MakeModelInfo(const core::StepProgram& program) {
  const core::Model& model = program.model();
  v1::ModelInfo info;
  info.set_name(model.name);
  info.set_version(model.version);
  info.set_model_hash(model.hash);
  info.set_numerics_id(program.numerics_id());
  info.set_description(model.description);
  for (size_t i = 0; i < model.inputs.size(); ++i) {
    *info.add_inputs() = Spec(program.inputs()[i], model.inputs[i].labels, model.inputs[i].uses_vocabulary);
  }
  for (size_t i = 0; i < program.outputs().size(); ++i) {
    if (i < model.outputs.size()) {
      *info.add_outputs() = Spec(program.outputs()[i], model.outputs[i].labels, model.outputs[i].uses_vocabulary);
    } else {
      info.add_traces(program.outputs()[i].name);
    }
  }
  uint64_t state_floats = 0;
  for (const core::StateTensor& state : model.state) {
    v1::TensorSpec& spec = *info.add_state();
    spec.set_name(state.name);
    spec.set_type(v1::FLOAT32);
    for (int64_t dim : state.shape) spec.add_shape(dim);
    state_floats += static_cast<uint64_t>(core::CheckedElementCount(state.shape));
  }
  info.set_state_bytes(state_floats * sizeof(float));
  info.set_parameters(model.parameters);
  if (model.vocabulary) {
    v1::Vocabulary& vocabulary = *info.mutable_vocabulary();
    vocabulary.set_unit(model.vocabulary->words ? v1::Vocabulary::WORD : v1::Vocabulary::CHARACTER);
    for (const std::string& token : model.vocabulary->tokens) vocabulary.add_tokens(token);
    if (model.vocabulary->unknown) vocabulary.set_unknown(*model.vocabulary->unknown);
  }
  for (const std::string& line : program.engines()) info.add_engines(line);
  return info;
}

}  // namespace lstm::server
