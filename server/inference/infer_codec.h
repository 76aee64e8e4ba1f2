// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/program/step_program.h"
#include "inference/grpc_service.pb.h"
#include "lstm/v1/tensor.pb.h"

// Tensors of the Open Inference Protocol to those of the shards, and back. Pure functions.
//
// The first dimension of every tensor is time: [1, ...] is one step, which a client that thinks in batches sees as a batch of
// one; [T, ...] are T steps.
namespace lstm::server {

using Tensors = google::protobuf::RepeatedPtrField<v1::Tensor>;

// Moves the inputs of `request` to `tensors` (cleared first) and gives the steps that they have. INVALID_ARGUMENT, naming the
// input, what was expected and what came: names, datatypes, shapes and sizes that are not the model's, values in two forms or
// in none. Values are not looked at.
absl::StatusOr<uint32_t> TakeInputs(const core::StepProgram& program, inference::ModelInferRequest& request, Tensors* tensors);

// The outputs that the request names, or all that the model declares. INVALID_ARGUMENT for what there is not.
absl::StatusOr<std::vector<std::string>> WantedOutputs(const core::StepProgram& program, const inference::ModelInferRequest& request);

// Moves those of `tensors` that are wanted to `response`, raw.
void GiveOutputs(const std::vector<std::string>& wanted, Tensors& tensors, inference::ModelInferResponse* response);

}  // namespace lstm::server
