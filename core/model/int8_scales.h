// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

// The one number that the whole numbers of a row, from -127 to 127, are times.
namespace lstm::core {

// By the name of the matrix (RoundedMatrices, round_weights.h): one for each row.
using RowScales = std::map<std::string, std::vector<float>>;

// False: the row is too small, too large or not finite. It stays as it is, and its scale means nothing.
bool CanBeInt8(std::span<const float> row);

// The nearest of the whole numbers times `scale`.
float ToInt8(float weight, float scale);

// That of nine up to what clips nothing with the least squares of what is lost. The row can be int8.
float LeastSquaresScale(std::span<const float> row);

// That of many, down to a quarter of what clips nothing, which loses least where column k counts `squares[k]`; never more than the
// one of least squares loses by that measure.
float WeightedScale(std::span<const float> row, std::span<const double> squares);
double WeightedLoss(std::span<const float> row, std::span<const double> squares, float scale);

// INVALID_ARGUMENT for a number that WeightedScale gives no such row, saying what was expected and what came.
absl::Status CheckScale(std::span<const float> row, float scale);

}  // namespace lstm::core
