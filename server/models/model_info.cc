// SPDX-License-Identifier: MIT
#include "absl/strings/str_cat.h"
#include "server/models/model_repository.h"

namespace lstm::server {
namespace {

v1::TensorSpec Spec(const core::StepProgram::Port& port, const std::vector<std::string>& labels, bool uses_vocabulary) {
  v1::TensorSpec spec;
  spec.set_name(port.name);
  spec.set_type(port.dtype == core::DType::kI32 ? v1::INT32 : port.wire.type == core::Wire::kInt16 ? v1::INT16 : port.wire.type == core::Wire::kUint8 ? v1::UINT8 : v1::FLOAT32);
  if (port.wire.type != core::Wire::kFloat32) {
    spec.set_scale(port.wire.scale);
    spec.set_offset(port.wire.offset);
  }
  for (int64_t dim : port.shape) spec.add_shape(dim);
  spec.set_limit(port.limit);
  for (const std::string& label : labels) spec.add_labels(label);
  spec.set_uses_vocabulary(uses_vocabulary);
  return spec;
}

void DescribeSteps(const core::StepProgram& program, v1::ModelInfo& info) {
  const core::Model& model = program.model();
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
  for (const std::string& line : program.engines()) info.add_engines(line);
}

void DescribeSequence(const core::SequenceProgram& program, v1::ModelInfo& info) {
  const auto spec = [](const core::SequencePort& port) {
    v1::TensorSpec out = Spec({port.name, port.dtype, port.shape, 0, port.limit, port.wire}, port.labels, port.uses_vocabulary);
    out.set_once(port.once);
    out.set_optional(port.optional);
    return out;
  };
  for (const core::SequencePort& port : program.sequence().inputs) *info.add_predict_inputs() = spec(port);
  for (const core::SequencePort& port : program.sequence().outputs) *info.add_predict_outputs() = spec(port);
  for (size_t s = 0; s < program.stages().size(); ++s) {
    for (const std::string& line : program.stages()[s]->engines()) info.add_engines(absl::StrCat("whole sequence, pass ", s + 1, ": ", line));
  }
}

}  // namespace

v1::ModelInfo MakeModelInfo(const core::StepProgram* program, const core::SequenceProgram* sequence) {
  const core::Model& model = program != nullptr ? program->model() : sequence->model();
  v1::ModelInfo info;
  info.set_name(model.name);
  info.set_version(model.version);
  info.set_model_hash(model.hash);
  info.set_numerics_id(program != nullptr ? program->numerics_id() : sequence->numerics_id());
  info.set_description(model.description);
  info.set_parameters(model.parameters);
  info.set_not_streamable(model.not_streamable);
  if (program != nullptr) DescribeSteps(*program, info);
  if (sequence != nullptr) DescribeSequence(*sequence, info);
  if (model.vocabulary) {
    v1::Vocabulary& vocabulary = *info.mutable_vocabulary();
    vocabulary.set_unit(model.vocabulary->words ? v1::Vocabulary::WORD : v1::Vocabulary::CHARACTER);
    for (const std::string& token : model.vocabulary->tokens) vocabulary.add_tokens(token);
    if (model.vocabulary->unknown) vocabulary.set_unknown(*model.vocabulary->unknown);
  }
  return info;
}

}  // namespace lstm::server
