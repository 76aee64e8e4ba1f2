// SPDX-License-Identifier: MIT
#include "tests/sim/hash_program.h"

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstring>
#include <limits>
#include <utility>

namespace lstm::testing {
namespace {

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

float ToFloat(uint64_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits >> 41) | 0x3f800000u); }  // [1, 2)

}  // namespace

HashProgram::HashProgram() {
  auto model = std::make_shared<core::Model>();
  model->hash = std::string(32, 'h');
  model->outputs.resize(1);
  model_ = model;
  max_batch_ = 4;
  initial_state_ = core::AlignedBuffer<float>(State().size());
  inputs_ = {{"x", core::DType::kI32, {}, sizeof(int32_t), 1000}};
  outputs_ = {{"y", core::DType::kF32, {2}, sizeof(Output), 0}};
  numerics_id_ = "hash";
}

HashProgram::Output HashProgram::Apply(State& state, int32_t input) {
  uint64_t h = static_cast<uint64_t>(input) + 1;
  for (const float f : state) h = Mix(h ^ std::bit_cast<uint32_t>(f)) + 0x9e3779b97f4a7c15u;
  for (float& f : state) f = ToFloat(h = Mix(h));
  if (input == kPoison) return {std::numeric_limits<float>::quiet_NaN(), 0};
  return {ToFloat(Mix(h + 1)), ToFloat(Mix(h + 2))};
}

absl::Status HashProgram::Run(std::span<const core::StepRow> rows, Scratch&) const {
  if (std::exchange(fail_next_, false)) return absl::InternalError("the kernel failed");
  for (const core::StepRow& row : rows) {
    State state;
    int32_t input;
    std::memcpy(state.data(), row.state_in, sizeof(state));
    std::memcpy(&input, row.inputs[0], sizeof(input));
    if (input == kCrash) raise(SIGSEGV);
    const Output output = Apply(state, input);
    std::memcpy(row.state_out, state.data(), sizeof(state));
    if (row.outputs[0] != nullptr) std::memcpy(row.outputs[0], output.data(), sizeof(output));
  }
  return absl::OkStatus();
}

std::shared_ptr<const server::ModelRepository> HashRepository(std::shared_ptr<HashProgram> program) {
  auto served = std::make_shared<server::ServedModel>();
  served->name = "hash";
  served->version = "1";
  served->info.set_model_hash(program->model().hash);
  served->program = std::move(program);
  return std::make_shared<const server::ModelRepository>(std::vector<server::ServedModelPtr>{served});
}

}  // namespace lstm::testing
