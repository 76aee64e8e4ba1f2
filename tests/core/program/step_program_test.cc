// SPDX-License-Identifier: MIT
#include "core/program/step_program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using testing::MustCompile;
using testing::OneLayer;
using testing::Oracle;
using testing::Random;
using testing::Row;

// Largest difference from the oracle in the outputs of `steps` steps; inputs in (-1, 1).
double ErrorOver(const Model& model, int steps, uint64_t seed, Engine engine = Engine::kAuto) {
  Oracle oracle(model);
  const auto program = MustCompile(model, 4, engine);
  const auto scratch = program->MakeScratch();
  Row row(*program);
  Random random(seed);
  double worst = 0;
  for (int t = 0; t < steps; ++t) {
    testing::Vector x;
    for (float& v : row.input[0]) x.push_back(v = random.Uniform());
    const StepRow one = row.row();
    EXPECT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    const testing::Vector y = oracle.Step({x})[0];
    for (size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::fabs(y[i] - static_cast<double>(row.output[0][i])));
  }
  return worst;
}

// What a step may differ from double precision, relative to values around 1. f32 has 6e-8; sums of up to 513 products and
// the polynomials of exp and tanh cost the rest.
const std::map<std::string, double> kTolerance = {
    {"lstm", 2e-6},       {"lstm_peephole", 2e-6}, {"lstm_projection", 4e-6},  // one more product over H
    {"lstm_peephole_projection", 4e-6},
    {"gru_after", 2e-6},  {"gru_before", 2e-6},    {"rnn_tanh", 3e-6},
    {"rnn_relu", 1e-5},  // not squashed: values grow beyond 1
    {"linear", 5e-6},     {"conv1d", 5e-6},        {"conv1d_groups", 5e-6},
    {"layernorm", 5e-6},  {"softmax", 1e-6}};

class LayerTest : public ::testing::TestWithParam<std::tuple<std::string, Engine>> {
 protected:
  static const std::string& kind() { return std::get<0>(GetParam()); }
  static Engine engine() { return std::get<1>(GetParam()); }
};

TEST_P(LayerTest, AgreesWithTheOracleAtEverySize) {
  const int64_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 128, 129, 200, 256, 257, 400, 513};
  uint64_t seed = 1;
  for (const int64_t hidden : sizes) {
    for (const int64_t in : {int64_t{1}, (hidden * 7 + 3) % 40 + 1, hidden}) {
      const double error = ErrorOver(OneLayer(kind(), in, hidden, seed, seed % 2 == 0), 3, seed, engine());
      EXPECT_LT(error, kTolerance.at(kind())) << "in " << in << " hidden " << hidden << " seed " << seed;
      ++seed;
    }
  }
}

TEST_P(LayerTest, StartsFromTheInitialState) {
  const auto program = MustCompile(OneLayer(kind(), 6, 10, 3, true), 64, engine());
  const Model& model = program->model();
  for (size_t s = 0; s < model.state.size(); ++s) {
    const size_t offset = program->state_offset(static_cast<StateId>(s));
    EXPECT_EQ(offset % 16, 0u);
    for (size_t i = 0; i < model.state[s].initial.size(); ++i) EXPECT_EQ(program->initial_state()[offset + i], model.state[s].initial[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, LayerTest,
                         ::testing::Combine(::testing::ValuesIn(testing::LayerKinds()), ::testing::ValuesIn(testing::Engines())),
                         [](const auto& i) { return std::get<0>(i.param) + "_" + testing::EngineName(std::get<1>(i.param)); });

TEST(EngineTest, TheNumericsIdNamesTheEngineAndAutoIsOneOfThem) {
  std::map<Engine, std::string> ids;
  for (const Engine e : {Engine::kAuto, Engine::kOneDnn, Engine::kFused}) {
    const auto program = MustCompile(OneLayer("lstm", 3, 5, 1), 4, e);
    ids[e] = program->numerics_id();
    EXPECT_EQ(program->engines()[0].find("fused") != std::string::npos, ids[e].starts_with("fused-")) << program->engines()[0];
  }
  EXPECT_NE(ids[Engine::kOneDnn], ids[Engine::kFused]);
  EXPECT_TRUE(ids[Engine::kAuto] == ids[Engine::kOneDnn] || ids[Engine::kAuto] == ids[Engine::kFused]) << ids[Engine::kAuto];
}

TEST(StepProgramTest, PointwiseOpsAgreeWithTheOracle) {
  Random random(5);
  std::vector<Op> ops;
  for (int kind = 0; kind <= static_cast<int>(ActivationKind::kSquare); ++kind) {
    const auto activation = static_cast<ActivationKind>(kind);
    if (activation == ActivationKind::kLog || activation == ActivationKind::kSqrt) continue;  // inputs are negative too
    ops.push_back(ActivationOp{activation, activation == ActivationKind::kClip ? -0.4f : 0.3f, 0.5f});
  }
  for (int kind = 0; kind <= static_cast<int>(ElementwiseKind::kMaximum); ++kind) ops.push_back(ElementwiseOp{static_cast<ElementwiseKind>(kind)});
  ops.push_back(AffineOp{random.Constant({1}, 2), random.Constant({9}, 2)});
  ops.push_back(SliceOp{2, 7});
  ops.push_back(ConcatOp{});
  ops.push_back(ReshapeOp{{3, 3}});
  ops.push_back(SoftmaxOp{true});
  for (const Op& op : ops) {
    ModelBuilder b;
    const ValueId x = *b.AddInput({.name = "x"}, DType::kF32, {9});
    const ValueId shifted = *b.AddNode("shifted", AffineOp{random.Constant({9}, 1), random.Constant({9}, 1)}, {x});
    const bool two = std::holds_alternative<ElementwiseOp>(op) || std::holds_alternative<ConcatOp>(op);
    const auto y = b.AddNode("y", op, two ? std::vector<ValueId>{x, shifted} : std::vector<ValueId>{shifted});
    ASSERT_TRUE(y.ok()) << y.status();
    ASSERT_TRUE(b.AddOutput({.name = "y", .value = *y}).ok());
    const auto* elementwise = std::get_if<ElementwiseOp>(&op);
    const bool divides = elementwise != nullptr && elementwise->kind == ElementwiseKind::kDivide;
    EXPECT_LT(ErrorOver(*std::move(b).Build(), 5, 11), divides ? 1e-3 : 2e-6) << OpName(op) << op.index();
  }
}

TEST(StepProgramTest, AStackWithEmbeddingResidualAndConcatAgrees) {
  const Model model = testing::SmallStack(3);
  Oracle oracle(model);
  const auto program = MustCompile(testing::SmallStack(3));
  const auto scratch = program->MakeScratch();
  Row row(*program);
  for (int t = 0; t < 200; ++t) {
    row.SetId(0, t * 7 % 17);
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    const testing::Vector y = oracle.Step({{static_cast<double>(t * 7 % 17)}})[0];
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], row.output[0][i], 1e-6) << t;
  }
}

TEST(StepProgramTest, TracesShowLayersAndNewState) {
  const auto program = MustCompile(testing::SmallStack(3));
  const auto scratch = program->MakeScratch();
  Row row(*program);
  row.SetId(0, 4);
  const StepRow one = row.row();
  ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
  size_t states = 0;
  for (size_t o = 0; o < program->outputs().size(); ++o) {
    const auto& name = program->outputs()[o].name;
    for (size_t s = 0; s < program->model().state.size(); ++s) {
      if (program->model().state[s].name != name) continue;
      ++states;
      const float* expected = row.next.data() + program->state_offset(static_cast<StateId>(s));
      EXPECT_TRUE(std::equal(row.output[o].begin(), row.output[o].end(), expected)) << name;
    }
    if (name == "lstm0") {
      EXPECT_TRUE(std::equal(row.output[o].begin(), row.output[o].end(), row.next.data() + program->state_offset(0)));
    }
  }
  EXPECT_EQ(states, 4u);
}

TEST(StepProgramTest, OutputsBehindTheCountAreNotTouched) {
  const auto program = MustCompile(testing::LstmStack(3, 5, 2, 1), 4);
  const auto scratch = program->MakeScratch();
  Row all(*program), first(*program);
  for (size_t i = 0; i < 3; ++i) all.input[0][i] = first.input[0][i] = 0.5f;
  ASSERT_GT(first.outputs.size(), 1u);
  for (size_t o = 1; o < first.outputs.size(); ++o) first.outputs[o] = reinterpret_cast<std::byte*>(o);  // no address of anything
  StepRow few = first.row();
  few.output_count = 1;
  const StepRow rows[] = {few, all.row(), few};
  ASSERT_TRUE(program->Run(rows, *scratch).ok());
  EXPECT_EQ(first.output[0], all.output[0]);
  EXPECT_NE(all.output[1], std::vector<float>(all.output[1].size()));
}

TEST(StepProgramTest, LeavesTheOldStateAndWritesTheNewOneWhole) {
  const auto program = MustCompile(OneLayer("lstm", 5, 9, 1, true));
  const auto scratch = program->MakeScratch();
  Row row(*program);
  const std::vector<float> before(row.state.span().begin(), row.state.span().end());
  std::fill(row.next.span().begin(), row.next.span().end(), 123.0f);
  const StepRow one = row.row();
  ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
  EXPECT_TRUE(std::equal(before.begin(), before.end(), row.state.data()));
  for (size_t i = 0; i < row.next.size(); ++i) {
    EXPECT_NE(row.next[i], 123.0f) << i;
    if (i % 16 >= 9) {
      EXPECT_EQ(row.next[i], 0.0f) << "padding " << i;
    }
  }
}

TEST(StepProgramTest, RefusesAStateThatTwoLayersWrite) {
  ModelBuilder b;
  Random random(1);
  const ValueId x = *b.AddInput({.name = "x"}, DType::kF32, {4});
  const StateId h = *b.AddState("h", {4}, {});
  RnnOp op{.weight = random.Constant({4, 4}, 1), .recurrent = random.Constant({4, 4}, 1), .bias = random.Constant({4}, 1), .hidden = h};
  const ValueId first = *b.AddNode("a", op, {x});
  const ValueId second = *b.AddNode("b", op, {first});
  ASSERT_TRUE(b.AddOutput({.name = "y", .value = second}).ok());
  const auto program = StepProgram::Compile(std::make_shared<const Model>(*std::move(b).Build()), {});
  EXPECT_THAT(std::string(program.status().message()), ::testing::HasSubstr("written by 2 layers"));
}

}  // namespace
}  // namespace lstm::core
