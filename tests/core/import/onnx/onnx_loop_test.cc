// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// Loop nodes and the sequences of values that they fill. tests/data/golden_loops has more, with what ONNX Runtime computed.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Array;
using W = testing::OnnxWriter;
using testing::OnnxWriter;

constexpr int64_t kInt64 = 7, kBool = 9;

// A body over (turn, go, h), to which `nodes` are added; it gives go2, h2 and what else is named.
std::string Body(const std::function<void(OnnxWriter&)>& nodes, const std::vector<std::string>& outputs = {"go2", "h2", "yt"}) {
  OnnxWriter body;
  body.Input(W::Declared("turn", {}, kInt64)).Input(W::Declared("go", {}, kBool)).Input(W::Declared("h", {1, 2}));
  nodes(body);
  for (const std::string& name : outputs) body.Output(name);
  return W::Graph("body", body);
}

void Accumulate(OnnxWriter& w) { w.Node("Gather", {"x", "turn"}, {"xt"}, W::Int("axis", 0)).Node("Add", {"xt", "h"}, {"h2"}).Node("Identity", {"go"}, {"go2"}).Node("Tanh", {"h2"}, {"yt"}); }

OnnxWriter Begin() {
  OnnxWriter file;
  file.Input(W::Declared("x", {-2, 1, 2})).Initializer(W::Tensor("h0", {1, 2}, {0.5f, -0.25f})).Initializer(W::IntTensor("first", {}, {0})).Initializer(W::SmallTensor("yes", {}, {1}, kBool)).Initializer(W::IntTensor("three", {}, {3}));
  file.Node("Shape", {"x"}, {"sizes"}).Node("Gather", {"sizes", "first"}, {"steps"});
  return file;
}

absl::StatusOr<Model> ImportAsItIs(const OnnxWriter& file) { return ImportOnnx(std::as_bytes(std::span(std::string_view(file.File()))), {}); }

TEST(OnnxLoopTest, ASessionGoesOn) {
  for (const bool listed : {false, true}) {  // what each turn gives: the loop's own, or added to a sequence of values
    OnnxWriter file = Begin();
    if (!listed) file.Node("Loop", {"steps", "yes", "h0"}, {"end", "y"}, Body(Accumulate));
    if (listed) {
      OnnxWriter body;
      body.Input(W::Declared("turn", {}, kInt64)).Input(W::Declared("go", {}, kBool)).Input(W::Declared("h", {1, 2})).Input(W::Declared("list", {}));
      Accumulate(body);
      body.Node("SequenceInsert", {"list", "yt"}, {"list2"});
      for (const char* name : {"go2", "h2", "list2"}) body.Output(name);
      file.Node("SequenceEmpty", {}, {"empty"}).Node("Loop", {"steps", "yes", "h0", "empty"}, {"end", "all"}, W::Graph("body", body)).Node("ConcatFromSequence", {"all"}, {"y"}, W::Int("axis", 0) + W::Int("new_axis", 1));
    }
    auto model = ImportAsItIs(file.Output("y"));
    ASSERT_TRUE(model.ok()) << model.status();
    ASSERT_EQ(model->not_streamable, "");
    const auto program = testing::MustCompile(*std::move(model), 4);
    const auto scratch = program->MakeScratch();
    testing::Row row(*program);
    testing::Random random(6);
    double sum[2] = {0.5, -0.25};
    for (int t = 0; t < 5; ++t) {
      for (float& v : row.input[0]) v = random.Uniform(1);
      const StepRow one = row.row();
      ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
      row.Accept();
      for (size_t k = 0; k < 2; ++k) {
        sum[k] += static_cast<double>(row.input[0][k]);
        ASSERT_NEAR(static_cast<double>(row.output[0][k]), std::tanh(sum[k]), 1e-6) << "listed " << listed << " step " << t;
      }
    }
  }
}

TEST(OnnxLoopTest, AFixedNumberOfTurnsWithinAStep) {
  testing::Check("three turns, and a place read by their number", {{4, 1, 2}}, [](OnnxWriter& w) {
    w.Initializer(W::Tensor("h0", {1, 2}, {0.5f, -0.25f})).Initializer(W::SmallTensor("yes", {}, {1}, kBool)).Initializer(W::IntTensor("three", {}, {3}));
    w.Node("Loop", {"three", "yes", "h0"}, {"end", "z"}, Body(Accumulate));
  }, [](const std::vector<Array>& in) {
    Array out{{3, 1, 2}, {}};
    double sum[2] = {0.5, -0.25};
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t k = 0; k < 2; ++k) out.values.push_back(std::tanh(sum[k] += in[0]({t, 0, k})));
    }
    return out;
  });
  testing::Check("until its condition ends it", {{1, 2}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("most", {}, {100})).Initializer(W::SmallTensor("yes", {}, {1}, kBool)).Initializer(W::IntTensor("one", {}, {1}));
    w.Node("Loop", {"most", "yes", "x"}, {"z"}, Body([](OnnxWriter& b) { b.Node("Add", {"h", "h"}, {"h2"}).Node("Less", {"turn", "one"}, {"go2"}); }, {"go2", "h2"}));
  }, [](const std::vector<Array>& in) { return testing::Each(in[0], [](double v) { return 4 * v; }); });
  testing::Check("a list of values", {{1, 2}}, [](OnnxWriter& w) {
    w.Node("Neg", {"x"}, {"n"}).Node("SequenceConstruct", {"x"}, {"l"}).Node("SequenceInsert", {"l", "n"}, {"l2"}).Node("ConcatFromSequence", {"l2"}, {"z"}, W::Int("axis", 1));
  }, [](const std::vector<Array>& in) { return testing::Make({1, 4}, [&](const testing::Index& i) { return i[1] < 2 ? in[0](i) : -in[0]({0, i[1] - 2}); }); });
}

TEST(OnnxLoopTest, WhatCannotRunIsRefusedByNodeAndReason) {
  const auto refusal = [](const std::vector<std::string>& in, const std::string& body, const std::vector<std::string>& out = {"end", "y"}) {
    OnnxWriter file = Begin();
    file.Node("SequenceEmpty", {}, {"empty"}).Node("Loop", in, out, body).Output("y");
    const auto model = ImportAsItIs(file);
    return !model.ok() ? std::string(model.status().message()) : model->not_streamable.empty() ? "accepted" : model->not_streamable;
  };
  const std::vector<std::string> usual = {"steps", "yes", "h0"};
  EXPECT_EQ(refusal(usual, Body(Accumulate)), "accepted");
  EXPECT_THAT(refusal(usual, ""), HasSubstr("Loop node 'Loop_3': its body is missing"));
  EXPECT_THAT(refusal({"steps"}, Body(Accumulate)), HasSubstr("has 1 inputs, expected a number of turns, a condition and its states"));
  EXPECT_THAT(refusal({"steps", "yes"}, Body(Accumulate)), HasSubstr("has 0 states and 2 outputs; its body has 3 inputs and 3 outputs"));
  EXPECT_THAT(refusal(usual, Body(Accumulate), {"end", "y", "more"}), HasSubstr("its body has 3 inputs and 3 outputs"));
  EXPECT_THAT(refusal({"first", "yes", "h0"}, Body(Accumulate)), HasSubstr("never runs"));
  EXPECT_THAT(refusal({"x", "yes", "h0"}, Body(Accumulate)), HasSubstr("its number of turns is"));
  EXPECT_THAT(refusal({"steps", "yes", "empty"}, Body(Accumulate)), HasSubstr("reads a sequence of values"));
  EXPECT_THAT(refusal({"empty", "yes", "h0"}, Body(Accumulate)), HasSubstr("its number of turns is a sequence of values, expected a constant"));
  EXPECT_THAT(refusal({"three", "yes", "h0"}, Body(Accumulate)), HasSubstr("takes single steps out of the sequence"));
  const auto with = [&](const std::function<void(OnnxWriter&)>& nodes) { return refusal(usual, Body(nodes)); };
  EXPECT_THAT(with([](OnnxWriter& w) { Accumulate(w), w.Node("Cast", {"turn"}, {"f"}, W::Int("to", 1)); }), HasSubstr("Cast node 'Cast_4': computes with the number of the step"));
  EXPECT_THAT(with([](OnnxWriter& w) { Accumulate(w), w.Node("Equal", {"turn", "first"}, {"f"}); }), HasSubstr("Equal node 'Equal_4': computes with the number of the step"));
  EXPECT_THAT(with([](OnnxWriter& w) { Accumulate(w), w.Node("Less", {"turn", "three"}, {"f"}); }), HasSubstr("Less node 'Less_4': computes with the number of the step"));
  EXPECT_THAT(with([](OnnxWriter& w) { w.Node("Add", {"turn", "three"}, {"later"}).Node("Gather", {"x", "turn"}, {"own"}).Node("Gather", {"x", "later"}, {"xt"}).Node("Add", {"xt", "h"}, {"h2"}).Node("Identity", {"go"}, {"go2"}).Node("Tanh", {"h2"}, {"yt"}); }), HasSubstr("reads another step than its own"));
  EXPECT_THAT(refusal({"", "yes", "h0"}, Body([](OnnxWriter& w) { w.Node("Tanh", {"h"}, {"h2"}).Node("Identity", {"go"}, {"go2"}).Node("Tanh", {"h2"}, {"yt"}); })), HasSubstr("reads no step of one"));
  EXPECT_THAT(with([](OnnxWriter& w) { w.Node("Gather", {"x", "turn"}, {"xt"}).Node("Add", {"xt", "h"}, {"h2"}).Node("ReduceMax", {"h2"}, {"go2"}).Node("Tanh", {"h2"}, {"yt"}); }), HasSubstr("ends when its values say so"));
  EXPECT_THAT(with([](OnnxWriter& w) { w.Node("Gather", {"x", "turn"}, {"xt"}).Node("Identity", {"turn"}, {"h2"}).Node("Identity", {"go"}, {"go2"}).Node("Tanh", {"xt"}, {"yt"}); }), HasSubstr("its state 0"));
  // The number of a step, and a list, where values are expected.
  EXPECT_THAT(with([](OnnxWriter& w) { Accumulate(w), w.Node("If", {"turn"}, {"f"}, W::Graph("then_branch", {}) + W::Graph("else_branch", {})); }), HasSubstr("If node 'If_4': its condition is the number of the step"));
  for (const char* op : {"SequenceEmpty", "SequenceConstruct", "Loop", "Scan", "If", "LSTM", "Relu"}) {
    EXPECT_THAT(ImportAsItIs(Begin().Node(op, {"x", "h0"}, {}).Node("Tanh", {"x"}, {"y"}).Output("y")).status().message(), HasSubstr("it has no output")) << op;
  }
  OnnxWriter list = Begin();
  list.Node("SequenceEmpty", {}, {"y"}).Output("y");
  EXPECT_FALSE(ImportAsItIs(list).ok());
  OnnxWriter fed = Begin();
  fed.Node("SequenceEmpty", {}, {"l"}).Node("Scan", {"l", "x"}, {"e", "y"}, W::Int("num_scan_inputs", 1) + W::Graph("body", OnnxWriter().Input(W::Declared("a", {})).Input(W::Declared("b", {})).Node("Identity", {"b"}, {"c"}).Output("a").Output("c"))).Output("y");
  EXPECT_THAT(ImportAsItIs(fed).status().message(), HasSubstr("Scan node"));
}

// A million turns of nothing, from a file of a few hundred bytes.
TEST(OnnxLoopTest, TurnsOfABodyWithoutNodesArePaidForToo) {
  const auto body = [] { return OnnxWriter().Input(W::Declared("turn", {}, kInt64)).Input(W::Declared("go", {}, kBool)).Input(W::Declared("h", {1, 2})); };
  const std::string inner = W::Graph("body", body().Output("go").Output("h"));
  manifest::v1::Manifest no_time;
  auto* const x = no_time.mutable_onnx()->add_input();
  x->set_name("x");
  x->set_time(-1);
  const auto import = [&](int64_t turns) {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, 2})).Initializer(W::SmallTensor("yes", {}, {1}, kBool)).Initializer(W::IntTensor("many", {}, {turns}));
    file.Node("Loop", {"many", "yes", "x"}, {"l"}, W::Graph("body", body().Node("Loop", {"many", "yes", "h"}, {"h2"}, inner).Output("go").Output("h2"))).Node("Tanh", {"l"}, {"y"}).Output("y");
    return ImportOnnx(std::as_bytes(std::span(std::string_view(file.File()))), no_time).status();
  };
  EXPECT_TRUE(import(20).ok()) << import(20);
  EXPECT_THAT(import(1000).message(), HasSubstr("turns of its loops, are too many"));
}

}  // namespace
}  // namespace lstm::core
