// SPDX-License-Identifier: MIT
#include "core/program/straighten.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using testing::MustCompile;
using testing::Oracle;
using testing::Random;
using testing::Row;

// Pieces of the index that lie side by side, or are the same element again.
size_t Runs(const SelectOp& select) {
  size_t runs = 1;
  for (size_t i = 1; i < select.index->size(); ++i) {
    const int32_t apart = (*select.index)[i] - (*select.index)[i - 1];
    if (apart != 0 && apart != 1) ++runs;
  }
  return runs;
}

SelectOp Select(std::vector<int32_t> index, Shape shape) { return {std::make_shared<const std::vector<int32_t>>(std::move(index)), std::move(shape)}; }

// As an importer makes two convolutions over the frames of a step: [frames, channels] to [channels, frames], relu, a window of three
// frames with a frame of zeros at each end, by channel.
constexpr int kFrames = 4, kChannels = 20;
Model TwoConvolutions() {
  Random random(3);
  ModelBuilder builder;
  const ValueId x = *builder.AddInput({.name = "x"}, DType::kF32, {kFrames, 6});
  const ValueId frames = *builder.AddNode("frames", LinearOp{random.Constant({kChannels, 6}, 1), random.Constant({kChannels}, 1)}, {x});
  std::vector<int32_t> turned, window;
  for (int c = 0; c < kChannels; ++c) {
    for (int t = 0; t < kFrames; ++t) turned.push_back(t * kChannels + c);
  }
  const ValueId channels = *builder.AddNode("channels", Select(turned, {kChannels * kFrames}), {frames});
  const ValueId relu = *builder.AddNode("relu", ActivationOp{ActivationKind::kRelu}, {channels});
  const ValueId zero = *builder.AddNode("zero", ConstantOp{random.Constant({1}, 0)}, {});
  for (int t = 0; t < kFrames; ++t) {
    for (int c = 0; c < kChannels; ++c) {
      for (int tap = t - 1; tap <= t + 1; ++tap) window.push_back(tap < 0 || tap >= kFrames ? 0 : 1 + c * kFrames + tap);
    }
  }
  const ValueId windows = *builder.AddNode("windows", Select(window, {kFrames, 3 * kChannels}), {zero, relu});
  const ValueId out = *builder.AddNode("out", LinearOp{random.Constant({5, 3 * kChannels}, 1), nullptr}, {windows});
  EXPECT_TRUE(builder.AddOutput({.name = "y", .value = out}).ok());
  return *std::move(builder).Build();
}

TEST(StraightenTest, FramesOfAConvolutionAreCopiedWhole) {
  const Model model = TwoConvolutions();
  const Straight straight = Straighten(model);
  const auto runs = [](const Node& node) { return Runs(std::get<SelectOp>(node.op)); };
  EXPECT_EQ(runs(model.nodes[1]), size_t{kFrames * kChannels});
  EXPECT_EQ(runs(straight.nodes[1]), 1u);
  EXPECT_LE(runs(straight.nodes[4]), size_t{2 * kFrames});
  EXPECT_EQ(straight.orders[static_cast<size_t>(model.outputs[0].value)], nullptr);
}

// Models of ops at random, mostly of those that care for order.
class RandomGraph {
 public:
  explicit RandomGraph(uint64_t seed) : random_(seed) {
    for (const char* name : {"a", "b"}) Have(builder_.AddInput({.name = name}, DType::kF32, {4, 6}));
    while (values_.size() < 26) Add();
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(builder_.AddOutput({.name = absl::StrCat("y", i), .value = i == 0 ? values_.back() : Any()}).ok());
  }
  Model Build() && { return *std::move(builder_).Build(); }

 private:
  const Shape& ShapeOf(ValueId id) { return builder_.value(id).shape; }
  ValueId Any() { return values_[random_.Below(values_.size())]; }
  std::string Name(const char* what) { return absl::StrCat(what, ++names_); }
  void Have(const absl::StatusOr<ValueId>& id) {
    ASSERT_TRUE(id.ok()) << id.status();
    values_.push_back(*id);
  }

  void AddSelect() {
    std::vector<ValueId> inputs = {Any()};
    if (random_.Below(2) == 0) inputs.push_back(Any());
    int64_t all = 0;
    for (ValueId id : inputs) all += CheckedElementCount(ShapeOf(id));
    const Shape shapes[] = {{24}, {4, 6}, {6, 4}, {2, 12}, {48}};
    const Shape& shape = shapes[random_.Below(5)];
    const auto n = static_cast<size_t>(CheckedElementCount(shape)), stride = 1 + random_.Below(8);
    std::vector<int32_t> index(n);
    const size_t kind = random_.Below(3);
    for (size_t i = 0; i < n; ++i) {
      const size_t at = kind == 0 ? random_.Below(static_cast<size_t>(all)) : kind == 1 ? i * stride : i * stride + i * stride / static_cast<size_t>(all);
      index[i] = static_cast<int32_t>(at % static_cast<size_t>(all));
    }
    Have(builder_.AddNode(Name("select"), Select(index, shape), inputs));
  }

  void AddElementwise() {
    const ValueId first = Any();
    std::vector<ValueId> inputs = {first};
    for (ValueId id : values_) {
      if (inputs.size() < 2 && ShapeOf(id) == ShapeOf(first) && random_.Below(2) == 0) inputs.push_back(id);
    }
    if (inputs.size() == 1) inputs.push_back(first);
    const ElementwiseKind kinds[] = {ElementwiseKind::kAdd, ElementwiseKind::kSubtract, ElementwiseKind::kMaximum};
    Have(builder_.AddNode(Name("elementwise"), ElementwiseOp{kinds[random_.Below(3)]}, inputs));
  }

  void Add() {
    const ValueId x = Any();
    const Shape shape = ShapeOf(x);
    switch (random_.Below(14)) {
      default: return AddSelect();
      case 0: case 1: return AddElementwise();
      case 2: return Have(builder_.AddNode(Name("tanh"), ActivationOp{ActivationKind::kTanh}, {x}));
      case 3: return Have(builder_.AddNode(Name("relu"), ActivationOp{ActivationKind::kRelu}, {x}));
      case 4: return Have(builder_.AddNode(Name("affine"), AffineOp{random_.Constant({1}, 1), random_.Constant({1}, 1)}, {x}));
      case 5: return Have(builder_.AddNode(Name("reshape"), ReshapeOp{{CheckedElementCount(shape)}}, {x}));
      case 6: return Have(builder_.AddNode(Name("linear"), LinearOp{random_.Constant({6, shape.back()}, 0.3f), random_.Constant({6}, 1)}, {x}));
      case 7: return Have(builder_.AddNode(Name("constant"), ConstantOp{random_.Constant({4, 6}, 1)}, {}));
      case 8: return Have(builder_.AddNode(Name("norm"), LayerNormOp{random_.Constant({shape.back()}, 1), nullptr, 1e-3f}, {x}));
      case 9: {
        if (shape.size() != 1) return;
        const std::string name = Name("lstm");
        const StateId h = *builder_.AddState(name + ".h", {24}, {}), c = *builder_.AddState(name + ".c", {24}, {});
        return Have(builder_.AddNode(name, LstmOp{.weight = random_.Constant({96, shape[0]}, 0.3f), .recurrent = random_.Constant({96, 24}, 0.3f), .bias = random_.Constant({96}, 1), .hidden = h, .cell = c}, {x}));
      }
      case 10: {
        const std::string name = Name("state");
        const StateId state = *builder_.AddState(name, shape, {});
        Have(builder_.AddNode(name + ".before", StateReadOp{state}, {}));
        return Have(builder_.AddNode(name + ".after", StateWriteOp{state}, {x}));
      }
    }
  }

  Random random_;
  ModelBuilder builder_;
  std::vector<ValueId> values_;
  int names_ = 0;
};

TEST(StraightenTest, EveryValueOfAnyModelIsWhatItWasAndWhereItWas) {
  size_t moved = 0, seen = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const Model model = RandomGraph(seed).Build();
    for (const Order& order : Straighten(model).orders) moved += order != nullptr;
    for (const Engine engine : seed % 10 == 0 ? testing::Engines() : std::vector<Engine>{Engine::kFused}) {
      Oracle oracle(model);
      const auto program = MustCompile(model, 4, engine);
      const auto scratch = program->MakeScratch();
      Row row(*program);
      Random random(seed);
      for (int t = 0; t < 3; ++t) {
        std::vector<testing::Vector> x;
        for (std::vector<float>& input : row.input) {
          for (float& v : input) v = random.Uniform();
          x.emplace_back(input.begin(), input.end());
        }
        const StepRow one = row.row();
        ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
        row.Accept();
        oracle.Step(x);
        for (size_t o = 0; o < program->outputs().size(); ++o) {
          for (size_t v = 0; v < model.values.size(); ++v) {
            if (model.values[v].name != program->outputs()[o].name) continue;
            ++seen;
            for (size_t i = 0; i < row.output[o].size(); ++i) {
              const double right = oracle.values()[v][i];
              ASSERT_NEAR(row.output[o][i], right, 1e-3 * std::max(1.0, std::fabs(right))) << "element " << i << " of '" << model.values[v].name << "', step " << t << ", seed " << seed;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(moved, 300u);
  EXPECT_GT(seen, 10'000u);
}

}  // namespace
}  // namespace lstm::core
