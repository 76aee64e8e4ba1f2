// SPDX-License-Identifier: MIT
#include "core/kernels/fused/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/base/aligned_buffer.h"

namespace lstm::core::fused {
namespace {

size_t Vectors(size_t units, size_t width) { return (units + width - 1) / width; }

// Of the row of a matrix whose numbers are all whole multiples, from -127 to 127, of one: that one. 0: they are not, or it is so
// small or large that sums in its units might be too large for a float.
float ScaleOf(const float* row, size_t steps) {
  constexpr float kSmallest = 1e-12f;
  float most = 0;
  for (size_t k = 0; k < steps; ++k) most = std::max(most, std::fabs(row[k]));
  if (most == 0) return 1;
  const float scale = most / 127;
  if (!(scale > kSmallest) || !(scale < 1 / kSmallest) || (std::bit_cast<uint32_t>(scale) & 0x7fu) != 0) return 0;
  for (size_t k = 0; k < steps; ++k) {
    if (scale * std::nearbyint(row[k] / scale) != row[k]) return 0;
  }
  return scale;
}

template <typename F>
bool AllRows(const std::vector<Segment>& segments, size_t units, F good) {
  for (const Segment& s : segments) {
    for (const size_t first : s.first_rows) {
      for (size_t row = first; row < first + units; ++row) {
        if (!good(s.matrix + row * s.steps, s.steps)) return false;
      }
    }
  }
  return true;
}

// Where it pays, the narrowest that holds every weight.
Form FormOf(const std::vector<Segment>& segments, size_t units, FusedOp::Large large) {
  size_t floats = 0;
  for (const Segment& s : segments) floats += s.first_rows.size() * units * s.steps;
  const bool always = large == FusedOp::Large::kAlways;
  const auto in_bytes = [](const float* row, size_t steps) { return ScaleOf(row, steps) > 0; };
  if ((always || floats >= FusedOp::kQuartersFrom) && AllRows(segments, units, in_bytes)) return Form::kBytes;
  const auto in_halves = [](const float* row, size_t steps) {
    uint32_t low = 0;
    for (size_t k = 0; k < steps; ++k) low |= std::bit_cast<uint32_t>(row[k]);
    return (low & 0xffffu) == 0;
  };
  return (always || floats >= FusedOp::kHalvesFrom) && AllRows(segments, units, in_halves) ? Form::kPairs : Form::kFloats;
}

// One vector of one segment: `count` rows of the matrix from `row` on, vector `lane` of `lanes` in every step. `scales`: its own.
void PackLane(const Segment& segment, size_t row, size_t count, float* to, float* scales, size_t lane, size_t lanes, size_t width, Form form) {
  const size_t stride = lanes * width;
  for (size_t u = 0; u < count; ++u) {
    const float* from = segment.matrix + (row + u) * segment.steps;
    const size_t at = lane * width + u;
    const float scale = form == Form::kBytes ? scales[u] = ScaleOf(from, segment.steps) : 0;
    for (size_t k = 0; k < segment.steps; ++k) {
      switch (form) {
        case Form::kFloats: to[k * stride + at] = from[k]; break;
        case Form::kPairs: {
          float& place = to[k / 2 * stride + at];
          const auto half = std::bit_cast<uint32_t>(from[k]);
          place = std::bit_cast<float>(k % 2 == 0 ? half >> 16 : std::bit_cast<uint32_t>(place) | half);
          break;
        }
        case Form::kBytes: reinterpret_cast<int8_t*>(to)[k * stride + at] = static_cast<int8_t>(std::nearbyint(from[k] / scale)); break;
      }
    }
  }
}

}  // namespace

PackedWeights::PackedWeights(size_t floats, size_t scales, Form form, FusedOp::Large large)
    : data_(floats), scales_(form == Form::kBytes ? scales : 0), form_(form), floats_(floats), far_(large == FusedOp::Large::kAlways || floats * sizeof(float) >= FusedOp::kFarFrom), always_(large == FusedOp::Large::kAlways) {
  std::fill_n(scales_.data(), scales_.size(), 1.0f);  // of units that only fill a vector
}

PackedWeights PackGates(const std::vector<Segment>& segments, size_t units, size_t width, FusedOp::Large large) {
  const Form form = FormOf(segments, units, large);
  size_t stride = 0, lanes = 0;
  for (const Segment& s : segments) {
    stride += FloatsOf(s.steps, width, form) * s.first_rows.size();
    lanes += s.first_rows.size();
  }
  PackedWeights out(Vectors(units, width) * stride, Vectors(units, width) * lanes * width, form, large);
  float* to = out.data();
  float* scales = out.scales();
  for (size_t unit = 0; unit < units; unit += width) {
    for (const Segment& s : segments) {
      for (size_t lane = 0; lane < s.first_rows.size(); ++lane) {
        PackLane(s, s.first_rows[lane] + unit, std::min(width, units - unit), to, scales, lane, s.first_rows.size(), width, form);
        if (scales != nullptr) scales += width;
      }
      to += FloatsOf(s.steps, width, form) * s.first_rows.size();
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

PackedWeights PackWide(const std::vector<Segment>& segments, size_t units, size_t width, FusedOp::Large large) {
  const Form form = FormOf(segments, units, large);
  size_t floats = 0;
  for (const Segment& s : segments) floats += FloatsOf(s.steps, width, form);
  PackedWeights out(Vectors(units, width) * floats, Vectors(units, width) * segments.size() * width, form, large);
  float* to = out.data();
  float* scales = out.scales();
  for (size_t unit = 0; unit < units; unit += 4 * width) {
    const size_t lanes = std::min<size_t>(4, Vectors(units - unit, width));
    for (const Segment& s : segments) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        const size_t row = unit + lane * width;
        PackLane(s, s.first_rows[0] + row, std::min(width, units - row), to, scales, lane, lanes, width, form);
        if (scales != nullptr) scales += width;
      }
      to += FloatsOf(s.steps, width, form) * lanes;
    }
  }
  return out;
}

}  // namespace lstm::core::fused
