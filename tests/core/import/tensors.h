// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/import/manifest_import.h"
#include "tests/support/random_model.h"

namespace lstm::core {

// A weights file of random numbers.
struct Tensors {
  std::map<std::string, std::pair<Shape, std::vector<float>>> all;
  testing::Random random{4};

  std::vector<float>& Add(const std::string& name, const Shape& shape) {
    const ConstantPtr values = random.Constant(shape, 0.8f);
    all[name] = {shape, {values->values.span().begin(), values->values.span().end()}};
    return all[name].second;
  }
  std::string File() const {
    std::string header = "{", data;
    for (const auto& [name, tensor] : all) {
      absl::StrAppend(&header, header.size() > 1 ? "," : "", "\"", name, R"(":{"dtype":"F32","shape":[)", absl::StrJoin(tensor.first, ","),
                      R"(],"data_offsets":[)", data.size(), ",", data.size() + tensor.second.size() * 4, "]}");
      data.append(reinterpret_cast<const char*>(tensor.second.data()), tensor.second.size() * 4);
    }
    header += "}";
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
  }
};

inline absl::StatusOr<Model> Import(const std::string& manifest, const Tensors& tensors, ImportNotes* notes = nullptr) {
  const std::string file = tensors.File();
  return ImportManifest(manifest, std::as_bytes(std::span(file)), notes);
}

}  // namespace lstm::core
