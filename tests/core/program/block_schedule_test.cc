// SPDX-License-Identifier: MIT
#include "core/program/block_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
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
  for (const auto& [name, width] : {std::pair<std::string, int64_t>{"ih", 3}, {"hh", 4}}) {
    w.Add("cell.weight_" + name + "_l0", {16, width});
    w.Add("cell.bias_" + name + "_l0", {16});
  }
  for (const std::string name : {"ih", "hh", "c"}) {
    for (const char* what : {"_weight_l0", "_bias_l0"}) w.Add("cell.norm_" + name + what, {name == "c" ? 4 : 16});
  }
  w.Add("y.weight", {2, 4});
  w.Add("y.bias", {2});
  const auto model = Import("input { name: 'x' shape: 3 } layer { name: 'cell' lstm { layer_norm: true } } layer { name: 'y' linear {} }", w);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<std::string> names = Names(*model);
  EXPECT_EQ(names.back(), "Linear") << "the layer above runs after the whole loop";
  size_t loops = 0, before = 0;
  for (const std::string& name : names) {
    if (name.find("StateRead+") != std::string::npos) ++loops;
    if (loops == 0 && name == "Linear") ++before;
  }
  EXPECT_EQ(loops, 1u);
  EXPECT_EQ(before, 1u) << "and what meets the input before it";
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
