// SPDX-License-Identifier: MIT
#include "tests/support/oracle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lstm::testing {
namespace {

using core::CheckedElementCount;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Row `row` of a [rows, columns] constant times `x`.
double Dot(const core::Constant& w, size_t row, const Vector& x) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += w.values[row * x.size() + i] * x[i];
  return sum;
}

struct Interpreter {
  const std::vector<const Vector*>& in;
  const core::Shape& in_shape;   // of in[0]
  size_t out_size;
  const std::vector<Vector>& state;
  std::vector<Vector>& next;

  const Vector& x() const { return *in[0]; }
  size_t last() const { return in_shape.empty() ? 1 : static_cast<size_t>(in_shape.back()); }
  static size_t S(core::StateId id) { return static_cast<size_t>(id); }

  Vector operator()(const core::EmbeddingOp& op) const {
    Vector y(out_size);
    for (size_t i = 0; i < out_size; ++i) y[i] = op.weight->values[static_cast<size_t>(x()[0]) * out_size + i];
    return y;
  }
  Vector operator()(const core::LinearOp& op) const {
    Vector y;
    const auto out = static_cast<size_t>(op.weight->shape[0]);
    for (size_t r = 0; r < x().size() / last(); ++r) {
      const Vector row(x().begin() + static_cast<long>(r * last()), x().begin() + static_cast<long>((r + 1) * last()));
      for (size_t o = 0; o < out; ++o) y.push_back(Dot(*op.weight, o, row) + (op.bias ? op.bias->values[o] : 0));
    }
    return y;
  }
  Vector operator()(const core::LstmOp& op) const {
    const auto hidden = static_cast<size_t>(op.weight->shape[0] / 4);
    const Vector &h = state[S(op.hidden)], &c = state[S(op.cell)];
    Vector c_new(hidden), out(hidden);
    for (size_t j = 0; j < hidden; ++j) {
      double gate[4];
      for (size_t g = 0; g < 4; ++g) {
        gate[g] = Dot(*op.weight, g * hidden + j, x()) + Dot(*op.recurrent, g * hidden + j, h) + op.bias->values[g * hidden + j];
      }
      const auto peep = [&](size_t block, double cell) { return op.peephole ? op.peephole->values[block * hidden + j] * cell : 0.0; };
      const double i = Sigmoid(gate[0] + peep(0, c[j])), f = Sigmoid(gate[1] + peep(1, c[j]));
      c_new[j] = f * c[j] + i * std::tanh(gate[2]);
      out[j] = Sigmoid(gate[3] + peep(2, c_new[j])) * std::tanh(c_new[j]);
    }
    if (op.projection) {
      Vector projected(static_cast<size_t>(op.projection->shape[0]));
      for (size_t p = 0; p < projected.size(); ++p) projected[p] = Dot(*op.projection, p, out);
      out = projected;
    }
    next[S(op.hidden)] = out;
    next[S(op.cell)] = c_new;
    return out;
  }
  Vector operator()(const core::GruOp& op) const {
    const auto hidden = static_cast<size_t>(op.recurrent->shape[1]);
    const Vector& h = state[S(op.hidden)];
    Vector z(hidden), r(hidden), reset(hidden), out(hidden);
    for (size_t j = 0; j < hidden; ++j) {
      z[j] = Sigmoid(Dot(*op.weight, j, x()) + Dot(*op.recurrent, j, h) + op.bias->values[j]);
      r[j] = Sigmoid(Dot(*op.weight, hidden + j, x()) + Dot(*op.recurrent, hidden + j, h) + op.bias->values[hidden + j]);
      reset[j] = r[j] * h[j];
    }
    for (size_t j = 0; j < hidden; ++j) {
      double n = Dot(*op.weight, 2 * hidden + j, x()) + op.bias->values[2 * hidden + j];
      n += op.reset_after ? r[j] * (Dot(*op.recurrent, 2 * hidden + j, h) + op.bias->values[3 * hidden + j])
                          : Dot(*op.recurrent, 2 * hidden + j, reset);
      out[j] = (1 - z[j]) * std::tanh(n) + z[j] * h[j];
    }
    return next[S(op.hidden)] = out;
  }
  Vector operator()(const core::RnnOp& op) const {
    const Vector& h = state[S(op.hidden)];
    Vector out(h.size());
    for (size_t j = 0; j < out.size(); ++j) {
      const double a = Dot(*op.weight, j, x()) + Dot(*op.recurrent, j, h) + op.bias->values[j];
      out[j] = op.relu ? std::max(a, 0.0) : std::tanh(a);
    }
    return next[S(op.hidden)] = out;
  }
  Vector operator()(const core::LayerNormOp& op) const {
    Vector y = x();
    for (size_t r = 0; r < y.size(); r += last()) {
      double mean = 0, variance = 0;
      for (size_t i = 0; i < last(); ++i) mean += y[r + i] / static_cast<double>(last());
      for (size_t i = 0; i < last(); ++i) variance += (y[r + i] - mean) * (y[r + i] - mean) / static_cast<double>(last());
      for (size_t i = 0; i < last(); ++i) {
        y[r + i] = (y[r + i] - mean) / std::sqrt(variance + op.epsilon);
        if (op.scale) y[r + i] *= op.scale->values[i];
        if (op.bias) y[r + i] += op.bias->values[i];
      }
    }
    return y;
  }
  Vector operator()(const core::Conv1dOp& op) const {
    const auto out = static_cast<size_t>(op.weight->shape[0]), per_group = static_cast<size_t>(op.weight->shape[1]),
               taps = static_cast<size_t>(op.weight->shape[2]);
    const auto dilation = static_cast<size_t>(op.dilation), groups = static_cast<size_t>(op.groups), channels = per_group * groups;
    Vector frames = op.context >= 0 ? state[S(op.context)] : Vector();  // oldest first, then the new one
    frames.insert(frames.end(), x().begin(), x().end());
    Vector y(out);
    for (size_t o = 0; o < out; ++o) {
      y[o] = op.bias ? op.bias->values[o] : 0;
      const size_t group = o / (out / groups);
      for (size_t i = 0; i < per_group; ++i) {
        for (size_t k = 0; k < taps; ++k) {
          y[o] += op.weight->values[(o * per_group + i) * taps + k] * frames[k * dilation * channels + group * per_group + i];
        }
      }
    }
    if (op.context >= 0) next[S(op.context)] = Vector(frames.begin() + static_cast<long>(channels), frames.end());
    return y;
  }
  Vector operator()(const core::ActivationOp& op) const {
    Vector y = x();
    for (double& v : y) v = Activate(op, v);
    return y;
  }
  static double Activate(const core::ActivationOp& op, double v) {
    using K = core::ActivationKind;
    switch (op.kind) {
      case K::kRelu: return std::max(v, 0.0);
      case K::kSigmoid: return Sigmoid(v);
      case K::kTanh: return std::tanh(v);
      case K::kSoftplus: return v > 30 ? v : std::log1p(std::exp(v));
      case K::kLeakyRelu: return v >= 0 ? v : op.alpha * v;
      case K::kElu: return v >= 0 ? v : op.alpha * (std::exp(v) - 1);
      case K::kHardSigmoid: return std::clamp(op.alpha * v + op.beta, 0.0, 1.0);
      case K::kGelu: return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      case K::kSilu: return v * Sigmoid(v);
      case K::kClip: return std::clamp(v, static_cast<double>(op.alpha), static_cast<double>(op.beta));
      case K::kExp: return std::exp(v);
      case K::kLog: return std::log(v);
      case K::kAbs: return std::fabs(v);
      case K::kNegate: return -v;
      case K::kSqrt: return std::sqrt(v);
      case K::kSquare: return v * v;
      case K::kPower: return std::pow(v, static_cast<double>(op.alpha));
      case K::kReciprocal: return 1 / v;
      case K::kErf: return std::erf(v);
      case K::kSoftsign: return v / (1 + std::fabs(v));
      case K::kThresholdedRelu: return v > op.alpha ? v : 0;
      case K::kFloor: return std::floor(v);
      case K::kSign: return v > 0 ? 1 : v < 0 ? -1 : 0;
      case K::kSin: return std::sin(v);
      case K::kCos: return std::cos(v);
      case K::kAtan: return std::atan(v);
      case K::kRound: return std::nearbyint(v);
    }
    return 0;
  }
  Vector operator()(const core::SoftmaxOp& op) const {
    Vector y = x();
    for (size_t r = 0; r < y.size(); r += last()) {
      double sum = 0;
      for (size_t i = 0; i < last(); ++i) sum += std::exp(y[r + i]);
      for (size_t i = 0; i < last(); ++i) y[r + i] = op.log ? y[r + i] - std::log(sum) : std::exp(y[r + i]) / sum;
    }
    return y;
  }
  Vector operator()(const core::ElementwiseOp& op) const {
    Vector y(out_size);
    for (size_t i = 0; i < out_size; ++i) {
      y[i] = (*in[0])[in[0]->size() == 1 ? 0 : i];
      for (size_t k = 1; k < in.size(); ++k) {
        const double b = (*in[k])[in[k]->size() == 1 ? 0 : i];
        switch (op.kind) {
          case core::ElementwiseKind::kAdd: y[i] += b; break;
          case core::ElementwiseKind::kSubtract: y[i] -= b; break;
          case core::ElementwiseKind::kMultiply: y[i] *= b; break;
          case core::ElementwiseKind::kDivide: y[i] /= b; break;
          case core::ElementwiseKind::kMinimum: y[i] = std::min(y[i], b); break;
          case core::ElementwiseKind::kMaximum: y[i] = std::max(y[i], b); break;
        }
      }
    }
    return y;
  }
  Vector operator()(const core::ConcatOp&) const {  // tests use vectors alone
    Vector y;
    for (const Vector* part : in) y.insert(y.end(), part->begin(), part->end());
    return y;
  }
  Vector operator()(const core::SliceOp& op) const {
    Vector y;
    for (size_t r = 0; r < x().size(); r += last()) {
      for (int64_t i = op.begin; i < op.end; ++i) y.push_back(x()[r + static_cast<size_t>(i)]);
    }
    return y;
  }
  Vector operator()(const core::AffineOp& op) const {
    Vector y = x();
    for (size_t i = 0; i < y.size(); ++i) {
      const auto pick = [&](const core::Constant& c) { return c.values[c.values.size() == 1 ? 0 : i % last()]; };
      y[i] = y[i] * pick(*op.scale) + pick(*op.offset);
    }
    return y;
  }
  Vector operator()(const core::ReshapeOp&) const { return x(); }
  Vector operator()(const core::StateReadOp& op) const { return state[S(op.state)]; }
  Vector operator()(const core::StateWriteOp& op) const { return next[S(op.state)] = x(); }
  Vector operator()(const core::ConstantOp& op) const { return {op.value->values.span().begin(), op.value->values.span().end()}; }
  Vector operator()(const core::SelectOp& op) const {
    Vector all, y;
    for (const Vector* part : in) all.insert(all.end(), part->begin(), part->end());
    for (int32_t i : *op.index) y.push_back(all[static_cast<size_t>(i)]);
    return y;
  }
  Vector operator()(const core::ReduceOp& op) const {
    Vector y;
    for (size_t r = 0; r < x().size(); r += last()) {
      double v = x()[r];
      for (size_t i = 1; i < last(); ++i) {
        const double b = x()[r + i];
        switch (op.kind) {
          case core::ReduceKind::kMean: case core::ReduceKind::kSum: v += b; break;
          case core::ReduceKind::kMaximum: v = std::max(v, b); break;
          case core::ReduceKind::kMinimum: v = std::min(v, b); break;
          case core::ReduceKind::kProduct: v *= b; break;
        }
      }
      y.push_back(op.kind == core::ReduceKind::kMean ? v / static_cast<double>(last()) : v);
    }
    return y;
  }
  Vector operator()(const core::MatMulOp&) const {
    const size_t k = last(), a = static_cast<size_t>(in_shape[in_shape.size() - 2]), outer = x().size() / (a * k), b = out_size / (outer * a);
    Vector y(out_size, 0);
    for (size_t o = 0; o < outer; ++o) {
      for (size_t i = 0; i < a; ++i) {
        for (size_t j = 0; j < b; ++j) {
          for (size_t l = 0; l < k; ++l) y[(o * a + i) * b + j] += x()[(o * a + i) * k + l] * (*in[1])[(o * k + l) * b + j];
        }
      }
    }
    return y;
  }
};

}  // namespace

Oracle::Oracle(const core::Model& model) : model_(model), values_(model.values.size()) { Reset(); }

void Oracle::Reset() {
  state_.clear();
  for (const core::StateTensor& tensor : model_.state) {
    Vector& state = state_.emplace_back(static_cast<size_t>(CheckedElementCount(tensor.shape)));
    std::copy(tensor.initial.begin(), tensor.initial.end(), state.begin());
  }
}

Vector Oracle::Run(const core::Node& node) {
  std::vector<const Vector*> in;
  for (core::ValueId id : node.inputs) in.push_back(&values_[static_cast<size_t>(id)]);
  const auto size = static_cast<size_t>(CheckedElementCount(model_.values[static_cast<size_t>(node.output)].shape));
  const core::Shape none, &shape = node.inputs.empty() ? none : model_.values[static_cast<size_t>(node.inputs[0])].shape;
  return std::visit(Interpreter{in, shape, size, state_, next_state_}, node.op);
}

std::vector<Vector> Oracle::Step(const std::vector<Vector>& inputs) {
  next_state_ = state_;
  for (size_t i = 0; i < inputs.size(); ++i) values_[static_cast<size_t>(model_.inputs[i].value)] = inputs[i];
  for (const core::Node& node : model_.nodes) values_[static_cast<size_t>(node.output)] = Run(node);
  state_ = next_state_;
  std::vector<Vector> outputs;
  for (const core::Port& port : model_.outputs) outputs.push_back(values_[static_cast<size_t>(port.value)]);
  return outputs;
}

}  // namespace lstm::testing
