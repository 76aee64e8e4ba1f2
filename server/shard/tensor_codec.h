// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/model/sequence.h"
#include "core/program/step_program.h"
#include "lstm/v1/session.pb.h"
#include "lstm/v1/tensor.pb.h"

// Tensors on the wire to bytes for the engine, and back. Pure functions; everything that comes from a client is checked
// here, before it is used.
namespace lstm::server {

using Tensors = google::protobuf::RepeatedPtrField<v1::Tensor>;

inline constexpr uint32_t kMaxStepsPerTurn = 1u << 20;

// The inputs of a turn of T steps: per input of the program, in its order, [T, one step], one after another in `bytes`
// (whatever that held). Returns T. With `steps` 0, T is taken from the tensors.
//
// INVALID_ARGUMENT, naming the tensor, what was expected and what came: unknown, missing or repeated names; types, shapes
// and sizes that disagree with the model; numbers that are not finite; ids out of range. `bytes` then means nothing.
absl::StatusOr<uint32_t> DecodeInputs(const core::StepProgram& program, const Tensors& tensors, uint32_t steps,
                                      std::vector<std::byte>& bytes);

// The inputs of a whole sequence, each by itself; those that are left out are empty. Returns T. Errors as above.
absl::StatusOr<uint32_t> DecodeSequence(const core::SequenceModel& sequence, const Tensors& tensors, uint32_t steps,
                                        std::vector<std::vector<std::byte>>& inputs);
absl::StatusOr<std::vector<uint32_t>> SelectOutputs(const core::SequenceModel& sequence, const v1::OpenOptions& options);
// Of one output of a sequence of so many steps.
uint64_t AnswerBytes(const core::SequencePort& port, uint32_t steps);
void EncodeOutput(const core::SequencePort& port, std::span<const std::byte> values, uint32_t steps, bool last_step_only, Tensors* tensors);

// Overwrites the state tensors that `tensors` names in `state` [state_floats()]. INVALID_ARGUMENT as above.
absl::Status DecodeState(const core::StepProgram& program, const Tensors& tensors, std::span<float> state);

// The outputs a session gets: indices into program.outputs(). INVALID_ARGUMENT for a name that there is not.
absl::StatusOr<std::vector<uint32_t>> SelectOutputs(const core::StepProgram& program, const v1::OpenOptions& options);

// Bytes of one step's answer.
size_t AnswerStepBytes(const core::StepProgram& program, const std::vector<uint32_t>& selected);

// Appends the selected outputs, `steps` of each, as they lie one after another in `answer`.
void EncodeOutputs(const core::StepProgram& program, const std::vector<uint32_t>& selected, uint32_t steps,
                   std::span<const std::byte> answer, Tensors* tensors);

// Appends every state tensor of `state` [state_floats()].
void EncodeState(const core::StepProgram& program, std::span<const float> state, Tensors* tensors);

}  // namespace lstm::server
