// SPDX-License-Identifier: MIT
#include "core/kernels/fused/pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace lstm::core::fused {
namespace {

size_t Vectors(size_t units, size_t width) { return (units + width - 1) / width; }

// One vector of one segment: `count` rows of the matrix, every step `stride` floats after the one before.
void PackLane(const Segment& segment, size_t row, size_t count, float* to, size_t stride) {
  for (size_t u = 0; u < count; ++u) {
    const float* from = segment.matrix + (row + u) * segment.steps;
    for (size_t k = 0; k < segment.steps; ++k) to[k * stride + u] = from[k];
  }
}

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

PackedWeights::PackedWeights(size_t floats) {
  const bool huge = floats * sizeof(float) >= kHugePage;
  const size_t alignment = huge ? kHugePage : 64;
  const size_t bytes = (floats * sizeof(float) + alignment - 1) / alignment * alignment;
  if (bytes == 0) return;
  data_.reset(static_cast<float*>(std::aligned_alloc(alignment, bytes)));
  if (data_ == nullptr) throw std::bad_alloc();
  if (huge) madvise(data_.get(), bytes, MADV_HUGEPAGE);  // before the first touch; advice alone: small pages do too
  std::memset(data_.get(), 0, bytes);
}

void PackedWeights::Free::operator()(float* p) const { std::free(p); }

PackedWeights PackGates(const std::vector<Segment>& segments, size_t units, size_t width) {
  size_t stride = 0;
  for (const Segment& s : segments) stride += s.steps * s.first_rows.size() * width;
  PackedWeights out(Vectors(units, width) * stride);
  float* to = out.data();
  for (size_t unit = 0; unit < units; unit += width) {
    for (const Segment& s : segments) {
      const size_t step = s.first_rows.size() * width;
      for (size_t lane = 0; lane < s.first_rows.size(); ++lane) {
        PackLane(s, s.first_rows[lane] + unit, std::min(width, units - unit), to + lane * width, step);
      }
      to += s.steps * step;
    }
  }
  return out;
}

AlignedBuffer<float> PackGateVectors(const std::vector<const float*>& lanes, size_t units, size_t width) {
  AlignedBuffer<float> out(Vectors(units, width) * lanes.size() * width);
  float* to = out.data();
  for (size_t unit = 0; unit < units; unit += width) {
    for (const float* lane : lanes) {
      std::copy_n(lane + unit, std::min(width, units - unit), to);
      to += width;
    }
  }
  return out;
}

PackedWeights PackWide(const std::vector<Segment>& segments, size_t units, size_t width) {
  size_t steps = 0;
  for (const Segment& s : segments) steps += s.steps;
  PackedWeights out(Vectors(units, width) * steps * width);
  float* to = out.data();
  for (size_t unit = 0; unit < units; unit += 4 * width) {
    const size_t lanes = std::min<size_t>(4, Vectors(units - unit, width));
    for (const Segment& s : segments) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t row = unit + lane * width;
        PackLane(s, s.first_rows[0] + row, std::min(width, units - row), to + lane * width, lanes * width);
      }
      to += s.steps * lanes * width;
    }
  }
  return out;
}

}  // namespace lstm::core::fused
