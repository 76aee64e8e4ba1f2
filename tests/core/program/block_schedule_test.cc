// SPDX-License-Identifier: MIT
#include "core/program/block_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/model/model_builder.h"
#include "tests/core/import/tensors.h"

namespace lstm::core {
namespace {

using ::testing::ElementsAre;

// The names of the nodes of each unit, those of a unit in turn joined by '+'.
std::vector<std::string> Names(const Model& model) {
  std::vector<std::string> out;
  for (const BlockUnit& unit : BlockSchedule(model)) {
    EXPECT_EQ(unit.in_turn, unit.nodes.size() > 1);
    std::string& name = out.emplace_back();
    for (size_t node : unit.nodes) absl::StrAppend(&name, name.empty() ? "" : "+", OpName(model.nodes[node].op));
  }
  return out;
}

TEST(BlockScheduleTest, WhatMeetsTheInputIsOutsideOfTheLoop) {
  Tensors w;
  w.Add("cell.weight_ih_l0", {8, 3});
  w.Add("cell.weight_hh_l0", {8, 4});
  w.Add("cell.bias_ih_l0", {8});
  w.Add("cell.bias_hh_l0", {8});
  w.Add("y.weight", {2, 4});
  w.Add("y.bias", {2});
  const auto model = Import("input { name: 'x' shape: 3 } layer { name: 'cell' cell { kind: MGU } } layer { name: 'y' linear {} }", w);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<std::string> names = Names(*model);
  EXPECT_EQ(names.back(), "Linear") << "the layer above runs after the whole loop";
  EXPECT_EQ(names.front(), "Linear") << "and what meets the input before it";
  size_t loops = 0;
  for (const std::string& name : names) loops += name.find("StateRead+") != std::string::npos ? 1 : 0;
  EXPECT_EQ(loops, 1u);
}

TEST(BlockScheduleTest, AStackHasNoLoopAndKeepsItsOrder) {
  EXPECT_THAT(Names(testing::LstmStack(3, 4, 3, 1)), ElementsAre("LSTM", "LSTM", "LSTM"));
}

TEST(BlockScheduleTest, AStateIsWrittenForAllStepsBeforeItIsReadForAny) {
  ModelBuilder builder;
  const ValueId x = builder.AddInput({.name = "x"}, DType::kF32, {7}).value();
  const StateId before = builder.AddState("before", {7}, {}).value();
  const ValueId last = builder.AddNode("last", StateReadOp{before}, {}).value();
  const ValueId y = builder.AddNode("y", ElementwiseOp{}, {x, last}).value();
  builder.AddNode("kept", StateWriteOp{before}, {x}).value();
  ASSERT_TRUE(builder.AddOutput({.name = "y", .value = y}).ok());
  EXPECT_THAT(Names(std::move(builder).Build().value()), ElementsAre("StateWrite", "StateRead", "Elementwise"));
}

}  // namespace
}  // namespace lstm::core
