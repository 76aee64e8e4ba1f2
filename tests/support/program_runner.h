// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/program/step_program.h"

namespace lstm::testing {

inline std::shared_ptr<const core::StepProgram> MustCompile(core::Model model, int max_batch = 64,
                                                            core::Engine engine = core::Engine::kAuto) {
  auto program = core::StepProgram::Compile(std::make_shared<const core::Model>(std::move(model)),
                                            {.max_batch = max_batch, .engine = engine});
  EXPECT_TRUE(program.ok()) << program.status();
  return *std::move(program);
}

// The engines that are not kAuto, and their names in tests.
inline std::vector<core::Engine> Engines() { return {core::Engine::kOneDnn, core::Engine::kFused}; }
inline std::string EngineName(core::Engine engine) { return engine == core::Engine::kFused ? "fused" : "onednn"; }

// One session's buffers around a program, stepped alone or put into batches. Confined to one thread.
struct Row {
  explicit Row(const core::StepProgram& program)
      : state(program.state_floats()), next(program.state_floats()), inputs(program.inputs().size()), outputs(program.outputs().size()) {
    std::copy(program.initial_state().begin(), program.initial_state().end(), state.data());
    for (const auto& port : program.inputs()) input.emplace_back(port.step_bytes / sizeof(float));
    for (const auto& port : program.outputs()) output.emplace_back(port.step_bytes / sizeof(float));
    for (size_t i = 0; i < input.size(); ++i) inputs[i] = reinterpret_cast<const std::byte*>(input[i].data());
    for (size_t o = 0; o < output.size(); ++o) outputs[o] = reinterpret_cast<std::byte*>(output[o].data());
  }
  Row(const Row&) = delete;
  core::StepRow row() { return {state.data(), next.data(), inputs.data(), outputs.data()}; }
  void Accept() { std::copy(next.span().begin(), next.span().end(), state.data()); }
  void SetId(size_t i, int32_t id) { *reinterpret_cast<int32_t*>(input[i].data()) = id; }

  core::AlignedBuffer<float> state, next;
  std::vector<std::vector<float>> input, output;
  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;
};

}  // namespace lstm::testing
