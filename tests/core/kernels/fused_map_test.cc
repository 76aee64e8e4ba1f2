// SPDX-License-Identifier: MIT
#include "core/kernels/fused/fused_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "tests/core/kernels/fused_world.h"

namespace lstm::core {
namespace {

using testing::FusedRow;
using testing::Guarded;
using testing::Random;
using testing::Set;

struct Case {
  std::string name;
  std::function<std::optional<FusedMap>(Set)> make;
  std::function<double(double, double)> right;
};

std::vector<Case> Cases() {
  const auto activation = [](ActivationKind kind, float alpha = 0, float beta = 0) { return [=](Set set) { return FusedMap::Of(ActivationOp{kind, alpha, beta}, set); }; };
  const auto pair = [](ElementwiseKind kind) { return [=](Set set) { return FusedMap::Of(kind, set); }; };
  using A = ActivationKind;
  using E = ElementwiseKind;
  return {
      {"sigmoid", activation(A::kSigmoid), [](double x, double) { return 1 / (1 + std::exp(-x)); }},
      {"tanh", activation(A::kTanh), [](double x, double) { return std::tanh(x); }},
      {"silu", activation(A::kSilu), [](double x, double) { return x / (1 + std::exp(-x)); }},
      {"relu", activation(A::kRelu), [](double x, double) { return std::max(x, 0.0); }},
      {"leaky_relu", activation(A::kLeakyRelu, 0.25f), [](double x, double) { return x >= 0 ? x : 0.25 * x; }},
      {"elu", activation(A::kElu, 1.5f), [](double x, double) { return x >= 0 ? x : 1.5 * std::expm1(x); }},
      {"hard_sigmoid", activation(A::kHardSigmoid, 0.2f, 0.5f), [](double x, double) { return std::clamp(static_cast<double>(0.2f) * x + 0.5, 0.0, 1.0); }},
      {"softsign", activation(A::kSoftsign), [](double x, double) { return x / (1 + std::fabs(x)); }},
      {"clip", activation(A::kClip, -0.75f, 1.25f), [](double x, double) { return std::clamp(x, -0.75, 1.25); }},
      {"add", pair(E::kAdd), [](double a, double b) { return a + b; }},
      {"subtract", pair(E::kSubtract), [](double a, double b) { return a - b; }},
      {"multiply", pair(E::kMultiply), [](double a, double b) { return a * b; }},
      {"divide", pair(E::kDivide), [](double a, double b) { return a / b; }},
  };
}

void Fill(Guarded& row, uint64_t seed) {
  Random random(seed);
  for (float& v : row) v = random.Uniform(static_cast<float>(1 + random.Below(30)));
}

TEST(FusedMapTest, AgreesWithTheFunctionsOnEverySetWithTheSameBits) {
  for (const Case& c : Cases()) {
    for (const size_t n : {1, 2, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 257}) {
      for (const bool one : {false, true}) {
        Guarded a(n), b(one ? 1 : n), first(n), out(n);
        Fill(a, n), Fill(b, n + 1000);
        c.make(Set::kPortable)->Run(a.data(), b.data(), one, n, first.data());
        for (size_t i = 0; i < n; ++i) {
          const double right = c.right(static_cast<double>(a.data()[i]), static_cast<double>(b.data()[one ? 0 : i]));
          ASSERT_NEAR(first.data()[i], right, 3e-7 * std::max(1.0, std::fabs(right))) << c.name << " of element " << i << " of " << n;
        }
        for (const Set set : {Set::kAvx2, Set::kAvx512}) {
          if (!FusedOp::Supported(set)) continue;
          c.make(set)->Run(a.data(), b.data(), one, n, out.data());
          ASSERT_TRUE(FusedRow::Same(first, out)) << c.name << " of " << n;
          std::copy(a.begin(), a.end(), out.data());
          c.make(set)->Run(out.data(), b.data(), one, n, out.data());
          ASSERT_TRUE(FusedRow::Same(first, out)) << c.name << " of " << n << " in place";
        }
      }
    }
  }
}

TEST(FusedMapTest, RootsAreRightToTheLastBit) {
  for (const Set set : {Set::kPortable, Set::kAvx2, Set::kAvx512}) {
    if (!FusedOp::Supported(set)) continue;
    std::vector<float> x = {0, 1, 2, 3e38f, 1e-38f, -1, std::numeric_limits<float>::quiet_NaN()}, out(x.size());
    FusedMap::Of(ActivationOp{ActivationKind::kSqrt}, set)->Run(x.data(), nullptr, false, x.size(), out.data());
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(out[i], std::sqrt(x[i]));
    EXPECT_TRUE(std::isnan(out[5]) && std::isnan(out[6]));
  }
}

TEST(FusedNormTest, AgreesWithTheFormulaOnEverySetWithTheSameBits) {
  for (const size_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100, 257, 4096}) {
    for (const float mean : {0.0f, -3.0f, 1000.0f}) {
      Guarded x(n), scale(n), bias(n), first(n), out(n);
      Random random(n);
      for (float& v : x) v = mean + random.Uniform(2);
      Fill(scale, n + 1), Fill(bias, n + 2);
      for (const bool both : {true, false}) {
        const float* const s = both ? scale.data() : nullptr;
        const float* const b = both ? bias.data() : nullptr;
        FusedNorm(Set::kPortable).Run(x.data(), s, b, 1e-3f, n, first.data());
        const double middle = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(n);
        double variance = 0;
        for (const float v : x) variance += std::pow(v - middle, 2) / static_cast<double>(n);
        for (size_t i = 0; i < n; ++i) {
          const double y = (x.data()[i] - middle) / std::sqrt(variance + static_cast<double>(1e-3f));
          // A mean of thousands leaves that much fewer bits.
          ASSERT_NEAR(first.data()[i], both ? y * scale.data()[i] + bias.data()[i] : y, 2e-5 * (1 + std::fabs(mean)) * (both ? 1 + std::fabs(scale.data()[i]) : 1)) << i << " of " << n;
        }
        for (const Set set : {Set::kAvx2, Set::kAvx512}) {
          if (!FusedOp::Supported(set)) continue;
          FusedNorm(set).Run(x.data(), s, b, 1e-3f, n, out.data());
          ASSERT_TRUE(FusedRow::Same(first, out)) << n;
          std::copy(x.begin(), x.end(), out.data());
          FusedNorm(set).Run(out.data(), s, b, 1e-3f, n, out.data());
          ASSERT_TRUE(FusedRow::Same(first, out)) << n << " in place";
        }
      }
    }
  }
}

TEST(FusedMapTest, NoFunctionHidesWhatIsNotANumberAndNoneReachesBeyondItsLimits) {
  const float large = 3e38f, none = std::numeric_limits<float>::quiet_NaN();
  for (const Case& c : Cases()) {
    for (const Set set : {Set::kPortable, Set::kAvx2, Set::kAvx512}) {
      if (!FusedOp::Supported(set)) continue;
      const std::vector<float> a = {none, large, -large}, b = {1, 1, 1};
      std::vector<float> out(3);
      c.make(set)->Run(a.data(), b.data(), false, 3, out.data());
      EXPECT_TRUE(std::isnan(out[0])) << c.name;
      for (size_t i = 1; i < 3; ++i) {
        const double right = c.right(static_cast<double>(a[i]), 1);
        EXPECT_NEAR(out[i], right, 3e-7 * std::max(1.0, std::fabs(right))) << c.name << " of " << a[i];
      }
    }
  }
}

}  // namespace
}  // namespace lstm::core
