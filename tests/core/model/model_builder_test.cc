// SPDX-License-Identifier: MIT
#include "core/model/model_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using ::testing::HasSubstr;

class ModelBuilderTest : public ::testing::Test {
 protected:
  ModelBuilderTest() : x_(*builder_.AddInput({.name = "x"}, DType::kF32, {4})) {}
  std::string Refusal(Op op) {
    const auto added = builder_.AddNode("layer", std::move(op), {x_});
    return added.ok() ? "accepted" : std::string(added.status().message());
  }
  ModelBuilder builder_;
  testing::Random random_{1};
  ValueId x_;
};

TEST_F(ModelBuilderTest, NamesTheLayerTheExpectedAndTheReceivedShape) {
  EXPECT_THAT(Refusal(LinearOp{random_.Constant({3, 5}, 1), nullptr}),
              ::testing::AllOf(HasSubstr("layer 'layer' (Linear)"), HasSubstr("[4]"), HasSubstr("5")));
  EXPECT_THAT(Refusal(LinearOp{random_.Constant({3, 4}, 1), random_.Constant({4}, 1)}),
              ::testing::AllOf(HasSubstr("bias"), HasSubstr("[4]"), HasSubstr("[3]")));
}

TEST_F(ModelBuilderTest, RefusesMissingConstants) {
  EXPECT_THAT(Refusal(LinearOp{}), HasSubstr("weight is missing"));
  EXPECT_THAT(Refusal(LstmOp{.weight = random_.Constant({8, 4}, 1), .recurrent = random_.Constant({8, 2}, 1), .bias = nullptr}),
              HasSubstr("bias is missing"));
}

TEST_F(ModelBuilderTest, RefusesGatesThatDoNotDivide) {
  EXPECT_THAT(Refusal(LstmOp{.weight = random_.Constant({9, 4}, 1), .recurrent = random_.Constant({9, 2}, 1), .bias = random_.Constant({9}, 1)}),
              HasSubstr("multiple of 4"));
}

TEST_F(ModelBuilderTest, RefusesAWeightThatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto weight = std::const_pointer_cast<Constant>(random_.Constant({3, 4}, 1));
    weight->values[7] = bad;
    EXPECT_THAT(Refusal(LinearOp{weight, nullptr}), HasSubstr("not finite at element 7"));
  }
}

TEST_F(ModelBuilderTest, RefusesAStateOfAnotherShape) {
  const StateId h = *builder_.AddState("h", {3}, {});
  EXPECT_THAT(Refusal(RnnOp{.weight = random_.Constant({2, 4}, 1), .recurrent = random_.Constant({2, 2}, 1), .bias = random_.Constant({2}, 1), .hidden = h}),
              HasSubstr("state 'h'"));
}

TEST_F(ModelBuilderTest, RefusesBadNamesAndRepeatedOnes) {
  EXPECT_FALSE(builder_.AddInput({.name = "x"}, DType::kF32, {4}).ok());
  EXPECT_FALSE(builder_.AddInput({.name = "a b"}, DType::kF32, {4}).ok());
  EXPECT_FALSE(builder_.AddInput({.name = ""}, DType::kF32, {4}).ok());
  EXPECT_FALSE(builder_.AddInput({.name = std::string(201, 'a')}, DType::kF32, {4}).ok());
}

TEST_F(ModelBuilderTest, RefusesShapesThatOverflow) {
  EXPECT_FALSE(builder_.AddInput({.name = "big"}, DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}).ok());
  EXPECT_FALSE(builder_.AddInput({.name = "minus"}, DType::kF32, {-1}).ok());
  EXPECT_FALSE(builder_.AddInput({.name = "none"}, DType::kF32, {0}).ok());
}

TEST_F(ModelBuilderTest, RefusesAVocabularyThatDoesNotFitItsOutput) {
  ASSERT_TRUE(builder_.AddNode("layer", SoftmaxOp{}, {x_}).ok());
  ASSERT_TRUE(builder_.AddOutput({.name = "y", .value = *builder_.Find("layer"), .uses_vocabulary = true}).ok());
  builder_.model().vocabulary.emplace();
  builder_.model().vocabulary->tokens = {"a", "b", "c"};
  EXPECT_THAT(std::string(std::move(builder_).Build().status().message()), HasSubstr("3 tokens"));
}

TEST_F(ModelBuilderTest, EmbeddingLimitsItsInput) {
  ModelBuilder builder;
  const ValueId id = *builder.AddInput({.name = "id"}, DType::kI32, {});
  ASSERT_TRUE(builder.AddNode("e", EmbeddingOp{random_.Constant({17, 3}, 1)}, {id}).ok());
  ASSERT_TRUE(builder.AddOutput({.name = "y", .value = *builder.Find("e")}).ok());
  const auto model = std::move(builder).Build();
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model->inputs[0].limit, 17);
  EXPECT_EQ(model->parameters, 51u);
}

}  // namespace
}  // namespace lstm::core
