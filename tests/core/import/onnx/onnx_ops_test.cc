// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/random_model.h"

// Each kind of op by itself, with its attributes and as opsets before and after write it, against its definition in ONNX.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Along;
using testing::Array;
using testing::Check;
using testing::CheckEach;
using testing::Each;
using testing::Import;
using testing::Index;
using testing::Make;
using testing::Mean;
using W = testing::OnnxWriter;
using testing::OnnxWriter;
using testing::Options;
using testing::Sum;

double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }
double Softplus(double v) { return std::log1p(std::exp(v)); }

TEST(OnnxOpsTest, FunctionsOfOneElement) {
  CheckEach("Relu", "", [](double v) { return std::max(v, 0.0); });
  CheckEach("Sigmoid", "", Sigmoid);
  CheckEach("Tanh", "", [](double v) { return std::tanh(v); });
  CheckEach("Softplus", "", Softplus);
  CheckEach("Softsign", "", [](double v) { return v / (1 + std::fabs(v)); });
  CheckEach("LeakyRelu", "", [](double v) { return v < 0 ? 0.01 * v : v; });
  CheckEach("LeakyRelu", W::Real("alpha", 0.4f), [](double v) { return v < 0 ? static_cast<double>(0.4f) * v : v; }, {.opset = 7});
  CheckEach("ThresholdedRelu", "", [](double v) { return v > 1 ? v : 0; });
  CheckEach("ThresholdedRelu", W::Real("alpha", -0.5f), [](double v) { return v > -0.5 ? v : 0; });
  CheckEach("Elu", "", [](double v) { return v < 0 ? std::expm1(v) : v; });
  CheckEach("Elu", W::Real("alpha", 0.5f), [](double v) { return v < 0 ? 0.5 * std::expm1(v) : v; });
  for (const float alpha : {1.0f, 1.5f, 0.25f}) {
    const auto a = static_cast<double>(alpha);
    CheckEach("Celu", alpha == 1 ? "" : W::Real("alpha", alpha), [a](double v) { return std::max(v, 0.0) + std::min(0.0, a * std::expm1(v / a)); }, {.opset = 12});
  }
  const double selu_alpha = 1.67326319217681884765625, gamma = 1.05070102214813232421875;
  CheckEach("Selu", "", [&](double v) { return gamma * (v < 0 ? selu_alpha * std::expm1(v) : v); });
  CheckEach("Selu", W::Real("alpha", 2) + W::Real("gamma", 0.5f), [&](double v) { return 0.5 * (v < 0 ? 2 * std::expm1(v) : v); });
  CheckEach("HardSigmoid", "", [](double v) { return std::clamp(static_cast<double>(0.2f) * v + 0.5, 0.0, 1.0); });
  CheckEach("HardSigmoid", W::Real("alpha", 0.5f) + W::Real("beta", 0.25f), [](double v) { return std::clamp(0.5 * v + 0.25, 0.0, 1.0); });
  CheckEach("HardSwish", "", [](double v) { return v * std::clamp(v / 6 + 0.5, 0.0, 1.0); }, {.low = -5, .high = 5});
  CheckEach("Mish", "", [](double v) { return v * std::tanh(Softplus(v)); }, {.opset = 18});
  CheckEach("Swish", "", [](double v) { return v * Sigmoid(v); }, {.opset = 24});
  CheckEach("Swish", W::Real("alpha", 0.5f), [](double v) { return v * Sigmoid(0.5 * v); }, {.opset = 24});
  CheckEach("Gelu", "", [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); }, {.opset = 20});
  CheckEach("Gelu", W::Text("approximate", "none"), [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); }, {.opset = 20});
  CheckEach("Gelu", W::Text("approximate", "tanh"), [](double v) { return 0.5 * v * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v))); }, {.opset = 20, .low = -4, .high = 4});
  CheckEach("Exp", "", [](double v) { return std::exp(v); });
  CheckEach("Log", "", [](double v) { return std::log(v); }, {.low = 0.1, .high = 9});
  CheckEach("Sqrt", "", [](double v) { return std::sqrt(v); }, {.low = 0, .high = 9});
  CheckEach("Reciprocal", "", [](double v) { return 1 / v; }, {.low = 0.1, .high = 9});
  CheckEach("Abs", "", [](double v) { return std::fabs(v); });
  CheckEach("Neg", "", [](double v) { return -v; });
  CheckEach("Erf", "", [](double v) { return std::erf(v); });
  CheckEach("Floor", "", [](double v) { return std::floor(v); });
  CheckEach("Ceil", "", [](double v) { return std::ceil(v); });
  CheckEach("Sign", "", [](double v) { return v > 0 ? 1 : v < 0 ? -1 : 0; });
  CheckEach("Sin", "", [](double v) { return std::sin(v); });
  CheckEach("Cos", "", [](double v) { return std::cos(v); });
  CheckEach("Tan", "", [](double v) { return std::tan(v); }, {.low = -1.2, .high = 1.2});
  CheckEach("Atan", "", [](double v) { return std::atan(v); }, {.low = -9, .high = 9});
  CheckEach("Round", "", [](double v) { return std::nearbyint(v); }, {.low = -9, .high = 9});
  Check("Round of halves", {{1, 5}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("h", {1, 5}, {0.5f, 1.5f, -0.5f, -2.5f, 2.5f})).Initializer(W::Tensor("o", {}, {0})).Node("Mul", {"x", "o"}, {"n"}).Node("Add", {"n", "h"}, {"a"}).Node("Round", {"a"}, {"z"}); },
        [](const std::vector<Array>&) { return Array{{1, 5}, {0, 2, 0, -2, 2}}; });
  CheckEach("Identity", "", [](double v) { return v; });
  CheckEach("Dropout", W::Real("ratio", 0.5f), [](double v) { return v; }, {.opset = 7});
}

TEST(OnnxOpsTest, CastsGoOnAsFloats) {
  CheckEach("Cast", W::Int("to", 1), [](double v) { return v; });
  CheckEach("Cast", W::Int("to", 10), [](double v) { return v; });
  CheckEach("Cast", W::Int("to", 7), [](double v) { return std::trunc(v); }, {.low = -5, .high = 5});
  CheckEach("Cast", W::Int("to", 9), [](double v) { return v != 0 ? 1 : 0; });
}

TEST(OnnxOpsTest, ClipByAttributesAndByInputs) {
  const auto clip = [](double low, double high) { return [=](double v) { return std::min(std::max(v, low), high); }; };
  constexpr double kMost = std::numeric_limits<float>::max();
  CheckEach("Clip", W::Real("min", -0.5f) + W::Real("max", 0.75f), clip(-0.5, 0.75), {.opset = 7});
  CheckEach("Clip", W::Real("min", 0.25f), clip(0.25, kMost), {.opset = 10});
  CheckEach("Clip", "", clip(-kMost, kMost), {.opset = 6 + 1});
  for (const int which : {0, 1, 2}) {
    Check(absl::StrCat("Clip by inputs ", which), {{1, 7}}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("low", {}, {-0.5f})).Initializer(W::Tensor("high", {}, {0.75f}));
      w.Node("Clip", which == 0 ? std::vector<std::string>{"x", "low", "high"} : which == 1 ? std::vector<std::string>{"x", "", "high"} : std::vector<std::string>{"x", "low"}, {"z"});
    }, [&](const std::vector<Array>& in) { return Each(in[0], clip(which == 1 ? -kMost : -0.5, which == 2 ? kMost : 0.75)); }, {.opset = 13});
  }
}

TEST(OnnxOpsTest, TwoValuesSideBySideAndSpread) {
  struct Op { const char* name; std::function<double(double, double)> f; };
  const std::vector<Op> ops = {{"Add", [](double a, double b) { return a + b; }}, {"Sub", [](double a, double b) { return a - b; }}, {"Mul", [](double a, double b) { return a * b; }},
                               {"Div", [](double a, double b) { return a / b; }}, {"Min", [](double a, double b) { return std::min(a, b); }}, {"Max", [](double a, double b) { return std::max(a, b); }},
                               {"Sum", [](double a, double b) { return a + b; }}};
  struct Shapes { Shape a, b, out; };
  for (const Op& op : ops) {
    for (const Shapes& s : {Shapes{{1, 3, 4}, {1, 3, 4}, {1, 3, 4}}, {{1, 3, 4}, {4}, {1, 3, 4}}, {{3, 1}, {1, 3, 4}, {1, 3, 4}}, {{1, 3, 1}, {1, 1, 4}, {1, 3, 4}}, {{1, 3, 4}, {}, {1, 3, 4}}}) {
      const auto both = [&](const Array& a, const Array& b) { return Make(s.out, [&](const Index& i) { return op.f(a(i), b(i)); }); };
      const Options away{.low = 0.5, .high = 2};
      if (!s.b.empty()) {
        Check(absl::StrCat(op.name, ShapeString(s.a), ShapeString(s.b)), {s.a, s.b}, [&](OnnxWriter& w) { w.Node(op.name, {"x", "y"}, {"z"}); }, [&](const std::vector<Array>& in) { return both(in[0], in[1]); }, away);
      }
      testing::Random random(3);
      const Array constant = Make(s.b, [&](const Index&) { return static_cast<double>(std::fabs(random.Uniform()) + 0.5f); });
      const std::vector<float> c(constant.values.begin(), constant.values.end());
      Check(absl::StrCat(op.name, " by a constant ", ShapeString(s.b)), {s.a}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("c", s.b, c)).Node(op.name, {"x", "c"}, {"z"}); }, [&](const std::vector<Array>& in) { return both(in[0], constant); }, away);
      Check(absl::StrCat(op.name, " of a constant ", ShapeString(s.b)), {s.a}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("c", s.b, c)).Node(op.name, {"c", "x"}, {"z"}); }, [&](const std::vector<Array>& in) { return both(constant, in[0]); }, away);
    }
  }
  for (const auto& [p, f] : {std::pair<float, std::function<double(double)>>{2, [](double v) { return v * v; }}, {0.5f, [](double v) { return std::sqrt(v); }}, {-1.5f, [](double v) { return std::pow(v, -1.5); }}, {1, [](double v) { return v; }}, {3, [](double v) { return v * v * v; }}}) {
    Check(absl::StrCat("Pow ", p), {{1, 6}}, [&, p = p](OnnxWriter& w) { w.Initializer(W::Tensor("p", {}, {p})).Node("Pow", {"x", "p"}, {"z"}); }, [&, f = f](const std::vector<Array>& in) { return Each(in[0], f); }, {.low = 0.2, .high = 3});
  }
  Check("Pow by an integer", {{1, 6}}, [&](OnnxWriter& w) { w.Initializer(W::IntTensor("p", {}, {3})).Node("Pow", {"x", "p"}, {"z"}); }, [&](const std::vector<Array>& in) { return Each(in[0], [](double v) { return v * v * v; }); });
}

TEST(OnnxOpsTest, SlopesOfEveryShape) {
  testing::Random random(5);
  for (const Shape& slope : {Shape{1}, {3, 1}, {1, 3, 1}, {4}, {3, 4}}) {
    const Array s = Make(slope, [&](const Index&) { return static_cast<double>(random.Uniform()); });
    Check(absl::StrCat("PRelu ", ShapeString(slope)), {{1, 3, 4}}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("s", slope, {s.values.begin(), s.values.end()})).Node("PRelu", {"x", "s"}, {"z"});
    }, [&](const std::vector<Array>& in) { return Make({1, 3, 4}, [&](const Index& i) { return in[0](i) < 0 ? in[0](i) * s(i) : in[0](i); }); });
  }
}

TEST(OnnxOpsTest, ComparisonsLogicAndChoices) {
  const auto two = [](const char* op, const std::function<double(double, double)>& f, const Options& options = {}) {
    Check(op, {{1, 5, 4}, {1, 5, 4}}, [&](OnnxWriter& w) { w.Node(op, {"x", "y"}, {"t"}).Node("Cast", {"t"}, {"z"}, W::Int("to", 1)); },
          [&](const std::vector<Array>& in) { return Make({1, 5, 4}, [&](const Index& i) { return f(in[0](i), in[1](i)); }); }, options);
  };
  two("Less", [](double a, double b) { return a < b; });
  two("Greater", [](double a, double b) { return a > b; });
  two("LessOrEqual", [](double a, double b) { return a <= b; });
  two("GreaterOrEqual", [](double a, double b) { return a >= b; });
  const Options truths{.booleans = {"x", "y"}};
  two("Equal", [](double a, double b) { return a == b; }, truths);
  two("And", [](double a, double b) { return a != 0 && b != 0; }, truths);
  two("Or", [](double a, double b) { return a != 0 || b != 0; }, truths);
  two("Xor", [](double a, double b) { return (a != 0) != (b != 0); }, truths);
  Check("Not", {{1, 6}}, [](OnnxWriter& w) { w.Node("Not", {"x"}, {"t"}).Node("Cast", {"t"}, {"z"}, W::Int("to", 1)); }, [](const std::vector<Array>& in) { return Each(in[0], [](double v) { return v == 0; }); }, {.booleans = {"x"}});
  Check("Greater than a constant", {{1, 6}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("c", {}, {0.25f})).Node("Greater", {"x", "c"}, {"t"}).Node("Cast", {"t"}, {"z"}, W::Int("to", 1)); },
        [](const std::vector<Array>& in) { return Each(in[0], [](double v) { return v > 0.25; }); });
  Check("Where by an input", {{1, 3, 1}, {1, 3, 4}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("c", {}, {-7})).Node("Where", {"x", "y", "c"}, {"z"}); },
        [](const std::vector<Array>& in) { return Make({1, 3, 4}, [&](const Index& i) { return in[0](i) != 0 ? in[1](i) : -7; }); }, {.booleans = {"x"}});
  Check("Where by a constant", {{1, 3, 4}, {4}}, [](OnnxWriter& w) { w.Initializer(W::IntTensor("c", {3, 1}, {0, 1, 1})).Node("Where", {"c", "x", "y"}, {"z"}); },
        [](const std::vector<Array>& in) { return Make({1, 3, 4}, [&](const Index& i) { return i[1] > 0 ? in[0](i) : in[1](i); }); });
  Check("Where of a constant by a constant", {{1, 4}}, [](OnnxWriter& w) { w.Initializer(W::IntTensor("c", {4}, {0, 1, 0, 1})).Initializer(W::Tensor("k", {4}, {5, 6, 7, 8})).Node("Where", {"c", "x", "k"}, {"z"}); },
        [](const std::vector<Array>& in) { return Make({1, 4}, [&](const Index& i) { return i[1] % 2 == 1 ? in[0](i) : static_cast<double>(5 + i[1]); }); });
}

TEST(OnnxOpsTest, ReductionsOverAxesByAttributeAndByInput) {
  struct Op { const char* name; std::function<double(const std::vector<double>&)> f; int64_t axes_are_inputs; };
  const auto squares = [](const std::vector<double>& v) { double s = 0; for (double a : v) s += a * a; return s; };
  const std::vector<Op> ops = {
      {"ReduceMean", Mean, 18}, {"ReduceSum", Sum, 13}, {"ReduceMax", [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }, 18},
      {"ReduceMin", [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); }, 18},
      {"ReduceProd", [](const std::vector<double>& v) { double p = 1; for (double a : v) p *= a; return p; }, 18},
      {"ReduceL1", [](const std::vector<double>& v) { double s = 0; for (double a : v) s += std::fabs(a); return s; }, 18},
      {"ReduceL2", [&](const std::vector<double>& v) { return std::sqrt(squares(v)); }, 18}, {"ReduceSumSquare", squares, 18},
      {"ReduceLogSum", [](const std::vector<double>& v) { return std::log(Sum(v)); }, 18},
      {"ReduceLogSumExp", [](const std::vector<double>& v) { double s = 0; for (double a : v) s += std::exp(a); return std::log(s); }, 18}};
  for (const Op& op : ops) {
    const Options options{.low = std::string(op.name) == "ReduceLogSum" ? 0.1 : -2};
    for (const bool keep : {true, false}) {
      for (const std::vector<int64_t>& axes : {std::vector<int64_t>{2}, {-2}, {1, 3}, {0, 1, 2, 3}, {}}) {
        std::vector<size_t> places;
        for (int64_t a : axes) places.push_back(static_cast<size_t>(a < 0 ? a + 4 : a));
        const auto expected = [&](const std::vector<Array>& in) { return Along(in[0], places, keep, op.f); };
        for (const int64_t opset : {op.axes_are_inputs - 1, op.axes_are_inputs}) {
          const bool inputs = opset >= op.axes_are_inputs;
          Options own = options;
          own.opset = opset;
          Check(absl::StrCat(op.name, " opset ", opset, ", ", axes.size(), " axes"), {{1, 3, 2, 4}}, [&](OnnxWriter& w) {
            const std::string attributes = (keep ? "" : W::Int("keepdims", 0)) + (inputs || axes.empty() ? "" : W::Ints("axes", axes));
            if (inputs && !axes.empty()) w.Initializer(W::IntTensor("a", {static_cast<int64_t>(axes.size())}, axes));
            w.Node(op.name, inputs && !axes.empty() ? std::vector<std::string>{"x", "a"} : std::vector<std::string>{"x"}, {"z"}, attributes);
          }, expected, own);
        }
      }
    }
  }
  Check("nothing to reduce", {{1, 3}}, [](OnnxWriter& w) { w.Initializer(W::IntTensor("a", {0}, {})).Node("ReduceSum", {"x", "a"}, {"z"}, W::Int("noop_with_empty_axes", 1)); }, [](const std::vector<Array>& in) { return in[0]; });
}

TEST(OnnxOpsTest, PlacesOfTheLargest) {
  for (const char* op : {"ArgMax", "ArgMin"}) {
    for (const bool last : {false, true}) {
      for (const size_t axis : {size_t{1}, size_t{2}}) {
        Check(absl::StrCat(op, " ", last, " ", axis), {{1, 3, 5}}, [&](OnnxWriter& w) {  // rounded, so that some are as large
          w.Node("Floor", {"x"}, {"r"}).Node(op, {"r"}, {"z"}, W::Int("axis", static_cast<int64_t>(axis)) + (last ? W::Int("select_last_index", 1) : "") + W::Int("keepdims", axis == 1));
        }, [&](const std::vector<Array>& in) {
          return Along(Each(in[0], [](double v) { return std::floor(v); }), {axis}, axis == 1, [&](const std::vector<double>& v) {
            size_t best = 0;
            for (size_t i = 1; i < v.size(); ++i) {
              const double a = *(op + 3) == 'M' && *(op + 4) == 'a' ? v[i] - v[best] : v[best] - v[i];
              if (a > 0 || (a == 0 && last)) best = i;
            }
            return static_cast<double>(best);
          });
        });
      }
    }
  }
}

TEST(OnnxOpsTest, SoftmaxOfOneAxisAndOfAllFromOne) {
  const auto softmax = [](const Array& x, const std::vector<size_t>& axes, bool log) {
    const Array s = Along(x, axes, true, [](const std::vector<double>& v) { double e = 0; for (double a : v) e += std::exp(a); return e; });
    return Make(x.shape, [&](const Index& i) { return log ? x(i) - std::log(s(i)) : std::exp(x(i)) / s(i); });
  };
  for (const bool log : {false, true}) {
    const char* op = log ? "LogSoftmax" : "Softmax";
    for (const int64_t axis : {1, 2, 3, -1, -2}) {
      const auto from = static_cast<size_t>(axis < 0 ? axis + 4 : axis);
      std::vector<size_t> all;
      for (size_t a = from; a < 4; ++a) all.push_back(a);
      Check(absl::StrCat(op, " 13, axis ", axis), {{1, 3, 2, 4}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}, W::Int("axis", axis)); }, [&](const std::vector<Array>& in) { return softmax(in[0], {from}, log); }, {.opset = 13});
      Check(absl::StrCat(op, " 11, axis ", axis), {{1, 3, 2, 4}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}, W::Int("axis", axis)); }, [&](const std::vector<Array>& in) { return softmax(in[0], all, log); }, {.opset = 11});
    }
    Check(absl::StrCat(op, " 13 as it is"), {{1, 3, 4}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}); }, [&](const std::vector<Array>& in) { return softmax(in[0], {2}, log); }, {.opset = 13});
    Check(absl::StrCat(op, " 9 as it is"), {{1, 3, 4}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}); }, [&](const std::vector<Array>& in) { return softmax(in[0], {1, 2}, log); }, {.opset = 9});
  }
}

// (x - mean) / sqrt(variance + epsilon) over axes.
Array Normal(const Array& x, const std::vector<size_t>& axes, double epsilon, bool centred = true) {
  const Array mean = Along(x, axes, true, [&](const std::vector<double>& v) { return centred ? Mean(v) : 0; });
  const Array off = Make(x.shape, [&](const Index& i) { return x(i) - mean(i); });
  const Array variance = Along(off, axes, true, [](const std::vector<double>& v) { double s = 0; for (double a : v) s += a * a; return s / static_cast<double>(v.size()); });
  return Make(x.shape, [&](const Index& i) { return off(i) / std::sqrt(variance(i) + epsilon); });
}

TEST(OnnxOpsTest, Norms) {
  testing::Random random(9);
  const auto numbers = [&](const Shape& shape) { return Make(shape, [&](const Index&) { return static_cast<double>(random.Uniform() + 1); }); };
  const auto add = [](OnnxWriter& w, const char* name, const Array& a) { w.Initializer(W::Tensor(name, a.shape, {a.values.begin(), a.values.end()})); };
  const Shape shape = {1, 4, 2, 3};
  for (const int64_t axis : {-1, 2, 1, -3}) {
    const auto from = static_cast<size_t>(axis < 0 ? axis + 4 : axis);
    std::vector<size_t> axes;
    for (size_t a = from; a < 4; ++a) axes.push_back(a);
    const Array s = numbers({shape.begin() + static_cast<long>(from), shape.end()}), b = numbers(s.shape);
    for (const bool biased : {true, false}) {
      Check(absl::StrCat("LayerNormalization ", axis), {shape}, [&](OnnxWriter& w) {
        add(w, "s", s), add(w, "b", b);
        w.Node("LayerNormalization", biased ? std::vector<std::string>{"x", "s", "b"} : std::vector<std::string>{"x", "s"}, {"z"}, W::Int("axis", axis) + W::Real("epsilon", 0.01f));
      }, [&](const std::vector<Array>& in) {
        const Array n = Normal(in[0], axes, static_cast<double>(0.01f));
        return Make(shape, [&](const Index& i) { return n(i) * s(i) + (biased ? b(i) : 0); });
      }, {.bar = 5e-6});
    }
    Check(absl::StrCat("RMSNormalization ", axis), {shape}, [&](OnnxWriter& w) { add(w, "s", s), w.Node("RMSNormalization", {"x", "s"}, {"z"}, W::Int("axis", axis)); }, [&](const std::vector<Array>& in) {
      const Array n = Normal(in[0], axes, 1e-5, false);
      return Make(shape, [&](const Index& i) { return n(i) * s(i); });
    }, {.opset = 23, .bar = 5e-6});
  }
  const Array s = numbers({4}), b = numbers({4}), m = numbers({4}), v = numbers({4});
  for (const int64_t opset : {7, 9, 14, 15}) {
    Check("BatchNormalization", {shape}, [&](OnnxWriter& w) { add(w, "s", s), add(w, "b", b), add(w, "m", m), add(w, "v", v), w.Node("BatchNormalization", {"x", "s", "b", "m", "v"}, {"z"}, W::Real("epsilon", 0.125f)); }, [&](const std::vector<Array>& in) {
      return Make(shape, [&](const Index& i) {
        const auto c = static_cast<size_t>(i[1]);
        return (in[0](i) - m.values[c]) / std::sqrt(v.values[c] + 0.125) * s.values[c] + b.values[c];
      });
    }, {.opset = opset});
  }
  Check("BatchNormalization of a vector", {{1, 4}}, [&](OnnxWriter& w) { add(w, "s", s), add(w, "b", b), add(w, "m", m), add(w, "v", v), w.Node("BatchNormalization", {"x", "s", "b", "m", "v"}, {"z"}); }, [&](const std::vector<Array>& in) {
    return Make({1, 4}, [&](const Index& i) { return (in[0](i) - m(i)) / std::sqrt(v(i) + 1e-5) * s(i) + b(i); });
  });
  Check("InstanceNormalization", {shape}, [&](OnnxWriter& w) { add(w, "s", s), add(w, "b", b), w.Node("InstanceNormalization", {"x", "s", "b"}, {"z"}); }, [&](const std::vector<Array>& in) {
    const Array n = Normal(in[0], {2, 3}, 1e-5);
    return Make(shape, [&](const Index& i) { return n(i) * s.values[static_cast<size_t>(i[1])] + b.values[static_cast<size_t>(i[1])]; });
  }, {.bar = 5e-6});
  for (const int64_t opset : {18, 21}) {  // one scale for a group, then one for a channel
    const int64_t groups = 2;
    const Array gs = numbers({opset < 21 ? groups : 4}), gb = numbers(gs.shape);
    Check(absl::StrCat("GroupNormalization ", opset), {shape}, [&](OnnxWriter& w) { add(w, "s", gs), add(w, "b", gb), w.Node("GroupNormalization", {"x", "s", "b"}, {"z"}, W::Int("num_groups", groups)); }, [&](const std::vector<Array>& in) {
      Array grouped = in[0];
      grouped.shape = {1, 2, 2, 2, 3};
      Array n = Normal(grouped, {2, 3, 4}, 1e-5);
      n.shape = shape;
      return Make(shape, [&](const Index& i) {
        const auto c = static_cast<size_t>(opset < 21 ? i[1] / 2 : i[1]);
        return n(i) * gs.values[c] + gb.values[c];
      });
    }, {.opset = opset, .bar = 5e-6});
  }
  Check("MeanVarianceNormalization", {shape}, [&](OnnxWriter& w) { w.Node("MeanVarianceNormalization", {"x"}, {"z"}); }, [&](const std::vector<Array>& in) { return Normal(in[0], {0, 2, 3}, 0); }, {.bar = 5e-6});
  for (const int64_t p : {1, 2}) {
    Check("LpNormalization", {{1, 4, 3}}, [&](OnnxWriter& w) { w.Node("LpNormalization", {"x"}, {"z"}, W::Int("axis", 1) + W::Int("p", p)); }, [&](const std::vector<Array>& in) {
      const Array n = Along(in[0], {1}, true, [&](const std::vector<double>& c) { double t = 0; for (double a : c) t += p == 1 ? std::fabs(a) : a * a; return p == 1 ? t : std::sqrt(t); });
      return Make({1, 4, 3}, [&](const Index& i) { return in[0](i) / n(i); });
    });
  }
}

TEST(OnnxOpsTest, RunningSums) {
  for (const bool exclusive : {false, true}) {
    for (const bool back : {false, true}) {
      for (const int64_t axis : {1, -1}) {
        Check("CumSum", {{1, 3, 4}}, [&](OnnxWriter& w) { w.Initializer(W::IntTensor("a", {}, {axis})).Node("CumSum", {"x", "a"}, {"z"}, W::Int("exclusive", exclusive) + W::Int("reverse", back)); }, [&](const std::vector<Array>& in) {
          const size_t a = axis == 1 ? 1 : 2;
          return Make({1, 3, 4}, [&](const Index& i) {
            double sum = 0;
            Index at = i;
            for (at[a] = 0; at[a] < in[0].shape[a]; ++at[a]) {
              if (at[a] == i[a] ? !exclusive : back ? at[a] > i[a] : at[a] < i[a]) sum += in[0](at);
            }
            return sum;
          });
        });
      }
    }
  }
}

TEST(OnnxOpsTest, Products) {
  testing::Random random(12);
  const auto numbers = [&](const Shape& shape) { return Make(shape, [&](const Index&) { return static_cast<double>(random.Uniform()); }); };
  const auto floats = [](const Array& a) { return std::vector<float>(a.values.begin(), a.values.end()); };
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const Shape& bias : {Shape{}, {5}, {1, 5}, {2, 1}, {2, 5}}) {
        const Array b = numbers(tb ? Shape{5, 3} : Shape{3, 5}), c = numbers(bias);
        Check(absl::StrCat("Gemm ", ta, tb, ShapeString(bias)), {ta ? Shape{3, 2} : Shape{2, 3}}, [&](OnnxWriter& w) {
          w.Initializer(W::Tensor("b", b.shape, floats(b))).Initializer(W::Tensor("c", c.shape, floats(c)));
          w.Node("Gemm", {"x", "b", "c"}, {"z"}, W::Int("transA", ta) + W::Int("transB", tb) + W::Real("alpha", 0.5f) + W::Real("beta", 2));
        }, [&](const std::vector<Array>& in) {
          return Make({2, 5}, [&](const Index& i) {
            double sum = 0;
            for (int64_t k = 0; k < 3; ++k) sum += in[0](ta ? Index{k, i[0]} : Index{i[0], k}) * b(tb ? Index{i[1], k} : Index{k, i[1]});
            return 0.5 * sum + 2 * c(i);
          });
        });
      }
    }
  }
  struct Shapes { Shape a, b, out; };
  for (const Shapes& s : {Shapes{{1, 2, 3}, {1, 3, 4}, {1, 2, 4}}, {{2, 3}, {3, 4}, {2, 4}}, {{2, 1, 2, 3}, {3, 3, 4}, {2, 3, 2, 4}}}) {
    const auto product = [&](const Array& a, const Array& b) {
      return Make(s.out, [&](const Index& i) {
        double sum = 0;
        Index left = i, right = i;
        for (int64_t k = 0; k < 3; ++k) left.back() = k, right[right.size() - 2] = k, sum += a(left) * b(right);
        return sum;
      });
    };
    Check(absl::StrCat("MatMul ", ShapeString(s.a)), {s.a, s.b}, [&](OnnxWriter& w) { w.Node("MatMul", {"x", "y"}, {"z"}); }, [&](const std::vector<Array>& in) { return product(in[0], in[1]); });
    const Array c = numbers(s.b);
    Check(absl::StrCat("MatMul by a constant ", ShapeString(s.a)), {s.a}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("c", c.shape, floats(c))).Node("MatMul", {"x", "c"}, {"z"}); }, [&](const std::vector<Array>& in) { return product(in[0], c); });
    const Array d = numbers(s.a);
    Check(absl::StrCat("MatMul of a constant ", ShapeString(s.a)), {s.b}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("d", d.shape, floats(d))).Node("MatMul", {"d", "x"}, {"z"}); }, [&](const std::vector<Array>& in) { return product(d, in[0]); });
  }
}

// What is computed from constants is folded, and becomes the shape, the weight or the number of an op that is not.
TEST(OnnxOpsTest, FoldedConstants) {
  Check("Range, Where, Mod, comparisons", {{1, 6}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("b", {}, {0})).Initializer(W::IntTensor("e", {}, {6})).Initializer(W::IntTensor("s", {}, {1})).Initializer(W::IntTensor("two", {}, {2})).Initializer(W::IntTensor("four", {}, {4}));
    w.Node("Range", {"b", "e", "s"}, {"r"}).Node("Mod", {"r", "two"}, {"m"}).Node("Equal", {"m", "b"}, {"even"}).Node("Less", {"r", "four"}, {"small"}).Node("And", {"even", "small"}, {"t"}).Node("Not", {"t"}, {"f"});
    w.Node("Greater", {"r", "four"}, {"big"}).Node("Or", {"t", "big"}, {"u"}).Node("Cast", {"r"}, {"rf"}, W::Int("to", 1)).Node("Neg", {"rf"}, {"nf"}).Node("Where", {"u", "rf", "nf"}, {"k"}).Node("CastLike", {"f", "x"}, {"ff"});
    w.Node("Add", {"k", "ff"}, {"kk"}).Node("Mul", {"x", "kk"}, {"z"});
  }, [](const std::vector<Array>& in) {
    return Make({1, 6}, [&](const Index& i) {
      const bool t = i[1] % 2 == 0 && i[1] < 4, u = t || i[1] > 4;
      const auto r = static_cast<double>(i[1]);
      return in[0](i) * ((u ? r : -r) + (t ? 0 : 1));
    });
  });
  Check("Shape, Size, ConstantOfShape, Constant", {{1, 2, 3}}, [](OnnxWriter& w) {
    w.Node("Shape", {"x"}, {"n"}, W::Int("start", 1)).Node("ConstantOfShape", {"n"}, {"c"}, W::Bytes(5, W::Bytes(1, "value") + W::Bytes(5, W::Tensor("", {1}, {0.5f})) + W::Number(20, 4)));
    w.Node("Size", {"x"}, {"m"}).Node("Cast", {"m"}, {"f"}, W::Int("to", 1)).Node("Add", {"x", "c"}, {"a"}).Node("Mul", {"a", "f"}, {"b"}).Node("Constant", {}, {"k"}, W::Real("value_float", 0.25f)).Node("Sub", {"b", "k"}, {"z"});
  }, [](const std::vector<Array>& in) { return Each(in[0], [](double v) { return (v + 0.5) * 6 - 0.25; }); }, {.opset = 15});
}

TEST(OnnxOpsTest, WhatIsNotSupportedIsRefusedByNodeOpAndReason) {
  const auto refusal = [](const std::function<void(OnnxWriter&)>& nodes, const Shape& shape = {1, 3, 4}) {
    OnnxWriter file;
    file.Input(W::Declared("x", shape));
    nodes(file);
    const auto model = Import(file.Output("z").File(), {"x"});
    return model.ok() ? "accepted" : std::string(model.status().message());
  };
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Frob", {"x"}, {"z"}); }), HasSubstr("Frob node 'Frob_0': this operator is not supported"));
  const auto pooled = [&](const char* op, const std::string& attributes) { return refusal([&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}, attributes); }); };
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {2, 2})), HasSubstr("MaxPool node 'MaxPool_0': its kernel_shape has 2 numbers, expected one for each axis of [1, 3, 4] behind the second"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {2}) + W::Ints("pads", {2, 0})), HasSubstr("MaxPool node 'MaxPool_0': has windows of padding alone along axis 2"));
  EXPECT_THAT(pooled("AveragePool", W::Ints("kernel_shape", {2}) + W::Ints("pads", {0, 2})), HasSubstr("AveragePool node 'AveragePool_0': has windows of padding alone along axis 2"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {6}) + W::Int("ceil_mode", 1)), HasSubstr("MaxPool node 'MaxPool_0': its kernel reaches over 6 items of 4"));
  // Numbers as no network has them.
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {200'000}) + W::Ints("strides", {200'000}) + W::Ints("dilations", {200'000}) + W::Int("ceil_mode", 1)), HasSubstr("its kernel reaches over"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {1 << 18}) + W::Ints("strides", {1 << 18}) + W::Ints("pads", {200'000, 200'000}) + W::Int("ceil_mode", 1)), HasSubstr("MaxPool node 'MaxPool_0': has"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {2}) + W::Ints("strides", {INT64_MAX}) + W::Int("ceil_mode", 1)), HasSubstr("strides has 9223372036854775807"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {2}) + W::Ints("pads", {-1, 0}) + W::Int("ceil_mode", 1)), HasSubstr("pads has -1"));
  EXPECT_THAT(pooled("MaxPool", W::Ints("kernel_shape", {-2}) + W::Int("ceil_mode", 1)), HasSubstr("its kernel has -2"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("LpNormalization", {"x"}, {"z"}, W::Int("p", 3)); }), HasSubstr("LpNormalization node 'LpNormalization_0': its p is 3, expected 1 or 2"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Softmax", {"x"}, {"z"}, W::Int("axis", 7)); }), HasSubstr("Softmax node 'Softmax_0': axis is 7"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("TopK", {"x", "x"}, {"z"}); }), HasSubstr("TopK node 'TopK_0': sorts axis 2 of shape [1, 3, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {1, 3}, {0, 3, 0})).Initializer(W::Tensor("u", {1}, {1})).Node("ScatterND", {"x", "i", "u"}, {"z"}); }), HasSubstr("ScatterND node 'ScatterND_0': writes item 3 of axis 1 of shape [1, 3, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {1, 4}, {0, 0, 0, 0})).Initializer(W::Tensor("u", {1}, {1})).Node("ScatterND", {"x", "i", "u"}, {"z"}); }), HasSubstr("and updates of shape [1] do not fit"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("k", {3, 1, 2}, std::vector<float>(6, 1))).Node("ConvTranspose", {"x", "k"}, {"z"}, W::Ints("pads", {3, 3})); }), HasSubstr("leaves nothing of axis 2"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("k", {3, 1, 2}, std::vector<float>(6, 1))).Node("ConvTranspose", {"x", "k"}, {"z"}, W::Ints("strides", {1 << 20})); }), HasSubstr("strides has 1048576"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("k", {3, 1, 2}, std::vector<float>(6, 1))).Node("ConvTranspose", {"x", "k"}, {"z"}, W::Ints("output_padding", {-1})); }), HasSubstr("output_padding has -1"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {1, 1, 1}, {7})).Node("GatherElements", {"x", "i"}, {"z"}); }), HasSubstr("GatherElements node 'GatherElements_0': reads item 7 of axis 0 of shape [1, 3, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {1, 4}, {0, 0, 0, 0})).Node("GatherND", {"x", "i"}, {"z"}); }), HasSubstr("reads shape [1, 3, 4] by indices of shape [1, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("s", {3}, {1, 1, 1e30f})).Node("Resize", {"x", "", "s"}, {"z"}); }), HasSubstr("Resize node 'Resize_0': makes"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("s", {3}, {1, 1, 2})).Node("Resize", {"x", "", "s"}, {"z"}, W::Text("mode", "cubic")); }), HasSubstr("its mode is 'cubic', expected nearest or linear"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("DepthToSpace", {"x"}, {"z"}, W::Int("blocksize", 0)); }), HasSubstr("reads shape [1, 3, 4] in blocks of 0"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Pow", {"x", "x"}, {"z"}); }), HasSubstr("Pow node 'Pow_0': its exponent is the input 'x'"));
}

}  // namespace
}  // namespace lstm::core
