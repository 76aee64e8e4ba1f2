// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/oracle.h"
#include "tests/support/random_model.h"

namespace lstm::testing {

inline std::vector<float> Numbers(Random& random, int64_t n, float scale = 0.8f) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(random.Uniform(scale));
  return out;
}

// One recurrent node as the ONNX text defines it, in double precision and in ONNX's own gate order: independent of the importer.
struct Reference {
  std::string op;
  int64_t hidden = 3, width = 2;
  std::vector<std::string> activations;
  std::vector<float> alphas, betas;
  double clip = 0;
  bool coupled = false, after = false;
  std::vector<float> w, r, b, p, h0, c0;
  Vector h, c;

  double Act(size_t which, double x) const {
    if (clip > 0) x = std::clamp(x, -clip, clip);
    size_t alpha_at = 0, beta_at = 0;
    const auto needs = [](const std::string& n, bool alpha) {
      if (n == "Affine" || n == "ScaledTanh" || n == "HardSigmoid") return true;
      return alpha && (n == "LeakyRelu" || n == "ThresholdedRelu" || n == "Elu");
    };
    for (size_t i = 0; i < which; ++i) alpha_at += needs(activations[i], true), beta_at += needs(activations[i], false);
    const std::string& n = activations[which];
    const double a = needs(n, true) ? alphas[alpha_at] : 0, bb = needs(n, false) ? betas[beta_at] : 0;
    if (n == "Relu") return std::max(x, 0.0);
    if (n == "Tanh") return std::tanh(x);
    if (n == "Sigmoid") return 1 / (1 + std::exp(-x));
    if (n == "Affine") return a * x + bb;
    if (n == "LeakyRelu") return x >= 0 ? x : a * x;
    if (n == "ThresholdedRelu") return x > a ? x : 0;
    if (n == "ScaledTanh") return a * std::tanh(bb * x);
    if (n == "HardSigmoid") return std::clamp(a * x + bb, 0.0, 1.0);
    if (n == "Elu") return x >= 0 ? x : a * (std::exp(x) - 1);
    if (n == "Softsign") return x / (1 + std::fabs(x));
    return std::log(1 + std::exp(x));  // Softplus
  }
  double Of(const std::vector<float>& m, int64_t row, const Vector& x) const {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(m[static_cast<size_t>(row) * x.size() + i]) * x[i];
    return sum;
  }
  void Step(const Vector& x) {
    const int64_t gates = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1, n = hidden;
    const auto bias = [&](int64_t g, int64_t j, bool recurrent) { return static_cast<double>(b[static_cast<size_t>((recurrent ? gates * n : 0) + g * n + j)]); };
    const auto pre = [&](int64_t g, int64_t j) { return Of(w, g * n + j, x) + bias(g, j, false) + Of(r, g * n + j, h) + bias(g, j, true); };
    const auto peep = [&](int64_t block, int64_t j, double cell) { return p.empty() ? 0 : static_cast<double>(p[static_cast<size_t>(block * n + j)]) * cell; };
    Vector next(h), reset(h), next_c(c);
    if (op == "GRU") {
      for (int64_t j = 0; j < n; ++j) reset[static_cast<size_t>(j)] = Act(0, pre(1, j)) * h[static_cast<size_t>(j)];
    }
    for (int64_t j = 0; j < n; ++j) {
      const auto k = static_cast<size_t>(j);
      if (op == "RNN") next[k] = Act(0, pre(0, j));
      if (op == "GRU") {
        const double z = Act(0, pre(0, j)), rr = Act(0, pre(1, j)), of_x = Of(w, 2 * n + j, x) + bias(2, j, false);
        const double cand = Act(1, after ? of_x + rr * (Of(r, 2 * n + j, h) + bias(2, j, true)) : of_x + Of(r, 2 * n + j, reset) + bias(2, j, true));
        next[k] = (1 - z) * cand + z * h[k];
      }
      if (op == "LSTM") {  // i o f c; peepholes i o f
        const double i = Act(0, pre(0, j) + peep(0, j, c[k])), f = coupled ? 1 - i : Act(0, pre(2, j) + peep(2, j, c[k]));
        next_c[k] = f * c[k] + i * Act(1, pre(3, j));
        next[k] = Act(0, pre(1, j) + peep(1, j, next_c[k])) * Act(2, next_c[k]);
      }
    }
    h = next;
    c = next_c;
  }
};

inline const std::vector<std::string> kActivations = {"Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"};

}  // namespace lstm::testing
