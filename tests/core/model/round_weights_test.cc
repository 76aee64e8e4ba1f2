// SPDX-License-Identifier: MIT
#include "core/model/round_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <variant>

#include "core/model/model_builder.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Random;

std::vector<float> RandomRow(Random& random, size_t n) {
  std::vector<float> row(n);
  for (float& f : row) f = random.Uniform();
  return row;
}

// A large weight where nothing comes, small ones where all comes.
TEST(Int8ScalesTest, TheWeightedChoiceLosesLessWhereColumnsAreUnequal) {
  Random random(1);
  std::vector<float> row = RandomRow(random, 64);
  row[5] = 3.5f;
  std::vector<double> squares(64, 1.0);
  squares[5] = 1e-6;
  const float plain = LeastSquaresScale(row), weighted = WeightedScale(row, squares);
  EXPECT_LT(WeightedLoss(row, squares, weighted), 0.3 * WeightedLoss(row, squares, plain));
  EXPECT_GT(weighted, 0.0f);
  EXPECT_LT(weighted, plain);
}

TEST(Int8ScalesTest, TheWeightedChoiceIsNeverWorseAndAlwaysAllowed) {
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    std::vector<float> row = RandomRow(random, 1 + random.Below(40));
    const float size = std::pow(10.0f, random.Uniform(8));
    std::vector<double> squares;
    for (float& f : row) {
      f *= size;
      squares.push_back(std::pow(10.0, static_cast<double>(random.Uniform(6))));
    }
    if (!CanBeInt8(row)) continue;
    const float plain = LeastSquaresScale(row), weighted = WeightedScale(row, squares);
    EXPECT_LE(WeightedLoss(row, squares, weighted), WeightedLoss(row, squares, plain));
    EXPECT_TRUE(CheckScale(row, plain).ok()) << CheckScale(row, plain);
    EXPECT_TRUE(CheckScale(row, weighted).ok()) << CheckScale(row, weighted);
    // So that the fused engine finds them again: the largest of the row is 127 times the scale, and exactly.
    float most = 0;
    for (const float f : row) most = std::max(most, std::fabs(ToInt8(f, weighted)));
    EXPECT_EQ(most / 127, weighted);
  }
}

TEST(Int8ScalesTest, WhatIsNoScaleOfTheRowIsRefused) {
  const std::vector<float> row = {0.5f, -1.0f, 0.25f};
  const auto said = [&](float scale) { return std::string(CheckScale(row, scale).message()); };
  EXPECT_EQ(said(std::bit_cast<float>(std::bit_cast<uint32_t>(1.0f / 127) & ~0x7fu)), "");
  for (const float bad : {0.0f, -0.0f, -0.0078125f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THAT(said(bad), HasSubstr("expected a finite number above 0"));
  }
  EXPECT_THAT(said(1.0f / 127), HasSubstr("7 low bits"));
  for (const float absurd : {1.0f, 0x1p100f, 0x1p-10f, 0x1p-126f}) EXPECT_THAT(said(absurd), HasSubstr("where the largest weight is 1")) << absurd;
  EXPECT_TRUE(CheckScale(std::vector<float>(3), 1).ok());
}

// Two Linear layers of one weight.
Model Shared() {
  ModelBuilder builder;
  Random random(3);
  const ConstantPtr weight = random.Constant({2, 2}, 1);
  const ValueId x = *builder.AddInput({.name = "x"}, DType::kF32, {2});
  const ValueId a = *builder.AddNode("a", LinearOp{weight, nullptr}, {x});
  const ValueId b = *builder.AddNode("b", LinearOp{weight, nullptr}, {a});
  EXPECT_TRUE(builder.AddOutput({.name = "y", .value = b}).ok());
  return *std::move(builder).Build();
}

const ConstantPtr& WeightOf(const Model& model, size_t node) { return std::get<LinearOp>(model.nodes[node].op).weight; }

TEST(RoundWeightsTest, LayersGoOnSharingWhatIsRoundedAlikeAndNothingElse) {
  Model model = Shared();
  RowScales scales;
  for (const RoundedMatrix& matrix : RoundedMatrices(model)) {
    for (int64_t r = 0; r < matrix.rows(); ++r) scales[matrix.name].push_back(LeastSquaresScale(matrix.row(r)));
  }
  Model plain = model, alike = model, unlike = model;
  RoundWeightsToInt8(plain);
  ASSERT_TRUE(RoundWeightsToInt8(alike, scales).ok());
  EXPECT_EQ(WeightOf(alike, 0), WeightOf(alike, 1));
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(WeightOf(alike, 0)->values[i], WeightOf(plain, 0)->values[i]);
  scales["b.weight"][1] /= 2;
  ASSERT_TRUE(RoundWeightsToInt8(unlike, scales).ok());
  EXPECT_NE(WeightOf(unlike, 0), WeightOf(unlike, 1));
  EXPECT_EQ(WeightOf(unlike, 0)->values[3], WeightOf(plain, 0)->values[3]);
}

TEST(RoundWeightsTest, MatricesHaveTheNamesOfTheirLayersAndScalesMustFitThem) {
  Model model = testing::OneLayer("lstm_projection", 3, 4, 5);
  RowScales scales;
  std::vector<std::string> names;
  for (const RoundedMatrix& matrix : RoundedMatrices(model)) {
    names.push_back(matrix.name);
    for (int64_t r = 0; r < matrix.rows(); ++r) scales[matrix.name].push_back(LeastSquaresScale(matrix.row(r)));
  }
  const std::string layer = model.nodes[0].name;
  EXPECT_THAT(names, ::testing::ElementsAre(layer + ".weight", layer + ".recurrent", layer + ".projection"));
  const auto said = [&](const RowScales& given) {
    Model copy = model;
    const absl::Status status = RoundWeightsToInt8(copy, given);
    EXPECT_TRUE(status.ok() || std::get<LstmOp>(copy.nodes[0].op).weight == std::get<LstmOp>(model.nodes[0].op).weight);
    return std::string(status.message());
  };
  EXPECT_EQ(said(scales), "");
  RowScales bad = scales;
  bad.erase(layer + ".recurrent");
  EXPECT_THAT(said(bad), AllOf(HasSubstr("tensor '" + layer + ".recurrent' is missing"), HasSubstr("[16]")));
  bad = scales;
  bad["z\n"] = {1};
  EXPECT_THAT(said(bad), HasSubstr("tensor 'z\\n' is of no matrix"));
  bad = scales;
  bad[layer + ".projection"].pop_back();
  EXPECT_THAT(said(bad), AllOf(HasSubstr("tensor '" + layer + ".projection' has shape [1], expected [2]")));
  bad = scales;
  bad[layer + ".weight"][7] = NAN;
  EXPECT_THAT(said(bad), HasSubstr("tensor '" + layer + ".weight', row 7: is nan"));
}

}  // namespace
}  // namespace lstm::core
