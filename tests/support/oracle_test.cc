// SPDX-License-Identifier: MIT
#include "tests/support/oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/model/model_builder.h"

// The judge judged: cells of one unit, worked out by hand from the formulas.
namespace lstm::testing {
namespace {

core::ConstantPtr C(core::Shape shape, std::initializer_list<float> values) {
  auto constant = std::make_shared<core::Constant>();
  constant->values = core::AlignedBuffer<float>(values.size());
  constant->shape = std::move(shape);
  std::copy(values.begin(), values.end(), constant->values.data());
  return constant;
}

double S(double x) { return 1 / (1 + std::exp(-x)); }

core::Model Build(core::ModelBuilder& b, core::Op op) {
  const core::ValueId x = *b.AddInput({.name = "x"}, core::DType::kF32, {1});
  const core::ValueId y = *b.AddNode("cell", std::move(op), {x});
  EXPECT_TRUE(b.AddOutput({.name = "y", .value = y}).ok());
  return *std::move(b).Build();
}

TEST(OracleTest, LstmWithPeepholesAndProjection) {
  core::ModelBuilder b;
  core::LstmOp op{.weight = C({4, 1}, {0.5, -1, 2, 0.25}), .recurrent = C({4, 1}, {1, 0.5, -0.5, 2}), .bias = C({4}, {0.1f, 0.2f, 0.3f, 0.4f}),
                  .peephole = C({3}, {0.5, -0.5, 1}), .projection = C({1, 1}, {3})};
  op.hidden = *b.AddState("h", {1}, {0.25});
  op.cell = *b.AddState("c", {1}, {-0.5});
  const core::Model model = Build(b, op);
  Oracle oracle(model);
  const double x = 2, h = 0.25, c = -0.5;
  const double i = S(0.5 * x + h + 0.1f + 0.5 * c), f = S(-x + 0.5 * h + 0.2f - 0.5 * c), g = std::tanh(2 * x - 0.5 * h + 0.3f);
  const double c1 = f * c + i * g, o = S(0.25 * x + 2 * h + 0.4f + c1), y = 3 * o * std::tanh(c1);
  EXPECT_NEAR(oracle.Step({{x}})[0][0], y, 1e-12);
  EXPECT_NEAR(oracle.state()[1][0], c1, 1e-12);
  EXPECT_NEAR(oracle.state()[0][0], y, 1e-12);
}

TEST(OracleTest, GruOfBothKinds) {
  for (const bool after : {true, false}) {
    core::ModelBuilder b;
    core::GruOp op{.weight = C({3, 1}, {0.5, -1, 2}), .recurrent = C({3, 1}, {1, 0.5, -0.5}),
                   .bias = after ? C({4}, {0.1f, 0.2f, 0.3f, 0.4f}) : C({3}, {0.1f, 0.2f, 0.3f}), .reset_after = after};
    op.hidden = *b.AddState("h", {1}, {0.25});
    const core::Model model = Build(b, op);
    const double x = 2, h = 0.25, z = S(0.5 * x + h + 0.1f), r = S(-x + 0.5 * h + 0.2f);
    const double n = std::tanh(2 * x + 0.3f + (after ? r * (-0.5 * h + 0.4f) : -0.5 * (r * h)));
    EXPECT_NEAR(Oracle(model).Step({{x}})[0][0], (1 - z) * n + z * h, 1e-12) << after;
  }
}

TEST(OracleTest, ConvolutionSeesTheNewestFrameLast) {
  core::ModelBuilder b;
  core::Conv1dOp op{.weight = C({1, 1, 2}, {10, 1}), .bias = nullptr, .dilation = 2};
  op.context = *b.AddState("context", {2, 1}, {7, 8});
  const core::Model model = Build(b, op);
  Oracle oracle(model);
  EXPECT_EQ(oracle.Step({{1}})[0][0], 71);
  EXPECT_EQ(oracle.Step({{2}})[0][0], 82);
  EXPECT_EQ(oracle.Step({{3}})[0][0], 13);
}

}  // namespace
}  // namespace lstm::testing
