// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "core/model/model.h"

// Private to core/model: where single elements of values come from.
namespace lstm::core {

struct At {  // an element of a value
  ValueId value = -1;
  int64_t index = 0;
  friend auto operator<=>(const At&, const At&) = default;
};

// A sum of elements, each times a number, and a number.
struct LinearForm {
  std::vector<std::pair<At, float>> terms;
  double bias = 0;
  bool broken = false;  // too large to be a gate
};

class Trace {
 public:
  explicit Trace(const Model& model);

  // The element where it is computed: ops that only move elements are looked through.
  At Root(At at) const;
  const Node* Producer(At at) const;
  int64_t Count(ValueId id) const { return CheckedElementCount(model_.values[static_cast<size_t>(id)].shape); }

  // Of a root: the operands of an element-wise op of two values; nothing for other ops.
  std::optional<std::pair<At, At>> Operands(At root, ElementwiseKind kind) const;
  // What goes into an activation.
  std::optional<At> Activated(At root, ActivationKind kind) const;
  // 1 - x of x.
  std::optional<At> OneMinus(At root) const;
  std::optional<StateId> StateOf(At root) const;   // of an element that is read from state
  At Written(StateId state, int64_t position) const;  // the root of what is written there; value -1: by another op

  // Adds `factor` times the element, as products with constants and sums make it. Elements of `stop` are taken as they are, and
  // so is what goes into a product.
  void Expand(At at, float factor, ValueId stop, LinearForm& form, int depth = 0) const;

 private:
  const Model& model_;
  std::vector<int> producer_;              // by value; -1: an input
  std::map<StateId, ValueId> written_;
};

}  // namespace lstm::core
