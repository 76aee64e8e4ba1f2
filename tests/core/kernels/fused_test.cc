// SPDX-License-Identifier: MIT
#include "core/kernels/fused/fused.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "tests/core/kernels/fused_world.h"
#include "tests/support/oracle.h"

namespace lstm::core {
namespace {

using testing::FusedLayer;
using testing::FusedRow;
using testing::Oracle;
using testing::Random;
using testing::RunRows;
using testing::Set;

std::string NameOf(Set set) { return set == Set::kAvx512 ? "AVX512" : set == Set::kAvx2 ? "AVX2" : "portable"; }

// A test of every kind of layer on every instruction set; those that this machine lacks are skipped, visibly.
class FusedTest : public ::testing::TestWithParam<std::tuple<std::string, Set>> {
 protected:
  void SetUp() override {
    if (!FusedOp::Supported(set())) GTEST_SKIP() << "no " << NameOf(set()) << " on this machine or in this build";
  }
  static const std::string& kind() { return std::get<0>(GetParam()); }
  static Set set() { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, FusedTest,
                         ::testing::Combine(::testing::ValuesIn(testing::FusedKinds()),
                                            ::testing::Values(Set::kPortable, Set::kAvx2, Set::kAvx512)),
                         [](const auto& i) { return std::get<0>(i.param) + "_" + NameOf(std::get<1>(i.param)); });

// The largest difference from the oracle in the outputs of one step, in batches of `rows`.
double ErrorOf(const FusedLayer& layer, Set set, size_t rows) {
  const auto op = layer.Make(set);
  const auto scratch = op->MakeScratch(rows);
  std::vector<FusedRow> batch;
  std::vector<FusedRow*> pointers;
  for (size_t r = 0; r < rows; ++r) batch.emplace_back(layer);
  for (size_t r = 0; r < rows; ++r) {
    batch[r].Fill(r + 1);
    for (const StateTensor& state : layer.model.state) {  // the oracle begins with the initial state
      testing::Guarded& part = state.name.ends_with("c") ? batch[r].c : batch[r].h;
      std::copy(state.initial.begin(), state.initial.end(), part.data());
    }
    pointers.push_back(&batch[r]);
  }
  RunRows(*op, pointers, *scratch);
  double worst = 0;
  for (FusedRow& row : batch) {
    Oracle oracle(layer.model);
    const testing::Vector y = oracle.Step({testing::Vector(row.x.begin(), row.x.end())})[0];
    for (size_t i = 0; i < y.size(); ++i) {
      const double error = std::fabs(y[i] - static_cast<double>(row.out.data()[i])) / std::max(1.0, std::fabs(y[i]));
      worst = error <= worst ? worst : error;  // NaN is worst
    }
  }
  return worst;
}

// AddressSanitizer makes this a matter of a quarter of an hour: a third of the sizes meets the same code there.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlow = true;
#else
constexpr bool kSlow = false;
#endif

TEST_P(FusedTest, AgreesWithTheOracleFrom1To130AndTouchesNothingBeyondItsBuffers) {
  for (int64_t size = 1; size <= 130; size += kSlow || testing::IsNarrow(kind()) ? 3 : 1) {
    for (const int64_t in : {size * 11 % 47 + 1, size}) {
      const FusedLayer layer(kind(), in, size, static_cast<uint64_t>(size));
      const size_t rows = static_cast<size_t>(size) % (kSlow ? 9 : 26) + 1;  // few rows and many take different ways
      const double error = ErrorOf(layer, set(), rows);
      ASSERT_LT(error, 5e-6) << "in " << in << " hidden " << size << " rows " << rows;
    }
  }
}

TEST_P(FusedTest, AgreesWithTheOracleAtLargeOddSizes) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{257, 255}, {1, 511}, {1025, 129}, {33, 1023}, {2049, 17}, {511, 2049}}) {
    if (hidden * (in + hidden) > 600000 && set() == Set::kPortable) continue;  // minutes, and its ways are all met
    ASSERT_LT(ErrorOf(FusedLayer(kind(), in, hidden, 3), set(), 2), 2e-5) << "in " << in << " hidden " << hidden;
  }
}

const float kHostile[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1e38f, 1e38f, 1e-42f, -0.0f};

TEST_P(FusedTest, EveryBatchPlaceAndNeighbourGivesTheBitsOfTheRowAlone) {
  // Up to 200: beyond a block (kBlockRows).
  const std::vector<size_t> batches = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 20, 21, 24, 25, 31, 32, 33, 48, 63, 64, 65, 128, 192, 193, 200};
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {19, 33}, {40, 64}, {200, 70}}) {
    if (kSlow && hidden > 40) continue;
    const FusedLayer layer(kind(), in, hidden, 5);
    const auto op = layer.Make(set());
    const auto scratch = op->MakeScratch(200);
    Random random(9);
    std::vector<FusedRow> neighbours;
    for (size_t i = 0; i < 200; ++i) neighbours.emplace_back(layer);
    for (size_t i = 0; i < 200; ++i) {
      neighbours[i].Fill(i);
      for (testing::Guarded* part : {&neighbours[i].x, &neighbours[i].h, &neighbours[i].c}) {
        for (float& v : *part) v = i % 3 == 0 ? kHostile[random.Below(6)] : v;
      }
    }
    FusedRow alone(layer), guest(layer);
    alone.Fill(1000);
    guest.Fill(1000);
    RunRows(*op, {&alone}, *scratch);
    // Large weights are read in other ways than small ones.
    const auto small = layer.Make(set(), FusedOp::Large::kBySize);
    const auto small_scratch = small->MakeScratch(200);
    for (const size_t n : batches) {
      if (kSlow && set() == Set::kPortable && n > 33) continue;
      for (const size_t place : {size_t{0}, random.Below(n), n - 1}) {
        std::vector<FusedRow*> rows;
        for (size_t i = 0; i < n; ++i) rows.push_back(&neighbours[i]);
        rows[place] = &guest;
        std::fill(guest.out.begin(), guest.out.end(), -7.0f);
        RunRows(*op, rows, *scratch);
        ASSERT_TRUE(alone.SameResults(guest)) << "in " << in << " hidden " << hidden << " batch " << n << " place " << place;
        if (kind().ends_with(testing::kInt8) || place != n - 1 || (kSlow && set() == Set::kPortable)) continue;  // of bytes the sums are others
        std::fill(guest.out.begin(), guest.out.end(), -7.0f);
        RunRows(*small, rows, *small_scratch);
        ASSERT_TRUE(alone.SameResults(guest)) << "small, in " << in << " hidden " << hidden << " batch " << n << " place " << place;
      }
    }
  }
}

// What meets the input of all steps first, then step after step: the bits of step after step alone.
TEST_P(FusedTest, ManyStepsAtOnceHaveTheBitsOfSingleOnes) {
  if (kind().starts_with("linear")) GTEST_SKIP() << "it has no state";
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {40, 64}, {300, 250}}) {
    if (hidden > 70 && (kSlow || set() == Set::kPortable)) continue;
    const FusedLayer layer(kind(), in, hidden, 5);
    const auto op = layer.Make(set());
    const auto scratch = op->MakeScratch(FusedOp::kMaxManyRows, true);
    for (const size_t width : {1, 3, 5, 8, 15, 21}) {
      const size_t steps = FusedOp::kMaxManyRows / width, all = steps * width;
      std::vector<FusedRow> single, many;
      for (size_t r = 0; r < all; ++r) {
        for (auto* rows : {&single, &many}) {
          rows->emplace_back(layer).Fill(r);
          for (float& v : rows->back().x) v = r % width == 4 ? kHostile[r % 6] : v;  // one of the rows, from the first step on
        }
      }
      std::vector<const float*> x;
      for (FusedRow& row : many) x.push_back(row.x.data());
      op->RunInput(all, x.data(), *scratch);
      for (size_t k = 0; k < steps; ++k) {
        std::vector<FusedRow*> rows;
        std::vector<const float*> h, c;
        std::vector<float*> out, copy, c_new;
        for (size_t b = 0; b < width; ++b) {
          for (auto* side : {&single, &many}) {
            FusedRow& row = (*side)[k * width + b];
            if (k == 0) continue;
            const FusedRow& before = (*side)[(k - 1) * width + b];
            std::copy_n(before.out.data(), row.h.size(), row.h.data());
            std::copy_n(before.c_new.data(), row.c.size(), row.c.data());
          }
          FusedRow& row = many[k * width + b];
          h.push_back(row.h.data()), c.push_back(row.c.data());
          out.push_back(row.out.data()), copy.push_back(row.copy.data()), c_new.push_back(row.c_new.data());
          rows.push_back(&single[k * width + b]);
        }
        RunRows(*op, rows, *scratch);
        op->RunRecurrent(k * width, width, {nullptr, h.data(), c.data(), out.data(), copy.data(), c_new.data()}, *scratch);
        for (size_t b = 0; b < width; ++b) {
          ASSERT_TRUE(single[k * width + b].SameResults(many[k * width + b])) << "in " << in << " hidden " << hidden << " width " << width << " step " << k << " row " << b;
        }
      }
    }
  }
}

// How weights lie changes no bit, or in bytes the last: an output more, whose weights need all their bits, makes them whole.
class FusedNarrowTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FusedNarrowTest, HasTheResultsOfTheSameNumbersInWhole) {
  const double tolerance = GetParam() == "int8" ? 2e-6 : 0;
  const std::string weights = GetParam() + " weights";
  for (const Set set : {Set::kPortable, Set::kAvx2, Set::kAvx512}) {
    if (!FusedOp::Supported(set)) continue;
    for (const auto& [in, out] : {std::pair<size_t, size_t>{1, 1}, {7, 5}, {40, 33}, {129, 70}, {300, 130}}) {
      const FusedLayer halves("linear_" + GetParam(), static_cast<int64_t>(in), static_cast<int64_t>(out), 3);
      const auto& linear = std::get<LinearOp>(halves.model.nodes[0].op);
      std::vector<float> weight(linear.weight->values.data(), linear.weight->values.data() + in * out), bias(out + 1);
      std::copy_n(linear.bias->values.data(), out, bias.data());
      for (size_t i = 0; i < in; ++i) weight.push_back(0.1f / (static_cast<float>(i) + 3));
      const auto narrow = halves.Make(set), whole = FusedOp::Linear(weight.data(), bias.data(), out + 1, in, set);
      ASSERT_NE(narrow->Describe().find(weights), std::string::npos);
      ASSERT_EQ(whole->Describe().find(weights), std::string::npos);
      for (const size_t n : {1, 2, 4, 7, 50}) {
        std::vector<std::vector<float>> x(n, std::vector<float>(in)), a(n, std::vector<float>(out)), b(n, std::vector<float>(out + 1));
        std::vector<const float*> rows;
        std::vector<float*> to_a, to_b;
        Random random(n);
        for (size_t r = 0; r < n; ++r) {
          for (float& v : x[r]) v = random.Uniform();
          rows.push_back(x[r].data()), to_a.push_back(a[r].data()), to_b.push_back(b[r].data());
        }
        narrow->Run(n, {.x = rows.data(), .out = to_a.data()}, *narrow->MakeScratch(n));
        whole->Run(n, {.x = rows.data(), .out = to_b.data()}, *whole->MakeScratch(n));
        for (size_t r = 0; r < n; ++r) {
          b[r].pop_back();
          for (size_t i = 0; i < out; ++i) ASSERT_NEAR(a[r][i], b[r][i], tolerance) << NameOf(set) << " in " << in << " out " << out << " batch " << n;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, FusedNarrowTest, ::testing::Values("bfloat16", "int8"), [](const auto& form) { return form.param; });

// Against the plain C++, step after step: a difference in one bit would grow.
TEST_P(FusedTest, AllInstructionSetsGiveTheSameBits) {
  if (set() == Set::kPortable) GTEST_SKIP() << "the others are compared with it";
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {7, 8}, {5, 15}, {16, 31}, {40, 65}, {64, 130}}) {
    const FusedLayer layer(kind(), in, hidden, 11);
    const std::unique_ptr<const FusedOp> ops[] = {layer.Make(Set::kPortable), layer.Make(set())};
    const size_t batches[] = {5, 13};  // the bits do not depend on it
    std::vector<FusedRow> rows[2];
    for (size_t side = 0; side < 2; ++side) {
      for (size_t r = 0; r < batches[side]; ++r) rows[side].emplace_back(layer);
      for (size_t r = 0; r < batches[side]; ++r) rows[side][r].Fill(r);
    }
    for (int step = 0; step < 60; ++step) {
      for (size_t side = 0; side < 2; ++side) {
        std::vector<FusedRow*> pointers;
        for (FusedRow& row : rows[side]) pointers.push_back(&row);
        RunRows(*ops[side], pointers, *ops[side]->MakeScratch(pointers.size()));
        for (size_t r = 0; r < pointers.size(); ++r) {
          Random random(static_cast<uint64_t>(step) * 100 + r);
          const float scale = step % 10 == 9 ? 100.0f : 2.0f;  // into saturation now and then
          for (float& v : rows[side][r].x) v = random.Uniform(scale);
          if (layer.back > 0) std::copy(rows[side][r].out.begin(), rows[side][r].out.end(), rows[side][r].h.begin());
          std::copy(rows[side][r].c_new.begin(), rows[side][r].c_new.end(), rows[side][r].c.begin());
          if (kind() == "rnn_relu") std::fill(rows[side][r].h.begin(), rows[side][r].h.end(), 0.5f);  // it has no bound
        }
      }
      for (size_t r = 0; r < batches[0]; ++r) {
        ASSERT_TRUE(rows[0][r].SameResults(rows[1][r])) << "in " << in << " hidden " << hidden << " step " << step << " row " << r;
      }
    }
  }
}

// What is not a number is seen by the server, which looks for it in the results: clamps must not hide it.
TEST_P(FusedTest, NaNInTheInputComesOutAsNaN) {
  const FusedLayer layer(kind(), 5, 9, 1);
  const auto op = layer.Make(set());
  FusedRow row(layer);
  row.Fill(1);
  row.x.data()[3] = std::numeric_limits<float>::quiet_NaN();
  RunRows(*op, {&row}, *op->MakeScratch(1));
  for (const float v : row.out) EXPECT_TRUE(std::isnan(v));
}

class TanhTest : public ::testing::TestWithParam<Set> {};
INSTANTIATE_TEST_SUITE_P(All, TanhTest, ::testing::Values(Set::kPortable, Set::kAvx2, Set::kAvx512), [](const auto& i) { return NameOf(i.param); });

// By itself, as an RNN of one weight of 1.
TEST_P(TanhTest, IsExactToTheLastBitsEverywhere) {
  if (!FusedOp::Supported(GetParam())) GTEST_SKIP() << "this machine has no " << NameOf(GetParam());
  RnnOp op;
  const auto constant = [](Shape shape, float value) {
    auto c = std::make_shared<Constant>();
    c->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(shape)));
    c->shape = std::move(shape);
    std::fill(c->values.data(), c->values.data() + c->values.size(), value);
    return c;
  };
  op.weight = constant({1, 1}, 1);
  op.recurrent = constant({1, 1}, 0);
  op.bias = constant({1}, 0);
  const auto fused = FusedOp::Rnn(op, GetParam());
  const auto scratch = fused->MakeScratch(1);
  double worst = 0;
  for (float x = 1e-30f; x < 1e4f; x *= 1.0007f) {
    for (const float v : {x, -x}) {
      float y = 7, h = 0;
      const float *xp = &v, *hp = &h;
      float* yp = &y;
      fused->Run(1, {.x = &xp, .h = &hp, .out = &yp}, *scratch);
      const double right = std::tanh(static_cast<double>(v));
      worst = std::max(worst, std::fabs(static_cast<double>(y) - right) / std::fabs(right));
    }
  }
  EXPECT_LT(worst, 2.5e-7);  // two units in the last place
}

}  // namespace
}  // namespace lstm::core
