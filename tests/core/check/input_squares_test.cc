// SPDX-License-Identifier: MIT
#include "core/check/input_squares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <variant>

#include "core/model/model_builder.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using ::testing::DoubleEq;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::shared_ptr<const StepProgram> Compiled(Model model) {
  auto program = StepProgram::Compile(std::make_shared<const Model>(std::move(model)), {.max_batch = 1});
  EXPECT_TRUE(program.ok()) << program.status();
  return *program;
}

std::vector<std::vector<std::byte>> Recorded(const std::vector<float>& x) {
  std::vector<std::vector<std::byte>> out(1, std::vector<std::byte>(x.size() * sizeof(float)));
  std::memcpy(out[0].data(), x.data(), out[0].size());
  return out;
}

TEST(InputSquaresTest, TheTapsOfAConvolutionHaveTheChannelsOfTheirGroup) {
  InputSquares squares(Compiled(testing::OneLayer("conv1d_groups", 4, 3, 1)));
  ASSERT_EQ(squares.matrices()[0].values->shape, (Shape{6, 2, 3}));
  ASSERT_TRUE(squares.Run(Recorded({1, 2, 3, 4, 3, 0, 1, 0}), 2).ok());
  EXPECT_THAT(squares.Row(0, 2), ElementsAre(5, 5, 5, 2, 2, 2));
  EXPECT_THAT(squares.Row(0, 3), ElementsAre(5, 5, 5, 8, 8, 8));
}

TEST(InputSquaresTest, TheRecurrentMatrixMeetsTheStateBeforeTheStep) {
  const auto program = Compiled(testing::OneLayer("lstm_projection", 3, 4, 2, /*initial=*/true));
  InputSquares squares(program);
  const auto x = Recorded({1, 2, 3, 3, 0, 1});
  ASSERT_TRUE(squares.Run(x, 2).ok());
  EXPECT_THAT(squares.Row(0, 0), ElementsAre(5, 2, 5));
  const auto& initial = program->model().state[static_cast<size_t>(std::get<LstmOp>(program->model().nodes[0].op).hidden)].initial;
  Walk walk(*program, {0});
  ASSERT_TRUE(walk.Step(x, 0).ok());
  for (size_t i = 0; i < initial.size(); ++i) {
    EXPECT_NEAR(squares.Row(1, 3)[i], (std::pow(initial[i], 2) + std::pow(walk.output(0)[i], 2)) / 2, 1e-6);
  }
  EXPECT_THAT(squares.Row(2, 0), ElementsAre(1, 1, 1, 1));
  ASSERT_TRUE(squares.Run(x, 2).ok());  // a second recording begins where the first did
  EXPECT_NEAR(squares.Row(1, 3)[0], (std::pow(initial[0], 2) + std::pow(walk.output(0)[0], 2)) / 2, 1e-6);
}

TEST(InputSquaresTest, ALinearLayerMeetsTheLayerBeforeItInEveryRowAndNoColumnCountsNothing) {
  ModelBuilder builder;
  testing::Random random(4);
  const ValueId x = *builder.AddInput({.name = "x"}, DType::kF32, {2, 2});
  const ValueId a = *builder.AddNode("a", ActivationOp{.kind = ActivationKind::kRelu}, {x});
  const ValueId y = *builder.AddNode("y", LinearOp{random.Constant({3, 2}, 1), nullptr}, {a});
  ASSERT_TRUE(builder.AddOutput({.name = "out", .value = y}).ok());
  const auto program = Compiled(*std::move(builder).Build());
  InputSquares squares(program);
  EXPECT_THAT(squares.Row(0, 0), Each(1));  // nothing was seen
  ASSERT_TRUE(squares.Run(Recorded({1, -1, 3, -2}), 1).ok());
  EXPECT_THAT(squares.Row(0, 1), ElementsAre(DoubleEq(5), DoubleEq(0.0025)));
  EXPECT_THAT(std::string(InputSquares(program).Run(Recorded({1, INFINITY, 3, 2}), 1).message()), HasSubstr("'y.weight'"));
}

}  // namespace
}  // namespace lstm::core
