// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

// Private to core/kernels/fused: what the code of one instruction set is asked to compute. Plain data, so that those
// files need no other header of ours.
namespace lstm::core::fused {

// Rows are handed to the kernels in blocks of at most so many: what a chunk of weights meets stays in the L2 cache.
inline constexpr size_t kBlockRows = 192;

// Of weights that no cache holds, up to so many rows are taken at a time (stream.h).
inline constexpr size_t kMostStreamRows = 24;

// How weights lie.
enum class Form {
  kFloats,
  // In half the bytes, where bfloat16 holds them exactly: each 32 bits are a weight of an even step (the low half) and the one of the step after
  // it. A segment of an odd number of steps ends with half a pair of zeros, and counts as one step more in what follows.
  kPairs,
  // In a quarter: whole numbers of a byte, times one scale for each unit and segment. A sum is divided by the scale where a segment
  // begins and multiplied by it where it ends.
  kBytes,
};

// The sums that a cell begins with. Output units lie in panels of `accumulators` vectors; a panel's weights lie one step
// of k after another, its first segment [x_steps] against x, then its second [h_steps] against h.
// Weights lie in one of three forms, all of a product in the same.
// Every sum is ONE chain of fused multiply-adds (of bytes, one for each segment): the bias, then x_0, x_1, ..., then h_0, h_1, ...: the same for every
// tile, chunk, batch and vector width. That is why a row's bits depend on that row alone.
struct Product {
  const float* weights;  // 64-byte aligned
  const float* scales;   // kBytes: [panel][vectors of x's segment, then of h's][width]
  const float* bias;     // [panel][accumulator][width]
  size_t x_steps, h_steps;
  size_t units;  // of output; the last vector may be partly beyond them, and is then padded with zero weights
  size_t rows;   // at most kBlockRows
  const float* const* x;  // [rows] pointers to [x_steps]
  const float* const* h;  // [rows] pointers to [h_steps]
  float* partial;  // [rows][4 * width], 64-byte aligned: sums between two chunks of k
  // Steps [begin, end) of k alone: sums begin with what lies in `sums` where begin > 0, and are left there where end is not the
  // last: [panel, sums_stride apart][rows][4 * width]. Null: all steps.
  size_t begin, end;
  float* sums;
  size_t sums_stride;
  Form form;
  bool far;       // no cache holds the weights between two steps
  float* turned;  // far: [kMostStreamRows] times the steps, those of the first segment as StepsOfX has them; turns: [rows] times the steps
  bool* is_turned;  // the rows lie there from the part before; null: they are not worth it
  bool backwards;  // the last panel first: no sum knows, and what the run before read last is still in the cache
  size_t part, parts;  // of the panels, in order of their place, one of so many parts alone
};

// Internal linkage, as in panel.h. Steps of k with those of the first segment rounded up to whole pairs where they lie in pairs.
static constexpr size_t StepsOfX(size_t x_steps, Form form) { return form == Form::kPairs ? (x_steps + 1) / 2 * 2 : x_steps; }

// Floats that a vector of `width` weights, one of each of so many steps, takes up.
static constexpr size_t FloatsOf(size_t steps, size_t width, Form form) {
  return form == Form::kFloats ? steps * width : form == Form::kPairs ? (steps + 1) / 2 * width : steps * (width / 4);
}

struct LstmJob {
  Product product;        // panels of i f g o
  const float* peephole;  // [panel][i f o][width], or null
  const float* const* c;  // all below: [rows] pointers to [units]
  float* const* c_new;
  float* const* out;   // o * tanh(c')
  float* const* copy;  // the same once more, or null
};

struct GruAfterJob {  // panels of z r n c: x meets z r n, h meets z r c
  Product product;
  float* const* out;
  float* const* copy;
};

// The first half: panels of z r n; x meets all three, h meets z and r.
struct GruBeforeJob {
  Product product;
  float* z;      // all three [rows][stride]: sigmoid(z), r * h, and the sum of n so far
  float* reset;
  float* n;
  size_t stride;  // units, rounded up to whole vectors
};

// The second half: the sum of n goes on over r * h, which is the product's h. Four vectors of units a panel, the last
// panel as many as are left.
struct GruBlendJob {
  Product product;
  const float* z;
  const float* n;
  size_t stride;
  const float* const* h;  // the old state
  float* const* out;
  float* const* copy;
};

enum class Squash { kNone, kTanh, kRelu };

struct DenseJob {  // four vectors of units a panel, the last panel as many as are left
  Product product;
  Squash squash;
  float* const* out;
  float* const* copy;
};

enum class Map { kSigmoid, kTanh, kSilu, kRelu, kLeakyRelu, kElu, kHardSigmoid, kSoftsign, kClip, kSqrt, kAdd, kSubtract, kMultiply, kDivide };

struct MapJob {  // fused_map.h
  Map map;
  const float* a;
  const float* b;  // null: the function takes one row
  bool one;        // b is one element
  size_t n;
  float alpha, beta;
  float* out;
};

struct NormJob {  // fused_map.h
  const float* x;
  const float* scale;  // null: one
  const float* bias;   // null: zero
  size_t n;
  float epsilon;
  float* out;
};

// One instruction set.
struct Isa {
  const char* name;
  size_t width;  // floats of a vector
  bool turns;    // rows that meet wide weights, see panel.h
  void (*lstm)(const LstmJob&);
  void (*gru_after)(const GruAfterJob&);
  void (*gru_before)(const GruBeforeJob&);
  void (*gru_blend)(const GruBlendJob&);
  void (*dense)(const DenseJob&);
  void (*map)(const MapJob&);
  void (*norm)(const NormJob&);
};

extern const Isa kPortable, kAvx2, kAvx512;

}  // namespace lstm::core::fused
