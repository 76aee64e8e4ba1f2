// SPDX-License-Identifier: MIT
#pragma once

#include "core/kernels/fused/activations.h"
#include "core/kernels/fused/jobs.h"
#include "core/kernels/fused/map.h"
#include "core/kernels/fused/norm.h"
#include "core/kernels/fused/panel.h"
#include "core/kernels/fused/stream.h"

// What follows the sums: the gates, as core/model/model.h has them. Internal linkage: see panel.h.
namespace lstm::core::fused {
namespace {

// The vector at `unit` of a row of `units` floats.
template <class V>
struct Part {
  size_t at, count;
  Part(size_t unit, size_t units) : at(unit), count(units - unit < V::kWidth ? units - unit : V::kWidth) {}
  typename V::Reg Load(const float* row) const { return count == V::kWidth ? V::Load(row + at) : V::Load(row + at, count); }
  void Store(float* row, typename V::Reg v) const { count == V::kWidth ? V::Store(row + at, v) : V::Store(row + at, v, count); }
  void Store(float* const* out, float* const* copy, size_t row, typename V::Reg v) const {
    Store(out[row], v);
    if (copy != nullptr) Store(copy[row], v);
  }
};

// Sums begin with the bias.
template <class V, int kSums>
LSTM_INLINE void FromBias(const Product& product, size_t panel, typename V::Reg* acc) {
  const float* bias = product.bias + panel * kSums * V::kWidth;
  for (int s = 0; s < kSums; ++s) acc[s] = V::Load(bias + static_cast<size_t>(s) * V::kWidth);
}

template <class V>
struct LstmStep {
  using Reg = typename V::Reg;
  using A = Activations<V>;
  static constexpr bool kAlone = false;
  static constexpr int kSums = 4;
  using X = Lanes<0, 1, 2, 3>;
  using H = X;
  const LstmJob& job;
  const Product& product;

  LSTM_INLINE void Init(size_t panel, size_t, Reg* acc) const { FromBias<V, 4>(product, panel, acc); }
  LSTM_INLINE void Finish(size_t panel, size_t row, Reg* acc) const {
    const Part<V> part(panel * V::kWidth, product.units);
    const Reg c = part.Load(job.c[row]);
    Reg i = acc[0], f = acc[1];
    const float* peephole = job.peephole == nullptr ? nullptr : job.peephole + panel * 3 * V::kWidth;
    if (peephole != nullptr) {
      i = V::Fma(V::Load(peephole), c, i);
      f = V::Fma(V::Load(peephole + V::kWidth), c, f);
    }
    const Reg c_new = V::Fma(A::Sigmoid(f), c, A::SigmoidTimesTanh(i, acc[2]));
    if (peephole != nullptr) acc[3] = V::Fma(V::Load(peephole + 2 * V::kWidth), c_new, acc[3]);
    part.Store(job.c_new[row], c_new);
    acc[0] = c_new;
  }
  LSTM_INLINE void FinishLate(size_t panel, size_t row, const Reg* acc) const {
    Part<V>(panel * V::kWidth, product.units).Store(job.out, job.copy, row, A::SigmoidTimesTanh(acc[3], acc[0]));
  }
};

// (1 - z)*n + z*h
template <class V>
LSTM_INLINE typename V::Reg Blend(typename V::Reg z, typename V::Reg n, typename V::Reg h) {
  return V::Fma(z, V::Sub(h, n), n);
}

template <class V>
struct GruAfterStep {
  using Reg = typename V::Reg;
  using A = Activations<V>;
  static constexpr bool kAlone = false;
  static constexpr int kSums = 4;
  using X = Lanes<0, 1, 2>;
  using H = Lanes<0, 1, 3>;
  const GruAfterJob& job;
  const Product& product;

  LSTM_INLINE void Init(size_t panel, size_t, Reg* acc) const { FromBias<V, 4>(product, panel, acc); }
  LSTM_INLINE void Finish(size_t, size_t, Reg* acc) const {
    acc[2] = V::Fma(A::Sigmoid(acc[1]), acc[3], acc[2]);
    acc[0] = A::Sigmoid(acc[0]);
  }
  LSTM_INLINE void FinishLate(size_t panel, size_t row, const Reg* acc) const {
    const Part<V> part(panel * V::kWidth, product.units);
    part.Store(job.out, job.copy, row, Blend<V>(acc[0], A::Tanh(acc[2]), part.Load(product.h[row])));
  }
};

template <class V>
struct GruBeforeStep {
  using Reg = typename V::Reg;
  using A = Activations<V>;
  static constexpr bool kAlone = false;
  static constexpr int kSums = 3;
  using X = Lanes<0, 1, 2>;
  using H = Lanes<0, 1>;
  const GruBeforeJob& job;
  const Product& product;

  LSTM_INLINE void Init(size_t panel, size_t, Reg* acc) const { FromBias<V, 3>(product, panel, acc); }
  LSTM_INLINE void Finish(size_t panel, size_t row, const Reg* acc) const {
    const size_t at = row * job.stride + panel * V::kWidth;
    V::Store(job.z + at, A::Sigmoid(acc[0]));
    V::Store(job.reset + at, V::Mul(A::Sigmoid(acc[1]), Part<V>(panel * V::kWidth, product.units).Load(product.h[row])));
    V::Store(job.n + at, acc[2]);
  }
};

// Ops of several vectors of units a panel: kVectors of them.
template <class V, int kVectors>
struct LanesOf;
template <class V>
struct LanesOf<V, 1> { using Type = Lanes<0>; };
template <class V>
struct LanesOf<V, 2> { using Type = Lanes<0, 1>; };
template <class V>
struct LanesOf<V, 3> { using Type = Lanes<0, 1, 2>; };
template <class V>
struct LanesOf<V, 4> { using Type = Lanes<0, 1, 2, 3>; };

template <class V, int kVectors>
struct GruBlendStep {
  using Reg = typename V::Reg;
  static constexpr bool kAlone = kVectors < 4;
  static constexpr int kSums = kVectors;
  using X = typename LanesOf<V, kVectors>::Type;
  using H = X;
  const GruBlendJob& job;
  const Product& product;
  size_t first_unit;

  size_t Unit(size_t panel, int s) const { return first_unit + (panel * kVectors + static_cast<size_t>(s)) * V::kWidth; }
  LSTM_INLINE void Init(size_t panel, size_t row, Reg* acc) const {
    for (int s = 0; s < kVectors; ++s) acc[s] = V::Load(job.n + row * job.stride + Unit(panel, s));
  }
  LSTM_INLINE void Finish(size_t panel, size_t row, const Reg* acc) const {
    for (int s = 0; s < kVectors; ++s) {
      const Part<V> part(Unit(panel, s), product.units);
      const Reg z = V::Load(job.z + row * job.stride + part.at);
      part.Store(job.out, job.copy, row, Blend<V>(z, Activations<V>::Tanh(acc[s]), part.Load(job.h[row])));
    }
  }
};

template <class V, int kVectors>
struct DenseStep {
  using Reg = typename V::Reg;
  static constexpr bool kAlone = kVectors < 4;
  static constexpr int kSums = kVectors;
  using X = typename LanesOf<V, kVectors>::Type;
  using H = X;
  const DenseJob& job;
  const Product& product;
  size_t first_unit;

  LSTM_INLINE void Init(size_t panel, size_t, Reg* acc) const { FromBias<V, kVectors>(product, panel, acc); }
  LSTM_INLINE void Finish(size_t panel, size_t row, const Reg* acc) const {
    for (int s = 0; s < kVectors; ++s) {
      const Part<V> part(first_unit + (panel * kVectors + static_cast<size_t>(s)) * V::kWidth, product.units);
      Reg y = acc[s];
      if (job.squash == Squash::kTanh) y = Activations<V>::Tanh(y);
      if (job.squash == Squash::kRelu) y = V::Max(V::Set(0.0f), y);  // NaN stays NaN
      part.Store(job.out, job.copy, row, y);
    }
  }
};

template <class V, Form kForm, class Step>
void RunForm(const Step& step, size_t first, size_t panels) {
  if constexpr (V::kStreamRows > 0 && !Step::kAlone) {
    if (Streams<V, Step, kForm>::Takes(step.product)) return Streams<V, Step, kForm>(step, first, panels).Run();
  }
  Panels<V, Step, kForm>(step, first, panels).Run();
}

// The product's part of `all` panels, in whole pairs where there are more.
template <class V, class Step>
void RunPanels(const Step& step, size_t all) {
  const Product& p = step.product;
  const size_t first = all / 2 * p.part / p.parts * 2, end = p.part + 1 == p.parts ? all : all / 2 * (p.part + 1) / p.parts * 2;
  if (first == end) return;
  switch (p.form) {
    case Form::kFloats: return RunForm<V, Form::kFloats>(step, first, end - first);
    case Form::kPairs: return RunForm<V, Form::kPairs>(step, first, end - first);
    case Form::kBytes: return RunForm<V, Form::kBytes>(step, first, end - first);
  }
}

// One Op over panels of one vector each.
template <class V, template <class> class Step, class Job>
void RunCell(const Job& job) {
  RunPanels<V>(Step<V>{job, job.product}, (job.product.units + V::kWidth - 1) / V::kWidth);
}

// One Op over panels of four vectors and a last one of what is left.
template <class V, template <class, int> class Step, class Job>
void RunWide(const Job& job) {
  const size_t vectors = (job.product.units + V::kWidth - 1) / V::kWidth, full = vectors / 4;
  if (full > 0) RunPanels<V>(Step<V, 4>{job, job.product, 0}, full);
  if (job.product.part + 1 < job.product.parts) return;
  Product rest = job.product;
  rest.part = 0;
  rest.parts = 1;
  const size_t floats = full * 4 * V::kWidth;
  rest.weights += FloatsOf(StepsOfX(rest.x_steps, rest.form) + rest.h_steps, floats, rest.form);
  if (rest.scales != nullptr) rest.scales += floats * ((rest.x_steps > 0 ? 1 : 0) + (rest.h_steps > 0 ? 1 : 0));
  if (rest.bias != nullptr) rest.bias += floats;
  if (rest.sums != nullptr) rest.sums += full * rest.sums_stride;
  switch (vectors % 4) {
    case 1: RunPanels<V>(Step<V, 1>{job, rest, floats}, 1); break;
    case 2: RunPanels<V>(Step<V, 2>{job, rest, floats}, 1); break;
    case 3: RunPanels<V>(Step<V, 3>{job, rest, floats}, 1); break;
    default: break;
  }
}

template <class V>
constexpr Isa IsaOf(const char* name) {
  return {name, V::kWidth, V::kTurns, RunCell<V, LstmStep, LstmJob>, RunCell<V, GruAfterStep, GruAfterJob>,
          RunCell<V, GruBeforeStep, GruBeforeJob>, RunWide<V, GruBlendStep, GruBlendJob>, RunWide<V, DenseStep, DenseJob>, RunMap<V>, RunNorm<V>};
}

}  // namespace
}  // namespace lstm::core::fused
