// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/oracle.h"
#include "tests/support/program_runner.h"

// Cells that an exporter wrote out in parts: put together where they are one, and left where anything differs.
namespace lstm::core {
namespace {

using testing::Numbers;
using testing::OnnxWriter;
using testing::Reference;
using testing::Vector;
using W = OnnxWriter;

absl::StatusOr<Model> Import(const std::string& file) {
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString("onnx { input { name: 'h' state: 'hn' } }", &parsed));
  return ImportOnnx(std::as_bytes(std::span(file)), parsed);
}

template <typename T>
const T* Only(const Model& model) {
  const T* found = nullptr;
  int n = 0;
  for (const Node& node : model.nodes) {
    if (const auto* op = std::get_if<T>(&node.op)) found = op, ++n;
  }
  return n == 1 ? found : nullptr;
}

// The same cell as `ref` in ONNX's order of gates, in one of many ways to write it.
struct Parts {
  int64_t hidden = 3, width = 2;
  std::string mutation;  // what is not an LSTM any more
  bool packed = false;   // h and c in one tensor

  static std::vector<float> Turned(const std::vector<float>& m, int64_t rows, int64_t columns) {  // [rows, columns] to [columns, rows]
    std::vector<float> out(m.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) out[static_cast<size_t>(c * rows + r)] = m[static_cast<size_t>(r * columns + c)];
    }
    return out;
  }
  static std::vector<float> Sum(const std::vector<float>& b) {
    std::vector<float> out(b.begin(), b.begin() + static_cast<long>(b.size() / 2));
    for (size_t i = 0; i < out.size(); ++i) out[i] += b[out.size() + i];
    return out;
  }

  // Names of the pre-activations of `gates` gates, in the order of the weights.
  std::vector<std::string> Gates(OnnxWriter& file, const Reference& ref, int64_t gates, int style, const std::string& h) const {
    const int64_t rows = gates * hidden;
    std::vector<std::string> out;
    for (int64_t g = 0; g < gates; ++g) out.push_back("g" + std::to_string(g));
    if (style == 0) {  // MatMul and Add
      file.Initializer(W::Tensor("W", {width, rows}, Turned(ref.w, rows, width))).Initializer(W::Tensor("R", {hidden, rows}, Turned(ref.r, rows, hidden))).Initializer(W::Tensor("b", {rows}, Sum(ref.b)));
      file.Node("MatMul", {"x", "W"}, {"xw"}).Node("MatMul", {h, "R"}, {"hr"}).Node("Add", {"xw", "hr"}, {"s"}).Node("Add", {"s", "b"}, {"pre"});
    } else if (style == 1) {  // two Gemm, each with its bias
      const std::vector<float> b0(ref.b.begin(), ref.b.begin() + rows), b1(ref.b.begin() + rows, ref.b.end());
      file.Initializer(W::Tensor("W", {rows, width}, ref.w)).Initializer(W::Tensor("R", {rows, hidden}, ref.r)).Initializer(W::Tensor("b0", {rows}, b0)).Initializer(W::Tensor("b1", {rows}, b1));
      file.Node("Gemm", {"x", "W", "b0"}, {"xw"}, W::Int("transB", 1)).Node("Gemm", {h, "R", "b1"}, {"hr"}, W::Int("transB", 1)).Node("Add", {"hr", "xw"}, {"pre"});
    } else if (style == 2) {  // one matrix over h and x side by side
      std::vector<float> both;
      for (int64_t r = 0; r < rows; ++r) {
        both.insert(both.end(), ref.r.begin() + r * hidden, ref.r.begin() + (r + 1) * hidden);
        both.insert(both.end(), ref.w.begin() + r * width, ref.w.begin() + (r + 1) * width);
      }
      file.Initializer(W::Tensor("M", {hidden + width, rows}, Turned(both, rows, hidden + width))).Initializer(W::Tensor("b", {rows}, Sum(ref.b)));
      file.Node("Concat", {h, "x"}, {"hx"}, W::Int("axis", 1)).Node("MatMul", {"hx", "M"}, {"m"}).Node("Add", {"m", "b"}, {"pre"});
    } else {  // every gate by itself
      const std::vector<float> b = Sum(ref.b);
      for (int64_t g = 0; g < gates; ++g) {
        const std::string n = std::to_string(g);
        const std::vector<float> w(ref.w.begin() + g * hidden * width, ref.w.begin() + (g + 1) * hidden * width), r(ref.r.begin() + g * hidden * hidden, ref.r.begin() + (g + 1) * hidden * hidden),
            own(b.begin() + g * hidden, b.begin() + (g + 1) * hidden);
        file.Initializer(W::Tensor("W" + n, {hidden, width}, w)).Initializer(W::Tensor("R" + n, {hidden, hidden}, r)).Initializer(W::Tensor("b" + n, {hidden}, own));
        file.Node("Gemm", {h, "R" + n, "b" + n}, {"hr" + n}, W::Int("transB", 1)).Node("Gemm", {"x", "W" + n, "hr" + n}, {out[static_cast<size_t>(g)]}, W::Int("transB", 1));
      }
      return out;
    }
    file.Node("Split", {"pre"}, out, W::Int("axis", 1));
    return out;
  }

  OnnxWriter Lstm(const Reference& ref, int style) const {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, width})).Output("y").Output("hn");
    std::string h = "h", c = "c";
    if (packed) {
      file.Input(W::Declared("h", {1, hidden, 2})).Initializer(W::IntTensor("0", {}, {0})).Initializer(W::IntTensor("1", {}, {1}));
      file.Node("Gather", {"h", "0"}, {"h0"}, W::Int("axis", 2)).Node("Gather", {"h", "1"}, {"c0"}, W::Int("axis", 2));
      h = "h0", c = "c0";
    } else {
      file.Input(W::Declared("h", {1, hidden})).Input(W::Declared("c", {1, hidden})).Output("cn");
    }
    const auto g = Gates(file, ref, 4, style, h);  // i o f c
    std::string of = g[2], oc = c;
    if (!ref.p.empty()) {
      for (const auto& [k, gate] : {std::pair<size_t, std::string>{0, g[0]}, {2, g[2]}}) {
        const std::vector<float> p(ref.p.begin() + static_cast<long>(k) * hidden, ref.p.begin() + static_cast<long>(k + 1) * hidden);
        file.Initializer(W::Tensor("p" + gate, {hidden}, p)).Node("Mul", {c, "p" + gate}, {"l" + gate}).Node("Add", {gate, "l" + gate}, {"e" + gate});
      }
      of = "e" + g[2];
    }
    file.Node("Sigmoid", {ref.p.empty() ? g[0] : "e" + g[0]}, {"i"}).Node(mutation == "hard" ? "HardSigmoid" : "Sigmoid", {of}, {"f"}).Node(mutation == "relu" ? "Relu" : "Tanh", {g[3]}, {"t"});
    file.Node("Mul", {"f", mutation == "wrong state" ? h : c}, {"k"}).Node(mutation == "sum" ? "Add" : "Mul", {"t", "i"}, {"n"}).Node(mutation == "difference" ? "Sub" : "Add", {"n", "k"}, {"c1"});
    std::string c1 = "c1", o = g[1];
    if (mutation == "clip") file.Initializer(W::Tensor("lo", {}, {-0.3f})).Initializer(W::Tensor("hi", {}, {0.3f})).Node("Clip", {"c1", "lo", "hi"}, {"c2"}), c1 = "c2";
    if (!ref.p.empty()) {
      const std::vector<float> p(ref.p.begin() + hidden, ref.p.begin() + 2 * hidden);
      file.Initializer(W::Tensor("po", {hidden}, p)).Node("Mul", {mutation == "old peephole" ? c : c1, "po"}, {"lo2"}).Node("Add", {o, "lo2"}, {"eo"});
      o = "eo";
    }
    file.Node("Sigmoid", {o}, {"o"}).Node("Tanh", {c1}, {"ct"}).Node("Mul", {"ct", mutation == "gate twice" ? "i" : "o"}, {"h1"});
    file.Node("Identity", {mutation == "cell shown" ? c1 : "h1"}, {"y0"}).Node("Neg", {"y0"}, {"y1"}).Node("Neg", {"y1"}, {"y"});
    const std::string next = mutation == "other h" ? "ct" : "h1";
    if (packed) {
      file.Initializer(W::IntTensor("two", {1}, {2})).Node("Unsqueeze", {next, "two"}, {"hu"}).Node("Unsqueeze", {c1, "two"}, {"cu"}).Node("Concat", {"hu", "cu"}, {"hn"}, W::Int("axis", 2));
    } else {
      file.Node("Identity", {next}, {"hn"}).Node("Identity", {c1}, {"cn"});
    }
    return file;
  }

  // Gates z r h. `form`: how the old and the new are mixed.
  OnnxWriter Gru(const Reference& ref, int form) const {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, width})).Input(W::Declared("h", {1, hidden})).Output("y").Output("hn").Initializer(W::Tensor("one", {}, {mutation == "two" ? 2.0f : 1.0f}));
    const int64_t rows = 3 * hidden;
    const std::vector<float> b0(ref.b.begin(), ref.b.begin() + rows), b1(ref.b.begin() + rows, ref.b.end());
    file.Initializer(W::Tensor("W", {rows, width}, ref.w)).Initializer(W::Tensor("b0", {rows}, b0)).Initializer(W::Tensor("b1", {rows}, b1)).Initializer(W::Tensor("R", {rows, hidden}, ref.r));
    file.Node("Gemm", {"x", "W", "b0"}, {"xw"}, W::Int("transB", 1)).Node("Split", {"xw"}, {"xz", "xr", "xn"}, W::Int("axis", 1));
    if (ref.after) {
      file.Node("Gemm", {"h", "R", "b1"}, {"hr"}, W::Int("transB", 1)).Node("Split", {"hr"}, {"hz", "hrr", "hnn"}, W::Int("axis", 1));
      file.Node("Add", {"xz", "hz"}, {"az"}).Node("Add", {"xr", "hrr"}, {"ar"}).Node("Sigmoid", {"az"}, {"z"}).Node("Sigmoid", {"ar"}, {"r"});
      file.Node("Mul", {"r", "hnn"}, {"rh"}).Node("Add", {"xn", "rh"}, {"an"});
    } else {
      const auto part = [&](const std::vector<float>& v, int64_t from, int64_t to) { return std::vector<float>(v.begin() + from, v.begin() + to); };
      file.Initializer(W::Tensor("Rzr", {2 * hidden, hidden}, part(ref.r, 0, 2 * hidden * hidden))).Initializer(W::Tensor("Rn", {hidden, hidden}, part(ref.r, 2 * hidden * hidden, rows * hidden)));
      file.Initializer(W::Tensor("bzr", {2 * hidden}, part(b1, 0, 2 * hidden))).Initializer(W::Tensor("bn", {hidden}, part(b1, 2 * hidden, rows)));
      file.Node("Gemm", {"h", "Rzr", "bzr"}, {"hr"}, W::Int("transB", 1)).Node("Split", {"hr"}, {"hz", "hrr"}, W::Int("axis", 1));
      file.Node("Add", {"xz", "hz"}, {"az"}).Node("Add", {"xr", "hrr"}, {"ar"}).Node("Sigmoid", {"az"}, {"z"}).Node("Sigmoid", {"ar"}, {"r"});
      file.Node("Mul", {"h", "r"}, {"rh"}).Node("Gemm", {"rh", "Rn", "bn"}, {"hnn"}, W::Int("transB", 1)).Node("Add", {"xn", "hnn"}, {"an"});
    }
    if (mutation == "h past the gate") file.Node("Add", {"an", "h"}, {"an2"});
    file.Node("Tanh", {mutation == "h past the gate" ? "an2" : "an"}, {"n"});
    const std::string keep = mutation == "wrong gate" ? "r" : "z";
    if (form == 0) file.Node("Sub", {"one", "z"}, {"nz"}).Node("Mul", {"nz", "n"}, {"p"}).Node("Mul", {keep, "h"}, {"q"}).Node("Add", {"p", "q"}, {"h1"});
    if (form == 1) file.Node("Sub", {"h", "n"}, {"d"}).Node("Mul", {"d", keep}, {"q"}).Node("Add", {"n", "q"}, {"h1"});
    if (form == 2) file.Node("Neg", {"az"}, {"am"}).Node("Sigmoid", {"am"}, {"u"}).Node("Sub", {"n", "h"}, {"d"}).Node("Mul", {"u", "d"}, {"q"}).Node("Add", {"h", "q"}, {"h1"});
    return file.Node("Identity", {"h1"}, {"y"}).Node("Identity", {"h1"}, {"hn"});
  }
};

Reference Ref(testing::Random& random, const std::string& op, bool peepholes = false, bool after = false) {
  Reference ref;
  ref.op = op, ref.after = after;
  ref.activations = {"Sigmoid", "Tanh", "Tanh"};
  const int64_t gates = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1;
  ref.w = Numbers(random, gates * 3 * 2), ref.r = Numbers(random, gates * 9), ref.b = Numbers(random, 2 * gates * 3);
  if (peepholes) ref.p = Numbers(random, 9);
  ref.h.assign(3, 0), ref.c = ref.h;
  return ref;
}

// The model's first output over some steps is `ref`'s h.
void ExpectSteps(const Model& model, Reference ref, const std::string& what) {
  testing::Random random(9);
  testing::Oracle oracle(model);
  const auto program = testing::MustCompile(model, 2);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  for (int t = 0; t < 8; ++t) {
    Vector x;
    for (size_t i = 0; i < 2; ++i) row.input[0][i] = random.Uniform(), x.push_back(static_cast<double>(row.input[0][i]));
    ref.Step(x);
    const Vector judged = oracle.Step({x})[0];
    const StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    for (size_t j = 0; j < 3; ++j) {
      ASSERT_NEAR(judged[j], ref.h[j], 1e-6) << what << " step " << t;
      ASSERT_NEAR(static_cast<double>(row.output[0][j]), ref.h[j], 2e-6) << what << " step " << t;
    }
  }
}

TEST(OnnxFuseTest, LstmInPartsIsOneCell) {
  testing::Random random(1);
  for (int style = 0; style < 4; ++style) {
    for (const bool packed : {false, true}) {
      for (const bool peepholes : {false, true}) {
        const std::string what = "style " + std::to_string(style) + (packed ? " packed" : "") + (peepholes ? " peepholes" : "");
        const Reference ref = Ref(random, "LSTM", peepholes);
        Parts parts;
        parts.packed = packed;
        const auto model = Import(parts.Lstm(ref, style).File());
        ASSERT_TRUE(model.ok()) << what << ": " << model.status();
        const auto* lstm = Only<LstmOp>(*model);
        ASSERT_NE(lstm, nullptr) << what;
        EXPECT_EQ(lstm->peephole != nullptr, peepholes) << what;
        EXPECT_EQ(model->state.size(), 2u) << what;
        EXPECT_EQ(Only<LinearOp>(*model), nullptr) << what;
        ExpectSteps(*model, ref, what);
      }
    }
  }
}

TEST(OnnxFuseTest, GruInPartsIsOneCell) {
  testing::Random random(2);
  for (const bool after : {false, true}) {
    for (int form = 0; form < 3; ++form) {
      const std::string what = std::string(after ? "after" : "before") + " form " + std::to_string(form);
      const Reference ref = Ref(random, "GRU", false, after);
      const auto model = Import(Parts().Gru(ref, form).File());
      ASSERT_TRUE(model.ok()) << what << ": " << model.status();
      const auto* gru = Only<GruOp>(*model);
      ASSERT_NE(gru, nullptr) << what;
      EXPECT_EQ(gru->reset_after, after) << what;
      ExpectSteps(*model, ref, what);
    }
  }
}

// A plain RNN: two products and a sum, one product of x and h side by side, or with h moved about.
OnnxWriter RnnInParts(const Reference& ref, int form, const std::string& mutation = "") {
  OnnxWriter file;
  file.Input(W::Declared("x", {1, 2})).Input(W::Declared("h", {1, 3}));
  std::vector<float> recurrent = ref.r;
  if (mutation == "diagonal") recurrent = {0.5f, 0, 0, 0, -0.25f, 0, 0, 0, 1};
  file.Initializer(W::Tensor("b", {3}, Parts::Sum(ref.b))).Initializer(W::Tensor("W", {3, 2}, ref.w)).Initializer(W::Tensor("R", {3, 3}, recurrent));
  if (form == 1) {
    std::vector<float> both = Parts::Turned(ref.w, 3, 2);
    const std::vector<float> r = Parts::Turned(recurrent, 3, 3);
    both.insert(both.end(), r.begin(), r.end());
    file.Initializer(W::Tensor("WR", {5, 3}, both)).Node("Concat", {"x", "h"}, {"xh"}, W::Int("axis", 1)).Node("MatMul", {"xh", "WR"}, {"m"}).Node("Add", {"b", "m"}, {"a"});
  } else {
    std::string h = "h";
    if (form == 2) file.Initializer(W::IntTensor("s", {3}, {3, 1, 1})).Initializer(W::IntTensor("t", {2}, {1, -1})).Node("Reshape", {"h", "s"}, {"h3"}).Node("Reshape", {"h3", "t"}, {"h2"}), h = "h2";
    file.Node("Gemm", {"x", "W", "b"}, {"i"}, W::Int("transB", 1)).Node("Gemm", {h, "R"}, {"r"}, W::Int("transB", 1)).Node("Add", {"r", "i"}, {"a"});
  }
  if (mutation == "clip") file.Initializer(W::Tensor("l", {}, {-0.5f})).Initializer(W::Tensor("u", {}, {0.5f})).Node("Clip", {"a", "l", "u"}, {"c"});
  file.Node(ref.activations[0], {mutation == "clip" ? "c" : "a"}, {"y"});
  if (mutation == "half") return file.Initializer(W::Tensor("k", {}, {0.5f})).Node("Mul", {"y", "k"}, {"hn"}).Output("y").Output("hn"), file;
  return file.Node("Identity", {"y"}, {"hn"}).Output("y").Output("hn"), file;
}

TEST(OnnxFuseTest, RnnInPartsIsOneCell) {
  testing::Random random(4);
  for (const std::string function : {"Tanh", "Relu"}) {
    for (int form = 0; form < 3; ++form) {
      const std::string what = function + " form " + std::to_string(form);
      Reference ref = Ref(random, "RNN");
      ref.activations = {function};
      const auto model = Import(RnnInParts(ref, form).File());
      ASSERT_TRUE(model.ok()) << what << ": " << model.status();
      const auto* rnn = Only<RnnOp>(*model);
      ASSERT_NE(rnn, nullptr) << what;
      EXPECT_EQ(rnn->relu, function == "Relu");
      EXPECT_EQ(Only<LinearOp>(*model), nullptr) << what;
      ExpectSteps(*model, ref, what);
    }
  }
  for (const std::string mutation : {"clip", "half", "diagonal"}) {
    Reference ref = Ref(random, "RNN");
    ref.activations = {"Tanh"};
    const auto model = Import(RnnInParts(ref, 0, mutation).File());
    ASSERT_TRUE(model.ok()) << mutation << ": " << model.status();
    EXPECT_EQ(Only<RnnOp>(*model), nullptr) << mutation;
  }
}

TEST(OnnxFuseTest, WhatIsNotQuiteACellStaysAsItIs) {
  testing::Random random(3);
  for (const std::string mutation : {"hard", "relu", "sum", "difference", "clip", "gate twice", "cell shown", "other h", "wrong state", "old peephole"}) {
    const bool peepholes = mutation == "old peephole";
    const Reference ref = Ref(random, "LSTM", peepholes);
    Parts parts;
    parts.mutation = mutation;
    const auto model = Import(parts.Lstm(ref, 0).File());
    ASSERT_TRUE(model.ok()) << mutation << ": " << model.status();
    const auto* lstm = Only<LstmOp>(*model);
    if (mutation != "gate twice") {
      EXPECT_EQ(lstm, nullptr) << mutation;
      continue;
    }
    // Still an LSTM, whose input and output gates are the same.
    ASSERT_NE(lstm, nullptr);
    EXPECT_EQ(lstm->weight->values[0], lstm->weight->values[3 * 3 * 2]);
  }
  for (const bool after : {false, true}) {
    for (const std::string mutation : {"two", "wrong gate", "h past the gate"}) {
      const Reference ref = Ref(random, "GRU", false, after);
      Parts parts;
      parts.mutation = mutation;
      const auto model = Import(parts.Gru(ref, 0).File());
      ASSERT_TRUE(model.ok()) << mutation << ": " << model.status();
      EXPECT_EQ(Only<GruOp>(*model), nullptr) << mutation;
    }
  }
}

}  // namespace
}  // namespace lstm::core
