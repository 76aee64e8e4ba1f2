// SPDX-License-Identifier: MIT
#include "core/import/scales_file.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/safetensors.h"

namespace lstm::core {

absl::StatusOr<RowScales> ParseScales(std::span<const std::byte> file) {
  LSTM_ASSIGN_OR_RETURN(const Safetensors tensors, Safetensors::Parse(file));
  RowScales scales;
  for (const auto& [name, entry] : tensors.entries()) {
    if (entry.shape.size() != 1 || entry.type != Safetensors::Type::kF32) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", absl::CHexEscape(name.substr(0, 100)), "' has shape ", ShapeString(entry.shape),
                                                     entry.type == Safetensors::Type::kF32 ? "" : " and is not F32", ", expected F32 of one dimension, a scale for each row"));
    }
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr values, tensors.Load(name));
    scales[name].assign(values->values.span().begin(), values->values.span().end());
  }
  return scales;
}

std::string FormatScales(const RowScales& scales) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;
  for (const auto& [name, values] : scales) {
    const size_t bytes = values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"}, {"shape", {values.size()}}, {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(reinterpret_cast<const char*>(values.data()), bytes);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
}

}  // namespace lstm::core
