// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

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

class BatchInvarianceTest : public ::testing::TestWithParam<std::string> {};

bool SameBits(const Row& a, const Row& b) {
  if (std::memcmp(a.next.data(), b.next.data(), a.next.size() * sizeof(float)) != 0) return false;
  for (size_t o = 0; o < a.output.size(); ++o) {
    if (std::memcmp(a.output[o].data(), b.output[o].data(), a.output[o].size() * sizeof(float)) != 0) return false;
  }
  return true;
}

TEST_P(BatchInvarianceTest, EveryBatchSizePlaceAndNeighbourGivesTheBitsOfTheRowAlone) {
  for (const auto& [in, hidden] : {std::pair<int64_t, int64_t>{1, 1}, {5, 17}, {40, 64}, {33, 129}, {64, 256}}) {
    const auto program = MustCompile(testing::OneLayer(GetParam(), in, hidden, 7, true));
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

INSTANTIATE_TEST_SUITE_P(All, BatchInvarianceTest, ::testing::ValuesIn(testing::LayerKinds()), [](const auto& i) { return i.param; });

}  // namespace
}  // namespace lstm::core
