// SPDX-License-Identifier: MIT
#include "server/inference/describe.h"

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr char kPlatform[] = "lstm";

// What travels for it; for inputs that may travel as integers FP32 is taken, too.
const char* DatatypeOf(const v1::TensorSpec& spec) {
  switch (spec.type()) {
    case v1::INT32: return "INT32";
    case v1::INT16: return "INT16";
    case v1::UINT8: return "UINT8";
    default: return "FP32";
  }
}

inference::DataType ConfigTypeOf(const v1::TensorSpec& spec) {
  switch (spec.type()) {
    case v1::INT32: return inference::TYPE_INT32;
    case v1::INT16: return inference::TYPE_INT16;
    case v1::UINT8: return inference::TYPE_UINT8;
    default: return inference::TYPE_FP32;
  }
}

void Describe(const v1::TensorSpec& spec, inference::ModelMetadataResponse::TensorMetadata* out) {
  out->set_name(spec.name());
  out->set_datatype(DatatypeOf(spec));
  out->add_shape(-1);
  out->mutable_shape()->MergeFrom(spec.shape());
}

}  // namespace

void DescribeServer(bool admin, inference::ServerMetadataResponse* response) {
  response->set_name("lstm-server");
  response->set_version(LSTM_VERSION);
  for (const char* extension : {"sequence", "sequence(string_id)", "model_configuration", "binary_tensor_data", "parameters", "statistics"}) {
    response->add_extensions(extension);
  }
  if (admin) response->add_extensions("model_repository");
}

void DescribeModel(const v1::ModelInfo& info, inference::ModelMetadataResponse* response) {
  response->set_name(info.name());
  *response->mutable_versions() = info.versions();
  response->set_platform(kPlatform);
  for (const v1::TensorSpec& input : info.inputs()) Describe(input, response->add_inputs());
  for (const v1::TensorSpec& output : info.outputs()) Describe(output, response->add_outputs());
}

void DescribeConfig(const v1::ModelInfo& info, uint32_t ttl_s, uint64_t max_sessions, inference::ModelConfig* config) {
  config->set_name(info.name());
  config->set_platform(kPlatform);
  config->set_backend(kPlatform);
  // Clients take the first dimension, which is time, for that of a batch: one step is a batch of one.
  config->set_max_batch_size(1);
  for (const v1::TensorSpec& spec : info.inputs()) {
    inference::ModelInput* input = config->add_input();
    input->set_name(spec.name());
    input->set_data_type(ConfigTypeOf(spec));
    *input->mutable_dims() = spec.shape();
  }
  for (const v1::TensorSpec& spec : info.outputs()) {
    inference::ModelOutput* output = config->add_output();
    output->set_name(spec.name());
    output->set_data_type(ConfigTypeOf(spec));
    *output->mutable_dims() = spec.shape();
  }
  inference::ModelSequenceBatching* sequences = config->mutable_sequence_batching();
  sequences->set_max_sequence_idle_microseconds(ttl_s * uint64_t{1'000'000});
  sequences->mutable_oldest()->set_max_candidate_sequences(static_cast<int32_t>(std::min<uint64_t>(max_sessions, std::numeric_limits<int32_t>::max())));
  for (const v1::TensorSpec& spec : info.state()) {
    inference::ModelSequenceBatching::State* state = sequences->add_state();
    state->set_input_name(spec.name());
    state->set_output_name(spec.name());
    state->set_data_type(inference::TYPE_FP32);
    *state->mutable_dims() = spec.shape();
  }
  auto& parameters = *config->mutable_parameters();
  parameters["version"].set_string_value(info.version());
  parameters["model_hash"].set_string_value(absl::BytesToHexString(info.model_hash()));
  parameters["numerics_id"].set_string_value(info.numerics_id());
  for (const v1::TensorSpec& spec : info.inputs()) {
    if (spec.type() != v1::INT16 && spec.type() != v1::UINT8) continue;
    parameters[absl::StrCat("scale_of_", spec.name())].set_string_value(absl::StrCat(spec.scale()));
    parameters[absl::StrCat("offset_of_", spec.name())].set_string_value(absl::StrCat(spec.offset()));
  }
  parameters["state_bytes"].set_string_value(absl::StrCat(info.state_bytes()));
}

void DescribeIndex(const std::vector<ServedModelPtr>& open, const std::vector<ServedModelPtr>& pinned, inference::RepositoryIndexResponse* response) {
  const auto add = [&](const ServedModel& model, const char* state, const char* reason) {
    auto* entry = response->add_models();
    entry->set_name(model.name);
    entry->set_version(model.version);
    entry->set_state(state);
    entry->set_reason(reason);
  };
  for (const ServedModelPtr& model : open) add(*model, "READY", "");
  for (const ServedModelPtr& model : pinned) add(*model, "UNAVAILABLE", "no sequence begins on it any more; it is loaded for those that did");
}

}  // namespace lstm::server
