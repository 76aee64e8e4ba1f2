// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// Each kind of op by itself, with its attributes and as opsets before and after write it, against its definition in ONNX.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::OnnxWriter;
using W = OnnxWriter;
using Index = std::vector<int64_t>;

struct Array {
  Shape shape;
  std::vector<double> values;

  // The element at `index`, counted from the last axis, axes of one item spread.
  double operator()(const Index& index) const {
    int64_t at = 0;
    const size_t skip = index.size() - shape.size();
    for (size_t a = 0; a < shape.size(); ++a) at = at * shape[a] + (shape[a] == 1 ? 0 : index[a + skip]);
    return values[static_cast<size_t>(at)];
  }
};

Array Make(const Shape& shape, const std::function<double(const Index&)>& value) {
  Array out{shape, {}};
  Index at(shape.size(), 0);
  for (int64_t n = CheckedElementCount(shape); n > 0; --n) {
    out.values.push_back(value(at));
    for (size_t a = shape.size(); a-- > 0;) {
      if (++at[a] < shape[a]) break;
      at[a] = 0;
    }
  }
  return out;
}

Array Each(const Array& x, const std::function<double(double)>& f) {
  return Make(x.shape, [&](const Index& i) { return f(x(i)); });
}

// All elements of x along `axes`, for each place of the rest.
Array Along(const Array& x, const std::vector<size_t>& axes, bool keep, const std::function<double(const std::vector<double>&)>& f) {
  std::vector<bool> gone(x.shape.size(), axes.empty());
  for (size_t a : axes) gone[a] = true;
  Shape kept, out;
  for (size_t a = 0; a < gone.size(); ++a) {
    kept.push_back(gone[a] ? 1 : x.shape[a]);
    if (!gone[a] || keep) out.push_back(kept.back());
  }
  Array y = Make(kept, [&](const Index& at) {
    std::vector<double> column;
    const Array over = Make(x.shape, [&](const Index& i) {
      bool same = true;
      for (size_t a = 0; a < gone.size(); ++a) same = same && (gone[a] || i[a] == at[a]);
      if (same) column.push_back(x(i));
      return 0;
    });
    return f(column);
  });
  y.shape = out;
  return y;
}

double Sum(const std::vector<double>& v) {
  double s = 0;
  for (double a : v) s += a;
  return s;
}
double Mean(const std::vector<double>& v) { return Sum(v) / static_cast<double>(v.size()); }

struct Options {
  int64_t opset = 17;
  double low = -2, high = 2, bar = 2e-6;
  std::set<std::string> booleans = {};  // inputs that are 0 or 1
};

absl::StatusOr<Model> Import(const std::string& file, const std::vector<std::string>& inputs) {
  std::string text = "onnx {";
  for (const std::string& in : inputs) absl::StrAppend(&text, " input { name: '", in, "' time: -1 state: '' }");
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text + " }", &parsed));
  return ImportOnnx(std::as_bytes(std::span(file)), parsed);
}

// `nodes` read x, and y where it has a shape, and give z.
void Check(const std::string& what, const std::vector<Shape>& shapes, const std::function<void(OnnxWriter&)>& nodes,
           const std::function<Array(const std::vector<Array>&)>& expected, const Options& options = {}) {
  OnnxWriter file;
  std::vector<std::string> names = {"x", "y"};
  names.resize(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) file.Input(W::Declared(names[i], shapes[i], options.booleans.contains(names[i]) ? 9 : 1));
  nodes(file);
  file.Node("Neg", {"z"}, {"out"});  // a graph that moves elements alone is no model
  auto model = Import(file.Output("out").File(options.opset), names);
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_EQ(model->not_streamable, "") << what;
  const auto program = testing::MustCompile(*std::move(model), 4);
  ASSERT_EQ(program->inputs().size(), shapes.size()) << what;
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  testing::Random random(17);
  for (int round = 0; round < 3; ++round) {
    std::vector<Array> in;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const bool truth = options.booleans.contains(names[i]);
      in.push_back(Make(shapes[i], [&](const Index&) {
        const double u = 0.5 + 0.5 * static_cast<double>(random.Uniform());
        return truth ? (u > 0.5 ? 1.0 : 0.0) : static_cast<double>(static_cast<float>(options.low + (options.high - options.low) * u));
      }));
      for (size_t k = 0; k < in[i].values.size(); ++k) row.input[i][k] = static_cast<float>(in[i].values[k]);
    }
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok()) << what;
    row.Accept();
    const Array want = Each(expected(in), [](double v) { return -v; });
    ASSERT_EQ(row.output[0].size(), want.values.size()) << what << ": " << ShapeString(want.shape);
    for (size_t k = 0; k < want.values.size(); ++k) {
      ASSERT_NEAR(static_cast<double>(row.output[0][k]), want.values[k], options.bar * std::max(1.0, std::fabs(want.values[k]))) << what << " element " << k;
    }
  }
}

// An op of one input.
void CheckEach(const std::string& op, const std::string& attributes, const std::function<double(double)>& f, const Options& options = {}) {
  Check(absl::StrCat(op, " opset ", options.opset), {{1, 3, 5}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}, attributes); }, [&](const std::vector<Array>& in) { return Each(in[0], f); }, options);
}

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

TEST(OnnxOpsTest, ElementsInOtherPlaces) {
  const Shape shape = {1, 2, 3, 4};
  const auto same = [](Shape to) { return [to](const std::vector<Array>& in) { return Array{to, in[0].values}; }; };
  const auto ints = [](OnnxWriter& w, const char* name, std::vector<int64_t> v) { w.Initializer(W::IntTensor(name, {static_cast<int64_t>(v.size())}, v)); };
  Check("Reshape with 0 and -1", {shape}, [&](OnnxWriter& w) { ints(w, "s", {0, -1, 3}), w.Node("Reshape", {"x", "s"}, {"z"}); }, same({1, 8, 3}));
  for (const int64_t axis : {0, 2, 4, -1}) Check("Flatten", {shape}, [&](OnnxWriter& w) { w.Node("Flatten", {"x"}, {"z"}, W::Int("axis", axis)); }, same({24}));
  Check("Squeeze by attribute", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { w.Node("Squeeze", {"x"}, {"z"}, W::Ints("axes", {0, 2})); }, same({2, 3}), {.opset = 11});
  Check("Squeeze by input", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { ints(w, "a", {-2}), w.Node("Squeeze", {"x", "a"}, {"z"}); }, same({1, 2, 3}), {.opset = 13});
  Check("Squeeze of all", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { w.Node("Squeeze", {"x"}, {"z"}); }, same({2, 3}), {.opset = 13});
  // Which axis an Unsqueeze makes shows where the next op counts from.
  for (const bool input : {false, true}) {
    Check("Unsqueeze", {{2, 3}}, [&](OnnxWriter& w) {
      if (input) ints(w, "a", {0, -1});
      w.Node("Unsqueeze", input ? std::vector<std::string>{"x", "a"} : std::vector<std::string>{"x"}, {"u"}, input ? "" : W::Ints("axes", {0, 3}));
      w.Node("Transpose", {"u"}, {"z"}, W::Ints("perm", {2, 1, 0, 3}));
    }, [](const std::vector<Array>& in) { return Make({3, 2, 1, 1}, [&](const Index& i) { return in[0]({i[1], i[0]}); }); }, {.opset = input ? 13 : 11});
  }
  Check("Transpose", {shape}, [&](OnnxWriter& w) { w.Node("Transpose", {"x"}, {"z"}, W::Ints("perm", {0, 3, 1, 2})); }, [](const std::vector<Array>& in) { return Make({1, 4, 2, 3}, [&](const Index& i) { return in[0]({i[0], i[2], i[3], i[1]}); }); });
  Check("Transpose of all", {shape}, [&](OnnxWriter& w) { w.Node("Transpose", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({4, 3, 2, 1}, [&](const Index& i) { return in[0]({i[3], i[2], i[1], i[0]}); }); });
  Check("Slice by attributes", {shape}, [&](OnnxWriter& w) { w.Node("Slice", {"x"}, {"z"}, W::Ints("starts", {1, -3}) + W::Ints("ends", {9, -1}) + W::Ints("axes", {2, 3})); }, [](const std::vector<Array>& in) { return Make({1, 2, 2, 2}, [&](const Index& i) { return in[0]({i[0], i[1], i[2] + 1, i[3] + 1}); }); }, {.opset = 9});
  Check("Slice backwards, and every second", {shape}, [&](OnnxWriter& w) { ints(w, "b", {-1, 0}), ints(w, "e", {INT64_MIN, INT64_MAX}), ints(w, "a", {2, -1}), ints(w, "s", {-1, 2}), w.Node("Slice", {"x", "b", "e", "a", "s"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 2, 3, 2}, [&](const Index& i) { return in[0]({i[0], i[1], 2 - i[2], 2 * i[3]}); }); });
  for (const int form : {0, 1, 2, 3}) {  // by attribute, by input, equal parts, num_outputs of 18, whose last part is smaller
    Check(absl::StrCat("Split ", form), {{1, 5, 2}}, [&](OnnxWriter& w) {
      if (form == 1) ints(w, "p", {3, 2});
      if (form == 2) w.Node("Identity", {"x"}, {"q"});
      w.Node("Split", form == 1 ? std::vector<std::string>{"x", "p"} : std::vector<std::string>{"x"}, form == 2 ? std::vector<std::string>{"p0", "p1"} : std::vector<std::string>{"p0", "p1"},
             W::Int("axis", form == 2 ? 2 : 1) + (form == 0 ? W::Ints("split", {3, 2}) : form == 3 ? W::Int("num_outputs", 2) : ""));
      w.Node("Neg", {"p0"}, {"n"}).Node("Concat", {"p1", "n"}, {"z"}, W::Int("axis", form == 2 ? 2 : 1));
    }, [&](const std::vector<Array>& in) {
      if (form == 2) return Make({1, 5, 2}, [&](const Index& i) { return i[2] == 0 ? in[0]({0, i[1], 1}) : -in[0]({0, i[1], 0}); });
      return Make({1, 5, 2}, [&](const Index& i) { return i[1] < 2 ? in[0]({0, i[1] + 3, i[2]}) : -in[0]({0, i[1] - 2, i[2]}); });
    }, {.opset = form == 0 ? 11 : form == 3 ? 18 : 13});
  }
  Check("Concat with a constant", {{1, 2, 3}, {1, 2, 1}}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("c", {1, 2, 2}, {1, 2, 3, 4})).Node("Concat", {"x", "c", "y"}, {"z"}, W::Int("axis", -1)); }, [](const std::vector<Array>& in) {
    return Make({1, 2, 6}, [&](const Index& i) { return i[2] < 3 ? in[0](i) : i[2] < 5 ? static_cast<double>(2 * i[1] + i[2] - 2) : in[1]({0, i[1], 0}); });
  });
  Check("Gather of several items", {shape}, [&](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {2, 2}, {2, 0, -1, 1})).Node("Gather", {"x", "i"}, {"z"}, W::Int("axis", 2)); }, [](const std::vector<Array>& in) {
    const int64_t index[2][2] = {{2, 0}, {2, 1}};
    return Make({1, 2, 2, 2, 4}, [&](const Index& i) { return in[0]({i[0], i[1], index[i[2]][i[3]], i[4]}); });
  });
  Check("Expand", {{1, 3, 1}}, [&](OnnxWriter& w) { ints(w, "s", {2, 1, 4}), w.Node("Expand", {"x", "s"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({2, 3, 4}, [&](const Index& i) { return in[0]({0, i[1], 0}); }); });
  Check("Tile", {{1, 2, 3}}, [&](OnnxWriter& w) { ints(w, "r", {1, 2, 3}), w.Node("Tile", {"x", "r"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 4, 9}, [&](const Index& i) { return in[0]({0, i[1] % 2, i[2] % 3}); }); });
  struct Pads { const char* mode; int form; };
  for (const Pads& p : {Pads{"constant", 0}, {"constant", 1}, {"constant", 2}, {"reflect", 1}, {"edge", 1}}) {  // attributes of opset 2, inputs of 11, axes of 18
    Check(absl::StrCat("Pad ", p.mode, " ", p.form), {{1, 3, 4}}, [&](OnnxWriter& w) {
      const std::string mode = std::string(p.mode) == "constant" ? "" : W::Text("mode", p.mode);
      if (p.form == 0) w.Node("Pad", {"x"}, {"z"}, W::Ints("pads", {0, 1, 2, 0, 2, 1}) + W::Real("value", 3));
      if (p.form == 1) ints(w, "p", {0, 1, 2, 0, 2, 1}), w.Initializer(W::Tensor("v", {}, {3})).Node("Pad", {"x", "p", "v"}, {"z"}, mode);
      if (p.form == 2) ints(w, "p", {2, 1, 1, 2}), ints(w, "a", {-1, 1}), w.Initializer(W::Tensor("v", {}, {3})).Node("Pad", {"x", "p", "v", "a"}, {"z"});
    }, [&](const std::vector<Array>& in) {
      return Make({1, 6, 7}, [&](const Index& i) {
        int64_t r = i[1] - 1, c = i[2] - 2;
        const auto reflect = [](int64_t v, int64_t n) { return v < 0 ? -v : v >= n ? 2 * n - 2 - v : v; };
        if (*p.mode == 'r') r = reflect(r, 3), c = reflect(c, 4);
        if (*p.mode == 'e') r = std::clamp<int64_t>(r, 0, 2), c = std::clamp<int64_t>(c, 0, 3);
        return r < 0 || r > 2 || c < 0 || c > 3 ? 3 : in[0]({0, r, c});
      });
    }, {.opset = p.form == 0 ? 10 : p.form == 1 ? 13 : 18});
  }
}

TEST(OnnxOpsTest, ElementsByOtherRules) {
  const auto ints = [](OnnxWriter& w, const char* name, const Shape& shape, std::vector<int64_t> v) { w.Initializer(W::IntTensor(name, shape, v)); };
  Check("GatherElements", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {1, 2, 3}, {2, 0, -1, 1, 1, 0}), w.Node("GatherElements", {"x", "i"}, {"z"}, W::Int("axis", 1)); }, [](const std::vector<Array>& in) {
    const int64_t index[2][3] = {{2, 0, 2}, {1, 1, 0}};
    return Make({1, 2, 3}, [&](const Index& i) { return in[0]({0, index[i[1]][i[2]], i[2]}); });
  });
  Check("GatherND of elements", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {2, 3}, {0, 1, -1, 0, 2, 0}), w.Node("GatherND", {"x", "i"}, {"z"}); }, [](const std::vector<Array>& in) { return Array{{2}, {in[0]({0, 1, 3}), in[0]({0, 2, 0})}}; });
  Check("GatherND of rows", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {2, 1, 2}, {0, 2, 0, 0}), w.Node("GatherND", {"x", "i"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({2, 1, 4}, [&](const Index& i) { return in[0]({0, i[0] == 0 ? 2 : 0, i[2]}); }); });
  for (const bool crd : {false, true}) {
    Check("DepthToSpace", {{1, 8, 2, 3}}, [&](OnnxWriter& w) { w.Node("DepthToSpace", {"x"}, {"z"}, W::Int("blocksize", 2) + (crd ? W::Text("mode", "CRD") : "")); }, [&](const std::vector<Array>& in) {
      return Make({1, 2, 4, 6}, [&](const Index& i) {
        const int64_t part = i[2] % 2 * 2 + i[3] % 2;
        return in[0]({0, crd ? i[1] * 4 + part : part * 2 + i[1], i[2] / 2, i[3] / 2});
      });
    });
  }
  Check("SpaceToDepth", {{1, 2, 4, 6}}, [&](OnnxWriter& w) { w.Node("SpaceToDepth", {"x"}, {"z"}, W::Int("blocksize", 2)); }, [](const std::vector<Array>& in) {
    return Make({1, 8, 2, 3}, [&](const Index& i) { return in[0]({0, i[1] % 2, i[2] * 2 + i[1] / 4, i[3] * 2 + i[1] / 2 % 2}); });
  });
  for (const bool upper : {true, false}) {
    for (const int64_t k : {0, 1, -2}) {
      Check("Trilu", {{2, 3, 4}}, [&](OnnxWriter& w) { ints(w, "k", {}, {k}), w.Node("Trilu", {"x", "k"}, {"z"}, W::Int("upper", upper)); }, [&](const std::vector<Array>& in) {
        return Make({2, 3, 4}, [&](const Index& i) { return (upper ? i[2] - i[1] >= k : i[2] - i[1] <= k) ? in[0](i) : 0; });
      });
    }
  }
  Check("EyeLike", {{3, 4}}, [](OnnxWriter& w) { w.Node("EyeLike", {"x"}, {"e"}, W::Int("k", 1)).Node("Mul", {"x", "e"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({3, 4}, [&](const Index& i) { return i[1] - i[0] == 1 ? in[0](i) : 0; }); });
  Check("Mean", {{1, 4}, {1, 4}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("c", {1}, {3})).Node("Mean", {"x", "y", "c"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 4}, [&](const Index& i) { return (in[0](i) + in[1](i) + 3) / 3; }); });
}

// Resize by the formulas of its definition, and as it was called before.
TEST(OnnxOpsTest, OtherSizes) {
  const auto original = [](const std::string& mode, double i, double n, double size, double scale) {
    if (mode == "asymmetric") return i / scale;
    if (mode == "align_corners") return size == 1 ? 0 : i * (n - 1) / (size - 1);
    if (mode == "pytorch_half_pixel" && size == 1) return 0.0;
    if (mode == "half_pixel_symmetric") return n / 2 * (1 - size / (scale * n)) + (i + 0.5) / scale - 0.5;
    return (i + 0.5) / scale - 0.5;
  };
  struct Case { std::string coordinates, nearest; std::vector<float> scales; std::vector<int64_t> sizes; };
  for (const Case& c : {Case{"half_pixel", "round_prefer_floor", {1, 1, 2, 3}, {}}, {"asymmetric", "floor", {1, 1, 2, 2}, {}}, {"align_corners", "round_prefer_ceil", {}, {1, 2, 5, 7}}, {"pytorch_half_pixel", "ceil", {}, {1, 2, 1, 2}},
                        {"half_pixel_symmetric", "round_prefer_floor", {1, 1, 1.7f, 0.6f}, {}}, {"half_pixel", "floor", {1, 1, 0.5f, 0.75f}, {}}}) {
    for (const bool linear : {false, true}) {
      const Shape in_shape = {1, 2, 3, 4};
      Shape shape = in_shape;
      double scale[4];
      for (size_t a = 0; a < 4; ++a) {
        shape[a] = c.sizes.empty() ? static_cast<int64_t>(std::floor(static_cast<double>(in_shape[a]) * static_cast<double>(c.scales[a]))) : c.sizes[a];
        scale[a] = c.sizes.empty() ? static_cast<double>(c.scales[a]) : static_cast<double>(shape[a]) / static_cast<double>(in_shape[a]);
      }
      Check(absl::StrCat("Resize ", c.coordinates, " ", c.nearest, linear), {in_shape}, [&](OnnxWriter& w) {
        w.Initializer(W::Tensor("roi", {0}, {}));
        if (!c.scales.empty()) w.Initializer(W::Tensor("s", {4}, c.scales));
        if (!c.sizes.empty()) w.Initializer(W::IntTensor("n", {4}, c.sizes));
        w.Node("Resize", c.sizes.empty() ? std::vector<std::string>{"x", "roi", "s"} : std::vector<std::string>{"x", "", "", "n"}, {"z"},
               W::Text("coordinate_transformation_mode", c.coordinates) + (linear ? W::Text("mode", "linear") : W::Text("nearest_mode", c.nearest)));
      }, [&](const std::vector<Array>& in) {
        const std::function<double(Index, size_t)> at = [&](Index i, size_t a) -> double {
          if (a == 4) return in[0](i);
          const double place = original(c.coordinates, static_cast<double>(i[a]), static_cast<double>(in_shape[a]), static_cast<double>(shape[a]), scale[a]);
          const auto put = [&](double p) { i[a] = static_cast<int64_t>(std::clamp(p, 0.0, static_cast<double>(in_shape[a] - 1))); return at(i, a + 1); };
          if (shape[a] == in_shape[a] && scale[a] == 1) return at(i, a + 1);
          if (linear) return (1 - (place - std::floor(place))) * put(std::floor(place)) + (place - std::floor(place)) * put(std::floor(place) + 1);
          return put(c.nearest == "floor" ? std::floor(place) : c.nearest == "ceil" ? std::ceil(place) : c.nearest == "round_prefer_ceil" ? std::floor(place + 0.5) : std::ceil(place - 0.5));
        };
        return Make(shape, [&](const Index& i) { return at(i, 0); });
      });
    }
  }
  const auto twice = [](const std::vector<Array>& in) { return Make({1, 1, 4, 6}, [&](const Index& i) { return in[0]({0, 0, i[2] / 2, i[3] / 2}); }); };
  Check("Upsample by attribute", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Node("Upsample", {"x"}, {"z"}, W::Reals("scales", {1, 1, 2, 2}) + W::Text("mode", "nearest")); }, twice, {.opset = 7});
  Check("Upsample by input", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {4}, {1, 1, 2, 2})).Node("Upsample", {"x", "s"}, {"z"}); }, twice, {.opset = 9});
  Check("Resize as it began", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {4}, {1, 1, 2, 2})).Node("Resize", {"x", "s"}, {"z"}); }, twice, {.opset = 10});
  Check("Resize of some axes", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::IntTensor("n", {2}, {6, 4})).Node("Resize", {"x", "", "", "n"}, {"z"}, W::Ints("axes", {-1, 2}) + W::Text("coordinate_transformation_mode", "asymmetric") + W::Text("nearest_mode", "floor")); }, twice, {.opset = 18});
}

// x[:, 1, :2] = y and the like.
TEST(OnnxOpsTest, ElementsThatAreWrittenOver) {
  const auto written = [](const Array& x, const std::function<const double*(const Index&)>& with) { return Make(x.shape, [&](const Index& i) { const double* v = with(i); return v == nullptr ? x(i) : *v; }); };
  Check("ScatterND of items", {{1, 3, 4}, {1, 2}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("i", {1, 2, 3}, {0, 1, 0, 0, -2, 1})).Node("ScatterND", {"x", "i", "y"}, {"z"});
  }, [&](const std::vector<Array>& in) { return written(in[0], [&](const Index& i) { return i[1] == 1 && i[2] < 2 ? &in[1].values[static_cast<size_t>(i[2])] : nullptr; }); });
  Check("ScatterND of rows", {{1, 3, 4}, {2, 4}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("i", {2, 2}, {0, 2, 0, 0})).Node("ScatterND", {"x", "i", "y"}, {"z"}, W::Text("reduction", "none"));
  }, [&](const std::vector<Array>& in) { return written(in[0], [&](const Index& i) { return i[1] == 1 ? nullptr : &in[1].values[static_cast<size_t>((i[1] == 2 ? 0 : 4) + i[2])]; }); });
  Check("ScatterND into a constant", {{1, 4}}, [](OnnxWriter& w) {
    w.Initializer(W::Tensor("d", {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8})).Initializer(W::IntTensor("i", {1, 1}, {1})).Node("ScatterND", {"d", "i", "x"}, {"z"});
  }, [](const std::vector<Array>& in) { return Make({2, 4}, [&](const Index& i) { return i[0] == 1 ? in[0]({0, i[1]}) : static_cast<double>(1 + i[1]); }); });
  for (const std::string op : {"ScatterElements", "Scatter"}) {
    Check(op, {{1, 2, 4}, {1, 2, 2}}, [&](OnnxWriter& w) {
      w.Initializer(W::IntTensor("i", {1, 2, 2}, {3, 0, -1, 1})).Node(op, {"x", "i", "y"}, {"z"}, W::Int("axis", 2));
    }, [&](const std::vector<Array>& in) {
      return written(in[0], [&](const Index& i) -> const double* {
        const int64_t k = i[2] == 3 ? 0 : i[2] == (i[1] == 0 ? 0 : 1) ? 1 : -1;
        return k < 0 ? nullptr : &in[1].values[static_cast<size_t>(i[1] * 2 + k)];
      });
    });
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

TEST(OnnxOpsTest, WindowsOverTwoAxes) {
  testing::Random random(14);
  struct Case { int64_t groups; std::vector<int64_t> pads, strides, dilations; std::string mode; };
  for (const Case& c : {Case{1, {0, 0, 0, 0}, {1, 1}, {1, 1}, ""}, {2, {1, 0, 2, 1}, {2, 1}, {1, 2}, ""}, {4, {0, 1, 0, 1}, {1, 3}, {2, 1}, ""}, {1, {}, {2, 2}, {1, 1}, "SAME_UPPER"}, {1, {}, {2, 3}, {1, 1}, "SAME_LOWER"}, {1, {}, {1, 2}, {1, 1}, "VALID"}}) {
    const Shape in_shape = {1, 4, 6, 7};
    const int64_t per = 4 / c.groups, out = 4;
    const Array k = Make({out, per, 3, 2}, [&](const Index&) { return static_cast<double>(random.Uniform()); }), b = Make({out}, [&](const Index&) { return static_cast<double>(random.Uniform()); });
    const std::string attributes = (c.mode.empty() ? W::Ints("pads", c.pads) : W::Text("auto_pad", c.mode)) + W::Ints("strides", c.strides) + W::Ints("dilations", c.dilations);
    std::vector<int64_t> pads = c.pads, kernel = {3, 2};
    if (pads.empty()) pads = {0, 0, 0, 0};
    Shape shape = {1, out, 0, 0};
    for (size_t a = 0; a < 2; ++a) {
      const int64_t n = in_shape[a + 2], extent = (kernel[a] - 1) * c.dilations[a] + 1;
      if (c.mode.starts_with("SAME")) {
        const int64_t total = std::max<int64_t>(0, ((n + c.strides[a] - 1) / c.strides[a] - 1) * c.strides[a] + extent - n);
        pads[a] = c.mode == "SAME_UPPER" ? total / 2 : total - total / 2;
        pads[a + 2] = total - pads[a];
      }
      shape[a + 2] = (n + pads[a] + pads[a + 2] - extent) / c.strides[a] + 1;
    }
    const auto over = [&](const Index& o, const std::function<void(int64_t, int64_t, int64_t, int64_t, bool)>& visit) {
      for (int64_t p = 0; p < 3; ++p) {
        for (int64_t q = 0; q < 2; ++q) {
          const int64_t r = o[2] * c.strides[0] - pads[0] + p * c.dilations[0], s = o[3] * c.strides[1] - pads[1] + q * c.dilations[1];
          visit(p, q, r, s, r >= 0 && r < 6 && s >= 0 && s < 7);
        }
      }
    };
    Check(absl::StrCat("Conv ", c.mode, c.groups), {in_shape}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("k", k.shape, {k.values.begin(), k.values.end()})).Initializer(W::Tensor("b", b.shape, {b.values.begin(), b.values.end()}));
      w.Node("Conv", {"x", "k", "b"}, {"z"}, attributes + W::Int("group", c.groups));
    }, [&](const std::vector<Array>& in) {
      return Make(shape, [&](const Index& o) {
        double sum = b.values[static_cast<size_t>(o[1])];
        over(o, [&](int64_t p, int64_t q, int64_t r, int64_t s, bool inside) {
          for (int64_t i = 0; i < per && inside; ++i) sum += k({o[1], i, p, q}) * in[0]({0, o[1] / (out / c.groups) * per + i, r, s});
        });
        return sum;
      });
    });
    if (c.groups != 1) continue;
    const std::string window = W::Ints("kernel_shape", {3, 2}) + (c.mode.empty() ? W::Ints("pads", c.pads) : W::Text("auto_pad", c.mode)) + W::Ints("strides", c.strides);
    Check(absl::StrCat("MaxPool ", c.mode), {in_shape}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, window); }, [&](const std::vector<Array>& in) {
      return Make(shape, [&](const Index& o) {
        double most = -1e30;
        over(o, [&](int64_t, int64_t, int64_t r, int64_t s, bool inside) { if (inside) most = std::max(most, in[0]({0, o[1], r, s})); });
        return most;
      });
    });
    for (const bool pad : {true, false}) {
      Check(absl::StrCat("AveragePool ", c.mode, pad), {in_shape}, [&](OnnxWriter& w) { w.Node("AveragePool", {"x"}, {"z"}, window + W::Int("count_include_pad", pad)); }, [&](const std::vector<Array>& in) {
        return Make(shape, [&](const Index& o) {
          double sum = 0, count = 0;
          over(o, [&](int64_t, int64_t, int64_t r, int64_t s, bool inside) {
            if (inside) sum += in[0]({0, o[1], r, s});
            count += inside || pad ? 1 : 0;
          });
          return sum / count;
        });
      });
    }
  }
  Check("GlobalAveragePool", {{1, 3, 4, 5}}, [](OnnxWriter& w) { w.Node("GlobalAveragePool", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Along(in[0], {2, 3}, true, Mean); });
  Check("GlobalMaxPool", {{1, 3, 4, 5}}, [](OnnxWriter& w) { w.Node("GlobalMaxPool", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Along(in[0], {2, 3}, true, [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }); });
}

// A pool along one axis, as the text of ONNX has it: how many windows, and where each tap of one lies.
struct PoolAxis {
  int64_t size, kernel, stride = 1, dilation = 1, before = 0, after = 0;

  int64_t Windows(bool ceil_mode) const {
    const double span = static_cast<double>(size + before + after - dilation * (kernel - 1) - 1) / static_cast<double>(stride) + 1;
    auto n = static_cast<int64_t>(ceil_mode ? std::ceil(span) : std::floor(span));
    if (ceil_mode && (n - 1) * stride >= size + before) --n;  // one that would begin in the padding behind
    return n;
  }
  int64_t At(int64_t window, int64_t tap) const { return window * stride + tap * dilation - before; }
  bool Inside(int64_t at) const { return at >= 0 && at < size; }
  bool Padded(int64_t at) const { return at >= -before && at < size + after; }
};

// [1, channels, a, b]
Array Pooled(const Array& x, const PoolAxis& a, const PoolAxis& b, bool ceil_mode, bool mean, bool counted) {
  return Make({1, x.shape[1], a.Windows(ceil_mode), b.Windows(ceil_mode)}, [&](const Index& o) {
    double most = -1e30, sum = 0, count = 0;
    for (int64_t p = 0; p < a.kernel; ++p) {
      for (int64_t q = 0; q < b.kernel; ++q) {
        const int64_t r = a.At(o[2], p), s = b.At(o[3], q);
        const bool inside = a.Inside(r) && b.Inside(s);
        if (inside) most = std::max(most, x({0, o[1], r, s})), sum += x({0, o[1], r, s});
        count += inside || (counted && a.Padded(r) && b.Padded(s)) ? 1 : 0;
      }
    }
    return mean ? sum / count : most;
  });
}

TEST(OnnxOpsTest, TransposedConvolutions) {
  testing::Random random(21);
  struct Case { int64_t groups; std::vector<int64_t> pads, strides, dilations, more; std::string mode; std::vector<int64_t> sizes; };
  for (const Case& c : {Case{1, {0, 0, 0, 0}, {1, 1}, {1, 1}, {}, "", {}}, {2, {1, 0, 2, 1}, {2, 1}, {1, 2}, {1, 0}, "", {}}, {4, {0, 2, 0, 3}, {1, 3}, {2, 1}, {0, 2}, "", {}}, {1, {2, 1, 2, 1}, {3, 4}, {1, 1}, {}, "", {}},
                        {1, {}, {2, 2}, {1, 1}, {}, "SAME_UPPER", {}}, {2, {}, {2, 3}, {1, 1}, {}, "SAME_LOWER", {}}, {1, {}, {2, 2}, {1, 1}, {}, "VALID", {}}, {1, {}, {3, 2}, {1, 1}, {}, "", {10, 8}}, {1, {}, {3, 2}, {1, 1}, {}, "", {14, 11}}}) {
    const Shape in_shape = {1, 4, 3, 4};
    const std::vector<int64_t> kernel = {3, 2};
    const int64_t per = 3, out = per * c.groups, each = 4 / c.groups;
    const Array k = Make({4, per, 3, 2}, [&](const Index&) { return static_cast<double>(random.Uniform()); }), b = Make({out}, [&](const Index&) { return static_cast<double>(random.Uniform()); });
    std::string attributes = W::Ints("strides", c.strides) + W::Ints("dilations", c.dilations) + W::Int("group", c.groups);
    if (!c.pads.empty()) attributes += W::Ints("pads", c.pads);
    if (!c.more.empty()) attributes += W::Ints("output_padding", c.more);
    if (!c.mode.empty()) attributes += W::Text("auto_pad", c.mode);
    if (!c.sizes.empty()) attributes += W::Ints("output_shape", c.sizes);
    std::vector<int64_t> pads = c.pads.empty() ? std::vector<int64_t>{0, 0, 0, 0} : c.pads;
    Shape shape = {1, out, 0, 0};
    for (size_t a = 0; a < 2; ++a) {
      const int64_t all = (in_shape[a + 2] - 1) * c.strides[a] + (kernel[a] - 1) * c.dilations[a] + 1 + (c.more.empty() ? 0 : c.more[a]);
      if (c.mode.starts_with("SAME") || !c.sizes.empty()) {
        const int64_t cut = all - (c.sizes.empty() ? in_shape[a + 2] * c.strides[a] : c.sizes[a]);
        pads[a] = c.mode == "SAME_UPPER" ? cut / 2 : cut - cut / 2;
        pads[a + 2] = cut - pads[a];
      }
      shape[a + 2] = all - pads[a] - pads[a + 2];
    }
    Check(absl::StrCat("ConvTranspose ", c.mode, c.groups), {in_shape}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("k", k.shape, {k.values.begin(), k.values.end()})).Initializer(W::Tensor("b", b.shape, {b.values.begin(), b.values.end()}));
      w.Node("ConvTranspose", {"x", "k", "b"}, {"z"}, attributes);
    }, [&](const std::vector<Array>& in) {
      Array y = Make(shape, [&](const Index& o) { return b.values[static_cast<size_t>(o[1])]; });
      Make(in_shape, [&](const Index& i) {  // each item of the input is spread over the output
        for (int64_t o = 0; o < per; ++o) {
          for (int64_t p = 0; p < 3; ++p) {
            for (int64_t q = 0; q < 2; ++q) {
              const int64_t r = i[2] * c.strides[0] - pads[0] + p * c.dilations[0], s = i[3] * c.strides[1] - pads[1] + q * c.dilations[1];
              if (r < 0 || r >= shape[2] || s < 0 || s >= shape[3]) continue;
              y.values[static_cast<size_t>(((i[1] / each * per + o) * shape[2] + r) * shape[3] + s)] += in[0](i) * k({i[1], o, p, q});
            }
          }
        }
        return 0;
      });
      return y;
    });
  }
}

TEST(OnnxOpsTest, PoolsWithAndWithoutCeilMode) {
  const PoolAxis one{1, 1};
  const std::vector<std::pair<PoolAxis, PoolAxis>> planes = {
      {{6, 3, 2}, {7, 2, 2}},                              // one window more along each axis
      {{6, 3, 2, 1, 1, 1}, {7, 2, 3, 1, 0, 1}},            // behind explicit padding
      {{5, 2, 3, 1, 1, 1}, {4, 1, 2}},                     // a window that would begin in the padding, and one behind the end
      {{2, 1, 2}, {2, 1, 2}},
      {{7, 3, 3, 2, 2, 1}, {6, 2, 2, 3}},                  // dilated
      {{2, 3, 2}, {5, 4, 3, 1, 0, 2}},                     // a window that is longer than its axis
      {{6, 2, 4, 2, 1, 2}, {7, 3, 5, 1, 2, 2}},
      {{4, 2, 1, 1, 1, 1}, {4, 3, 1, 1, 1, 1}},            // nothing to round
  };
  for (const bool ceil_mode : {true, false}) {
    for (const auto& [a, b] : planes) {
      if (a.Windows(ceil_mode) < 1 || b.Windows(ceil_mode) < 1) continue;
      const std::string window = W::Ints("kernel_shape", {a.kernel, b.kernel}) + W::Ints("strides", {a.stride, b.stride}) + W::Ints("dilations", {a.dilation, b.dilation}) +
                                 W::Ints("pads", {a.before, b.before, a.after, b.after}) + W::Int("ceil_mode", ceil_mode);
      const std::string what = absl::StrCat(ceil_mode, ", ", a.size, " by ", a.kernel, ", ", b.size, " by ", b.kernel);
      Check("MaxPool " + what, {{1, 2, a.size, b.size}}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, window); }, [&, &a = a, &b = b](const std::vector<Array>& in) { return Pooled(in[0], a, b, ceil_mode, false, false); });
      for (const bool counted : {true, false}) {
        Check(absl::StrCat("AveragePool ", what, counted), {{1, 2, a.size, b.size}}, [&](OnnxWriter& w) { w.Node("AveragePool", {"x"}, {"z"}, window + W::Int("count_include_pad", counted)); },
              [&, &a = a, &b = b](const std::vector<Array>& in) { return Pooled(in[0], a, b, ceil_mode, true, counted); }, {.opset = 19});
      }
    }
    for (const PoolAxis& a : {PoolAxis{7, 3, 2, 1, 1, 0}, {8, 3, 2}, {5, 3, 4}, {3, 2, 2, 2, 1, 1}, {1, 2, 2}}) {
      if (a.Windows(ceil_mode) < 1) continue;
      const std::string window = W::Ints("kernel_shape", {a.kernel}) + W::Ints("strides", {a.stride}) + W::Ints("dilations", {a.dilation}) + W::Ints("pads", {a.before, a.after}) + W::Int("ceil_mode", ceil_mode);
      for (const bool mean : {true, false}) {
        Check(absl::StrCat("1-D ", mean, ceil_mode, ", ", a.size, " by ", a.kernel), {{1, 2, a.size}}, [&](OnnxWriter& w) { w.Node(mean ? "AveragePool" : "MaxPool", {"x"}, {"z"}, window); }, [&](const std::vector<Array>& in) {
          Array y = Pooled({{1, 2, a.size, 1}, in[0].values}, a, one, ceil_mode, mean, false);
          y.shape.pop_back();
          return y;
        });
      }
    }
  }
  // auto_pad has a size of its own.
  for (const char* mode : {"VALID", "SAME_UPPER"}) {
    const PoolAxis a{8, 3, 2, 1, 0, *mode == 'S' ? 1 : 0};
    Check(absl::StrCat("ceil_mode and ", mode), {{1, 2, 8}}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, W::Ints("kernel_shape", {3}) + W::Ints("strides", {2}) + W::Text("auto_pad", mode) + W::Int("ceil_mode", 1)); },
          [&](const std::vector<Array>& in) { return Pooled({{1, 2, 8, 1}, in[0].values}, a, one, false, false, false); });
  }
}

// Numbers of ONNX's own node tests, averagepool_2d_ceil, maxpool_2d_ceil and the window that would begin behind the end.
TEST(OnnxOpsTest, PoolsAsOnnxItselfTestsThem) {
  const auto check = [](const char* op, const std::string& attributes, int64_t side, const std::vector<float>& x, const std::vector<double>& y, int64_t out) {
    Check(op, {{1, 1, side, side}}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("none", {}, {0})).Initializer(W::Tensor("c", {1, 1, side, side}, x)).Node("Mul", {"x", "none"}, {"n"}).Node("Add", {"n", "c"}, {"v"}).Node(op, {"v"}, {"z"}, attributes);
    }, [&](const std::vector<Array>&) { return Array{{1, 1, out, out}, y}; });
  };
  const std::vector<float> plane = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const std::string window = W::Ints("kernel_shape", {3, 3}) + W::Ints("strides", {2, 2}) + W::Int("ceil_mode", 1);
  check("AveragePool", window, 4, plane, {6, 7.5, 12, 13.5}, 2);
  check("MaxPool", window, 4, plane, {11, 12, 15, 16}, 2);
  check("MaxPool", W::Ints("kernel_shape", {1, 1}) + W::Ints("strides", {2, 2}) + W::Int("ceil_mode", 1), 2, {1, 2, 3, 4}, {1}, 1);
  // PyTorch: avg_pool2d(x, 2, 3, padding=1, ceil_mode=True)
  check("AveragePool", W::Ints("kernel_shape", {2, 2}) + W::Ints("strides", {3, 3}) + W::Ints("pads", {1, 1, 1, 1}) + W::Int("ceil_mode", 1) + W::Int("count_include_pad", 1), 4, plane, {0.25, 1.75, 5.5, 13.5}, 2);
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
