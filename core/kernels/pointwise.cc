// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "core/base/status_macros.h"
#include "core/kernels/fused/fused_map.h"
#include "core/kernels/kernel.h"

// Ops that treat a row by itself: every row takes the same path, so its bits cannot depend on the batch. In plain loops, or where the
// engine is the fused one in its vectors.
namespace lstm::core {
namespace {

// One row of an op: per input, the row's first element; then the row of the output.
using RowFunction = std::function<void(const void* const* in, float* out)>;

class RowKernel : public Kernel {
 public:
  RowKernel(std::vector<size_t> input_bytes, size_t output_floats, RowFunction row)
      : input_bytes_(std::move(input_bytes)), output_floats_(output_floats), row_(std::move(row)) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    auto scratch = std::make_unique<Scratch>();
    scratch->buffers = buffers;
    scratch->rows.resize(buffers.inputs.size());
    return scratch;
  }

  absl::Status Run(int first, int rows, const float* const*, float* const*, KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    auto* out = static_cast<float*>(scratch.buffers.output);
    for (auto r = static_cast<size_t>(first); r < static_cast<size_t>(first + rows); ++r) {
      for (size_t i = 0; i < input_bytes_.size(); ++i) {
        scratch.rows[i] = static_cast<const std::byte*>(scratch.buffers.inputs[i]) + r * input_bytes_[i];
      }
      row_(scratch.rows.data(), out + r * output_floats_);
    }
    return absl::OkStatus();
  }

  bool AnyRows() const override { return true; }
  ManySteps many_steps() const override { return ManySteps::kRun; }
  std::string Describe() const override { return "row by row"; }

 private:
  struct Scratch : KernelScratch {
    KernelBuffers buffers;
    std::vector<const void*> rows;
  };
  std::vector<size_t> input_bytes_;
  size_t output_floats_;
  RowFunction row_;
};

const float* F(const void* p) { return static_cast<const float*>(p); }

template <typename Function>
RowFunction Map(size_t n, Function f) {
  return [n, f](const void* const* in, float* out) {
    const float* x = F(in[0]);
    for (size_t i = 0; i < n; ++i) out[i] = f(x[i]);
  };
}

RowFunction InVectors(const FusedMap& map, size_t n) {
  return [map, n](const void* const* in, float* out) { map.Run(F(in[0]), nullptr, false, n, out); };
}

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

RowFunction Activation(const ActivationOp& op, size_t n) {
  const float a = op.alpha, b = op.beta;
  switch (op.kind) {
    case ActivationKind::kRelu: return Map(n, [](float x) { return x <= 0 ? 0.0f : x; });  // NaN stays NaN
    case ActivationKind::kSigmoid: return Map(n, Sigmoid);
    case ActivationKind::kTanh: return Map(n, [](float x) { return std::tanh(x); });
    case ActivationKind::kSoftplus:  // log(1 + e^x) without overflow
      return Map(n, [](float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))); });
    case ActivationKind::kLeakyRelu: return Map(n, [a](float x) { return x >= 0 ? x : a * x; });
    case ActivationKind::kElu: return Map(n, [a](float x) { return x >= 0 ? x : a * std::expm1(x); });
    case ActivationKind::kHardSigmoid:
      return Map(n, [a, b](float x) {
        const float y = a * x + b;
        return y < 0 ? 0.0f : y > 1 ? 1.0f : y;
      });
    case ActivationKind::kGelu:
      return Map(n, [](float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); });
    case ActivationKind::kSilu: return Map(n, [](float x) { return x * Sigmoid(x); });
    case ActivationKind::kClip: return Map(n, [a, b](float x) { return x < a ? a : x > b ? b : x; });
    case ActivationKind::kExp: return Map(n, [](float x) { return std::exp(x); });
    case ActivationKind::kLog: return Map(n, [](float x) { return std::log(x); });
    case ActivationKind::kAbs: return Map(n, [](float x) { return std::fabs(x); });
    case ActivationKind::kNegate: return Map(n, [](float x) { return -x; });
    case ActivationKind::kSqrt: return Map(n, [](float x) { return std::sqrt(x); });
    case ActivationKind::kSquare: return Map(n, [](float x) { return x * x; });
    case ActivationKind::kPower: return Map(n, [a](float x) { return std::pow(x, a); });
    case ActivationKind::kReciprocal: return Map(n, [](float x) { return 1.0f / x; });
    case ActivationKind::kErf: return Map(n, [](float x) { return std::erf(x); });
    case ActivationKind::kSoftsign: return Map(n, [](float x) { return x / (1.0f + std::fabs(x)); });
    case ActivationKind::kThresholdedRelu: return Map(n, [a](float x) { return x <= a ? 0.0f : x; });
    case ActivationKind::kFloor: return Map(n, [](float x) { return std::floor(x); });
    case ActivationKind::kSign: return Map(n, [](float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; });
    case ActivationKind::kSin: return Map(n, [](float x) { return std::sin(x); });
    case ActivationKind::kCos: return Map(n, [](float x) { return std::cos(x); });
    case ActivationKind::kAtan: return Map(n, [](float x) { return std::atan(x); });
    case ActivationKind::kRound: return Map(n, [](float x) { return std::nearbyint(x); });
  }
  return nullptr;
}

RowFunction Softmax(bool log, size_t rows, size_t n) {
  return [=](const void* const* in, float* out) {
    for (size_t r = 0; r < rows; ++r) {
      const float* x = F(in[0]) + r * n;
      float* y = out + r * n;
      const float peak = *std::max_element(x, x + n);
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += y[i] = std::exp(x[i] - peak);
      const double inverse = 1 / sum, log_sum = std::log(sum);
      for (size_t i = 0; i < n; ++i) {
        y[i] = log ? static_cast<float>(static_cast<double>(x[i] - peak) - log_sum) : static_cast<float>(y[i] * inverse);
      }
    }
  };
}

// Eight sums side by side, for one alone would wait for each addition.
template <typename F>
double SumOf(size_t n, F f) {
  double parts[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) parts[j] += f(i + j);
  }
  for (size_t j = 0; i < n; ++i, ++j) parts[j] += f(i);
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

RowFunction LayerNorm(const LayerNormOp& op, size_t rows, size_t n) {
  return [op, rows, n](const void* const* in, float* out) {
    for (size_t r = 0; r < rows; ++r) {
      const float* x = F(in[0]) + r * n;
      const double mean = SumOf(n, [x](size_t i) { return static_cast<double>(x[i]); }) / static_cast<double>(n);
      const double variance = SumOf(n, [x, mean](size_t i) { return (x[i] - mean) * (x[i] - mean); }) / static_cast<double>(n);
      const double inverse = 1 / std::sqrt(variance + op.epsilon);
      for (size_t i = 0; i < n; ++i) {
        auto y = static_cast<float>((x[i] - mean) * inverse);
        if (op.scale) y *= op.scale->values[i];
        if (op.bias) y += op.bias->values[i];
        out[r * n + i] = y;
      }
    }
  };
}

RowFunction NormInVectors(const LayerNormOp& op, FusedOp::InstructionSet set, size_t rows, size_t n) {
  return [op, norm = FusedNorm(set), rows, n](const void* const* in, float* out) {
    const auto values = [](const ConstantPtr& c) { return c ? c->values.data() : nullptr; };
    for (size_t r = 0; r < rows; ++r) norm.Run(F(in[0]) + r * n, values(op.scale), values(op.bias), op.epsilon, n, out + r * n);
  };
}

// f over the inputs from the left; one element meets each of the others.
template <typename Function>
RowFunction Fold(const std::vector<size_t>& counts, size_t n, Function f) {
  return [=](const void* const* in, float* out) {
    const float* const a = F(in[0]);
    for (size_t i = 0; i < n; ++i) out[i] = a[counts[0] == 1 ? 0 : i];
    for (size_t k = 1; k < counts.size(); ++k) {
      const float* const b = F(in[k]);
      if (counts[k] == 1) {
        for (size_t i = 0; i < n; ++i) out[i] = f(out[i], b[0]);
      } else {
        for (size_t i = 0; i < n; ++i) out[i] = f(out[i], b[i]);
      }
    }
  };
}

// The same in vectors.
RowFunction FoldInVectors(const FusedMap& map, const std::vector<size_t>& counts, size_t n) {
  return [=](const void* const* in, float* out) {
    const float* a = F(in[0]);
    if (counts[0] == 1 && n > 1) {
      std::fill_n(out, n, a[0]);
      a = out;
    }
    for (size_t k = 1; k < counts.size(); ++k, a = out) map.Run(a, F(in[k]), counts[k] == 1, n, out);
    if (counts.size() == 1 && a != out) std::copy_n(a, n, out);
  };
}

RowFunction Elementwise(ElementwiseKind kind, const std::vector<size_t>& counts, size_t n) {
  switch (kind) {
    case ElementwiseKind::kAdd: return Fold(counts, n, [](float a, float b) { return a + b; });
    case ElementwiseKind::kSubtract: return Fold(counts, n, [](float a, float b) { return a - b; });
    case ElementwiseKind::kMultiply: return Fold(counts, n, [](float a, float b) { return a * b; });
    case ElementwiseKind::kDivide: return Fold(counts, n, [](float a, float b) { return a / b; });
    case ElementwiseKind::kMinimum: return Fold(counts, n, [](float a, float b) { return std::min(a, b); });
    case ElementwiseKind::kMaximum: return Fold(counts, n, [](float a, float b) { return std::max(a, b); });
  }
  return nullptr;
}

RowFunction Affine(const AffineOp& op, size_t n, size_t last) {
  return [=](const void* const* in, float* out) {
    const auto& scale = op.scale->values;
    const auto& offset = op.offset->values;
    for (size_t i = 0; i < n; ++i) {
      out[i] = F(in[0])[i] * scale[scale.size() == 1 ? 0 : i % last] + offset[offset.size() == 1 ? 0 : i % last];
    }
  };
}

// The same in vectors: two roundings here as there, or one where nothing is added.
RowFunction AffineInVectors(const AffineOp& op, FusedOp::InstructionSet set, size_t n, size_t last) {
  const auto each = [n, last](const FusedMap& map, const AlignedBuffer<float>& b, const float* a, float* out) {
    const bool one = b.size() == 1;
    for (size_t at = 0, width = one ? n : last; at < n; at += width) map.Run(a + at, b.data(), one, width, out + at);
  };
  const bool adds = op.offset->values.size() > 1 || op.offset->values[0] != 0;
  return [op, each, adds, times = *FusedMap::Of(ElementwiseKind::kMultiply, set), plus = *FusedMap::Of(ElementwiseKind::kAdd, set)](const void* const* in, float* out) {
    each(times, op.scale->values, F(in[0]), out);
    if (adds) each(plus, op.offset->values, out, out);
  };
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Kernel>> MakePointwiseKernel(const KernelContext& context) {
  const Node& node = *context.node;
  auto shape_of = [&](ValueId id) -> const Shape& { return context.model->values[static_cast<size_t>(id)].shape; };
  auto last_of = [](const Shape& s) { return s.empty() ? size_t{1} : static_cast<size_t>(s.back()); };
  std::vector<size_t> bytes, counts;
  for (ValueId id : node.inputs) {
    counts.push_back(static_cast<size_t>(CheckedElementCount(shape_of(id))));
    bytes.push_back(counts.back() * sizeof(float));  // ids are as wide
  }
  const auto out = static_cast<size_t>(CheckedElementCount(shape_of(node.output)));
  const size_t n = counts[0], last = last_of(shape_of(node.inputs[0])), out_last = last_of(shape_of(node.output));

  const bool vectors = context.engine == Engine::kFused;
  const auto set = FusedOp::Best();
  RowFunction row;
  if (const auto* embedding = std::get_if<EmbeddingOp>(&node.op)) {
    row = [weight = embedding->weight, out](const void* const* in, float* y) {
      const auto id = static_cast<size_t>(*static_cast<const int32_t*>(in[0]));
      std::copy_n(weight->values.data() + id * out, out, y);
    };
  } else if (const auto* activation = std::get_if<ActivationOp>(&node.op)) {
    const auto map = vectors ? FusedMap::Of(*activation, set) : std::nullopt;
    if (vectors && activation->kind == ActivationKind::kSquare) {
      row = [times = *FusedMap::Of(ElementwiseKind::kMultiply, set), n](const void* const* in, float* y) { times.Run(F(in[0]), F(in[0]), false, n, y); };
    } else {
      row = map ? InVectors(*map, n) : Activation(*activation, n);
    }
  } else if (const auto* softmax = std::get_if<SoftmaxOp>(&node.op)) {
    row = Softmax(softmax->log, n / last, last);
  } else if (const auto* norm = std::get_if<LayerNormOp>(&node.op)) {
    row = vectors ? NormInVectors(*norm, set, n / last, last) : LayerNorm(*norm, n / last, last);
  } else if (const auto* elementwise = std::get_if<ElementwiseOp>(&node.op)) {
    const auto map = vectors ? FusedMap::Of(elementwise->kind, set) : std::nullopt;
    row = map ? FoldInVectors(*map, counts, out) : Elementwise(elementwise->kind, counts, out);
  } else if (std::holds_alternative<ConcatOp>(node.op)) {
    std::vector<size_t> widths;
    for (ValueId id : node.inputs) widths.push_back(last_of(shape_of(id)));
    row = [widths, outer = out / out_last](const void* const* in, float* y) {
      for (size_t o = 0; o < outer; ++o) {
        for (size_t k = 0; k < widths.size(); ++k) y = std::copy_n(F(in[k]) + o * widths[k], widths[k], y);
      }
    };
  } else if (const auto* slice = std::get_if<SliceOp>(&node.op)) {
    row = [begin = static_cast<size_t>(slice->begin), last, out_last, outer = n / last](const void* const* in, float* y) {
      for (size_t o = 0; o < outer; ++o) y = std::copy_n(F(in[0]) + o * last + begin, out_last, y);
    };
  } else if (const auto* affine = std::get_if<AffineOp>(&node.op)) {
    row = vectors ? AffineInVectors(*affine, set, n, last) : Affine(*affine, n, last);
  } else {
    row = [n](const void* const* in, float* y) { std::copy_n(F(in[0]), n, y); };  // Reshape
  }
  return std::make_unique<const RowKernel>(std::move(bytes), out, std::move(row));
}

}  // namespace lstm::core
