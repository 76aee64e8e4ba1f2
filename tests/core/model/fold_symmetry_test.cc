// SPDX-License-Identifier: MIT
#include "core/model/fold_symmetry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/model/model_builder.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using testing::Random;

// What a model is made of here: frames cut out of a window of samples, a product, and who reads it.
struct Plan {
  int64_t inputs = 64, rows = 70, frames = 3;
  bool even = true, odd = true;   // kinds of rows
  size_t alone = 0;               // columns without another
  bool bias = true, framed = true, shared = false, is_output = false;
};

std::shared_ptr<Constant> AtRandom(Shape shape, Random& random) {
  const auto out = std::make_shared<Constant>();
  out->shape = std::move(shape);
  out->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(out->shape)));
  for (float& v : out->values.span()) v = random.Uniform(0.3f);
  return out;
}

std::shared_ptr<Constant> Weight(const Plan& plan, Random& random) {
  const auto weight = AtRandom({plan.rows, plan.inputs}, random);
  std::vector<int32_t> columns(static_cast<size_t>(plan.inputs));
  std::iota(columns.begin(), columns.end(), 0);
  std::mt19937 order(static_cast<uint32_t>(random.Below(1000)));
  std::shuffle(columns.begin(), columns.end(), order);
  for (int64_t row = 0; row < plan.rows; ++row) {
    float* const w = weight->values.data() + row * plan.inputs;
    const bool even = plan.even && (!plan.odd || row % 3 != 0);
    for (size_t i = plan.alone; i + 1 < columns.size(); i += 2) w[columns[i + 1]] = even ? w[columns[i]] : -w[columns[i]];
    if (row == 4) std::fill(w, w + plan.inputs, 0.0f);  // of both kinds, or of none
  }
  return weight;
}

Model Build(const Plan& plan, const ConstantPtr& weight, Random& random) {
  ModelBuilder builder;
  const int64_t hop = plan.framed ? plan.inputs / 2 : plan.inputs, samples = hop * (plan.frames - 1) + plan.inputs;
  ValueId x = *builder.AddInput({.name = "x"}, DType::kF32, plan.framed ? Shape{samples} : Shape{plan.frames, plan.inputs});
  if (plan.framed) {
    auto index = std::make_shared<std::vector<int32_t>>();
    for (int64_t f = 0; f < plan.frames; ++f) {
      for (int64_t i = 0; i < plan.inputs; ++i) index->push_back(static_cast<int32_t>(f * hop + i));
    }
    x = *builder.AddNode("frames", SelectOp{index, {plan.frames, plan.inputs}}, {x});
  }
  const ValueId y = *builder.AddNode("product", LinearOp{weight, plan.bias ? random.Constant({plan.rows}, 1) : nullptr}, {x});
  auto index = std::make_shared<std::vector<int32_t>>();  // channel after channel, some of them
  for (int64_t o = 0; o < plan.rows; o += 2) {
    for (int64_t f = 0; f < plan.frames; ++f) index->push_back(static_cast<int32_t>(f * plan.rows + o));
  }
  const auto n = static_cast<int64_t>(index->size());
  const ValueId turned = *builder.AddNode("turned", SelectOp{index, {n}}, {y});
  const ValueId out = *builder.AddNode("out", ActivationOp{ActivationKind::kTanh}, {turned});
  EXPECT_TRUE(builder.AddOutput({.name = "y", .value = out}).ok());
  if (plan.is_output) {
    EXPECT_TRUE(builder.AddOutput({.name = "z", .value = y}).ok());
  }
  if (plan.shared) {
    EXPECT_TRUE(builder.AddOutput({.name = "w", .value = *builder.AddNode("sum", ReduceOp{ReduceKind::kSum}, {x})}).ok());
  }
  return *std::move(builder).Build();
}

uint64_t ProductWeights(const Model& model) {
  uint64_t n = 0;
  for (const Node& node : model.nodes) {
    if (const auto* linear = std::get_if<LinearOp>(&node.op)) n += linear->weight->values.size();
  }
  return n;
}

void ExpectSame(const Model& model, const Model& folded, uint64_t seed) {
  testing::Oracle oracle(model);
  for (const Engine engine : testing::Engines()) {
    const auto program = testing::MustCompile(folded, 2, engine);
    const auto scratch = program->MakeScratch();
    testing::Row row(*program);
    Random random(seed);
    for (float& v : row.input[0]) v = random.Uniform();
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    const auto right = oracle.Step({testing::Vector(row.input[0].begin(), row.input[0].end())});
    for (size_t o = 0; o < right.size(); ++o) {
      ASSERT_EQ(program->outputs()[o].name, model.outputs[o].name);
      ASSERT_EQ(row.output[o].size(), right[o].size());
      for (size_t i = 0; i < right[o].size(); ++i) ASSERT_NEAR(row.output[o][i], right[o][i], 2e-5) << "output " << o << ", element " << i << ", seed " << seed;
    }
  }
}

TEST(FoldSymmetryTest, HalfTheWeightsAndTheSameNumbers) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Random random(seed);
    Plan plan{.inputs = 60 + static_cast<int64_t>(random.Below(80)), .rows = 69 + static_cast<int64_t>(random.Below(40)), .frames = 1 + static_cast<int64_t>(random.Below(4))};
    plan.even = random.Below(3) > 0;
    plan.odd = !plan.even || random.Below(2) > 0;
    plan.alone = random.Below(6);
    plan.bias = random.Below(2) > 0, plan.framed = random.Below(2) > 0, plan.shared = random.Below(2) > 0, plan.is_output = random.Below(2) > 0;
    const Model model = Build(plan, Weight(plan, random), random);
    Model folded = model;
    FoldSymmetry(folded);
    EXPECT_LE(ProductWeights(folded), ProductWeights(model) * 6 / 10) << seed;
    EXPECT_EQ(folded.parameters, model.parameters);
    ExpectSame(model, folded, seed);
  }
}

TEST(FoldSymmetryTest, WhatIsNotQuiteSymmetricIsNotTakenForIt) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    const Plan plan{.even = seed % 2 == 0};
    const auto weight = Weight(plan, random);
    size_t at = random.Below(weight->values.size());
    while (weight->values[at] == 0) at = random.Below(weight->values.size());
    weight->values[at] = std::nextafter(weight->values[at], 10.0f);
    const Model model = Build(plan, weight, random);
    Model folded = model;
    FoldSymmetry(folded);
    ExpectSame(model, folded, seed);
    EXPECT_GT(ProductWeights(folded), ProductWeights(model) / 2) << "that pair is two columns, which stay alone";
  }
  Random random(7);
  const Model plain = Build({}, random.Constant({70, 64}, 1), random);
  Model folded = plain;
  FoldSymmetry(folded);
  EXPECT_EQ(folded.nodes.size(), plain.nodes.size());
  EXPECT_EQ(ProductWeights(folded), ProductWeights(plain));
}

// Cosines and sines of n samples behind a window.
std::shared_ptr<Constant> Transform(int64_t n, bool hann) {
  const auto weight = std::make_shared<Constant>();
  weight->shape = {n + 2, n};
  weight->values = AlignedBuffer<float>(static_cast<size_t>((n + 2) * n));
  const double circle = 2 * std::acos(-1.0);
  for (int64_t k = 0; k < n + 2; ++k) {
    for (int64_t i = 0; i < n; ++i) {
      const double window = hann ? 0.5 - 0.5 * std::cos(circle * static_cast<double>(i) / static_cast<double>(n)) : 0.2 + static_cast<double>(std::min(i, n - i));
      const int64_t turn = k % (n / 2 + 1) * i % n;  // exact: of a whole circle, n parts
      const double angle = circle * static_cast<double>(turn) / static_cast<double>(n);
      const double wave = k <= n / 2 ? std::cos(angle) : turn * 2 % n == 0 ? 0 : -std::sin(angle);
      weight->values[static_cast<size_t>(k * n + i)] = static_cast<float>(window * wave / static_cast<double>(n));
    }
  }
  return weight;
}

// Symmetric about the middle, and but for the window about a quarter: a quarter of the weights, without the rows and columns of zeros.
TEST(FoldSymmetryTest, ATransformBehindAWindowIsFoldedTwice) {
  for (const bool hann : {true, false}) {
    for (const bool bias : {true, false}) {
      for (const int64_t n : {192, 256, 300}) {
        Random random(static_cast<uint64_t>(n));
        const Model model = Build({.inputs = n, .rows = n + 2, .frames = 3, .bias = bias}, Transform(n, hann), random);
        Model folded = model;
        FoldSymmetry(folded);
        EXPECT_LE(ProductWeights(folded), ProductWeights(model) * 27 / 100) << n;
        ExpectSame(model, folded, 5);
      }
    }
  }
}

TEST(FoldSymmetryTest, WhatIsNotQuiteAMultipleIsNotTakenForOne) {
  Random random(3);
  const int64_t n = 128;
  const auto weight = Transform(n, true);
  for (int64_t k = 0; k < n + 2; k += 3) {
    for (int64_t i = n / 4 + 1; i < n / 2; ++i) {
      for (const int64_t at : {i, n - i}) weight->values[static_cast<size_t>(k * n + at)] *= 1 + 1e-5f;
    }
  }
  const Model model = Build({.inputs = n, .rows = n + 2, .frames = 1}, weight, random);
  Model folded = model;
  FoldSymmetry(folded);
  EXPECT_GT(ProductWeights(folded), ProductWeights(model) * 45 / 100) << "folded about the middle, which is as it was";
  EXPECT_LT(ProductWeights(folded), ProductWeights(model) * 52 / 100);
  ExpectSame(model, folded, 5);
}

// Rows that need a + b and rows that need a - b only if each pair agrees: these pair their columns differently.
TEST(FoldSymmetryTest, RowsOfMixedSignsStayAsTheyAre) {
  Random random(3);
  const auto weight = AtRandom({70, 64}, random);
  for (size_t row = 0; row < 70; ++row) {
    for (size_t c = 0; c < 64; c += 2) weight->values[row * 64 + c + 1] = (row + c / 2) % 2 == 0 ? weight->values[row * 64 + c] : -weight->values[row * 64 + c];
  }
  const Model model = Build({}, weight, random);
  Model folded = model;
  FoldSymmetry(folded);
  EXPECT_EQ(ProductWeights(folded), ProductWeights(model));
  ExpectSame(model, folded, 3);
}

}  // namespace
}  // namespace lstm::core
