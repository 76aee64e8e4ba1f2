// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "tests/core/import/tensors.h"
#include "tests/support/program_runner.h"

// Cells that the manifest names and plain ops compute, against their papers' formulas in double precision, unit by unit.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using Vector = std::vector<double>;
using Activation = std::function<double(double)>;

constexpr size_t kWidth = 5, kHidden = 6, kSteps = 40;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double Tanh(double x) { return std::tanh(x); }
double HardSigmoid(double x) { return std::clamp(0.2 * x + 0.5, 0.0, 1.0); }
double Relu(double x) { return std::max(x, 0.0); }

// Tensors of a layer called "cell", read as the formulas do.
struct Weights : Tensors {
  const std::vector<float>& operator[](const std::string& name) const { return all.at("cell." + name).second; }
  // Row `row` of a matrix with `x`.
  double Dot(const std::string& name, size_t row, const Vector& x) const {
    const auto& w = (*this)[name];
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(w[row * x.size() + i]) * x[i];
    return sum;
  }
  double At(const std::string& name, size_t i) const { return all.contains("cell." + name) ? static_cast<double>((*this)[name][i]) : 0; }
  void AddLayer(size_t k, int64_t gates, int64_t width, int64_t recurrent_rows) {
    const std::string l = absl::StrCat("_l", k);
    Add("cell.weight_ih" + l, {gates * kInt, width});
    if (recurrent_rows > 0) Add("cell.weight_hh" + l, {recurrent_rows, kInt});
    Add("cell.bias_ih" + l, {gates * kInt});
  }
  static constexpr int64_t kInt = kHidden;
};

// Steps the program and `step` side by side on the same random input.
void ExpectSteps(const std::string& fields, const Weights& weights, const std::function<Vector(const Vector&)>& step, double scale = 1) {
  auto model = Import(absl::StrCat("input { name: 'x' shape: ", kWidth, " } layer { name: 'cell' ", fields, " }"), weights);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto program = testing::MustCompile(*std::move(model), 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  std::mt19937 random(7);
  std::normal_distribution<double> normal(0, scale);
  for (size_t t = 0; t < kSteps; ++t) {
    Vector x(kWidth);
    for (size_t i = 0; i < kWidth; ++i) x[i] = row.input[0][i] = static_cast<float>(normal(random));
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    const Vector want = step(x);
    ASSERT_EQ(row.output[0].size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(static_cast<double>(row.output[0][i]), want[i], 1e-5) << fields << " step " << t << " unit " << i;
  }
}

std::string Refusal(const std::string& fields, const Weights& weights) {
  const auto model = Import(absl::StrCat("input { name: 'x' shape: ", kWidth, " } layer { name: 'cell' ", fields, " }"), weights);
  return model.ok() ? "accepted" : std::string(model.status().message());
}

Vector Normed(const Weights& w, const std::string& name, const Vector& x) {
  double mean = 0, square = 0;
  for (double v : x) mean += v / static_cast<double>(x.size());
  for (double v : x) square += (v - mean) * (v - mean) / static_cast<double>(x.size());
  Vector y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back((x[i] - mean) / std::sqrt(square + 1e-5) * w.At(name + "_weight_l0", i) + w.At(name + "_bias_l0", i));
  return y;
}

// An LSTM of one layer in PyTorch's form, gates i f g o.
struct NaiveLstm {
  const Weights& w;
  Activation gate = Sigmoid, candidate = Tanh;
  bool norm = false, coupled = false;
  double clip = 1e30, out_clip = 1e30, forget_bias = 0;
  size_t back = kHidden;  // width of h
  Vector h = Vector(back), c = Vector(kHidden);

  Vector Step(const Vector& x) {
    const size_t gates = coupled ? 3 : 4;
    Vector of_x, of_h;
    for (size_t r = 0; r < gates * kHidden; ++r) of_x.push_back(w.Dot("weight_ih_l0", r, x)), of_h.push_back(w.Dot("weight_hh_l0", r, h));
    if (norm) of_x = Normed(w, "norm_ih", of_x), of_h = Normed(w, "norm_hh", of_h);
    const auto pre = [&](size_t g, size_t u) { return of_x[g * kHidden + u] + of_h[g * kHidden + u] + w.At("bias_ih_l0", g * kHidden + u); };
    const size_t f = coupled ? 0 : 1;
    Vector next(kHidden), out(kHidden);
    for (size_t u = 0; u < kHidden; ++u) {
      const double forget = gate(pre(f, u) + forget_bias + w.At("peephole_f_l0", u) * c[u]);
      const double input = coupled ? 1 - forget : gate(pre(0, u) + w.At("peephole_i_l0", u) * c[u]);
      next[u] = forget * c[u] + input * candidate(pre(f + 1, u));
    }
    if (norm) next = Normed(w, "norm_c", next);
    for (size_t u = 0; u < kHidden; ++u) {
      c[u] = std::clamp(next[u], -clip, clip);
      out[u] = gate(pre(f + 2, u) + w.At("peephole_o_l0", u) * c[u]) * candidate(c[u]);
    }
    h = out;
    if (back != kHidden) {
      h.assign(back, 0);
      for (size_t p = 0; p < back; ++p) h[p] = std::clamp(w.Dot("weight_hr_l0", p, out), -out_clip, out_clip);
    }
    return h;
  }
};

TEST(CellsTest, LstmsWithOtherActivationsClipsAndNorms) {
  Weights w;
  w.AddLayer(0, 4, kWidth, 4 * kHidden);
  const auto expect = [&](const std::string& fields, const std::function<void(NaiveLstm&)>& set) {
    NaiveLstm naive{w};
    set(naive);
    ExpectSteps(absl::StrCat("lstm { bias: BIAS_ONE ", fields, " }"), w, [&](const Vector& x) { return naive.Step(x); });
  };
  expect("recurrent_activation { function: HARD_SIGMOID }", [](NaiveLstm& n) { n.gate = HardSigmoid; });
  expect("recurrent_activation { function: HARD_SIGMOID alpha: 0.16666667 } activation { function: RELU } cell_clip: 2 forget_bias: 0.5", [](NaiveLstm& n) {
    n.gate = [](double x) { return std::clamp(x / 6 + 0.5, 0.0, 1.0); };
    n.candidate = Relu;
    n.clip = 2;
    n.forget_bias = 0.5;
  });
  expect("cell_clip: 0.3", [](NaiveLstm& n) { n.clip = static_cast<double>(0.3f); });
  for (const char* gate : {"i", "f", "o"}) w.Add(absl::StrCat("cell.peephole_", gate, "_l0"), {kHidden});
  expect("peepholes: true recurrent_activation { function: HARD_SIGMOID }", [](NaiveLstm& n) { n.gate = HardSigmoid; });
  for (const char* part : {"ih", "hh", "c"}) {
    for (const char* what : {"weight", "bias"}) w.Add(absl::StrCat("cell.norm_", part, "_", what, "_l0"), {part[0] == 'c' ? 6 : 24});
  }
  expect("peepholes: true layer_norm: true", [](NaiveLstm& n) { n.norm = true; });
}

TEST(CellsTest, CoupledAndProjectedOnes) {
  Weights coupled;
  coupled.AddLayer(0, 3, kWidth, 3 * kHidden);
  NaiveLstm naive{coupled};
  naive.coupled = true;
  naive.gate = [](double x) { return std::clamp(0.3 * x + 0.4, 0.0, 1.0); };  // not symmetrical: 1 - f is no f of something else
  ExpectSteps("lstm { bias: BIAS_ONE coupled: true recurrent_activation { function: HARD_SIGMOID alpha: 0.3 beta: 0.4 } }", coupled,
              [&](const Vector& x) { return naive.Step(x); });
  Weights projected;
  projected.Add("cell.weight_ih_l0", {24, kWidth});
  projected.Add("cell.weight_hh_l0", {24, 4});
  projected.Add("cell.bias_ih_l0", {24});
  projected.Add("cell.weight_hr_l0", {4, 6});
  NaiveLstm small{.w = projected, .out_clip = static_cast<double>(0.1f), .back = 4};
  ExpectSteps("lstm { bias: BIAS_ONE projection: true projection_clip: 0.1 }", projected, [&](const Vector& x) { return small.Step(x); });
}

TEST(CellsTest, ADepthGatedStack) {
  Weights w;
  w.AddLayer(0, 4, kWidth, 4 * kHidden);
  w.AddLayer(1, 4, kHidden, 4 * kHidden);
  w.Add("cell.weight_d_l1", {kHidden, kHidden});
  for (const char* name : {"bias_d_l1", "peephole_d_l1", "depth_d_l1"}) w.Add(absl::StrCat("cell.", name), {kHidden});
  Vector h[2] = {Vector(kHidden), Vector(kHidden)}, c[2] = {Vector(kHidden), Vector(kHidden)};
  ExpectSteps("lstm { layers: 2 bias: BIAS_ONE depth_gated: true }", w, [&](const Vector& input) {
    Vector x = input;
    for (size_t k = 0; k < 2; ++k) {
      const std::string l = absl::StrCat("_l", k);
      const Vector before = h[k];
      for (size_t u = 0; u < kHidden; ++u) {
        const auto pre = [&](size_t g) { return w.Dot("weight_ih" + l, g * kHidden + u, x) + w.Dot("weight_hh" + l, g * kHidden + u, before) + w.At("bias_ih" + l, g * kHidden + u); };
        double next = Sigmoid(pre(1)) * c[k][u] + Sigmoid(pre(0)) * std::tanh(pre(2));
        if (k == 1) next += Sigmoid(w.Dot("weight_d_l1", u, x) + w.At("bias_d_l1", u) + w.At("peephole_d_l1", u) * c[1][u] + w.At("depth_d_l1", u) * c[0][u]) * c[0][u];
        c[k][u] = next;
        h[k][u] = Sigmoid(pre(3)) * std::tanh(next);
      }
      x = h[k];
    }
    return x;
  });
}

TEST(CellsTest, GrusWithOtherActivations) {
  for (const bool after : {true, false}) {
    Weights w;
    w.AddLayer(0, 3, kWidth, 3 * kHidden);
    w.Add("cell.bias_hh_l0", {3 * kHidden});
    Vector h(kHidden);
    ExpectSteps(absl::StrCat("gru { reset: ", after ? "AFTER_PRODUCT" : "BEFORE_PRODUCT",
                             " bias: BIAS_TWO recurrent_activation { function: HARD_SIGMOID } activation { function: SOFTPLUS } }"), w, [&](const Vector& x) {
      Vector r(kHidden), reset(kHidden), next(kHidden);
      const auto bias = [&](const char* which, size_t i) { return w.At(absl::StrCat("bias_", which, "_l0"), i); };
      const auto pre = [&](size_t g, size_t u) {
        const size_t i = g * kHidden + u;
        return w.Dot("weight_ih_l0", i, x) + w.Dot("weight_hh_l0", i, h) + bias("ih", i) + bias("hh", i);
      };
      for (size_t u = 0; u < kHidden; ++u) r[u] = HardSigmoid(pre(0, u)), reset[u] = r[u] * h[u];
      for (size_t u = 0; u < kHidden; ++u) {
        const size_t i = 2 * kHidden + u;
        const double of_h = after ? r[u] * (w.Dot("weight_hh_l0", i, h) + bias("hh", i)) : w.Dot("weight_hh_l0", i, reset) + bias("hh", i);
        const double z = HardSigmoid(pre(1, u));
        next[u] = (1 - z) * std::log1p(std::exp(w.Dot("weight_ih_l0", i, x) + bias("ih", i) + of_h)) + z * h[u];
      }
      return h = next;
    });
  }
}

TEST(CellsTest, RnnsWithOtherActivationsAndClips) {
  struct Case { std::string fields; Activation f; double clip; };
  for (const Case& c : {Case{"activation { function: SIGMOID }", Sigmoid, 0}, {"activation { function: HARD_SIGMOID }", HardSigmoid, 0}, {"clip: 0.4", Tanh, 0.4},
                        {"nonlinearity: RELU clip: 1.5", Relu, 1.5}, {"activation { function: SOFTPLUS } clip: 0.7", [](double v) { return std::log1p(std::exp(v)); }, 0.7},
                        {"activation { function: LEAKY_RELU alpha: 0.3 } clip: 2", [](double v) { return v > 0 ? v : 0.3 * v; }, 2}}) {
    Weights w;
    w.AddLayer(0, 1, kWidth, kHidden);
    w.Add("cell.bias_hh_l0", {kHidden});
    w.AddLayer(1, 1, kHidden, kHidden);
    w.Add("cell.bias_hh_l1", {kHidden});
    Vector h[2] = {Vector(kHidden, 0), Vector(kHidden, 0)};
    ExpectSteps("rnn { layers: 2 " + c.fields + " }", w, [&](const Vector& x) {
      Vector in = x;
      for (size_t k : {size_t{0}, size_t{1}}) {
        const std::string l = absl::StrCat("_l", k);
        Vector next;
        for (size_t i = 0; i < kHidden; ++i) {
          double sum = w.Dot("weight_ih" + l, i, in) + w.Dot("weight_hh" + l, i, h[k]) + w.At("bias_ih" + l, i) + w.At("bias_hh" + l, i);
          if (c.clip > 0) sum = std::clamp(sum, -c.clip, c.clip);
          next.push_back(c.f(sum));
        }
        in = h[k] = next;
      }
      return in;
    });
  }
  Weights w;
  w.AddLayer(0, 1, kWidth, kHidden);
  EXPECT_THAT(Refusal("rnn { bias: BIAS_ONE clip: -1 }", w), HasSubstr("layer 'cell': clip is -1, expected a finite number that is not negative"));
  EXPECT_THAT(Refusal("rnn { bias: BIAS_ONE nonlinearity: RELU activation { function: TANH } }", w), HasSubstr("nonlinearity and activation are given"));
}

TEST(CellsTest, AMinimalGatedUnit) {
  Weights w;
  w.AddLayer(0, 2, kWidth, 2 * kHidden);
  const std::vector<float> h0 = w.Add("cell.h0_l0", {kHidden});
  Vector h(h0.begin(), h0.end());
  ExpectSteps("cell { kind: MGU initial_state: TRAINED }", w, [&](const Vector& x) {
    Vector f(kHidden), kept(kHidden), next(kHidden);
    for (size_t u = 0; u < kHidden; ++u) {
      f[u] = Sigmoid(w.Dot("weight_ih_l0", u, x) + w.Dot("weight_hh_l0", u, h) + w.At("bias_ih_l0", u));
      kept[u] = f[u] * h[u];
    }
    for (size_t u = 0; u < kHidden; ++u) {
      const size_t i = kHidden + u;
      next[u] = (1 - f[u]) * h[u] + f[u] * std::tanh(w.Dot("weight_ih_l0", i, x) + w.Dot("weight_hh_l0", i, kept) + w.At("bias_ih_l0", i));
    }
    return h = next;
  });
}

TEST(CellsTest, IndependentlyRecurrentStacksAndTwoBiases) {
  Weights w;
  for (size_t k = 0; k < 2; ++k) {
    w.AddLayer(k, 1, k == 0 ? kWidth : kHidden, 0);
    w.Add(absl::StrCat("cell.weight_hh_l", k), {kHidden});
    w.Add(absl::StrCat("cell.bias_hh_l", k), {kHidden});
  }
  Vector h[2] = {Vector(kHidden), Vector(kHidden)};
  ExpectSteps("cell { kind: IND_RNN layers: 2 bias: BIAS_TWO }", w, [&](const Vector& input) {
    Vector x = input;
    for (size_t k = 0; k < 2; ++k) {
      const std::string l = absl::StrCat("_l", k);
      for (size_t u = 0; u < kHidden; ++u) h[k][u] = Relu(w.Dot("weight_ih" + l, u, x) + w.At("weight_hh" + l, u) * h[k][u] + w.At("bias_ih" + l, u) + w.At("bias_hh" + l, u));
      x = h[k];
    }
    return x;
  });
}

TEST(CellsTest, MinimalGruAndLstmInBothFormsAlsoWhereAllGatesAreShut) {
  for (const bool positive : {false, true}) {
    for (const double scale : {1.0, 300.0}) {  // the second: gates far below what a float can hold
      const auto candidate = [&](double x) { return !positive ? x : x >= 0 ? x + 0.5 : Sigmoid(x); };
      const std::string fields = positive ? " positive_candidate: true" : "";
      Weights gru;
      gru.AddLayer(0, 2, kWidth, 0);
      if (scale > 1) std::fill_n(gru.all["cell.weight_ih_l0"].second.begin() + kHidden * kWidth, kHidden * kWidth, 0.0f);
      Vector h(kHidden);
      ExpectSteps("cell { kind: MIN_GRU" + fields + " }", gru, [&](const Vector& x) {
        for (size_t u = 0; u < kHidden; ++u) {
          const double z = Sigmoid(gru.Dot("weight_ih_l0", u, x) + gru.At("bias_ih_l0", u));
          h[u] = (1 - z) * h[u] + z * candidate(gru.Dot("weight_ih_l0", kHidden + u, x) + gru.At("bias_ih_l0", kHidden + u));
        }
        return h;
      }, scale);
      Weights lstm;
      lstm.AddLayer(0, 3, kWidth, 0);
      if (scale > 1) std::fill_n(lstm.all["cell.weight_ih_l0"].second.begin() + 2 * kHidden * kWidth, kHidden * kWidth, 0.0f);
      Vector kept(kHidden);
      ExpectSteps("cell { kind: MIN_LSTM" + fields + " }", lstm, [&](const Vector& x) {
        const auto pre = [&](size_t g, size_t u) { return lstm.Dot("weight_ih_l0", g * kHidden + u, x) + lstm.At("bias_ih_l0", g * kHidden + u); };
        for (size_t u = 0; u < kHidden; ++u) {
          // In long double the gates do not vanish.
          const auto s = [](double x_) { return 1 / (1 + std::exp(-static_cast<long double>(x_))); };
          const long double i = s(pre(0, u)), f = s(pre(1, u));
          kept[u] = static_cast<double>((f * kept[u] + i * candidate(pre(2, u))) / (i + f));
        }
        return kept;
      }, scale);
    }
  }
}

TEST(CellsTest, AnXlstmCellOfScalarsWithAndWithoutHeads) {
  for (const size_t heads : {1, 3}) {
    for (const bool exponential : {false, true}) {
      const size_t own = kHidden / heads;
      Weights w;
      w.AddLayer(0, 4, kWidth, 0);
      w.Add("cell.weight_hh_l0", {4 * kHidden, static_cast<int64_t>(own)});
      Vector h(kHidden), c(kHidden), n(kHidden);
      ExpectSteps(absl::StrCat("cell { kind: SLSTM exponential_forget: ", exponential ? "true" : "false", " }"), w, [&](const Vector& x) {
        Vector next(kHidden);
        for (size_t u = 0; u < kHidden; ++u) {
          const auto head = h.begin() + static_cast<std::ptrdiff_t>(u / own * own);
          const Vector part(head, head + static_cast<std::ptrdiff_t>(own));
          const auto pre = [&](size_t g) { return w.Dot("weight_ih_l0", g * kHidden + u, x) + w.Dot("weight_hh_l0", g * kHidden + u, part) + w.At("bias_ih_l0", g * kHidden + u); };
          const double i = std::exp(pre(0)), f = exponential ? std::exp(pre(1)) : Sigmoid(pre(1));  // without m, which cancels
          c[u] = f * c[u] + i * std::tanh(pre(2));
          n[u] = f * n[u] + i;
          next[u] = Sigmoid(pre(3)) * c[u] / n[u];
        }
        return h = next;
      });
    }
  }
}

TEST(CellsTest, ASessionOfAnXlstmOutlivesGatesThatNoFloatHolds) {
  Weights w;
  w.AddLayer(0, 4, kWidth, 0);
  w.Add("cell.weight_hh_l0", {4 * kHidden, 2});
  auto model = Import("input { name: 'x' shape: 5 } layer { name: 'cell' cell { kind: SLSTM exponential_forget: true } }", w);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto program = testing::MustCompile(*std::move(model), 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  for (int t = 0; t < 500; ++t) {
    for (size_t i = 0; i < kWidth; ++i) row.input[0][i] = (t % 3 == 0 ? 1e3f : -1e3f) * static_cast<float>(i + 1);
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    for (const float y : row.output[0]) ASSERT_LE(std::abs(y), 1) << t;
  }
}

TEST(CellsTest, WhatDoesNotFitIsRefusedByName) {
  Weights w;
  w.AddLayer(0, 4, kWidth, 4 * kHidden);
  EXPECT_THAT(Refusal("lstm { cell_clip: -1 }", w), HasSubstr("bias_hh_l0"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE cell_clip: -1 }", w), HasSubstr("layer 'cell': cell_clip is -1, expected a finite number"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE cell_clip: nan }", w), HasSubstr("cell_clip is nan"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE projection_clip: 1 }", w), HasSubstr("projection_clip is set, expected only with projection"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE layer_norm: true }", w), HasSubstr("norm_ih_weight_l0"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE activation { } }", w), HasSubstr("function is not given"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE depth_gated: true layers: 2 }", w), HasSubstr("weight_ih_l1"));
  EXPECT_THAT(Refusal("cell { }", w), HasSubstr("layer 'cell': cell: kind is not given"));
  EXPECT_THAT(Refusal("cell { kind: MGU layers: 65 }", w), HasSubstr("layers is 65, expected at most 64"));
  EXPECT_THAT(Refusal("cell { kind: MGU }", w), HasSubstr("weight_hh_l0"));
  EXPECT_THAT(Refusal("cell { kind: MIN_LSTM exponential_forget: true }", w), HasSubstr("exponential_forget is set, expected only of SLSTM"));
  EXPECT_THAT(Refusal("cell { kind: IND_RNN positive_candidate: true }", w), HasSubstr("positive_candidate is set"));
  EXPECT_THAT(Refusal("cell { kind: SLSTM initial_state: TRAINED }", w), HasSubstr("initial_state is TRAINED"));
  EXPECT_EQ(Refusal("cell { kind: SLSTM }", w), "accepted");
  w.Add("cell.weight_hh_l0", {4 * kHidden, 4});
  EXPECT_THAT(Refusal("cell { kind: SLSTM }", w), HasSubstr("weight_hh_l0 has shape [24, 4], expected [24, 6 / heads]"));
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE cell_clip: 1 }", w), HasSubstr("layer 'cell': its recurrent weights have 4 columns, expected 6"));
  w.Add("cell.weight_ih_l0", {24, 4});
  EXPECT_THAT(Refusal("lstm { bias: BIAS_ONE cell_clip: 1 }", w), HasSubstr("its input weights have 4 columns, expected 5"));
  EXPECT_THAT(Refusal("gru { bias: BIAS_ONE activation { function: RELU } }", w), HasSubstr("layer 'cell': "));
  EXPECT_THAT(Refusal("cell { kind: MIN_GRU }", w), HasSubstr("layer 'cell"));
}

}  // namespace
}  // namespace lstm::core
