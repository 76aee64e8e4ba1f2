// SPDX-License-Identifier: MIT
#include "core/import/onnx/onnx_import.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/ascii.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::OnnxWriter;
using testing::Vector;
using W = OnnxWriter;

absl::StatusOr<Model> Import(const std::string& file, const std::string& manifest = "", OnnxNotes* notes = nullptr) {
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(manifest, &parsed)) << manifest;
  return ImportOnnx(std::as_bytes(std::span(file)), parsed, {}, notes);
}

std::string Refusal(const std::string& file, const std::string& manifest = "") {
  const auto model = Import(file, manifest);
  if (model.ok() && !model->not_streamable.empty()) return model->not_streamable;
  return model.ok() ? "accepted" : std::string(model.status().message());
}

using testing::kActivations;
using testing::Numbers;
using testing::Reference;

// Every combination comes up over the seeds: which of them is drawn at random, the weights too.
void CheckRandomNode(uint64_t seed, std::set<std::string>& seen) {
  testing::Random random(seed);
  const auto coin = [&] { return random.Below(2) == 1; };
  Reference ref;
  ref.op = std::vector<std::string>{"LSTM", "GRU", "RNN"}[random.Below(3)];
  ref.hidden = static_cast<int64_t>(1 + random.Below(4));
  ref.width = static_cast<int64_t>(1 + random.Below(4));
  const int64_t n = ref.hidden, gates = ref.op == "LSTM" ? 4 : ref.op == "GRU" ? 3 : 1;
  const size_t functions = ref.op == "LSTM" ? 3 : ref.op == "GRU" ? 2 : 1;
  const bool layout = coin(), biased = coin(), states = coin(), state_inputs = states && coin(), plain = random.Below(3) > 0, defaults = random.Below(3) == 0, lower = coin();
  for (size_t i = 0; i < functions; ++i) {
    ref.activations.push_back(plain ? (i == 0 && functions > 1 ? "Sigmoid" : "Tanh") : kActivations[random.Below(kActivations.size())]);
    const std::string& a = ref.activations.back();
    const bool both = a == "Affine" || a == "ScaledTanh" || a == "HardSigmoid";
    const bool one = both || a == "LeakyRelu" || a == "ThresholdedRelu" || a == "Elu";
    if (one) ref.alphas.push_back(!defaults ? 0.3f + std::fabs(random.Uniform(0.4f)) : a == "LeakyRelu" ? 0.01f : a == "HardSigmoid" ? 0.2f : 1);
    if (both) ref.betas.push_back(!defaults ? random.Uniform(0.5f) : a == "Affine" ? 0 : a == "HardSigmoid" ? 0.5f : 1);
    if (!plain) seen.insert(ref.op + " function " + std::to_string(i) + " " + a);
    if (!plain && one) seen.insert(a + (defaults ? " by default" : " with numbers"));
  }
  if (coin()) ref.clip = static_cast<double>(std::vector<float>{0.2f, 0.7f, 2}[random.Below(3)]);
  ref.coupled = ref.op == "LSTM" && coin();
  ref.after = ref.op == "GRU" && coin();
  ref.w = Numbers(random, gates * n * ref.width);
  ref.r = Numbers(random, gates * n * n, 0.5f);
  ref.b = biased ? Numbers(random, 2 * gates * n) : std::vector<float>(static_cast<size_t>(2 * gates * n), 0);
  if (ref.op == "LSTM" && coin()) ref.p = Numbers(random, 3 * n);
  ref.h.assign(static_cast<size_t>(n), 0);
  ref.c = ref.h;
  OnnxWriter file;
  file.Input(W::Declared("X", layout ? Shape{-1, -2, ref.width} : Shape{-2, -1, ref.width}));
  file.Initializer(W::Tensor("W", {1, gates * n, ref.width}, ref.w)).Initializer(W::Tensor("R", {1, gates * n, n}, ref.r));
  std::vector<std::string> in = {"X", "W", "R", biased ? "B" : "", "", states ? "h0" : ""};
  if (biased) file.Initializer(W::Tensor("B", {1, 2 * gates * n}, ref.b));
  for (const std::string part : {"h0", "c0"}) {
    if (!states || (part == "c0" && ref.op != "LSTM")) continue;
    if (part == "c0") in.push_back("c0");
    if (state_inputs) {
      file.Input(W::Declared(part, layout ? Shape{-1, 1, n} : Shape{1, -1, n}));
      continue;
    }
    const std::vector<float> initial = Numbers(random, n);
    file.Initializer(W::Tensor(part, {1, 1, n}, initial));
    (part == "h0" ? ref.h : ref.c).assign(initial.begin(), initial.end());
  }
  if (!ref.p.empty()) {
    while (in.size() < 7) in.push_back("");
    in.push_back("P");
    file.Initializer(W::Tensor("P", {1, 3 * n}, ref.p));
  }
  std::string attributes = W::Int("hidden_size", n) + W::Int("layout", layout) + W::Int("input_forget", ref.coupled) + W::Int("linear_before_reset", ref.after);
  if (ref.op != "LSTM") attributes = W::Int("hidden_size", n) + W::Int("layout", layout) + (ref.op == "GRU" ? W::Int("linear_before_reset", ref.after) : "");
  if (!plain) {
    std::vector<std::string> names = ref.activations;
    for (std::string& name : names) name = lower ? absl::AsciiStrToLower(name) : name;
    attributes += W::Texts("activations", names);
    if (!defaults) attributes += W::Reals("activation_alpha", ref.alphas) + W::Reals("activation_beta", ref.betas);
  }
  if (ref.clip > 0) attributes += W::Real("clip", static_cast<float>(ref.clip));
  for (const auto& [what, on] : {std::pair<const char*, bool>{"layout", layout}, {"bias", biased}, {"states", states}, {"state inputs", state_inputs}, {"clip", ref.clip > 0}, {"activations", !plain},
                                 {"input_forget", ref.coupled}, {"linear_before_reset", ref.after}, {"peepholes", !ref.p.empty()}}) {
    seen.insert(ref.op + " " + what + (on ? " on" : " off"));
  }
  if (!plain && ref.clip == 0) seen.insert(ref.op + " activations without clip");
  if (plain && ref.clip > 0) seen.insert(ref.op + " clip alone");
  std::vector<std::string> out = {"Y", "hn"};
  const bool cell_out = ref.op == "LSTM" && (state_inputs || coin());
  if (cell_out) out.push_back("cn");
  file.Node(ref.op, in, out, attributes);
  for (const std::string& o : out) file.Output(o);

  OnnxNotes notes;
  const auto model = Import(file.File(22), "", &notes);
  ASSERT_TRUE(model.ok()) << seed << " " << model.status();
  EXPECT_EQ(notes.time.at("X"), layout ? 1 : 0);
  EXPECT_EQ(notes.states.size(), state_inputs ? (ref.op == "LSTM" ? 2u : 1u) : 0u);
  ASSERT_EQ(model->inputs.size(), 1u);
  testing::Oracle oracle(*model);
  const auto program = testing::MustCompile(*model, 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  for (int t = 0; t < 6; ++t) {
    Vector x;
    for (size_t i = 0; i < static_cast<size_t>(ref.width); ++i) row.input[0][i] = random.Uniform(), x.push_back(static_cast<double>(row.input[0][i]));
    ref.Step(x);
    const auto judged = oracle.Step({x});
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    for (size_t o = 0; o < model->outputs.size(); ++o) {
      const Vector& expected = model->outputs[o].name == "cn" ? ref.c : ref.h;
      for (size_t j = 0; j < expected.size(); ++j) {
        EXPECT_NEAR(judged[o][j], expected[j], 1e-6) << "seed " << seed << " step " << t << " " << model->outputs[o].name << " " << ref.op;
        EXPECT_NEAR(static_cast<double>(row.output[o][j]), expected[j], 1e-5) << "seed " << seed << " step " << t;
      }
    }
  }
}

TEST(OnnxImportTest, RandomRecurrentNodesOverTheirAttributes) {
  std::set<std::string> seen;
  for (uint64_t seed = 1; seed <= 1000 && !HasFatalFailure(); ++seed) CheckRandomNode(seed, seen);
  // The drawing is no check by itself: all of it must have come up.
  for (const std::string op : {"LSTM", "GRU", "RNN"}) {
    for (size_t i = 0; i < (op == "LSTM" ? 3u : op == "GRU" ? 2u : 1u); ++i) {
      for (const std::string& a : kActivations) EXPECT_TRUE(seen.contains(op + " function " + std::to_string(i) + " " + a)) << op << " " << i << " " << a;
    }
    for (const std::string what : {"layout", "bias", "states", "state inputs", "clip", "activations"}) EXPECT_TRUE(seen.contains(op + " " + what + " on") && seen.contains(op + " " + what + " off")) << op << " " << what;
    EXPECT_TRUE(seen.contains(op + " activations without clip") && seen.contains(op + " clip alone")) << op;
  }
  for (const std::string what : {"LSTM input_forget", "LSTM peepholes", "GRU linear_before_reset"}) EXPECT_TRUE(seen.contains(what + " on") && seen.contains(what + " off")) << what;
  for (const std::string a : {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}) EXPECT_TRUE(seen.contains(a + " by default") && seen.contains(a + " with numbers")) << a;
}

OnnxWriter LstmOver(const Shape& x, const std::string& attributes = "", const std::vector<std::string>& more = {}) {
  testing::Random random(5);
  OnnxWriter file;
  file.Input(W::Declared("x", x)).Initializer(W::Tensor("W", {1, 12, 2}, Numbers(random, 24))).Initializer(W::Tensor("R", {1, 12, 3}, Numbers(random, 36)));
  std::vector<std::string> in = {"x", "W", "R"};
  in.insert(in.end(), more.begin(), more.end());
  file.Node("LSTM", in, {"y", "h", "c"}, W::Int("hidden_size", 3) + attributes);
  return file;
}

TEST(OnnxImportTest, WhatLooksAheadIsRefusedByNodeAndReason) {
  EXPECT_THAT(Refusal(LstmOver({-2, -1, 2}, W::Text("direction", "bidirectional")).Output("y").File()), HasSubstr("LSTM node 'LSTM_0': its direction is 'bidirectional'"));
  EXPECT_THAT(Refusal(LstmOver({-2, -1, 2}).Node("ReduceMean", {"y"}, {"m"}, W::Ints("axes", {0})).Output("m").File()), HasSubstr("reduces over time"));
  EXPECT_THAT(Refusal(LstmOver({-2, -1, 2}).Node("Softmax", {"y"}, {"m"}, W::Int("axis", 0)).Output("m").File()), HasSubstr("Softmax node 'Softmax_1': runs over time"));
  EXPECT_THAT(Refusal(LstmOver({-2, -1, 2}).Node("Add", {"y", "h"}, {"m"}).Output("m").File()), HasSubstr("it looks ahead"));
  testing::Random random(2);
  for (const auto& [pads, said] : {std::pair<std::vector<int64_t>, std::string>{{1, 1}, "looks 1 frames ahead"}, {{2, 0}, "accepted"}, {{0, 0}, "looks 2 frames ahead"}}) {
    OnnxWriter conv;
    conv.Input(W::Declared("x", {-1, 2, -2})).Initializer(W::Tensor("K", {3, 2, 3}, Numbers(random, 18))).Node("Conv", {"x", "K"}, {"y"}, W::Ints("pads", pads)).Output("y");
    EXPECT_THAT(Refusal(conv.File()), HasSubstr(said));
  }
}

TEST(OnnxImportTest, StateThatTheGraphOnlyMovesAboutStaysInTheCell) {
  OnnxWriter file = LstmOver({1, 1, 2}, "", {"", "", "h0", "c0"});
  file.Input(W::Declared("both", {2, -1, 3})).Output("y").Output("next");
  OnnxWriter whole;  // the nodes before the cell come first
  whole.Initializer(W::IntTensor("0", {}, {0})).Initializer(W::IntTensor("1", {}, {1})).Initializer(W::IntTensor("axes", {1}, {0}));
  whole.Node("Gather", {"both", "0"}, {"hh"}, W::Int("axis", 0)).Node("Gather", {"both", "1"}, {"cc"}, W::Int("axis", 0));
  whole.Node("Unsqueeze", {"hh", "axes"}, {"h0"}).Node("Unsqueeze", {"cc", "axes"}, {"c0"});
  whole.nodes += file.nodes;
  whole.rest += file.rest;
  whole.count = 9;
  OnnxWriter swapped = whole;
  whole.Node("Concat", {"h", "c"}, {"next"}, W::Int("axis", 0));
  swapped.Node("Concat", {"c", "h"}, {"next"}, W::Int("axis", 0));
  const auto model = Import(whole.File());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->state.size(), 2u);
  EXPECT_EQ(model->outputs.size(), 1u);
  // Carried the other way round it is another network: no cell may keep it to itself.
  const auto crossed = Import(swapped.File());
  ASSERT_TRUE(crossed.ok()) << crossed.status();
  ASSERT_EQ(crossed->state.size(), 1u);
  testing::Oracle a(*model), b(*crossed);
  EXPECT_NEAR(a.Step({{1, 0.5}})[0][0], b.Step({{1, 0.5}})[0][0], 1e-9);
  EXPECT_GT(std::fabs(a.Step({{1, 0.5}})[0][0] - b.Step({{1, 0.5}})[0][0]), 1e-3);
}

TEST(OnnxImportTest, NumbersInNamesTellStatesApart) {
  for (const auto& [first, second] : {std::pair<std::string, std::string>{"h1.1", "h2.1"}, {"h1_out", "h2_out"}, {"new_h2", "new_h1"}}) {
    const bool crossed = first == "new_h2";
    OnnxWriter file;
    file.Input(W::Declared("x", {1, 3})).Input(W::Declared("h1", {1, 3})).Input(W::Declared("h2", {1, 3}));
    file.Node("Add", {"x", "h1"}, {"a"}).Node("Tanh", {"a"}, {first}).Node("Mul", {first, "h2"}, {"b"}).Node("Cos", {"b"}, {second}).Node("Neg", {second}, {"y"}).Output("y").Output(first).Output(second);
    OnnxNotes notes;
    const auto model = Import(file.File(), "", &notes);
    ASSERT_TRUE(model.ok()) << first << ": " << model.status();
    EXPECT_EQ(model->inputs.size(), 1u);
    EXPECT_EQ(model->outputs.size(), 1u);
    EXPECT_THAT(notes.lines, ::testing::Contains("input 'h1': state that the session carries, next value '" + (crossed ? second : first) + "'"));
    EXPECT_THAT(notes.lines, ::testing::Contains("input 'h2': state that the session carries, next value '" + (crossed ? first : second) + "'"));
  }
}

TEST(OnnxImportTest, IdsAsOneOfMany) {
  OnnxWriter file;
  file.Input(W::Declared("ids", {-1, -2}, 7)).Initializer(W::IntTensor("d", {}, {5})).Initializer(W::Tensor("v", {2}, {-1, 2}));
  file.Node("OneHot", {"ids", "d", "v"}, {"y"}, W::Int("axis", -1)).Output("y");
  const auto model = Import(file.File());
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->inputs.size(), 1u);
  EXPECT_EQ(model->inputs[0].limit, 5);
  testing::Oracle oracle(*model);
  EXPECT_EQ(oracle.Step({{3}})[0], (Vector{-1, -1, -1, 2, -1}));
}

TEST(OnnxImportTest, IdsThatAreLookedUpAndComparedWithToo) {
  OnnxWriter file;
  file.Input(W::Declared("ids", {-1, -2}, 7)).Initializer(W::Tensor("E", {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8})).Initializer(W::IntTensor("pad", {}, {2})).Initializer(W::IntTensor("a", {1}, {-1}));
  file.Node("Equal", {"ids", "pad"}, {"is"}).Node("Not", {"is"}, {"mask"}).Node("Cast", {"mask"}, {"m"}, W::Int("to", 1)).Node("Unsqueeze", {"m", "a"}, {"mu"});
  file.Node("Gather", {"E", "ids"}, {"e"}).Node("Mul", {"e", "mu"}, {"y"}).Output("y");
  const auto model = Import(file.File());
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->inputs.size(), 1u);
  EXPECT_EQ(model->inputs[0].limit, 4);
  testing::Oracle oracle(*model);
  EXPECT_EQ(oracle.Step({{3}})[0], (Vector{7, 8}));
  EXPECT_EQ(oracle.Step({{2}})[0], (Vector{0, 0}));
  EXPECT_EQ(oracle.Step({{0}})[0], (Vector{1, 2}));
}

TEST(OnnxImportTest, ASumOverTimeIsKeptByTheSession) {
  for (const bool exclusive : {false, true}) {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, -2, 2})).Initializer(W::IntTensor("a", {}, {1})).Node("CumSum", {"x", "a"}, {"y"}, W::Int("exclusive", exclusive)).Output("y");
    const auto model = Import(file.File());
    ASSERT_TRUE(model.ok()) << model.status();
    testing::Oracle oracle(*model);
    EXPECT_EQ(oracle.Step({{1, 2}})[0], exclusive ? (Vector{0, 0}) : (Vector{1, 2}));
    EXPECT_EQ(oracle.Step({{-3, 5}})[0], exclusive ? (Vector{1, 2}) : (Vector{-2, 7}));
    EXPECT_EQ(oracle.Step({{0, 1}})[0], exclusive ? (Vector{-2, 7}) : (Vector{-2, 8}));
  }
}

TEST(OnnxImportTest, IntegersAsTruth) {
  OnnxWriter file;
  file.Input(W::Declared("n", {1, 3}, 7)).Node("Cast", {"n"}, {"b"}, W::Int("to", 9)).Node("Not", {"b"}, {"c"}).Node("Cast", {"c"}, {"y"}, W::Int("to", 1)).Output("y");
  const auto model = Import(file.File(), "onnx { input { name: 'n' time: -1 state: '' } }");
  ASSERT_TRUE(model.ok()) << model.status();
  testing::Oracle oracle(*model);
  EXPECT_EQ(oracle.Step({{0, 5, -2}})[0], (Vector{1, 0, 0}));
}

TEST(OnnxImportTest, IntegersThatAreOnlyPassedOnNobodySends) {
  OnnxWriter file;
  file.Input(W::Declared("x", {1, 3})).Input(W::Declared("n", {1}, 7)).Node("Tanh", {"x"}, {"y"}).Node("Identity", {"n"}, {"m"}).Output("y").Output("m");
  const auto model = Import(file.File(), "onnx { input { name: 'x' time: -1 state: '' } }");
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->inputs.size(), 1u);
  EXPECT_EQ(model->inputs[0].name, "x");
  ASSERT_EQ(model->outputs.size(), 1u);
  EXPECT_EQ(model->outputs[0].name, "y");
}

TEST(OnnxImportTest, TwoReadingsAskForTheLineThatDecides) {
  OnnxWriter file;
  testing::Random random(3);
  file.Input(W::Declared("x", {1, 2})).Input(W::Declared("s", {1, 3})).Initializer(W::Tensor("A", {5, 3}, Numbers(random, 15)));
  file.Node("Concat", {"x", "s"}, {"both"}, W::Int("axis", 1)).Node("MatMul", {"both", "A"}, {"pre"}).Node("Tanh", {"pre"}, {"t"}).Output("t");
  EXPECT_THAT(Refusal(file.File()), HasSubstr("onnx { input { name: 's' state: 't' } }"));
  const auto carried = Import(file.File(), "onnx { input { name: 's' state: 't' } }");
  ASSERT_TRUE(carried.ok()) << carried.status();
  EXPECT_EQ(carried->inputs.size(), 1u);
  EXPECT_EQ(carried->state.size(), 1u);
  const auto data = Import(file.File(), "onnx { input { name: 's' state: '' } }");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->inputs.size(), 2u);
}

// A sampling rate, say, that decides which half of a graph is meant.
TEST(OnnxImportTest, AConditionThatAnInputDecidesAsksForIt) {
  OnnxWriter file = LstmOver({-2, -1, 2});
  const auto branch = [](const std::string& op) { return OnnxWriter().Node(op, {"y"}, {"branched"}).Output("branched"); };
  const auto graph = [&](const std::string& name, const OnnxWriter& of) { return W::Bytes(5, W::Bytes(1, name) + W::Bytes(6, of.nodes + of.rest) + W::Number(20, 5)); };
  file.Input(W::Declared("sr", {}, 7)).Initializer(W::IntTensor("rate", {}, {16000})).Node("Equal", {"sr", "rate"}, {"fast"});
  file.Node("If", {"fast"}, {"z"}, graph("then_branch", branch("Neg")) + graph("else_branch", branch("Abs"))).Output("z");
  const std::string refused = Refusal(file.File());
  EXPECT_THAT(refused, HasSubstr("If node 'If_2': its condition is computed from the input 'sr' in every step, expected a constant; the manifest can say what it is: onnx { input { name: 'sr' constant: ... } }"));
  EXPECT_EQ(refused.find("constant: ... } }") + 17, refused.size()) << refused;
  const auto told = Import(file.File(), "onnx { input { name: 'sr' constant: 16000 } }");
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->not_streamable, "");
}

TEST(OnnxImportTest, HostileFilesAreRefusedWithOneClearError) {
  const std::string good = LstmOver({-2, -1, 2}).Output("y").File();
  ASSERT_EQ(Refusal(good), "accepted");
  for (size_t n = 0; n < good.size(); ++n) EXPECT_NE(Refusal(good.substr(0, n)), "accepted") << n;
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {2})).Node("Add", {"x", "b"}, {"a"}).Node("Add", {"a", "x"}, {"b"}).Output("b").File()), HasSubstr("Add node 'Add_0' reads 'b', which nothing before it gives"));
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {2})).Node("Tanh", {"x"}, {"a"}).Node("Tanh", {"x"}, {"a"}).Output("a").File()), HasSubstr("'a' is given twice"));
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {int64_t{1} << 40, int64_t{1} << 40})).Node("Tanh", {"x"}, {"a"}).Output("a").File()), HasSubstr("'x'"));
  EXPECT_THAT(Refusal(OnnxWriter().Initializer(W::Tensor("w", {int64_t{1} << 62, 4}, {})).File()), HasSubstr("tensor 'w'"));
  EXPECT_THAT(Refusal(OnnxWriter().Initializer(W::Tensor("w", {2}, {1, 2}) + W::Number(14, 1)).File()), HasSubstr("tensor 'w' keeps its data in another file"));
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {2})).Initializer(W::Tensor("w", {3}, {1, 2})).Node("Add", {"x", "w"}, {"a"}).Output("a").File()), HasSubstr("Add_0"));
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {2})).Node("NonZero", {"x"}, {"a"}).Output("a").File()), HasSubstr("NonZero node 'NonZero_0': this operator is not supported"));
  EXPECT_THAT(Refusal(OnnxWriter().Input(W::Declared("x", {2})).Initializer(W::IntTensor("s", {2}, {int64_t{1} << 20, int64_t{1} << 19})).Node("Expand", {"x", "s"}, {"a"}).Output("a").File()), HasSubstr("Expand_0"));
  EXPECT_THAT(Refusal(good.substr(0, good.size() - 2) + W::Number(2, 99)), ::testing::Not("accepted"));
  std::string deep = W::Bytes(1, W::Bytes(4, "If"));
  for (int i = 0; i < 20; ++i) deep = W::Bytes(1, W::Bytes(4, "If") + W::Bytes(5, W::Bytes(6, deep)));
  EXPECT_THAT(Refusal(W::Bytes(7, deep) + W::Bytes(8, W::Number(2, 17))), HasSubstr("deeper than 8"));
  std::string many;
  const std::string one = W::Bytes(1, W::Bytes(1, "x") + W::Bytes(2, "y") + W::Bytes(4, "Tanh"));
  for (int i = 0; i < 1'000'000; ++i) many += one;
  EXPECT_THAT(Refusal(W::Bytes(7, many) + W::Bytes(8, W::Number(2, 17))), HasSubstr("more than 100000 nodes"));
}

}  // namespace
}  // namespace lstm::core
