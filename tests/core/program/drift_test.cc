// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/program/step_program.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

class DriftTest : public ::testing::TestWithParam<std::string> {};

TEST_P(DriftTest, TenThousandStepsStayWithinTheBound) {
  const Model model = testing::OneLayer(GetParam(), 12, 48, 5, true);
  testing::Oracle oracle(model);
  const auto program = testing::MustCompile(testing::OneLayer(GetParam(), 12, 48, 5, true), 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  testing::Random random(9);
  double worst = 0;
  for (int t = 0; t < 10'000; ++t) {
    testing::Vector x;
    for (float& v : row.input[0]) x.push_back(v = random.Uniform());
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    const testing::Vector y = oracle.Step({x})[0];
    for (size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::fabs(y[i] - static_cast<double>(row.output[0][i])));
  }
  EXPECT_LT(worst, 1e-4);
  RecordProperty("worst", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(All, DriftTest, ::testing::ValuesIn(testing::LayerKinds()), [](const auto& i) { return i.param; });

}  // namespace
}  // namespace lstm::core
