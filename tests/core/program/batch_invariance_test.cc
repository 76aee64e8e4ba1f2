// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "core/program/step_program.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// A row's bits depend on that row alone: on no batch size, no place in it and no neighbour.
namespace lstm::core {
namespace {

using testing::MustCompile;
using testing::Random;
using testing::Row;

const float kHostile[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1e38f, 1e38f, 1e-42f, -0.0f};

class BatchInvarianceTest : public ::testing::TestWithParam<std::tuple<std::string, Engine>> {
 protected:
  static std::shared_ptr<const StepProgram> Compile(int64_t in, int64_t hidden, int max_batch = 64) {
    return MustCompile(testing::OneLayer(std::get<0>(GetParam()), in, hidden, 7, true), max_batch, std::get<1>(GetParam()));
  }
};

bool SameBits(const Row& a, const Row& b) {
  if (std::memcmp(a.next.data(), b.next.data(), a.next.size() * sizeof(float)) != 0) return false;
  for (size_t o = 0; o < a.output.size(); ++o) {
    if (std::memcmp(a.output[o].data(), b.output[o].data(), a.output[o].size() * sizeof(float)) != 0) return false;
  }
  return true;
}

TEST_P(BatchInvarianceTest, EveryBatchSizePlaceAndNeighbourGivesTheBitsOfTheRowAlone) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {5, 17}, {40, 64}, {33, 129}, {64, 256}}) {
    const auto program = Compile(in, hidden);
    const auto scratch = program->MakeScratch();
    Random random(static_cast<uint64_t>(in * hidden));
    std::vector<std::unique_ptr<Row>> neighbours;
    for (int i = 0; i < 64; ++i) {
      Row& row = *neighbours.emplace_back(std::make_unique<Row>(*program));
      for (float& v : row.input[0]) v = i % 3 == 0 ? kHostile[random.Below(6)] : random.Uniform(3);
      for (float& v : row.state.span()) v = i % 4 == 0 ? kHostile[random.Below(6)] : random.Uniform();
    }
    Row alone(*program), guest(*program);
    for (float& v : alone.input[0]) v = random.Uniform();
    for (float& v : alone.state.span()) v = random.Uniform();
    guest.input[0] = alone.input[0];
    std::copy(alone.state.span().begin(), alone.state.span().end(), guest.state.data());
    const StepRow one = alone.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    for (int n = 1; n <= 64; ++n) {
      for (const size_t place : {size_t{0}, random.Below(static_cast<size_t>(n)), static_cast<size_t>(n) - 1}) {
        std::vector<StepRow> rows;
        for (int i = 0; i < n; ++i) rows.push_back(neighbours[static_cast<size_t>(i)]->row());
        rows[place] = guest.row();
        std::fill(guest.next.span().begin(), guest.next.span().end(), -7.0f);
        ASSERT_TRUE(program->Run(rows, *scratch).ok());
        ASSERT_TRUE(SameBits(alone, guest)) << "in " << in << " hidden " << hidden << " batch " << n << " place " << place;
      }
    }
  }
}

// Fills input and state with numbers of session `seed`.
void Fill(Row& row, uint64_t seed) {
  Random random(seed);
  for (float& v : row.input[0]) v = random.Uniform();
  for (float& v : row.state.span()) v = random.Uniform();
}

// Runs `count` sessions alone and in batches of every kind of size; the first that differs, or -1.
int FirstThatDiffers(const StepProgram& program, int count) {
  const auto scratch = program.MakeScratch();
  std::vector<std::unique_ptr<Row>> alone, together;
  for (int i = 0; i < count; ++i) {
    for (auto* rows : {&alone, &together}) Fill(*rows->emplace_back(std::make_unique<Row>(program)), static_cast<uint64_t>(i));
    const StepRow one = alone.back()->row();
    EXPECT_TRUE(program.Run({&one, 1}, *scratch).ok());
  }
  for (int begin = 0, n = 1; begin < count; begin += n, n = n % program.max_batch() + 1) {
    std::vector<StepRow> rows;
    for (int i = begin; i < std::min(begin + n, count); ++i) rows.push_back(together[static_cast<size_t>(i)]->row());
    EXPECT_TRUE(program.Run(rows, *scratch).ok());
  }
  for (int i = 0; i < count; ++i) {
    if (!SameBits(*alone[static_cast<size_t>(i)], *together[static_cast<size_t>(i)])) return i;
  }
  return -1;
}

// A layer of a few units shows another order of summation in few of its rows: many are needed to see it.
TEST_P(BatchInvarianceTest, TinyLayersHoldToo) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {3, 2}, {1, 3}, {2, 5}}) {
    for (const int max_batch : {2, 12, 64}) {
      const auto program = Compile(in, hidden, max_batch);
      EXPECT_EQ(FirstThatDiffers(*program, 2000), -1)
          << "in " << in << " hidden " << hidden << " max_batch " << max_batch << "; " << program->engines()[0];
    }
  }
}

// Batches above the largest that the kernels know are cut.
TEST_P(BatchInvarianceTest, LargeBatchesHoldToo) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{5, 17}, {100, 100}, {3, 400}}) {
    const auto program = Compile(in, hidden, 200);
    const auto scratch = program->MakeScratch();
    std::vector<std::unique_ptr<Row>> together;
    std::vector<StepRow> rows;
    for (uint64_t i = 0; i < 200; ++i) {
      Fill(*together.emplace_back(std::make_unique<Row>(*program)), i);
      rows.push_back(together.back()->row());
    }
    for (const size_t n : {size_t{65}, size_t{127}, size_t{200}}) {
      ASSERT_TRUE(program->Run({rows.data(), n}, *scratch).ok());
      for (const size_t place : {size_t{0}, size_t{63}, size_t{64}, n - 1}) {
        Row alone(*program);
        Fill(alone, place);
        const StepRow one = alone.row();
        ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
        ASSERT_TRUE(SameBits(alone, *together[place])) << "in " << in << " hidden " << hidden << " batch " << n << " place " << place;
      }
    }
  }
}

// The numerics id does not name the largest batch, so it must not decide any bits.
TEST_P(BatchInvarianceTest, TheLargestBatchAllowedDoesNotMatter) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{3, 2}, {5, 17}, {40, 64}, {100, 256}}) {
    const auto reference = Compile(in, hidden);
    Row expected(*reference);
    Fill(expected, 1);
    const StepRow one = expected.row();
    ASSERT_TRUE(reference->Run({&one, 1}, *reference->MakeScratch()).ok());
    for (const int max_batch : {1, 2, 3, 4, 5, 7, 8, 33, 200}) {
      const auto program = Compile(in, hidden, max_batch);
      Row row(*program);
      Fill(row, 1);
      const StepRow same = row.row();
      ASSERT_TRUE(program->Run({&same, 1}, *program->MakeScratch()).ok());
      EXPECT_TRUE(SameBits(expected, row)) << "in " << in << " hidden " << hidden << " max_batch " << max_batch << "; "
                                           << program->engines()[0] << ", with 64 " << reference->engines()[0];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, BatchInvarianceTest,
                         ::testing::Combine(::testing::ValuesIn(testing::LayerKinds()), ::testing::ValuesIn(testing::Engines())),
                         [](const auto& i) { return std::get<0>(i.param) + "_" + testing::EngineName(std::get<1>(i.param)); });

class BatchInvarianceOfModelsTest : public ::testing::TestWithParam<Engine> {};
INSTANTIATE_TEST_SUITE_P(All, BatchInvarianceOfModelsTest, ::testing::ValuesIn(testing::Engines()),
                         [](const auto& i) { return testing::EngineName(i.param); });

TEST_P(BatchInvarianceOfModelsTest, AStackOfManyLayersHolds) {
  const auto program = MustCompile(testing::SmallStack(3), 64, GetParam());
  const auto scratch = program->MakeScratch();
  std::vector<std::unique_ptr<Row>> alone, together;
  std::vector<StepRow> rows;
  for (int i = 0; i < 64; ++i) {
    for (auto* side : {&alone, &together}) side->emplace_back(std::make_unique<Row>(*program));
    rows.push_back(together.back()->row());
  }
  for (int t = 0; t < 50; ++t) {
    for (int i = 0; i < 64; ++i) {
      Row& row = *alone[static_cast<size_t>(i)];
      row.SetId(0, (t * 7 + i * i) % 17);
      together[static_cast<size_t>(i)]->SetId(0, (t * 7 + i * i) % 17);
      const StepRow one = row.row();
      ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    }
    ASSERT_TRUE(program->Run(rows, *scratch).ok());
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_TRUE(SameBits(*alone[i], *together[i])) << "step " << t << " row " << i;
      alone[i]->Accept();
      together[i]->Accept();
    }
  }
}

// A value of shape [A, I] is A rows to a linear layer: batches of sessions become larger ones inside.
TEST_P(BatchInvarianceOfModelsTest, LinearOverSeveralRowsAStepHolds) {
  for (const int64_t a : {2, 5, 70}) {
    Random random(4);
    ModelBuilder b;
    const ValueId x = *b.AddInput({.name = "x"}, DType::kF32, {a, 7});
    ValueId y = *b.AddNode("linear", LinearOp{random.Constant({9, 7}, 1), random.Constant({9}, 1)}, {x});
    y = *b.AddNode("norm", LayerNormOp{random.Constant({9}, 1), random.Constant({9}, 1), 1e-5f}, {y});
    y = *b.AddNode("softmax", SoftmaxOp{}, {y});
    ASSERT_TRUE(b.AddOutput({.name = "y", .value = y}).ok());
    EXPECT_EQ(FirstThatDiffers(*MustCompile(*std::move(b).Build(), 33, GetParam()), 600), -1) << a;
  }
}

// Values so wide that a batch goes through in parts (a quarter of the L2 cache holds ten rows or so, of few megabytes), and values that
// are needed late, share no memory with those made in between, and have a state beside them.
TEST_P(BatchInvarianceOfModelsTest, WideValuesInPartsHold) {
  Random random(5);
  ModelBuilder b;
  const ValueId x = *b.AddInput({.name = "x"}, DType::kF32, {16000});
  ValueId early = *b.AddNode("early", ActivationOp{ActivationKind::kTanh}, {x});
  ValueId y = *b.AddNode("relu", ActivationOp{ActivationKind::kRelu}, {x});
  y = *b.AddNode("norm", LayerNormOp{random.Constant({16000}, 1), nullptr, 1e-5f}, {y});
  const StateId sum = *b.AddState("sum", {16000}, {});
  const ValueId before = *b.AddNode("before", StateReadOp{sum}, {});
  y = *b.AddNode("added", ElementwiseOp{ElementwiseKind::kAdd}, {before, y});
  y = *b.AddNode("after", StateWriteOp{sum}, {y});
  y = *b.AddNode("both", ElementwiseOp{ElementwiseKind::kMultiply}, {early, y});
  y = *b.AddNode("out", LinearOp{random.Constant({1, 16000}, 1), random.Constant({1}, 1)}, {y});
  ASSERT_TRUE(b.AddOutput({.name = "y", .value = y}).ok());
  EXPECT_EQ(FirstThatDiffers(*MustCompile(*std::move(b).Build(), 50, GetParam()), 100), -1);
}

}  // namespace
}  // namespace lstm::core
