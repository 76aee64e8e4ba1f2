// SPDX-License-Identifier: MIT
#include "core/model/leave_out_zeros.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/model/model_builder.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using testing::Random;

// A convolution over a window of the step, as an importer writes it: x [channels, frames], zeros around it, a row for each frame of the output.
struct Plan {
  int64_t channels = 20, frames = 6, taps = 3, stride = 1, before = 1, after = 1, outputs = 24;
  float around = 0;
  bool bias = true, shared = false;
};

Model Build(const Plan& plan, Random& random) {
  ModelBuilder builder;
  const ValueId x = *builder.AddInput({.name = "x"}, DType::kF32, {plan.channels, plan.frames});
  const auto around = std::make_shared<Constant>();
  around->shape = {1};
  around->values = AlignedBuffer<float>(1);
  around->values[0] = plan.around;
  const ValueId nothing = *builder.AddNode("around", ConstantOp{around}, {});
  auto index = std::make_shared<std::vector<int32_t>>();
  const int64_t rows = (plan.before + plan.frames + plan.after - plan.taps) / plan.stride + 1, width = plan.channels * plan.taps;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < plan.channels; ++c) {
      for (int64_t k = 0; k < plan.taps; ++k) {
        const int64_t frame = row * plan.stride + k - plan.before;
        const bool inside = frame >= 0 && frame < plan.frames;
        index->push_back(static_cast<int32_t>(inside ? c * plan.frames + frame : plan.channels * plan.frames));
      }
    }
  }
  const ValueId window = *builder.AddNode("window", SelectOp{index, {rows, width}}, {x, nothing});
  const ValueId y = *builder.AddNode("product", LinearOp{random.Constant({plan.outputs, width}, 0.3f), plan.bias ? random.Constant({plan.outputs}, 1) : nullptr}, {window});
  EXPECT_TRUE(builder.AddOutput({.name = "y", .value = *builder.AddNode("out", ActivationOp{ActivationKind::kTanh}, {y})}).ok());
  if (plan.shared) {
    EXPECT_TRUE(builder.AddOutput({.name = "z", .value = y}).ok());
    EXPECT_TRUE(builder.AddOutput({.name = "w", .value = *builder.AddNode("sum", ReduceOp{ReduceKind::kSum}, {window})}).ok());
  }
  return *std::move(builder).Build();
}

uint64_t Products(const Model& model) {
  uint64_t n = 0;
  for (const Node& node : model.nodes) {
    if (const auto* linear = std::get_if<LinearOp>(&node.op)) {
      n += static_cast<uint64_t>(CheckedElementCount(model.values[static_cast<size_t>(node.inputs[0])].shape) * linear->weight->shape[0]);
    }
  }
  return n;
}

std::vector<std::vector<float>> Step(const Model& model, Engine engine, uint64_t seed) {
  const auto program = testing::MustCompile(model, 2, engine);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  Random random(seed);
  for (float& v : row.input[0]) v = random.Uniform();
  const StepRow one = row.row();
  EXPECT_TRUE(program->Run({&one, 1}, *scratch).ok());
  std::vector<std::vector<float>> out;
  for (size_t o = 0; o < model.outputs.size(); ++o) out.emplace_back(row.output[o].begin(), row.output[o].end());
  return out;
}

void ExpectSame(const Model& model, const Model& cut, uint64_t seed) {
  ASSERT_EQ(model.outputs.size(), cut.outputs.size());
  for (const Engine engine : testing::Engines()) {
    const auto right = Step(model, engine, seed), got = Step(cut, engine, seed);
    for (size_t o = 0; o < right.size(); ++o) {
      ASSERT_EQ(got[o].size(), right[o].size());
      for (size_t i = 0; i < right[o].size(); ++i) ASSERT_NEAR(got[o][i], right[o][i], 2e-5) << "output " << o << ", element " << i << ", seed " << seed;
    }
  }
}

TEST(LeaveOutZerosTest, LessToMultiplyAndTheSameNumbers) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Random random(seed);
    Plan plan{.channels = 16 + static_cast<int64_t>(random.Below(30)), .frames = 1 + static_cast<int64_t>(random.Below(6)), .taps = 2 + static_cast<int64_t>(random.Below(4))};
    plan.stride = 1 + static_cast<int64_t>(random.Below(2));
    plan.before = static_cast<int64_t>(random.Below(static_cast<size_t>(plan.taps) + 1));  // a row may meet nothing else
    plan.after = plan.taps - std::min(plan.taps, plan.before);
    plan.outputs = 140 + static_cast<int64_t>(random.Below(20));
    plan.bias = random.Below(2) > 0, plan.shared = random.Below(2) > 0;
    const Model model = Build(plan, random);
    Model cut = model;
    LeaveOutZeros(cut);
    EXPECT_LT(Products(cut), Products(model)) << seed;
    EXPECT_EQ(cut.parameters, model.parameters);
    ExpectSame(model, cut, seed);
  }
}

TEST(LeaveOutZerosTest, ByHowMuch) {
  Random random(1);
  const Model model = Build({.outputs = 60}, random);
  Model cut = model;
  LeaveOutZeros(cut);
  EXPECT_EQ(Products(cut), Products(model) - 2u * 20 * 60) << "a tap of the first row and one of the last";
}

TEST(LeaveOutZerosTest, WhatIsNoZeroOrDoesNotPayStaysAsItIs) {
  for (const Plan& plan : {Plan{.around = 1e-30f}, Plan{.before = 0, .after = 0}, Plan{.channels = 2, .outputs = 3}, Plan{.frames = 60},
                           Plan{.frames = 9, .taps = 14, .before = 13, .after = 13}}) {  // the last: more kinds of rows than are worth it
    Random random(1);
    const Model model = Build(plan, random);
    Model cut = model;
    LeaveOutZeros(cut);
    EXPECT_EQ(cut.nodes.size(), model.nodes.size());
    EXPECT_EQ(Products(cut), Products(model));
    ExpectSame(model, cut, 1);
  }
}

}  // namespace
}  // namespace lstm::core
