// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/import/hash_list.h"
#include "core/import/onnx/onnx_import.h"
#include "core/model/model.h"

namespace lstm::core {

struct ImportNotes {
  std::string manifest;              // the manifest as it was understood, in full
  std::vector<std::string> unused;   // tensors of the weights file that no layer reads
  std::vector<std::string> files;    // what was read of the directory
  bool is_onnx = false;
  OnnxNotes onnx;
};

// A model from a manifest (text protobuf, proto/lstm/manifest/v1/manifest.proto) and the bytes of a safetensors file. Pure:
// no files. INVALID_ARGUMENT says the line, layer or tensor, what was expected and what came. Costs at most the weights
// once more beyond the bytes that came in. `scales`: the bytes of the file that round_scales names.
absl::StatusOr<Model> ImportManifest(const std::string& manifest, std::span<const std::byte> weights, ImportNotes* notes = nullptr,
                                     std::span<const std::byte> scales = {});

// The model in `directory`: model.textproto and the weights file or ONNX file that it names, beside it, or model.onnx alone.
// Model::hash covers both, and the file of round_scales. Where there is a SHA256SUMS they and all that it names must be what it says
// (hash_list.h). `given`: see ImportOnnx. `exact`: the weights stay as they are in their file, whatever is to be rounded.
absl::StatusOr<Model> LoadModelDirectory(const std::string& directory, const std::string& name, const std::string& version,
                                         ImportNotes* notes = nullptr, const std::map<std::string, onnx::Tensor>& given = {},
                                         bool exact = false);

// One ONNX file, and a manifest for what it leaves open. `hashes`: what it must be; null: anything.
absl::StatusOr<Model> LoadOnnxFile(const std::string& path, const std::string& manifest_text, const manifest::v1::Manifest& manifest,
                                   const std::map<std::string, onnx::Tensor>& given, ImportNotes* notes, HashList* hashes = nullptr,
                                   std::span<const std::byte> scales = {});

}  // namespace lstm::core
