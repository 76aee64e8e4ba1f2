// SPDX-License-Identifier: MIT
#include "core/model/int8_scales.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"

namespace lstm::core {
namespace {

constexpr float kSmallest = 1e-9f;  // well within what is packed in bytes (core/kernels/fused/pack.cc)
constexpr uint32_t kLowBits = 0x7f;
constexpr float kWhole = 127;
constexpr float kMostClipped = 4;  // the largest weight may be so many times what is left of it

float Largest(std::span<const float> row) {
  float most = 0;
  for (const float f : row) most = std::max(most, std::fabs(f));
  return most;
}

// Seven bits less than a float has: the products are exact, so that the whole numbers are found again.
float Candidate(float most, float part) { return std::bit_cast<float>((std::bit_cast<uint32_t>(most * part / kWhole) + kLowBits) & ~kLowBits); }

double Loss(std::span<const float> row, float scale) {
  double lost = 0;
  for (const float f : row) lost += std::pow(static_cast<double>(f) - static_cast<double>(ToInt8(f, scale)), 2);
  return lost;
}

}  // namespace

bool CanBeInt8(std::span<const float> row) {
  const float most = Largest(row);
  return std::all_of(row.begin(), row.end(), [](float f) { return std::isfinite(f); }) && most >= kSmallest && most <= 1 / kSmallest;
}

float ToInt8(float weight, float scale) { return std::clamp(std::nearbyint(weight / scale), -kWhole, kWhole) * scale; }

float LeastSquaresScale(std::span<const float> row) {
  constexpr float kOfTheLargest[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.6f, 0.5f};
  const float most = Largest(row);
  float best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (const float part : kOfTheLargest) {
    const float scale = Candidate(most, part);
    const double lost = Loss(row, scale);
    if (lost < least) {
      least = lost;
      best = scale;
    }
  }
  return best;
}

double WeightedLoss(std::span<const float> row, std::span<const double> squares, float scale) {
  double lost = 0;
  for (size_t k = 0; k < row.size(); ++k) {
    const double d = static_cast<double>(row[k]) - static_cast<double>(ToInt8(row[k], scale));
    lost += squares[k] * d * d;
  }
  return lost;
}

float WeightedScale(std::span<const float> row, std::span<const double> squares) {
  constexpr int kSteps = 256;
  const float most = Largest(row);
  float best = LeastSquaresScale(row);
  double least = WeightedLoss(row, squares, best);
  for (int step = kSteps; step >= kSteps / static_cast<int>(kMostClipped); --step) {
    const float scale = Candidate(most, static_cast<float>(step) / kSteps);
    const double lost = WeightedLoss(row, squares, scale);
    if (lost < least) {
      least = lost;
      best = scale;
    }
  }
  return best;
}

absl::Status CheckScale(std::span<const float> row, float scale) {
  if (!std::isfinite(scale) || scale <= 0) return absl::InvalidArgumentError(absl::StrCat("is ", scale, ", expected a finite number above 0"));
  if ((std::bit_cast<uint32_t>(scale) & kLowBits) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("is ", scale, ", expected a float whose 7 low bits are zero, so that products with whole numbers are exact"));
  }
  if (!CanBeInt8(row)) return absl::OkStatus();
  // A larger one would be exact as well, but nothing would reach 127, by which the whole numbers are found again.
  const float most = Largest(row), whole = std::nearbyint(most / scale);
  if (whole >= kWhole && whole <= kWhole * kMostClipped) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("is ", scale, ", expected ", most / kWhole / kMostClipped, " to ", most / kWhole, " where the largest weight is ", most));
}

}  // namespace lstm::core
