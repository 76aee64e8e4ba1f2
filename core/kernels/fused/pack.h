// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "core/base/aligned_buffer.h"
#include "core/kernels/fused/fused.h"
#include "core/kernels/fused/jobs.h"

// Private to core/kernels/fused: weights in the order in which the kernels read them (jobs.h).
namespace lstm::core::fused {

// Packed weights: zero-filled, on huge pages where the system gives them and they are large. A batch reads them once a step
// from end to end; with small pages the look-up of addresses would come to cost as much as the reading, and what is fetched
// ahead would be dropped at every new page.
class PackedWeights {
 public:
  PackedWeights() = default;
  PackedWeights(size_t floats, size_t scales, Form form, FusedOp::Large large);  // bad_alloc where there is no memory
  float* data() { return data_.data(); }
  const float* data() const { return data_.data(); }
  Form form() const { return form_; }
  bool far() const { return far_; }
  // Of so many steps of k: enough that rows are worth being turned first (panel.h).
  bool wide(size_t steps) const { return form_ == Form::kFloats && (always_ || (floats_ >= FusedOp::kTurnsFrom && floats_ >= FusedOp::kTurnsFromUnits * steps)); }
  float* scales() { return scales_.data(); }
  const float* scales() const { return scales_.data(); }  // null where the form has none

 private:
  AlignedBuffer<float> data_, scales_;
  Form form_ = Form::kFloats;
  size_t floats_ = 0;
  bool far_ = false, always_ = false;
};

// A row-major matrix [.., steps] that a segment of a panel multiplies, and per vector of the panel the row of its first
// unit in the first panel.
struct Segment {
  const float* matrix;
  size_t steps;
  std::vector<size_t> first_rows;
};

// Packs `units` units, a vector of `width` of them in each lane of a panel: those of gates, side by side.
PackedWeights PackGates(const std::vector<Segment>& segments, size_t units, size_t width, FusedOp::Large large);
// [lane][units] to [panel][lane][width].
AlignedBuffer<float> PackGateVectors(const std::vector<const float*>& lanes, size_t units, size_t width);

// Packs `units` units, four vectors of them a panel, in the last panel as many as are left.
PackedWeights PackWide(const std::vector<Segment>& segments, size_t units, size_t width, FusedOp::Large large);

}  // namespace lstm::core::fused
