// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/import/safetensors.h"
#include "core/model/model_builder.h"
#include "lstm/manifest/v1/manifest.pb.h"

// Private to core/import: one layer of the manifest to nodes of the model. Confined to one thread.
namespace lstm::core {

// The tensors that layers have read, each as it was loaded last: layers that share one as it lies in the file have it once.
struct TensorsRead {
  std::map<std::string, std::weak_ptr<const Constant>> last;
  uint64_t repeated_bytes = 0;
};

struct LayerImport {
  const Safetensors& weights;
  ModelBuilder& builder;
  TensorsRead& used;
  const manifest::v1::Layer& layer;
  std::string prefix;           // of the layer's tensors: "cell."
  std::vector<ValueId> inputs;

  // The tensor `prefix + name`, as it lies in the file. INVALID_ARGUMENT where layers share more than the file's size of them.
  absl::StatusOr<ConstantPtr> Tensor(const std::string& name);
  // The same where its shape must be `shape`.
  absl::StatusOr<ConstantPtr> Tensor(const std::string& name, const Shape& shape);
  bool Has(const std::string& name) const { return weights.entries().contains(prefix + name); }
};

// [A, B] to [B, A]. INVALID_ARGUMENT for another rank.
absl::StatusOr<ConstantPtr> Transpose(const ConstantPtr& matrix, const std::string& name);

std::shared_ptr<Constant> MakeConstant(Shape shape);

// INVALID_ARGUMENT: no function is given, or it lacks what it needs.
absl::StatusOr<ActivationOp> ReadActivation(const manifest::v1::Activation& activation);

// Both add the layer's nodes; the last value is called as the layer.
absl::Status ImportRecurrentLayer(LayerImport& in);
absl::Status ImportPlainLayer(LayerImport& in);

}  // namespace lstm::core
