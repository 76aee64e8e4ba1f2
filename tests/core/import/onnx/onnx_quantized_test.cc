// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// Quantised operators, of ONNX and of com.microsoft, against their definitions.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Array;
using testing::Check;
using testing::Each;
using testing::Import;
using testing::Index;
using testing::Make;
using W = testing::OnnxWriter;
using testing::OnnxWriter;

constexpr int64_t kUint8 = 2, kInt8 = 3, kUint16 = 4, kInt16 = 5, kInt32 = 6;
const std::string kExtended = W::Domain("com.microsoft");

struct Range {
  double low, high;
};
Range RangeOf(int64_t type) { return type == kUint8 ? Range{0, 255} : type == kInt8 ? Range{-128, 127} : type == kUint16 ? Range{0, 65535} : Range{-32768, 32767}; }

double Quantize(double x, float scale, int64_t zero, int64_t type) {
  const Range r = RangeOf(type);
  return std::clamp(std::nearbyint(x / static_cast<double>(scale)) + static_cast<double>(zero), r.low, r.high);
}
double Dequantize(double q, float scale, int64_t zero) { return (q - static_cast<double>(zero)) * static_cast<double>(scale); }

// What DynamicQuantizeLinear says of all of x.
struct ByRange {
  explicit ByRange(const std::vector<double>& x) {
    const double most = std::max(0.0, *std::max_element(x.begin(), x.end())), least = std::min(0.0, *std::min_element(x.begin(), x.end()));
    scale = most == least ? 1.0f : static_cast<float>((most - least) / 255);
    zero = static_cast<int64_t>(std::clamp(std::nearbyint(-least / static_cast<double>(scale)), 0.0, 255.0));
  }
  double operator()(double x) const { return Quantize(x, scale, zero, kUint8); }
  double Back(double x) const { return Dequantize((*this)(x), scale, zero); }
  float scale;
  int64_t zero;
};

std::vector<int64_t> Integers(testing::Random& random, int64_t n, int64_t type) {
  const Range r = RangeOf(type);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int64_t>(std::floor(r.low + (r.high - r.low + 1) * (0.5 + 0.499 * static_cast<double>(random.Uniform())))));
  return out;
}

TEST(OnnxQuantizedTest, ThereAndBackByTypeAndAxis) {
  for (const int64_t type : {kUint8, kInt8, kUint16, kInt16}) {
    for (const int64_t axis : {-1, 1, 2}) {  // -1: one scale for all
      const int64_t n = axis < 0 ? 1 : axis == 1 ? 3 : 4;
      std::vector<float> scales;
      std::vector<int64_t> zeros;
      for (int64_t i = 0; i < n; ++i) scales.push_back(0.011f * static_cast<float>(i + 1)), zeros.push_back((type == kUint8 || type == kUint16 ? 120 : -3) + i);
      const Shape numbers = axis < 0 ? Shape{} : Shape{n};
      const auto at = [&](const Index& i) { return static_cast<size_t>(axis < 0 ? 0 : i[static_cast<size_t>(axis)]); };
      const auto setting = [&](OnnxWriter& w) { w.Initializer(W::Tensor("s", numbers, scales)).Initializer(W::SmallTensor("o", numbers, zeros, type)); };
      const std::string attributes = axis < 0 ? "" : W::Int("axis", axis);
      Check(absl::StrCat("QuantizeLinear ", type, " axis ", axis), {{1, 3, 4}}, [&](OnnxWriter& w) { setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"z"}, attributes); },
            [&](const std::vector<Array>& in) { return Make(in[0].shape, [&](const Index& i) { return Quantize(in[0](i), scales[at(i)], zeros[at(i)], type); }); });
      Check(absl::StrCat("DequantizeLinear ", type, " axis ", axis), {{1, 3, 4}}, [&](OnnxWriter& w) { setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"q"}, attributes).Node("DequantizeLinear", {"q", "s", "o"}, {"z"}, attributes); },
            [&](const std::vector<Array>& in) { return Make(in[0].shape, [&](const Index& i) { return Dequantize(Quantize(in[0](i), scales[at(i)], zeros[at(i)], type), scales[at(i)], zeros[at(i)]); }); });
    }
  }
  // Without a zero point it is 0 of UINT8, or of what the node says.
  Check("QuantizeLinear alone", {{1, 5}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {}, {0.01f})).Node("QuantizeLinear", {"x", "s"}, {"z"}); },
        [](const std::vector<Array>& in) { return Each(in[0], [](double x) { return Quantize(x, 0.01f, 0, kUint8); }); });
  Check("QuantizeLinear by output_dtype", {{1, 5}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {}, {0.01f})).Node("QuantizeLinear", {"x", "s"}, {"z"}, W::Int("output_dtype", kInt8)); },
        [](const std::vector<Array>& in) { return Each(in[0], [](double x) { return Quantize(x, 0.01f, 0, kInt8); }); }, {.opset = 21});
}

TEST(OnnxQuantizedTest, ByTheRangeOfAStep) {
  // Numbers of one sign too, and none at all: zero is always in the range.
  for (const auto& [low, high] : {std::pair{-2.0, 2.0}, {0.5, 3.0}, {-4.0, -1.0}, {0.0, 0.0}}) {
    const testing::Options options{.low = low, .high = high};
    Check(absl::StrCat("DynamicQuantizeLinear of ", low, " to ", high), {{1, 2, 7}}, [](OnnxWriter& w) { w.Node("DynamicQuantizeLinear", {"x"}, {"z", "s", "o"}); },
          [](const std::vector<Array>& in) { return Each(in[0], ByRange(in[0].values)); }, options);
    Check(absl::StrCat("and back, ", low, " to ", high), {{1, 2, 7}}, [](OnnxWriter& w) { w.Node("DynamicQuantizeLinear", {"x"}, {"q", "s", "o"}).Node("DequantizeLinear", {"q", "s", "o"}, {"z"}); },
          [](const std::vector<Array>& in) { const ByRange by(in[0].values); return Each(in[0], [&](double x) { return by.Back(x); }); }, options);
  }
}

TEST(OnnxQuantizedTest, ProductsOfIntegers) {
  testing::Random random(3);
  for (const int64_t type : {kUint8, kInt8}) {
    for (const bool columns : {false, true}) {
      const std::vector<int64_t> weight = Integers(random, 5 * 4, type);
      std::vector<int64_t> zeros = Integers(random, columns ? 4 : 1, type);
      const Shape some = columns ? Shape{4} : Shape{};
      const auto b = [&](int64_t k, int64_t o) { return static_cast<double>(weight[static_cast<size_t>(k * 4 + o)] - zeros[columns ? static_cast<size_t>(o) : 0]); };
      const auto sums = [&](const Array& x, const ByRange& by) {
        return Make({1, 3, 4}, [&](const Index& i) {
          double sum = 0;
          for (int64_t k = 0; k < 5; ++k) sum += (by(x({i[0], i[1], k})) - static_cast<double>(by.zero)) * b(k, i[2]);
          return sum;
        });
      };
      const auto weights = [&](OnnxWriter& w) { w.Initializer(W::SmallTensor("b", {5, 4}, weight, type)).Initializer(W::SmallTensor("bo", some, zeros, type)); };
      const std::string what = absl::StrCat(" type ", type, columns ? " by columns" : "");
      Check("MatMulInteger" + what, {{1, 3, 5}}, [&](OnnxWriter& w) { weights(w), w.Node("DynamicQuantizeLinear", {"x"}, {"q", "s", "o"}).Node("MatMulInteger", {"q", "b", "o", "bo"}, {"z"}); },
            [&](const std::vector<Array>& in) { return sums(in[0], ByRange(in[0].values)); });
      std::vector<float> scales;
      for (int64_t i = 0; i < (columns ? 4 : 1); ++i) scales.push_back(0.01f + 0.003f * static_cast<float>(i));
      const auto scaled = [&](const std::vector<Array>& in) {
        const ByRange by(in[0].values);
        const Array sum = sums(in[0], by);
        return Make(sum.shape, [&](const Index& i) { return sum(i) * static_cast<double>(by.scale) * static_cast<double>(scales[columns ? static_cast<size_t>(i[2]) : 0]) + 0.25 * static_cast<double>(i[2]); });
      };
      const auto more = [&](OnnxWriter& w) { weights(w), w.Initializer(W::Tensor("bs", some, scales)).Initializer(W::Tensor("bias", {4}, {0, 0.25f, 0.5f, 0.75f})); };
      Check("DynamicQuantizeMatMul" + what, {{1, 3, 5}}, [&](OnnxWriter& w) { more(w), w.Node("DynamicQuantizeMatMul", {"x", "b", "bs", "bo", "bias"}, {"z"}, kExtended); }, scaled);
      Check("MatMulIntegerToFloat" + what, {{1, 3, 5}}, [&](OnnxWriter& w) {
        more(w), w.Node("DynamicQuantizeLinear", {"x"}, {"q", "s", "o"}).Node("MatMulIntegerToFloat", {"q", "b", "s", "bs", "o", "bo", "bias"}, {"z"}, kExtended);
      }, scaled);
      const auto result = [&](const std::vector<Array>& in) {
        return Make({1, 3, 4}, [&](const Index& i) {
          double sum = 0;
          for (int64_t k = 0; k < 5; ++k) sum += (Quantize(in[0]({0, i[1], k}), 0.02f, 7, kInt8) - 7) * b(k, i[2]);
          return Quantize(sum * static_cast<double>(0.02f) * static_cast<double>(scales[columns ? static_cast<size_t>(i[2]) : 0]), 0.5f, -9, kInt8);
        });
      };
      const auto fixed = [&](OnnxWriter& w) {
        more(w), w.Initializer(W::Tensor("xs", {}, {0.02f})).Initializer(W::SmallTensor("xo", {}, {7}, kInt8)).Initializer(W::Tensor("ys", {}, {0.5f})).Initializer(W::SmallTensor("yo", {}, {-9}, kInt8)).Node("QuantizeLinear", {"x", "xs", "xo"}, {"q"});
      };
      Check("QLinearMatMul" + what, {{1, 3, 5}}, [&](OnnxWriter& w) { fixed(w), w.Node("QLinearMatMul", {"q", "xs", "xo", "b", "bs", "bo", "ys", "yo"}, {"z"}); }, result);
      Check("QGemm" + what, {{1, 3, 5}}, [&](OnnxWriter& w) {
        fixed(w), w.Initializer(W::IntTensor("flat", {2}, {3, 5})).Initializer(W::IntTensor("tall", {3}, {1, 3, 4}));
        w.Node("Reshape", {"q", "flat"}, {"r"}).Node("QGemm", {"r", "xs", "xo", "b", "bs", "bo", "", "ys", "yo"}, {"g"}, kExtended).Node("Reshape", {"g", "tall"}, {"z"});
      }, result);
    }
  }
}

TEST(OnnxQuantizedTest, ConvolutionsOfIntegers) {
  testing::Random random(4);
  const std::vector<int64_t> kernel = Integers(random, 3 * 2 * 2, kInt8), bias = {40, -1000, 7};
  const auto sum = [&](const std::function<double(int64_t, int64_t)>& q, int64_t o, int64_t t) {  // two channels, padded by one in front
    double s = 0;
    for (int64_t c = 0; c < 2; ++c) {
      for (int64_t k = 0; k < 2; ++k) s += t + k - 1 < 0 ? 0 : q(c, t + k - 1) * static_cast<double>(kernel[static_cast<size_t>((o * 2 + c) * 2 + k)]);
    }
    return s;
  };
  const std::string pads = W::Ints("pads", {1, 0});
  Check("ConvInteger", {{1, 2, 5}}, [&](OnnxWriter& w) { w.Initializer(W::SmallTensor("k", {3, 2, 2}, kernel, kInt8)).Node("DynamicQuantizeLinear", {"x"}, {"q", "s", "o"}).Node("ConvInteger", {"q", "k", "o"}, {"z"}, pads); },
        [&](const std::vector<Array>& in) {
          const ByRange by(in[0].values);
          return Make({1, 3, 5}, [&](const Index& i) { return sum([&](int64_t c, int64_t t) { return by(in[0]({0, c, t})) - static_cast<double>(by.zero); }, i[1], i[2]); });
        });
  const std::vector<float> scales = {0.01f, 0.02f, 0.03f};
  Check("QLinearConv", {{1, 2, 5}}, [&](OnnxWriter& w) {
    w.Initializer(W::SmallTensor("k", {3, 2, 2}, kernel, kInt8)).Initializer(W::SmallTensor("ko", {3}, {0, 0, 0}, kInt8)).Initializer(W::Tensor("ks", {3}, scales)).Initializer(W::SmallTensor("b", {3}, bias, kInt32));
    w.Initializer(W::Tensor("xs", {}, {0.02f})).Initializer(W::SmallTensor("xo", {}, {130}, kUint8)).Initializer(W::Tensor("ys", {}, {0.25f})).Initializer(W::SmallTensor("yo", {}, {90}, kUint8));
    w.Node("QuantizeLinear", {"x", "xs", "xo"}, {"q"}).Node("QLinearConv", {"q", "xs", "xo", "k", "ks", "ko", "ys", "yo", "b"}, {"z"}, pads);
  }, [&](const std::vector<Array>& in) {
    return Make({1, 3, 5}, [&](const Index& i) {
      const double s = sum([&](int64_t c, int64_t t) { return Quantize(in[0]({0, c, t}), 0.02f, 130, kUint8) - 130; }, i[1], i[2]);
      return Quantize((s + static_cast<double>(bias[static_cast<size_t>(i[1])])) * static_cast<double>(0.02f) * static_cast<double>(scales[static_cast<size_t>(i[1])]), 0.25f, 90, kUint8);
    });
  });
}

TEST(OnnxQuantizedTest, OpsBetweenTwoScales) {
  const auto setting = [](OnnxWriter& w) {
    w.Initializer(W::Tensor("s", {}, {0.02f})).Initializer(W::SmallTensor("o", {}, {128}, kUint8)).Initializer(W::Tensor("ys", {}, {0.0371f})).Initializer(W::SmallTensor("yo", {}, {100}, kUint8));
  };
  const auto back = [](double x) { return Dequantize(Quantize(x, 0.02f, 128, kUint8), 0.02f, 128); };
  const auto out = [](double y) { return Quantize(y, 0.0371f, 100, kUint8); };
  for (const bool product : {false, true}) {
    Check(product ? "QLinearMul" : "QLinearAdd", {{1, 6}, {1, 6}}, [&](OnnxWriter& w) {
      setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"a"}).Node("QuantizeLinear", {"y", "s", "o"}, {"b"}).Node(product ? "QLinearMul" : "QLinearAdd", {"a", "s", "o", "b", "s", "o", "ys", "yo"}, {"z"}, kExtended);
    }, [&](const std::vector<Array>& in) {
      return Make(in[0].shape, [&](const Index& i) { return out(product ? back(in[0](i)) * back(in[1](i)) : back(in[0](i)) + back(in[1](i))); });
    });
  }
  Check("QLinearSigmoid", {{1, 6}}, [&](OnnxWriter& w) { setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"a"}).Node("QLinearSigmoid", {"a", "s", "o", "ys", "yo"}, {"z"}, kExtended); },
        [&](const std::vector<Array>& in) { return Each(in[0], [&](double x) { return out(1 / (1 + std::exp(-back(x)))); }); });
  Check("QLinearLeakyRelu", {{1, 6}}, [&](OnnxWriter& w) { setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"a"}).Node("QLinearLeakyRelu", {"a", "s", "o", "ys", "yo"}, {"z"}, W::Real("alpha", 0.25f) + kExtended); },
        [&](const std::vector<Array>& in) { return Each(in[0], [&](double x) { return out(back(x) < 0 ? 0.25 * back(x) : back(x)); }); });
  Check("QLinearConcat", {{1, 2}, {1, 3}}, [&](OnnxWriter& w) {
    setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"a"}).Node("QuantizeLinear", {"y", "s", "o"}, {"b"}).Node("QLinearConcat", {"ys", "yo", "a", "s", "o", "b", "s", "o"}, {"z"}, W::Int("axis", 1) + kExtended);
  }, [&](const std::vector<Array>& in) { return Make({1, 5}, [&](const Index& i) { return out(back(i[1] < 2 ? in[0](i) : in[1]({0, i[1] - 2}))); }); });
  Check("QLinearGlobalAveragePool", {{1, 2, 4}}, [&](OnnxWriter& w) { setting(w), w.Node("QuantizeLinear", {"x", "s", "o"}, {"a"}).Node("QLinearGlobalAveragePool", {"a", "s", "o", "ys", "yo"}, {"z"}, kExtended); },
        [&](const std::vector<Array>& in) {
          return testing::Along(in[0], {2}, true, [&](const std::vector<double>& v) {
            double sum = 0;
            for (double x : v) sum += back(x);
            return out(sum / static_cast<double>(v.size()));
          });
        });
}

// One step a call: the weights are those of the file, x and h are quantised by their range.
TEST(OnnxQuantizedTest, LstmByTheRangeOfXAndH) {
  testing::Random random(11);
  for (const int64_t type : {kUint8, kInt8}) {
    for (const bool columns : {false, true}) {
      const int64_t n = 5, in = 3, gates = 4 * n;
      testing::Reference cell;
      cell.op = "LSTM";
      cell.hidden = n;
      cell.width = in;
      cell.activations = {"Sigmoid", "Tanh", "Tanh"};
      OnnxWriter file;
      const auto weight = [&](const char* name, int64_t width) {  // [1, width, 4 H] in the file
        const std::vector<int64_t> q = Integers(random, width * gates, type), zero = Integers(random, columns ? gates : 1, type);
        std::vector<float> scale, floats(static_cast<size_t>(gates * width));
        for (size_t i = 0; i < zero.size(); ++i) scale.push_back(0.006f + 0.0002f * static_cast<float>(i));
        for (int64_t k = 0; k < width; ++k) {
          for (int64_t g = 0; g < gates; ++g) {
            const size_t c = columns ? static_cast<size_t>(g) : 0;
            floats[static_cast<size_t>(g * width + k)] = scale[c] * static_cast<float>(q[static_cast<size_t>(k * gates + g)] - zero[c]);
          }
        }
        const std::string base = name;
        const Shape some = columns ? Shape{1, gates} : Shape{1};
        file.Initializer(W::SmallTensor(base, {1, width, gates}, q, type)).Initializer(W::Tensor(base + "s", some, scale)).Initializer(W::SmallTensor(base + "o", some, zero, type));
        return floats;
      };
      cell.w = weight("w", in);
      cell.r = weight("r", n);
      cell.b = testing::Numbers(random, 2 * gates);
      cell.h.assign(static_cast<size_t>(n), 0);
      cell.c = cell.h;
      file.Initializer(W::Tensor("b", {1, 2 * gates}, cell.b)).Input(W::Declared("x", {-2, 1, in}));
      file.Node("DynamicQuantizeLSTM", {"x", "w", "r", "b", "", "", "", "", "ws", "wo", "rs", "ro"}, {"y"}, W::Int("hidden_size", n) + kExtended);
      auto model = ImportOnnx(std::as_bytes(std::span(std::string_view(file.Output("y").File()))), {});
      ASSERT_TRUE(model.ok()) << model.status();
      const auto program = testing::MustCompile(*std::move(model), 4);
      const auto scratch = program->MakeScratch();
      testing::Row row(*program);
      for (int t = 0; t < 12; ++t) {
        testing::Vector x;
        for (float& v : row.input[0]) x.push_back(static_cast<double>(v = random.Uniform(2)));
        const StepRow one = row.row();
        ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
        row.Accept();
        const auto bent = [](testing::Vector v) {
          const ByRange by(v);
          for (double& e : v) e = by.Back(e);
          return v;
        };
        cell.h = bent(cell.h);  // an LSTM reads it in its products alone
        cell.Step(bent(x));
        for (size_t j = 0; j < cell.h.size(); ++j) {
          // h is quantised again in the next step: the numbers there are those that the server had.
          ASSERT_NEAR(static_cast<double>(row.output[0][j]), cell.h[j], 2e-6) << "type " << type << " step " << t << " unit " << j;
          cell.h[j] = static_cast<double>(row.output[0][j]);
        }
      }
    }
  }
}

// What was padded before it was quantised is padding still.
TEST(OnnxQuantizedTest, PaddingIsTheZeroPoint) {
  OnnxWriter file;
  file.Input(W::Declared("x", {1, 1, -2})).Initializer(W::Tensor("s", {}, {0.1f})).Initializer(W::SmallTensor("o", {}, {50}, kUint8)).Initializer(W::IntTensor("p", {6}, {0, 0, 2, 0, 0, 0})).Initializer(W::Tensor("k", {1, 1, 3}, {1, 10, 100}));
  file.Node("Pad", {"x", "p"}, {"padded"}).Node("QuantizeLinear", {"padded", "s", "o"}, {"q"}).Node("DequantizeLinear", {"q", "s", "o"}, {"d"}).Node("Conv", {"d", "k"}, {"y"});
  auto model = ImportOnnx(std::as_bytes(std::span(std::string_view(file.Output("y").File()))), {});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto program = testing::MustCompile(*std::move(model), 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  double before = 0, last = 0;
  for (const float x : {0.52f, -1.0f, 2.33f, 0.0f}) {
    row.input[0][0] = x;
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    const double now = Dequantize(Quantize(static_cast<double>(x), 0.1f, 50, kUint8), 0.1f, 50);
    EXPECT_NEAR(static_cast<double>(row.output[0][0]), before + 10 * last + 100 * now, 1e-4);
    before = last;
    last = now;
  }
}

TEST(OnnxQuantizedTest, WhatIsNotSupportedIsRefusedByNodeOpAndReason) {
  const auto refusal = [](const std::function<void(OnnxWriter&)>& nodes) {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, 3, 4})).Initializer(W::Tensor("s", {}, {0.1f})).Initializer(W::SmallTensor("o", {}, {5}, kUint8));
    nodes(file);
    const auto model = Import(file.Output("z").File(), {"x"});
    return model.ok() ? "accepted" : std::string(model.status().message());
  };
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Frob", {"x"}, {"z"}, kExtended); }), HasSubstr("Frob node 'Frob_0': this operator of domain 'com.microsoft' is not known here"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Relu", {"x"}, {"z"}, kExtended); }), HasSubstr("Relu node 'Relu_0': this operator of domain 'com.microsoft' is not known here"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("Relu", {"x"}, {"z"}, W::Domain("elsewhere")); }), HasSubstr("operators of domain 'elsewhere' are not known here"));
  for (const char* op : {"QLinearSigmoid", "QLinearAdd", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}) {
    EXPECT_THAT(refusal([&](OnnxWriter& w) { w.Node(op, {"x", "s", "o", "x", "s", "o", "s", "o"}, {}, kExtended).Node("Relu", {"x"}, {"z"}); }), HasSubstr("it has no output"));
  }
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("QuantizeLinear", {"x"}, {"z"}); }), HasSubstr("QuantizeLinear node 'QuantizeLinear_0': its input 1 is missing"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("many", {2}, {1, 2})).Node("QuantizeLinear", {"x", "many"}, {"z"}); }), HasSubstr("its scale has shape [2], expected one number, or one for each item of axis 1 of shape [1, 3, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::SmallTensor("wide", {}, {5}, kInt32)).Node("QuantizeLinear", {"x", "s", "wide"}, {"z"}); }), HasSubstr("quantises to element type 6, expected integers of 8 or 16 bits"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::Tensor("none", {}, {0})).Node("QuantizeLinear", {"x", "none", "o"}, {"z"}); }), HasSubstr("divides by zero"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("DequantizeLinear", {"x", "s"}, {"z"}, W::Int("block_size", 2)); }), HasSubstr("has a scale for each block"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Initializer(W::SmallTensor("b", {3, 2}, {1, 2, 3, 4, 5, 6}, kInt8)).Node("MatMulInteger", {"x", "b"}, {"z"}); }), HasSubstr("its weights expect 3 in the last axis of shape [1, 3, 4]"));
  EXPECT_THAT(refusal([](OnnxWriter& w) { w.Node("DynamicQuantizeLSTM", {"x", "s", "s"}, {"z"}, kExtended); }), HasSubstr("its weight W is not three axes of 8 bits in the file"));
  // By the range of the whole sequence: a step has only its own.
  OnnxWriter file;
  file.Input(W::Declared("x", {1, 1, -2})).Initializer(W::SmallTensor("k", {1, 1, 3}, {1, 2, 3}, kUint8)).Initializer(W::IntTensor("p", {6}, {0, 0, 2, 0, 0, 0}));
  file.Node("Pad", {"x", "p"}, {"padded"}).Node("DynamicQuantizeLinear", {"padded"}, {"q", "s", "o"}).Node("ConvInteger", {"q", "k", "o"}, {"y"});
  const auto model = ImportOnnx(std::as_bytes(std::span(std::string_view(file.Output("y").File()))), {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->not_streamable, HasSubstr("ConvInteger node 'ConvInteger_2': reaches over steps that are quantised by the range of all of them"));
  EXPECT_NE(model->sequence, nullptr);
}

}  // namespace
}  // namespace lstm::core
