// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/program_runner.h"

// What runs within a step of time: sequences along other axes than time, batches of a session's own, convolutions of each frame by itself.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Numbers;
using testing::OnnxWriter;
using testing::Reference;
using testing::Vector;
using W = OnnxWriter;

absl::StatusOr<Model> Import(const std::string& file, const std::string& manifest = "") {
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(manifest, &parsed)) << manifest;
  return ImportOnnx(std::as_bytes(std::span(file)), parsed);
}

// A session of a model of one input, step after step.
class Session {
 public:
  explicit Session(const Model& model) : program_(testing::MustCompile(model, 4)), scratch_(program_->MakeScratch()), row_(*program_) {}
  void Step(const Vector& x) {
    ASSERT_EQ(row_.input[0].size(), x.size());
    for (size_t i = 0; i < x.size(); ++i) row_.input[0][i] = static_cast<float>(x[i]);
    const StepRow one = row_.row();
    ASSERT_TRUE(program_->Run({&one, 1}, *scratch_).ok());
    row_.Accept();
  }
  void Expect(size_t output, const Vector& expected, const std::string& what, double bar = 1e-5) const {
    ASSERT_EQ(row_.output[output].size(), expected.size()) << what;
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(static_cast<double>(row_.output[output][i]), expected[i], bar) << what << " element " << i;
  }

 private:
  std::shared_ptr<const StepProgram> program_;
  std::unique_ptr<StepProgram::Scratch> scratch_;
  testing::Row row_;
};

// Directions of a node with weights of their own, and its inputs W, R, B and P in the file.
struct Node {
  Node(testing::Random& random, const std::string& kind, int64_t directions, int64_t hidden, int64_t width, OnnxWriter& file) {
    const int64_t gates = kind == "LSTM" ? 4 : kind == "GRU" ? 3 : 1;
    after = kind == "GRU" && random.Below(2) == 1;
    const bool peepholes = kind == "LSTM" && random.Below(2) == 1;
    std::vector<float> w, r, b, p;
    for (int64_t d = 0; d < directions; ++d) {
      Reference ref;
      ref.op = kind, ref.hidden = hidden, ref.width = width, ref.after = after;
      ref.activations = kind == "LSTM" ? std::vector<std::string>{"Sigmoid", "Tanh", "Tanh"} : kind == "GRU" ? std::vector<std::string>{"Sigmoid", "Tanh"} : std::vector<std::string>{"Tanh"};
      ref.w = Numbers(random, gates * hidden * width), ref.r = Numbers(random, gates * hidden * hidden, 0.5f), ref.b = Numbers(random, 2 * gates * hidden);
      if (peepholes) ref.p = Numbers(random, 3 * hidden);
      ref.h.assign(static_cast<size_t>(hidden), 0), ref.c = ref.h;
      for (const auto& [from, to] : {std::pair{&ref.w, &w}, {&ref.r, &r}, {&ref.b, &b}, {&ref.p, &p}}) to->insert(to->end(), from->begin(), from->end());
      refs.push_back(ref);
    }
    file.Initializer(W::Tensor("W", {directions, gates * hidden, width}, w)).Initializer(W::Tensor("R", {directions, gates * hidden, hidden}, r));
    file.Initializer(W::Tensor("B", {directions, 2 * gates * hidden}, b));
    if (peepholes) file.Initializer(W::Tensor("P", {directions, 3 * hidden}, p));
    inputs = {"x3", "W", "R", "B", "", "", ""};
    if (peepholes) inputs.push_back("P");
    attributes = W::Int("hidden_size", hidden) + (kind == "GRU" ? W::Int("linear_before_reset", after) : "");
    outputs = {"Y", "Yh"};
    if (kind == "LSTM") outputs.push_back("Yc");
  }
  std::vector<Reference> refs;
  std::vector<std::string> inputs, outputs;
  std::string attributes;
  bool after = false;
};

std::string PickedKind(testing::Random& random) { return std::vector<std::string>{"LSTM", "GRU", "RNN"}[random.Below(3)]; }
Vector Noise(testing::Random& random, int64_t n) {
  Vector out;
  for (float v : Numbers(random, n)) out.push_back(static_cast<double>(v));
  return out;
}

// A node whose sequence is an axis of the step: X [L, N, I] or [N, L, I], time flowing through none of it or through the axis of the batch.
void CheckWithin(uint64_t seed) {
  testing::Random random(seed);
  const auto coin = [&] { return random.Below(2) == 1; };
  const std::string kind = PickedKind(random), direction = std::vector<std::string>{"forward", "reverse", "bidirectional"}[random.Below(3)];
  const int64_t n = static_cast<int64_t>(1 + random.Below(3)), width = static_cast<int64_t>(1 + random.Below(3)), directions = direction == "bidirectional" ? 2 : 1;
  const bool layout = coin(), timed = coin();
  const int64_t length = static_cast<int64_t>(2 + random.Below(5)), items = timed ? 1 : static_cast<int64_t>(1 + random.Below(3));
  const uint64_t states = random.Below(3);  // none, constant, computed
  const std::string what = absl::StrCat("seed ", seed, " ", kind, " ", direction, layout ? " layout 1" : "", timed ? " timed" : "", " ", length, " ", items);
  OnnxWriter file;
  Node node(random, kind, directions, n, width, file);
  // Of one session; with time the axis of the batch.
  const Shape shape = layout ? Shape{timed ? -2 : items, length, width} : Shape{length, timed ? -2 : items, width};
  file.Input(W::Declared("x", shape)).Node("Neg", {"x"}, {"x3"});
  std::vector<float> h0, c0;
  for (const std::string part : {"h", "c"}) {
    if (states == 0 || (part == "c" && kind != "LSTM")) continue;
    auto& values = part == "h" ? h0 : c0;
    const Shape of = layout ? Shape{items, directions, n} : Shape{directions, items, n};
    values = Numbers(random, directions * items * n);
    file.Initializer(W::Tensor(part + "0", of, values));
    node.inputs[part == "h" ? 5 : 6] = part + "0";
    if (states == 2 && !timed) {  // 0 times the least of x, and the constant
      file.Node("ReduceMin", {"x"}, {part + "least"}, W::Int("keepdims", 0)).Initializer(W::Tensor(part + "zero", {}, {0})).Node("Mul", {part + "least", part + "zero"}, {part + "nothing"});
      file.Node("Add", {part + "0", part + "nothing"}, {part + "1"});
      node.inputs[part == "h" ? 5 : 6] = part + "1";
    }
  }
  file.Node(kind, node.inputs, node.outputs, node.attributes + W::Text("direction", direction) + W::Int("layout", layout));
  for (const std::string& out : node.outputs) file.Output(out);
  const auto model = Import(file.File(17), absl::StrCat("onnx { input { name: 'x' state: '' time: ", !timed ? -1 : layout ? 0 : 1, " } }"));
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_EQ(model->not_streamable, "") << what;
  ASSERT_TRUE(model->state.empty()) << what;
  Session session(*model);
  for (int step = 0; step < 3; ++step) {
    const Vector x = Noise(random, length * items * width);
    session.Step(x);
    const auto at = [&](int64_t outer, int64_t middle, int64_t inner, int64_t b, int64_t c) { return static_cast<size_t>((outer * b + middle) * c + inner); };
    Vector y(static_cast<size_t>(length * directions * items * n)), ends(static_cast<size_t>(directions * items * n)), cells = ends;
    for (int64_t d = 0; d < directions; ++d) {
      for (int64_t b = 0; b < items; ++b) {
        Reference ref = node.refs[static_cast<size_t>(d)];
        const int64_t place = layout ? b * directions + d : d * items + b;
        for (int64_t j = 0; j < n; ++j) {
          if (!h0.empty()) ref.h[static_cast<size_t>(j)] = static_cast<double>(h0[static_cast<size_t>(place * n + j)]);
          if (!c0.empty()) ref.c[static_cast<size_t>(j)] = static_cast<double>(c0[static_cast<size_t>(place * n + j)]);
        }
        for (int64_t k = 0; k < length; ++k) {
          const int64_t t = direction == "reverse" || d == 1 ? length - 1 - k : k;
          Vector in;
          for (int64_t i = 0; i < width; ++i) in.push_back(-x[layout ? at(b, t, i, length, width) : at(t, b, i, items, width)]);
          ref.Step(in);
          for (int64_t j = 0; j < n; ++j) y[static_cast<size_t>((layout ? (b * length + t) * directions + d : (t * directions + d) * items + b) * n + j)] = ref.h[static_cast<size_t>(j)];
        }
        for (int64_t j = 0; j < n; ++j) {
          ends[static_cast<size_t>(place * n + j)] = ref.h[static_cast<size_t>(j)];
          cells[static_cast<size_t>(place * n + j)] = ref.c[static_cast<size_t>(j)];
        }
      }
    }
    session.Expect(0, y, what + " Y");
    session.Expect(1, ends, what + " Y_h");
    if (kind == "LSTM") session.Expect(2, cells, what + " Y_c");
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(OnnxWithinTest, SequencesWithinAStepInBothDirections) {
  for (uint64_t seed = 1; seed <= 300 && !HasFatalFailure(); ++seed) CheckWithin(seed);
}

// Time flows through the node, and each session has a batch of its own in it, the bands of a spectrum say.
void CheckItems(uint64_t seed) {
  testing::Random random(seed);
  const auto coin = [&] { return random.Below(2) == 1; };
  const std::string kind = PickedKind(random);
  const int64_t n = static_cast<int64_t>(1 + random.Below(4)), width = static_cast<int64_t>(2 + random.Below(3)), items = static_cast<int64_t>(2 + random.Below(4));
  const bool layout = coin();
  const uint64_t states = random.Below(3);  // none, constant, of the session by name
  const std::string what = absl::StrCat("seed ", seed, " ", kind, layout ? " layout 1 " : " ", items, " states ", states);
  OnnxWriter file;
  Node node(random, kind, 1, n, width, file);
  file.Input(W::Declared("x", {-2, items * width})).Initializer(W::IntTensor("split", {3}, {-1, items, width})).Node("Reshape", {"x", "split"}, {"tnw"});
  file.Node("Transpose", {"tnw"}, {"x3"}, W::Ints("perm", layout ? std::vector<int64_t>{1, 0, 2} : std::vector<int64_t>{0, 1, 2}));
  std::vector<float> h0, c0;
  for (const std::string part : {"h", "c"}) {
    if (states == 0 || (part == "c" && kind != "LSTM")) continue;
    const Shape of = layout ? Shape{items, 1, n} : Shape{1, items, n};
    node.inputs[part == "h" ? 5 : 6] = part + "_in";
    if (states == 2) {
      file.Input(W::Declared(part + "_in", of));
    } else {
      auto& values = part == "h" ? h0 : c0;
      values = Numbers(random, items * n);
      file.Initializer(W::Tensor(part + "_in", of, values));
    }
  }
  node.outputs = {"Y", "h_out"};
  if (kind == "LSTM") node.outputs.push_back("c_out");
  file.Node(kind, node.inputs, node.outputs, node.attributes + W::Int("layout", layout));
  for (const std::string& out : node.outputs) file.Output(out);
  const auto model = Import(file.File(17));
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_EQ(model->not_streamable, "") << what;
  std::vector<Reference> refs(static_cast<size_t>(items), node.refs[0]);
  for (size_t i = 0; i < h0.size(); ++i) refs[i / static_cast<size_t>(n)].h[i % static_cast<size_t>(n)] = static_cast<double>(h0[i]);
  for (size_t i = 0; i < c0.size(); ++i) refs[i / static_cast<size_t>(n)].c[i % static_cast<size_t>(n)] = static_cast<double>(c0[i]);
  Session session(*model);
  for (int step = 0; step < 5; ++step) {
    const Vector x = Noise(random, items * width);
    session.Step(x);
    Vector y;
    for (size_t b = 0; b < refs.size(); ++b) {
      refs[b].Step(Vector(x.begin() + static_cast<long>(b) * width, x.begin() + static_cast<long>(b + 1) * width));
      y.insert(y.end(), refs[b].h.begin(), refs[b].h.end());
    }
    session.Expect(0, y, what);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(OnnxWithinTest, EachItemOfASessionsOwnBatchHasItsState) {
  for (uint64_t seed = 1; seed <= 200 && !HasFatalFailure(); ++seed) CheckItems(seed);
}

// Products under the same weights share what is made of them, scratch too: nothing of one row or place may be left for another.
TEST(OnnxWithinTest, ABatchHasTheBitsOfItsRowsAlone) {
  testing::Random random(12);
  OnnxWriter file;
  Node node(random, "GRU", 2, 5, 4, file);
  file.Input(W::Declared("x", {-2, 28})).Initializer(W::IntTensor("split", {3}, {-1, 7, 4})).Node("Reshape", {"x", "split"}, {"tnw"}).Node("Transpose", {"tnw"}, {"x3"}, W::Ints("perm", {1, 0, 2}));
  file.Node("GRU", node.inputs, {"bands"}, node.attributes + W::Text("direction", "bidirectional"));
  file.Node("Transpose", {"bands"}, {"tbd"}, W::Ints("perm", {2, 0, 1, 3})).Initializer(W::IntTensor("flat", {3}, {-1, 7, 10})).Node("Reshape", {"tbd", "flat"}, {"wide"});
  file.Initializer(W::Tensor("V", {1, 12, 10}, Numbers(random, 120))).Initializer(W::Tensor("S", {1, 12, 3}, Numbers(random, 36))).Node("LSTM", {"wide", "V", "S"}, {"y"}, W::Int("hidden_size", 3)).Output("y");
  const auto model = Import(file.File(17));
  ASSERT_TRUE(model.ok()) << model.status();
  for (const Engine engine : testing::Engines()) {
    const auto program = testing::MustCompile(*model, 4, engine);
    const auto scratch = program->MakeScratch(), apart = program->MakeScratch();
    std::vector<std::unique_ptr<testing::Row>> together, alone;
    for (int r = 0; r < 4; ++r) together.push_back(std::make_unique<testing::Row>(*program)), alone.push_back(std::make_unique<testing::Row>(*program));
    for (int step = 0; step < 5; ++step) {
      std::vector<StepRow> rows;
      for (size_t r = 0; r < 4; ++r) {
        for (float& v : together[r]->input[0]) v = random.Uniform();
        alone[r]->input[0] = together[r]->input[0];
        alone[r]->inputs[0] = reinterpret_cast<const std::byte*>(alone[r]->input[0].data());
        rows.push_back(together[r]->row());
        const StepRow one = alone[r]->row();
        ASSERT_TRUE(program->Run({&one, 1}, *apart).ok());
        alone[r]->Accept();
      }
      ASSERT_TRUE(program->Run(rows, *scratch).ok());
      for (size_t r = 0; r < 4; ++r) {
        together[r]->Accept();
        ASSERT_EQ(together[r]->output[0], alone[r]->output[0]) << testing::EngineName(engine) << " step " << step << " row " << r;
      }
    }
  }
}

// Frames by themselves are a batch to a convolution; the cell behind it says that they are steps of time.
TEST(OnnxWithinTest, ConvolutionsOfEachFrame) {
  testing::Random random(4);
  OnnxWriter file;
  Node node(random, "GRU", 1, 3, 10, file);
  const std::vector<float> kernel = Numbers(random, 2 * 3 * 3), scale = {0.5f, 2}, bias = {0.1f, -0.2f}, mean = {0.3f, 0.2f}, variance = {1.5f, 0.7f};
  file.Input(W::Declared("x", {-1, 3, 5})).Initializer(W::Tensor("K", {2, 3, 3}, kernel)).Node("Conv", {"x", "K"}, {"k"}, W::Ints("pads", {1, 1}));
  file.Initializer(W::Tensor("s", {2}, scale)).Initializer(W::Tensor("o", {2}, bias)).Initializer(W::Tensor("m", {2}, mean)).Initializer(W::Tensor("v", {2}, variance));
  file.Node("BatchNormalization", {"k", "s", "o", "m", "v"}, {"b"}).Node("MaxPool", {"b"}, {"p"}, W::Ints("kernel_shape", {1})).Node("Flatten", {"p"}, {"f"});
  file.Initializer(W::IntTensor("one", {1}, {1})).Node("Unsqueeze", {"f", "one"}, {"x3"}).Node("GRU", node.inputs, {"Y"}, node.attributes).Output("Y");
  const auto model = Import(file.File(17));
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->not_streamable, "");
  Session session(*model);
  Reference ref = node.refs[0];
  for (int step = 0; step < 4; ++step) {
    const Vector x = Noise(random, 15);
    session.Step(x);
    Vector in;
    for (size_t c = 0; c < 2; ++c) {
      for (int i = 0; i < 5; ++i) {
        double sum = 0;
        for (int k = 0; k < 3; ++k) {
          for (int p = 0; p < 3; ++p) sum += i + p - 1 < 0 || i + p - 1 > 4 ? 0 : static_cast<double>(kernel[c * 9 + static_cast<size_t>(k * 3 + p)]) * x[static_cast<size_t>(k * 5 + i + p - 1)];
        }
        in.push_back(static_cast<double>(scale[c]) * (sum - static_cast<double>(mean[c])) / std::sqrt(static_cast<double>(variance[c]) + 1e-5) + static_cast<double>(bias[c]));
      }
    }
    ref.Step(in);
    session.Expect(0, ref.h, absl::StrCat("step ", step));
  }
}

// As decoders are exported whose convolutions reach back: what lies behind the last step is cut.
TEST(OnnxWithinTest, ATransposedConvolutionReachesBackOverTime) {
  testing::Random random(6);
  const std::vector<float> kernel = Numbers(random, 2 * 3 * 3);
  OnnxWriter file;
  file.Input(W::Declared("x", {-1, 2, -2})).Initializer(W::Tensor("K", {2, 3, 3}, kernel)).Node("ConvTranspose", {"x", "K"}, {"long"}, W::Ints("kernel_shape", {3}));
  const std::string uncut = OnnxWriter(file).Output("long").File();
  file.Initializer(W::IntTensor("b", {1}, {0})).Initializer(W::IntTensor("e", {1}, {-2})).Initializer(W::IntTensor("a", {1}, {2})).Node("Slice", {"long", "b", "e", "a"}, {"y"}).Output("y");
  const auto model = Import(file.File());
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->not_streamable, "");
  const auto ahead = Import(uncut);
  EXPECT_TRUE(!ahead.ok() || !ahead->not_streamable.empty());
  Session session(*model);
  std::vector<Vector> xs;
  for (size_t step = 0; step < 6; ++step) {
    xs.push_back(Noise(random, 2));
    session.Step(xs.back());
    Vector y(3, 0);
    for (size_t k = 0; k < 3 && k <= step; ++k) {
      for (size_t c = 0; c < 2; ++c) {
        for (size_t o = 0; o < 3; ++o) y[o] += static_cast<double>(kernel[(c * 3 + o) * 3 + k]) * xs[step - k][c];
      }
    }
    session.Expect(0, y, absl::StrCat("step ", step));
  }
}

TEST(OnnxWithinTest, WhereNothingSaysWhatTheSequenceIsTheManifestIsAsked) {
  testing::Random random(8);
  OnnxWriter file;
  Node node(random, "GRU", 1, 2, 3, file);
  // The reshape hides what the axis was.
  file.Input(W::Declared("x", {1, 12})).Initializer(W::IntTensor("to", {3}, {4, 1, 3})).Node("Reshape", {"x", "to"}, {"x3"}).Node("GRU", node.inputs, {"Y"}, node.attributes).Output("Y");
  const auto refused = Import(file.File());
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("GRU node 'GRU_1': begins anew in every step"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("onnx { input { name: 'x' time: 0 } }"));
  const auto told = Import(file.File(), "onnx { input { name: 'x' time: -1 } }");
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->not_streamable, "");
}

TEST(OnnxWithinTest, SequencesWithoutAnEndAreRefused) {
  testing::Random random(9);
  for (const int64_t length : {int64_t{1025}, int64_t{1024}}) {
    OnnxWriter file;
    Node node(random, "LSTM", 1, 1, 1, file);
    file.Input(W::Declared("x", {length, 1, 1})).Node("Neg", {"x"}, {"x3"}).Node("LSTM", node.inputs, {"Y"}, node.attributes).Output("Y");
    const auto model = Import(file.File(), "onnx { input { name: 'x' time: -1 state: '' } }");
    ASSERT_FALSE(model.ok());
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(length == 1025 ? "LSTM node 'LSTM_1': runs 1025 steps in one: expected at most 1024" : "more than 10000 values"));
  }
}

}  // namespace
}  // namespace lstm::core
