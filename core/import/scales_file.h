// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "core/model/int8_scales.h"

namespace lstm::core {

// The file that round_scales names in a manifest: safetensors, for each matrix a tensor of its name, F32, one number for each row.
// INVALID_ARGUMENT, naming the tensor, for what is not of this form; whether it fits a model RoundWeightsToInt8 says.
absl::StatusOr<RowScales> ParseScales(std::span<const std::byte> file);
std::string FormatScales(const RowScales& scales);

}  // namespace lstm::core
