// SPDX-License-Identifier: MIT
#include "core/kernels/fused/pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace lstm::core::fused {
namespace {

size_t Vectors(size_t units, size_t width) { return (units + width - 1) / width; }

// Steps of a segment as they lie: one after another, or two side by side.
size_t Places(const Segment& segment, bool pairs) { return pairs ? (segment.steps + 1) / 2 : segment.steps; }

// One vector of one segment: `count` rows of the matrix, every step or pair `stride` floats after the one before.
void PackLane(const Segment& segment, size_t row, size_t count, float* to, size_t stride, bool pairs) {
  for (size_t u = 0; u < count; ++u) {
    const float* from = segment.matrix + (row + u) * segment.steps;
    for (size_t k = 0; k < segment.steps; ++k) {
      if (!pairs) {
        to[k * stride + u] = from[k];
        continue;
      }
      float& place = to[k / 2 * stride + u];
      const auto half = std::bit_cast<uint32_t>(from[k]);
      place = std::bit_cast<float>(k % 2 == 0 ? half >> 16 : std::bit_cast<uint32_t>(place) | half);
    }
  }
}

// The low halves of their floats are all zero, and they are as many.
bool InPairs(const std::vector<Segment>& segments, size_t units, size_t halves_from) {
  uint32_t low = 0;
  size_t floats = 0;
  for (const Segment& s : segments) floats += s.first_rows.size() * units * s.steps;
  if (floats < halves_from) return false;
  for (const Segment& s : segments) {
    for (size_t row : s.first_rows) {
      const float* from = s.matrix + row * s.steps;
      for (size_t i = 0; i < units * s.steps && (low & 0xffffu) == 0; ++i) low |= std::bit_cast<uint32_t>(from[i]);
    }
  }
  return (low & 0xffffu) == 0;
}

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

PackedWeights::PackedWeights(size_t floats, bool pairs) : pairs_(pairs) {
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

PackedWeights PackGates(const std::vector<Segment>& segments, size_t units, size_t width, size_t halves_from) {
  size_t stride = 0;
  const bool pairs = InPairs(segments, units, halves_from);
  for (const Segment& s : segments) stride += Places(s, pairs) * s.first_rows.size() * width;
  PackedWeights out(Vectors(units, width) * stride, pairs);
  float* to = out.data();
  for (size_t unit = 0; unit < units; unit += width) {
    for (const Segment& s : segments) {
      const size_t step = s.first_rows.size() * width;
      for (size_t lane = 0; lane < s.first_rows.size(); ++lane) {
        PackLane(s, s.first_rows[lane] + unit, std::min(width, units - unit), to + lane * width, step, pairs);
      }
      to += Places(s, pairs) * step;
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

PackedWeights PackWide(const std::vector<Segment>& segments, size_t units, size_t width, size_t halves_from) {
  const bool pairs = InPairs(segments, units, halves_from);
  size_t places = 0;
  for (const Segment& s : segments) places += Places(s, pairs);
  PackedWeights out(Vectors(units, width) * places * width, pairs);
  float* to = out.data();
  for (size_t unit = 0; unit < units; unit += 4 * width) {
    const size_t lanes = std::min<size_t>(4, Vectors(units - unit, width));
    for (const Segment& s : segments) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t row = unit + lane * width;
        PackLane(s, s.first_rows[0] + row, std::min(width, units - row), to + lane * width, lanes * width, pairs);
      }
      to += Places(s, pairs) * lanes * width;
    }
  }
  return out;
}

}  // namespace lstm::core::fused
