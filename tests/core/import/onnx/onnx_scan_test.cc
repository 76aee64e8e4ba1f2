// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// Scan nodes. tests/data/golden_loops has more of them, with what ONNX Runtime computed.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Import;
using W = testing::OnnxWriter;
using testing::OnnxWriter;

constexpr int64_t kWidth = 3, kHidden = 4;

struct Weights {
  std::vector<float> w, r;  // [width, H], [H, H]
  // h' = tanh(x W + h R)
  testing::Vector Step(const testing::Vector& x, const testing::Vector& h) const {
    testing::Vector next;
    for (size_t j = 0; j < h.size(); ++j) {
      double sum = 0;
      for (size_t k = 0; k < x.size(); ++k) sum += x[k] * static_cast<double>(w[k * h.size() + j]);
      for (size_t k = 0; k < h.size(); ++k) sum += h[k] * static_cast<double>(r[k * h.size() + j]);
      next.push_back(std::tanh(sum));
    }
    return next;
  }
};

Weights Draw(testing::Random& random, int64_t width = kWidth) { return {testing::Numbers(random, width * kHidden), testing::Numbers(random, kHidden * kHidden)}; }

// The body that computes it, giving h' twice: as the state, and as what comes out.
std::string Body(const Weights& weights, int64_t width = kWidth) {
  OnnxWriter body;
  body.Input(W::Declared("h", {1, kHidden})).Input(W::Declared("xt", {1, width})).Initializer(W::Tensor("w", {width, kHidden}, weights.w)).Initializer(W::Tensor("r", {kHidden, kHidden}, weights.r));
  body.Node("MatMul", {"xt", "w"}, {"a"}).Node("MatMul", {"h", "r"}, {"b"}).Node("Add", {"a", "b"}, {"s"}).Node("Tanh", {"s"}, {"next"}).Node("Identity", {"next"}, {"yt"});
  return W::Graph("body", body.Output("next").Output("yt"));
}

absl::StatusOr<Model> ImportAsItIs(OnnxWriter& file, int64_t opset = 17) { return ImportOnnx(std::as_bytes(std::span(std::string_view(file.File(opset)))), {}); }

TEST(OnnxScanTest, TheSessionCarriesItsStates) {
  testing::Random random(2);
  for (const int64_t axis : {0, 1, -2}) {
    for (const bool given : {false, true}) {  // the initial state: a constant, or an input that the caller would carry
      const Weights weights = Draw(random);
      const std::vector<float> initial = testing::Numbers(random, kHidden);
      OnnxWriter file;
      const bool first = axis == 0;
      file.Input(W::Declared("x", first ? Shape{-2, 1, kWidth} : Shape{1, -2, kWidth}));
      if (given) file.Input(W::Declared("h0", {1, kHidden}));
      if (!given) file.Initializer(W::Tensor("h0", {1, kHidden}, initial));
      file.Node("Scan", {"h0", "x"}, {"end", "y"}, W::Int("num_scan_inputs", 1) + W::Ints("scan_input_axes", {axis}) + W::Ints("scan_output_axes", {axis}) + Body(weights)).Output("y");
      if (given) file.Output("end");
      auto model = ImportAsItIs(file);
      ASSERT_TRUE(model.ok()) << model.status();
      ASSERT_EQ(model->not_streamable, "");
      const auto program = testing::MustCompile(*std::move(model), 4);
      ASSERT_EQ(program->inputs().size(), 1u);
      ASSERT_EQ(program->declared_outputs(), 1u);
      const auto scratch = program->MakeScratch();
      testing::Row row(*program);
      testing::Vector h(kHidden, 0);
      for (size_t j = 0; j < h.size() && !given; ++j) h[j] = static_cast<double>(initial[j]);
      for (int t = 0; t < 8; ++t) {
        testing::Vector x;
        for (float& v : row.input[0]) x.push_back(static_cast<double>(v = random.Uniform(2)));
        const StepRow one = row.row();
        ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
        row.Accept();
        h = weights.Step(x, h);
        for (size_t j = 0; j < h.size(); ++j) ASSERT_NEAR(static_cast<double>(row.output[0][j]), h[j], 2e-6) << "axis " << axis << " step " << t;
      }
    }
  }
}

TEST(OnnxScanTest, AlongAnAxisOfTheStepItBeginsAnew) {
  testing::Random random(3);
  for (const bool reversed : {false, true}) {
    const Weights weights = Draw(random);
    testing::Check(absl::StrCat("reversed ", reversed), {{5, 1, kWidth}}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("h0", {1, kHidden}, std::vector<float>(kHidden, 0.25f)));
      w.Node("Scan", {"h0", "x"}, {"end", "z"}, W::Int("num_scan_inputs", 1) + (reversed ? W::Ints("scan_input_directions", {1}) + W::Ints("scan_output_directions", {1}) : "") + Body(weights));
    }, [&](const std::vector<testing::Array>& in) {
      testing::Array out{{5, 1, kHidden}, std::vector<double>(5 * kHidden)};
      testing::Vector h(kHidden, 0.25);
      for (size_t k = 0; k < 5; ++k) {
        const size_t t = reversed ? 4 - k : k;
        h = weights.Step({in[0].values.begin() + static_cast<long>(t * kWidth), in[0].values.begin() + static_cast<long>((t + 1) * kWidth)}, h);
        std::copy(h.begin(), h.end(), out.values.begin() + static_cast<long>(t * kHidden));
      }
      return out;
    });
  }
}

TEST(OnnxScanTest, FromTheEndIsForWholeSequences) {
  testing::Random random(4);
  OnnxWriter file;
  file.Input(W::Declared("x", {-2, 1, kWidth})).Initializer(W::Tensor("h0", {1, kHidden}, std::vector<float>(kHidden, 0)));
  file.Node("Scan", {"h0", "x"}, {"end", "y"}, W::Int("num_scan_inputs", 1) + W::Ints("scan_input_directions", {1}) + W::Ints("scan_output_directions", {1}) + Body(Draw(random))).Output("y");
  const auto model = ImportAsItIs(file);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->not_streamable, HasSubstr("Scan node 'Scan_0': reads the sequence from its end, which no step knows"));
  ASSERT_NE(model->sequence, nullptr);
}

TEST(OnnxScanTest, WhatCannotRunIsRefusedByNodeAndReason) {
  testing::Random random(5);
  const Weights weights = Draw(random);
  const auto refusal = [&](const std::string& attributes, const std::vector<std::string>& in = {"h0", "x"}, const std::vector<std::string>& out = {"end", "z"}, int64_t opset = 17) {
    OnnxWriter file;
    file.Input(W::Declared("x", {-2, 1, kWidth})).Initializer(W::Tensor("h0", {1, kHidden}, std::vector<float>(kHidden, 0))).Initializer(W::Tensor("short", {1, 2}, {0, 0})).Initializer(W::IntTensor("whole", {1, kHidden}, {1, 2, 3, 4}));
    file.Node("Scan", in, out, attributes).Output("z");
    const auto model = ImportAsItIs(file, opset);
    return !model.ok() ? std::string(model.status().message()) : model->not_streamable.empty() ? "accepted" : model->not_streamable;
  };
  const std::string one = W::Int("num_scan_inputs", 1), body = Body(weights);
  EXPECT_EQ(refusal(one + body), "accepted");
  EXPECT_THAT(refusal(one + body, {"h0", "x"}, {"end", "z"}, 8), HasSubstr("Scan node 'Scan_0': is of opset 8"));
  EXPECT_THAT(refusal(one), HasSubstr("Scan node 'Scan_0': its body is missing"));
  EXPECT_THAT(refusal(body), HasSubstr("num_scan_inputs is 0, expected 1 to 2"));
  EXPECT_THAT(refusal(W::Int("num_scan_inputs", 3) + body), HasSubstr("num_scan_inputs is 3, expected 1 to 2"));
  EXPECT_THAT(refusal(W::Int("num_scan_inputs", 2) + body), HasSubstr("time flows along its input 1 and not along input 0"));
  EXPECT_THAT(refusal(one + body, {"h0", "x"}, {"end", "z", "more"}), HasSubstr("its body has 2 and 2"));
  EXPECT_THAT(refusal(one + W::Ints("scan_input_axes", {3}) + body), HasSubstr("axis is 3, expected -3 to 2"));
  EXPECT_THAT(refusal(one + W::Ints("scan_input_axes", {}) + body), HasSubstr("scan_input_axes has 0 numbers, expected 1"));
  EXPECT_THAT(refusal(one + W::Ints("scan_output_axes", {9}) + body), HasSubstr("axis is 9"));
  EXPECT_THAT(refusal(one + W::Ints("scan_output_directions", {1}) + body), HasSubstr("runs in both directions at once"));
  EXPECT_THAT(refusal(one + body, {"short", "x"}), HasSubstr("Scan node 'Scan_0'"));
  EXPECT_THAT(refusal(one + body, {"whole", "x"}), HasSubstr("its state 0 has integers"));
  EXPECT_THAT(refusal(one + body, {"", "x"}), HasSubstr("its input 0 is missing"));
  const auto other = [&](const std::function<void(OnnxWriter&)>& nodes) {
    OnnxWriter inner;
    inner.Input(W::Declared("h", {1, kHidden})).Input(W::Declared("xt", {1, kWidth}));
    nodes(inner);
    return refusal(one + W::Graph("body", inner.Output("next").Output("yt")));
  };
  EXPECT_THAT(other([](OnnxWriter& w) { w.Node("Identity", {"h"}, {"next"}).Node("ReduceMean", {"x"}, {"yt"}); }), HasSubstr("ReduceMean node 'ReduceMean_1': reduces over time"));
  EXPECT_THAT(other([](OnnxWriter& w) { w.Node("Identity", {"xt"}, {"next"}).Node("Identity", {"xt"}, {"yt"}); }), HasSubstr("its state 0 has shape [1, 4] before a step and [1, 3] after it"));
  EXPECT_THAT(other([](OnnxWriter& w) { w.Node("Identity", {"h"}, {"next"}); }), HasSubstr("its body gives 'yt', which no node before gives"));
}

}  // namespace
}  // namespace lstm::core
