// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "core/engine/sequence_run.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/program_runner.h"

// Graphs that look ahead: refused for sessions, computed over whole sequences, against references that see all of it at once.
namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::kActivations;
using testing::Numbers;
using testing::OnnxWriter;
using testing::Reference;
using testing::Vector;
using W = OnnxWriter;
using Rows = std::vector<Vector>;  // [T], of one step each
using Named = std::map<std::string, Rows>;

absl::StatusOr<Model> Import(const std::string& file, const std::string& manifest = "") {
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(manifest, &parsed)) << manifest;
  return ImportOnnx(std::as_bytes(std::span(file)), parsed);
}

// Runs a sequence alone in an engine; an input that comes once is one row, and one that is left out is not there.
absl::StatusOr<Named> RunSequence(const Model& model, uint32_t steps, const Named& inputs) {
  auto program = SequenceProgram::Compile(std::make_shared<const Model>(model), {.max_batch = 4});
  if (!program.ok()) return program.status();
  std::vector<std::vector<std::byte>> bytes;
  for (const SequencePort& port : model.sequence->inputs) {
    auto& in = bytes.emplace_back();
    const auto it = inputs.find(port.name);
    if (it == inputs.end()) continue;
    for (const Vector& row : it->second) {
      for (double v : row) {
        const auto f = static_cast<float>(v);
        const auto i = static_cast<int32_t>(v);
        const auto* from = port.dtype == DType::kI32 ? reinterpret_cast<const std::byte*>(&i) : reinterpret_cast<const std::byte*>(&f);
        in.insert(in.end(), from, from + 4);
      }
    }
  }
  auto run = SequenceRun::Make(*program, steps, std::move(bytes));
  if (!run.ok()) return run.status();
  BatchEngine engine;
  Turn turn;
  while ((*run)->Next(turn)) {
    engine.Add(&turn);
    std::vector<Turn*> finished;
    while (finished.empty()) engine.RunBatch(finished);
    if (!turn.status.ok()) return turn.status;
    (*run)->Take(turn);
  }
  Named out;
  for (size_t o = 0; o < model.sequence->outputs.size(); ++o) {
    const SequencePort& port = model.sequence->outputs[o];
    const std::vector<std::byte> raw = (*run)->Output(o);
    const auto width = static_cast<size_t>(CheckedElementCount(port.shape));
    for (size_t at = 0; at < raw.size(); at += width * 4) {
      Vector& row = out[port.name].emplace_back();
      for (size_t i = 0; i < width; ++i) {
        float f = 0;
        std::memcpy(&f, raw.data() + at + i * 4, 4);
        row.push_back(static_cast<double>(f));
      }
    }
  }
  return out;
}

Rows Random(testing::Random& random, size_t steps, size_t width) {
  Rows out(steps, Vector(width));
  for (Vector& row : out) {
    for (double& v : row) v = static_cast<double>(random.Uniform());
  }
  return out;
}

void ExpectNear(const Rows& came, const Rows& expected, double bar, const std::string& what) {
  ASSERT_EQ(came.size(), expected.size()) << what;
  for (size_t t = 0; t < came.size(); ++t) {
    ASSERT_EQ(came[t].size(), expected[t].size()) << what << " step " << t;
    for (size_t i = 0; i < came[t].size(); ++i) ASSERT_NEAR(came[t][i], expected[t][i], bar) << what << " step " << t << " element " << i;
  }
}

// One node of any direction, layout, length, states and attributes.
void CheckRandomNode(uint64_t seed) {
  testing::Random random(seed);
  const auto coin = [&] { return random.Below(2) == 1; };
  const std::string op = std::vector<std::string>{"LSTM", "GRU", "RNN"}[random.Below(3)];
  const std::string direction = std::vector<std::string>{"reverse", "bidirectional", "forward"}[random.Below(3)];
  const auto n = static_cast<int64_t>(1 + random.Below(4)), width = static_cast<int64_t>(1 + random.Below(4));
  const int64_t gates = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1, directions = direction == "bidirectional" ? 2 : 1;
  const size_t functions = op == "LSTM" ? 3 : op == "GRU" ? 2 : 1;
  const bool layout = coin(), biased = coin(), peepholes = op == "LSTM" && coin(), coupled = op == "LSTM" && coin(), after = op == "GRU" && coin();
  const bool usual = random.Below(3) == 0, clipped = random.Below(3) == 0;
  const uint64_t states = random.Below(3);  // none, constant, inputs
  uint64_t lens = random.Below(3);          // none, constant, an input
  if (direction == "forward" && lens == 0) lens = 1;  // else it has steps
  const auto steps = static_cast<uint32_t>(2 + random.Below(6));
  const uint32_t length = lens == 0 ? steps : static_cast<uint32_t>(1 + random.Below(steps));

  std::vector<float> w, r, b, p, alphas, betas, h0, c0;
  std::vector<std::string> activations;
  std::vector<Reference> refs;
  for (int64_t d = 0; d < directions; ++d) {
    Reference ref;
    ref.op = op, ref.hidden = n, ref.width = width, ref.coupled = coupled, ref.after = after;
    if (clipped) ref.clip = 0.7;
    ref.w = Numbers(random, gates * n * width), ref.r = Numbers(random, gates * n * n, 0.5f);
    ref.b = biased ? Numbers(random, 2 * gates * n) : std::vector<float>(static_cast<size_t>(2 * gates * n), 0);
    if (peepholes) ref.p = Numbers(random, 3 * n);
    for (size_t i = 0; i < functions; ++i) {
      ref.activations.push_back(usual ? (i == 0 && functions > 1 ? "Sigmoid" : "Tanh") : kActivations[random.Below(kActivations.size())]);
      const std::string& a = ref.activations.back();
      const bool both = a == "Affine" || a == "ScaledTanh" || a == "HardSigmoid";
      if (both || a == "LeakyRelu" || a == "ThresholdedRelu" || a == "Elu") ref.alphas.push_back(0.3f + std::fabs(random.Uniform(0.4f)));
      if (both) ref.betas.push_back(random.Uniform(0.5f));
    }
    const std::vector<float> h = states > 0 ? Numbers(random, n) : std::vector<float>(static_cast<size_t>(n), 0), c = states > 0 && op == "LSTM" ? Numbers(random, n) : std::vector<float>(static_cast<size_t>(n), 0);
    ref.h.assign(h.begin(), h.end()), ref.c.assign(c.begin(), c.end());
    const auto add = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    add(w, ref.w), add(r, ref.r), add(b, ref.b), add(p, ref.p), add(alphas, ref.alphas), add(betas, ref.betas), add(h0, h), add(c0, c), add(activations, ref.activations);
    refs.push_back(ref);
  }
  OnnxWriter file;
  file.Input(W::Declared("X", layout ? Shape{-1, -2, width} : Shape{-2, -1, width}));
  file.Initializer(W::Tensor("W", {directions, gates * n, width}, w)).Initializer(W::Tensor("R", {directions, gates * n, n}, r));
  if (biased) file.Initializer(W::Tensor("B", {directions, 2 * gates * n}, b));
  if (peepholes) file.Initializer(W::Tensor("P", {directions, 3 * n}, p));
  std::vector<std::string> in = {"X", "W", "R", biased ? "B" : "", lens > 0 ? "lens" : "", states > 0 ? "h0" : "", states > 0 && op == "LSTM" ? "c0" : "", peepholes ? "P" : ""};
  if (op != "LSTM") in.resize(6);
  if (lens == 1) file.Initializer(W::IntTensor("lens", {1}, {length}));
  if (lens == 2) file.Input(W::Declared("lens", {-1}, 6));
  Named inputs;
  for (const auto& [name, values] : {std::pair<std::string, const std::vector<float>*>{"h0", &h0}, {"c0", &c0}}) {
    if (states == 0 || (name == "c0" && op != "LSTM")) continue;
    if (states == 1) file.Initializer(W::Tensor(name, layout ? Shape{1, directions, n} : Shape{directions, 1, n}, *values));
    if (states == 2) file.Input(W::Declared(name, layout ? Shape{-1, directions, n} : Shape{directions, -1, n})), inputs[name] = {Vector(values->begin(), values->end())};
  }
  std::string attributes = W::Int("hidden_size", n) + W::Text("direction", direction) + W::Int("layout", layout);
  if (op == "LSTM") attributes += W::Int("input_forget", coupled);
  if (op == "GRU") attributes += W::Int("linear_before_reset", after);
  if (!usual) attributes += W::Texts("activations", activations) + W::Reals("activation_alpha", alphas) + W::Reals("activation_beta", betas);
  if (clipped) attributes += W::Real("clip", 0.7f);
  std::vector<std::string> out = {"Y", "Y_h"};
  if (op == "LSTM") out.push_back("Y_c");
  file.Node(op, in, out, attributes);
  for (const std::string& o : out) file.Output(o);
  const std::string what = "seed " + std::to_string(seed) + " " + op + " " + direction;

  const auto model = Import(file.File(22));
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_TRUE(model->sequence) << what;
  EXPECT_EQ(model->not_streamable.empty(), direction == "forward" && lens == 2) << what << " " << model->not_streamable;
  inputs["X"] = Random(random, steps, static_cast<size_t>(width));
  if (lens == 2) inputs["lens"] = {{static_cast<double>(length)}};
  Rows y(steps, Vector(static_cast<size_t>(directions * n), 0)), ends(1), cells(1);
  for (size_t d = 0; d < refs.size(); ++d) {
    const bool backwards = direction == "reverse" || d == 1;
    for (uint32_t k = 0; k < length; ++k) {
      const uint32_t t = backwards ? length - 1 - k : k;
      refs[d].Step(inputs["X"][t]);
      std::copy(refs[d].h.begin(), refs[d].h.end(), y[t].begin() + static_cast<long>(d) * n);
    }
    ends[0].insert(ends[0].end(), refs[d].h.begin(), refs[d].h.end());
    cells[0].insert(cells[0].end(), refs[d].c.begin(), refs[d].c.end());
  }
  auto came = RunSequence(*model, steps, inputs);
  ASSERT_TRUE(came.ok()) << what << ": " << came.status();
  ExpectNear((*came)["Y"], y, 1e-5, what + " Y");
  ExpectNear((*came)["Y_h"], ends, 1e-5, what + " Y_h");
  if (op == "LSTM") ExpectNear((*came)["Y_c"], cells, 1e-5, what + " Y_c");
  if (lens != 2) return;
  Named shorter = inputs;
  shorter["X"].resize(length);
  shorter["lens"] = Rows(1, Vector(1, static_cast<double>(length + 1)));
  EXPECT_THAT(std::string(RunSequence(*model, length, shorter).status().message()), HasSubstr(absl::StrCat("input 'lens' is ", length + 1, ", expected 1 to ", length))) << what;
  shorter.erase("lens");  // all of it; states that are left out are zeros
  shorter.erase("h0");
  shorter.erase("c0");
  auto all = RunSequence(*model, length, shorter);
  ASSERT_TRUE(all.ok()) << what << ": " << all.status();
}

TEST(OnnxWholeTest, RandomRecurrentNodesOverTheirAttributes) {
  for (uint64_t seed = 1; seed <= 600 && !HasFailure(); ++seed) CheckRandomNode(seed);
}

// A bidirectional LSTM with random weights after `graph`, as PyTorch exports it, and the same by hand.
struct TwoWay {
  TwoWay(testing::Random& random, OnnxWriter& file, const std::string& x, const std::string& y, int64_t width, int64_t hidden) {
    std::vector<float> w, r, b;
    for (Reference* ref : {&forward, &back}) {
      ref->op = "LSTM", ref->hidden = hidden, ref->width = width, ref->activations = {"Sigmoid", "Tanh", "Tanh"};
      ref->w = Numbers(random, 4 * hidden * width), ref->r = Numbers(random, 4 * hidden * hidden, 0.5f), ref->b = Numbers(random, 8 * hidden);
      w.insert(w.end(), ref->w.begin(), ref->w.end()), r.insert(r.end(), ref->r.begin(), ref->r.end()), b.insert(b.end(), ref->b.begin(), ref->b.end());
    }
    file.Initializer(W::Tensor(y + "W", {2, 4 * hidden, width}, w)).Initializer(W::Tensor(y + "R", {2, 4 * hidden, hidden}, r)).Initializer(W::Tensor(y + "B", {2, 8 * hidden}, b));
    file.Initializer(W::IntTensor(y + "S", {3}, {0, 0, -1}));
    file.Node("LSTM", {x, y + "W", y + "R", y + "B"}, {y + "4", y + "h", y + "c"}, W::Int("hidden_size", hidden) + W::Text("direction", "bidirectional"));
    file.Node("Transpose", {y + "4"}, {y + "t"}, W::Ints("perm", {0, 2, 1, 3})).Node("Reshape", {y + "t", y + "S"}, {y});
  }
  Rows Over(const Rows& x) {
    Rows y(x.size());
    for (Reference* ref : {&forward, &back}) ref->h.assign(static_cast<size_t>(ref->hidden), 0), ref->c = ref->h;
    Rows b(x.size());
    for (size_t t = 0; t < x.size(); ++t) forward.Step(x[t]), y[t] = forward.h;
    for (size_t t = x.size(); t-- > 0;) back.Step(x[t]), b[t] = back.h;
    for (size_t t = 0; t < x.size(); ++t) y[t].insert(y[t].end(), b[t].begin(), b[t].end());
    return y;
  }
  Reference forward, back;
};

TEST(OnnxWholeTest, StacksOfBothDirectionsWithLayersBetween) {
  testing::Random random(7);
  OnnxWriter file;
  file.Input(W::Declared("x", {-2, -1, 3}));
  TwoWay one(random, file, "x", "a", 3, 4), two(random, file, "a", "b", 8, 2);
  file.Node("Tanh", {"b"}, {"q"});
  TwoWay three(random, file, "q", "d", 4, 3);
  const auto model = Import(file.Output("b").Output("d").Output("ah").File());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->not_streamable, HasSubstr("LSTM node 'LSTM_0': its direction is 'bidirectional'"));
  EXPECT_EQ(model->sequence->stages.size(), 5u);  // one for each layer, and one for what is between and after
  for (const uint32_t steps : {1u, 2u, 9u}) {
    const Rows x = Random(random, steps, 3), b = two.Over(one.Over(x));
    Rows q = b;
    for (Vector& row : q) {
      for (double& v : row) v = std::tanh(v);
    }
    auto came = RunSequence(*model, steps, {{"x", x}});
    ASSERT_TRUE(came.ok()) << came.status();
    ExpectNear((*came)["b"], b, 1e-5, "b");
    ExpectNear((*came)["d"], three.Over(q), 1e-5, "d");
    Vector ends = one.forward.h;
    ends.insert(ends.end(), one.back.h.begin(), one.back.h.end());
    ExpectNear((*came)["ah"], {ends}, 1e-5, "ah");
  }
}

// `build` writes nodes that read x [T, N, 3] and give y; `expected` sees the whole sequence.
void CheckGraph(const std::string& what, const std::function<void(OnnxWriter&)>& build, const std::function<Rows(const Rows&)>& expected, size_t width = 3) {
  OnnxWriter file;
  file.Input(W::Declared("x", {-2, -1, static_cast<int64_t>(width)}));
  build(file);
  const auto model = Import(file.Output("y").File(), "onnx { input { name: 'x' time: 0 } }");
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_TRUE(model->sequence) << what;
  testing::Random random(11);
  for (const uint32_t steps : {3u, 1u, 8u}) {
    const Rows x = Random(random, steps, width);
    auto came = RunSequence(*model, steps, {{"x", x}});
    ASSERT_TRUE(came.ok()) << what << ": " << came.status();
    ExpectNear((*came)["y"], expected(x), 2e-6, what);
  }
}

TEST(OnnxWholeTest, ReductionsAndSoftmaxOverTime) {
  const auto reduced = [](const Rows& x, const std::function<double(const Vector&)>& f) {
    Rows y(1);
    for (size_t i = 0; i < x[0].size(); ++i) {
      Vector column;
      for (const Vector& row : x) column.push_back(row[i]);
      y[0].push_back(f(column));
    }
    return y;
  };
  const auto sum = [](const Vector& v) { double s = 0; for (double a : v) s += a; return s; };
  CheckGraph("mean", [](OnnxWriter& f) { f.Node("ReduceMean", {"x"}, {"y"}, W::Ints("axes", {0})); }, [&](const Rows& x) { return reduced(x, [&](const Vector& v) { return sum(v) / static_cast<double>(v.size()); }); });
  CheckGraph("sum", [](OnnxWriter& f) { f.Node("ReduceSum", {"x"}, {"y"}, W::Ints("axes", {0})); }, [&](const Rows& x) { return reduced(x, sum); });
  CheckGraph("max", [](OnnxWriter& f) { f.Node("ReduceMax", {"x"}, {"y"}, W::Ints("axes", {0})); }, [&](const Rows& x) { return reduced(x, [](const Vector& v) { return *std::max_element(v.begin(), v.end()); }); });
  CheckGraph("min", [](OnnxWriter& f) { f.Node("ReduceMin", {"x"}, {"y"}, W::Ints("axes", {0})); }, [&](const Rows& x) { return reduced(x, [](const Vector& v) { return *std::min_element(v.begin(), v.end()); }); });
  CheckGraph("product", [](OnnxWriter& f) { f.Node("ReduceProd", {"x"}, {"y"}, W::Ints("axes", {0})); }, [&](const Rows& x) { return reduced(x, [](const Vector& v) { double p = 1; for (double a : v) p *= a; return p; }); });
  CheckGraph("less its mean", [](OnnxWriter& f) { f.Node("ReduceMean", {"x"}, {"m"}, W::Ints("axes", {0})).Node("Sub", {"x", "m"}, {"y"}); }, [&](Rows x) {
    const Rows m = reduced(x, [&](const Vector& v) { return sum(v) / static_cast<double>(v.size()); });
    for (Vector& row : x) for (size_t i = 0; i < row.size(); ++i) row[i] -= m[0][i];
    return x;
  });
  for (const bool log : {false, true}) {
    CheckGraph("softmax", [&](OnnxWriter& f) { f.Node(log ? "LogSoftmax" : "Softmax", {"x"}, {"y"}, W::Int("axis", 0)); }, [&](Rows x) {
      const Rows s = reduced(x, [&](const Vector& v) { double e = 0; for (double a : v) e += std::exp(a); return e; });
      for (Vector& row : x) for (size_t i = 0; i < row.size(); ++i) row[i] = log ? row[i] - std::log(s[0][i]) : std::exp(row[i]) / s[0][i];
      return x;
    });
  }
  CheckGraph("each channel normalised over all steps", [](OnnxWriter& f) {
    f.Initializer(W::Tensor("s", {3}, {1, 2, -1})).Initializer(W::Tensor("b", {3}, {0, 0.5f, 1})).Node("Transpose", {"x"}, {"t"}, W::Ints("perm", {1, 2, 0}));
    f.Node("InstanceNormalization", {"t", "s", "b"}, {"n"}, W::Real("epsilon", 0.25f)).Node("Transpose", {"n"}, {"y"}, W::Ints("perm", {2, 0, 1}));
  }, [&](Rows x) {
    const Rows m = reduced(x, [&](const Vector& v) { return sum(v) / static_cast<double>(v.size()); });
    const double scale[] = {1, 2, -1}, bias[] = {0, 0.5, 1};
    for (Vector& row : x) for (size_t i = 0; i < 3; ++i) row[i] -= m[0][i];
    const Rows v = reduced(x, [&](const Vector& c) { double s = 0; for (double a : c) s += a * a; return s / static_cast<double>(c.size()); });
    for (Vector& row : x) for (size_t i = 0; i < 3; ++i) row[i] = row[i] / std::sqrt(v[0][i] + 0.25) * scale[i] + bias[i];
    return x;
  });
  // Attention that pools: the shares of the steps, and the steps by their shares.
  CheckGraph("attention", [](OnnxWriter& f) {
    f.Initializer(W::Tensor("A", {3, 1}, {0.5f, -1, 2})).Node("MatMul", {"x", "A"}, {"s"}).Node("Softmax", {"s"}, {"p"}, W::Int("axis", 0));
    f.Node("Transpose", {"p"}, {"pt"}, W::Ints("perm", {1, 2, 0})).Node("Transpose", {"x"}, {"xt"}, W::Ints("perm", {1, 0, 2})).Node("MatMul", {"pt", "xt"}, {"y"});
  }, [&](const Rows& x) {
    Rows y(1, Vector(3, 0));
    double all = 0;
    for (const Vector& row : x) all += std::exp(0.5 * row[0] - row[1] + 2 * row[2]);
    for (const Vector& row : x) for (size_t i = 0; i < 3; ++i) y[0][i] += std::exp(0.5 * row[0] - row[1] + 2 * row[2]) / all * row[i];
    return y;
  });
}

TEST(OnnxWholeTest, StepsInAnotherOrder) {
  const auto step = [](const char* name, int64_t at) { return W::IntTensor(name, {1}, {at}); };
  CheckGraph("the first", [&](OnnxWriter& f) { f.Initializer(W::IntTensor("i", {}, {0})).Node("Gather", {"x", "i"}, {"y"}, W::Int("axis", 0)); }, [](const Rows& x) { return Rows{x[0]}; });
  CheckGraph("the first by a slice, to every step", [&](OnnxWriter& f) {
    f.Initializer(step("b", 0)).Initializer(step("e", 1)).Initializer(step("a", 0)).Node("Slice", {"x", "b", "e", "a"}, {"s"}).Node("Add", {"x", "s"}, {"y"});
  }, [](Rows x) {
    const Vector first = x[0];
    for (Vector& row : x) for (size_t i = 0; i < 3; ++i) row[i] += first[i];
    return x;
  });
  const auto turn = [&](OnnxWriter& f, const std::string& from, const std::string& to) {
    f.Node("Slice", {from, "b", "e", "a", "s"}, {to});
  };
  const auto parts = [&](OnnxWriter& f) { f.Initializer(step("b", -1)).Initializer(step("e", INT64_MIN)).Initializer(step("a", 0)).Initializer(step("s", -1)); };
  CheckGraph("turned", [&](OnnxWriter& f) { parts(f), turn(f, "x", "y"); }, [](Rows x) { std::reverse(x.begin(), x.end()); return x; });
  CheckGraph("turned after a function, and joined", [&](OnnxWriter& f) {
    parts(f), f.Node("Exp", {"x"}, {"t"}), turn(f, "t", "r"), f.Node("Add", {"x", "r"}, {"y"});
  }, [](const Rows& x) {
    Rows y = x;
    for (size_t t = 0; t < x.size(); ++t) for (size_t i = 0; i < 3; ++i) y[t][i] += std::exp(x[x.size() - 1 - t][i]);
    return y;
  });
  CheckGraph("turned by ReverseSequence", [&](OnnxWriter& f) {
    f.Initializer(W::IntTensor("z", {1}, {0})).Node("Shape", {"x"}, {"n"}).Node("Gather", {"n", "z"}, {"l"}).Node("Tanh", {"x"}, {"t"}).Node("ReverseSequence", {"t", "l"}, {"y"}, W::Int("time_axis", 0) + W::Int("batch_axis", 1));
  }, [](Rows x) {
    std::reverse(x.begin(), x.end());
    for (Vector& row : x) for (double& v : row) v = std::tanh(v);
    return x;
  });
  // The end of a sequence, repeated for each step of the next layer.
  CheckGraph("the last to every step", [&](OnnxWriter& f) {
    f.Initializer(W::IntTensor("i", {}, {-1})).Node("Shape", {"x"}, {"n"}).Node("Gather", {"x", "i"}, {"l"}, W::Int("axis", 0)).Node("Expand", {"l", "n"}, {"y"});
  }, [](const Rows& x) { return Rows(x.size(), x.back()); });
}

TEST(OnnxWholeTest, ConvolutionsThatLookAhead) {
  testing::Random random(3);
  struct Case { std::vector<int64_t> pads; int64_t dilation; int64_t groups; std::string mode; };
  for (const Case& c : {Case{{1, 1}, 1, 1, ""}, {{0, 2}, 1, 1, ""}, {{2, 2}, 2, 1, ""}, {{1, 1}, 1, 3, ""}, {{}, 1, 1, "SAME_UPPER"}, {{}, 2, 1, "SAME_LOWER"}}) {
    const std::vector<float> k = Numbers(random, 3 * (3 / c.groups) * 3), b = Numbers(random, 3);
    CheckGraph("conv", [&](OnnxWriter& f) {
      const std::string attributes = W::Ints("dilations", {c.dilation}) + W::Int("group", c.groups) + (c.mode.empty() ? W::Ints("pads", c.pads) : W::Text("auto_pad", c.mode));
      f.Initializer(W::Tensor("K", {3, 3 / c.groups, 3}, k)).Initializer(W::Tensor("B", {3}, b)).Node("Tanh", {"x"}, {"u"}).Node("Transpose", {"u"}, {"t"}, W::Ints("perm", {1, 2, 0}));
      f.Node("Conv", {"t", "K", "B"}, {"v"}, attributes).Node("Transpose", {"v"}, {"y"}, W::Ints("perm", {2, 0, 1}));
    }, [&](const Rows& x) {
      Rows y(x.size(), Vector(3));
      const auto front = static_cast<long>(c.mode.empty() ? c.pads[0] : c.dilation);
      const size_t per = static_cast<size_t>(3 / c.groups);
      for (size_t t = 0; t < x.size(); ++t) {
        for (size_t o = 0; o < 3; ++o) {
          y[t][o] = static_cast<double>(b[o]);
          for (size_t i = 0; i < per; ++i) {
            for (size_t tap = 0; tap < 3; ++tap) {
              const long from = static_cast<long>(t) - front + static_cast<long>(tap) * c.dilation;
              if (from < 0 || from >= static_cast<long>(x.size())) continue;
              const size_t channel = (c.groups == 1 ? 0 : o * per) + i;
              y[t][o] += static_cast<double>(k[(o * per + i) * 3 + tap]) * std::tanh(x[static_cast<size_t>(from)][channel]);
            }
          }
        }
      }
      return y;
    });
  }
}

// A convolution of one channel by hand, over `x` with zeros around it.
Rows Convolved(const Rows& x, const std::vector<float>& k, size_t out, int64_t front, int64_t behind, int64_t stride, int64_t dilation) {
  const auto in = x[0].size(), taps = k.size() / out / in;
  const auto n = static_cast<int64_t>(x.size()), reach = static_cast<int64_t>(taps - 1) * dilation;
  Rows y;
  for (int64_t at = -front; at + reach < n + behind; at += stride) {
    Vector& row = y.emplace_back(out, 0);
    for (size_t o = 0; o < out; ++o) {
      for (size_t i = 0; i < in; ++i) {
        for (size_t tap = 0; tap < taps; ++tap) {
          const int64_t from = at + static_cast<int64_t>(tap) * dilation;
          if (from >= 0 && from < n) row[o] += static_cast<double>(k[(o * in + i) * taps + tap]) * x[static_cast<size_t>(from)][i];
        }
      }
    }
  }
  return y;
}

Rows Mapped(Rows x, const std::function<double(double)>& f) {
  for (Vector& row : x) {
    for (double& v : row) v = f(v);
  }
  return x;
}

TEST(OnnxWholeTest, StridesAndNoPaddingGiveAnotherNumberOfFrames) {
  testing::Random random(21);
  struct Case { int64_t front, behind, stride, dilation; };
  for (const Case& c : {Case{0, 0, 1, 1}, {0, 0, 2, 1}, {1, 1, 2, 1}, {0, 0, 1, 2}, {2, 0, 3, 1}, {1, 0, 1, 1}, {3, 4, 2, 2}, {0, 1, 4, 1}}) {
    const std::string what = absl::StrCat("pads ", c.front, ", ", c.behind, ", stride ", c.stride, ", dilation ", c.dilation);
    const std::vector<float> k1 = Numbers(random, 2 * 3 * 3), k2 = Numbers(random, 3 * 2 * 2);
    OnnxWriter file;
    file.Input(W::Declared("x", {-1, 3, -2})).Initializer(W::Tensor("K", {2, 3, 3}, k1)).Initializer(W::Tensor("L", {3, 2, 2}, k2));
    file.Node("Tanh", {"x"}, {"t"});
    file.Node("Conv", {"t", "K"}, {"u"}, W::Ints("pads", {c.front, c.behind}) + W::Ints("strides", {c.stride}) + W::Ints("dilations", {c.dilation}));
    // Twice: unpadded once more, beside the mean, the reverse, the last, every second step and the shape of the first.
    file.Node("Relu", {"u"}, {"v"}).Node("Conv", {"v", "L"}, {"y"}, W::Ints("strides", {2})).Node("ReduceMean", {"v"}, {"mean"}, W::Ints("axes", {2}) + W::Int("keepdims", 0));
    file.Initializer(W::IntTensor("b", {1}, {-1})).Initializer(W::IntTensor("e", {1}, {INT64_MIN})).Initializer(W::IntTensor("a", {1}, {2})).Initializer(W::IntTensor("s", {1}, {-1}));
    file.Node("Slice", {"v", "b", "e", "a", "s"}, {"turned"}).Initializer(W::IntTensor("one", {}, {-1})).Node("Gather", {"v", "one"}, {"end"}, W::Int("axis", 2));
    file.Initializer(W::IntTensor("z", {1}, {1})).Initializer(W::IntTensor("m", {1}, {-1})).Initializer(W::IntTensor("two", {1}, {2})).Node("Slice", {"v", "z", "m", "a", "two"}, {"every"});
    file.Node("Sub", {"v", "turned"}, {"both"}).Node("Shape", {"v"}, {"n"}).Node("GlobalMaxPool", {"v"}, {"most"}).Node("Expand", {"most", "n"}, {"spread"}).Node("Sub", {"v", "spread"}, {"less"});
    for (const char* name : {"v", "y", "mean", "end", "every", "both", "less"}) file.Output(name);
    const auto model = Import(file.File());
    ASSERT_TRUE(model.ok()) << what << ": " << model.status();
    EXPECT_THAT(model->not_streamable, HasSubstr("Conv node 'Conv_1'")) << what;
    int refused = 0;
    for (const uint32_t steps : {9u, 16u, 3u, 1u, 14u}) {
      const Rows x = Random(random, steps, 3), t = Mapped(x, [](double v) { return std::tanh(v); });
      const Rows v = Mapped(Convolved(t, k1, 2, c.front, c.behind, c.stride, c.dilation), [](double a) { return std::max(a, 0.0); });
      const Rows y = v.size() < 2 ? Rows{} : Convolved(v, k2, 3, 0, 0, 2, 1);
      auto came = RunSequence(*model, steps, {{"x", x}});
      if (v.size() < 3) {  // some output would have no frame at all
        EXPECT_THAT(std::string(came.status().message()), HasSubstr("the graph needs at least")) << what << ", " << steps;
        ++refused;
        continue;
      }
      ASSERT_TRUE(came.ok()) << what << ": " << came.status();
      ExpectNear((*came)["v"], v, 2e-6, what);
      ExpectNear((*came)["y"], y, 2e-6, what);
      ExpectNear((*came)["end"], {v.back()}, 2e-6, what);
      Rows every, both = v, less = v;
      Vector mean(2, 0), most(2, -1e9);
      for (size_t i = 1; i + 1 < v.size(); i += 2) every.push_back(v[i]);
      for (size_t i = 0; i < v.size(); ++i) {
        for (size_t o = 0; o < 2; ++o) {
          both[i][o] -= v[v.size() - 1 - i][o];
          mean[o] += v[i][o] / static_cast<double>(v.size());
          most[o] = std::max(most[o], v[i][o]);
        }
      }
      for (Vector& row : less) for (size_t o = 0; o < 2; ++o) row[o] -= most[o];
      ExpectNear((*came)["every"], every, 2e-6, what);
      ExpectNear((*came)["both"], both, 2e-6, what);
      ExpectNear((*came)["mean"], {mean}, 2e-6, what);
      ExpectNear((*came)["less"], less, 2e-6, what);
    }
    EXPECT_LT(refused, 5) << what;
  }
}

// Pools over time, and a second axis behind it.
struct PoolCase {
  std::vector<int64_t> kernel, strides, dilations, pads;
  bool ceil_mode = false;
  int64_t features = 1;  // of the second axis

  std::string Attributes() const { return W::Ints("kernel_shape", kernel) + W::Ints("strides", strides) + W::Ints("dilations", dilations) + W::Ints("pads", pads) + W::Int("ceil_mode", ceil_mode); }
  std::string What() const { return absl::StrCat(kernel[0], " frames by ", strides[0], ", dilation ", dilations[0], ", pads ", pads[0], ", ", pads[kernel.size()], ", ceil_mode ", ceil_mode); }
  int64_t Of(const std::vector<int64_t>& list, size_t a, int64_t otherwise) const { return a < kernel.size() ? list[a] : otherwise; }
  int64_t After(size_t a) const { return a < kernel.size() ? pads[a + kernel.size()] : 0; }
  int64_t Extent(size_t a) const { return (Of(kernel, a, 1) - 1) * Of(dilations, a, 1) + 1; }
  int64_t Windows(size_t a, int64_t n) const {
    const int64_t stride = Of(strides, a, 1), front = Of(pads, a, 0);
    const double span = static_cast<double>(n + front + After(a) - Extent(a)) / static_cast<double>(stride) + 1;
    const auto windows = static_cast<int64_t>(ceil_mode ? std::ceil(span) : std::floor(span));
    return ceil_mode && (windows - 1) * stride >= n + front ? windows - 1 : windows;
  }
};

// Rows of [channels, features], by the definition.
Rows PooledRows(const Rows& x, const PoolCase& c, bool mean, bool counted) {
  const auto n = static_cast<int64_t>(x.size()), channels = static_cast<int64_t>(x[0].size()) / c.features;
  Rows y;
  for (int64_t o = 0; o < c.Windows(0, n); ++o) {
    Vector& row = y.emplace_back();
    for (int64_t at = 0; at < channels * c.Windows(1, c.features); ++at) {
      const int64_t channel = at / c.Windows(1, c.features), p = at % c.Windows(1, c.features);
      double most = -1e30, sum = 0, count = 0;
      for (int64_t k = 0; k < c.kernel[0]; ++k) {
        for (int64_t l = 0; l < c.Of(c.kernel, 1, 1); ++l) {
          const int64_t t = o * c.strides[0] + k * c.dilations[0] - c.pads[0], f = p * c.Of(c.strides, 1, 1) + l * c.Of(c.dilations, 1, 1) - c.Of(c.pads, 1, 0);
          const bool inside = t >= 0 && t < n && f >= 0 && f < c.features, padded = t >= -c.pads[0] && t < n + c.After(0) && f >= -c.Of(c.pads, 1, 0) && f < c.features + c.After(1);
          count += inside || (counted && padded) ? 1 : 0;
          if (!inside) continue;
          const double v = x[static_cast<size_t>(t)][static_cast<size_t>(channel * c.features + f)];
          most = std::max(most, v), sum += v;
        }
      }
      row.push_back(mean ? sum / count : most);
    }
  }
  return y;
}

Shape InTime(const PoolCase& c) { return c.kernel.size() == 1 ? Shape{-1, 2, -2} : Shape{-1, 2, -2, c.features}; }

// Each kind of pool: its op, whether it is an average, and whether that counts padding.
void ForEachPool(const std::function<void(const std::string&, bool, bool)>& f) {
  f("MaxPool", false, false);
  f("AveragePool", true, false);
  f("AveragePool", true, true);
}

TEST(OnnxWholeTest, PoolsOverTime) {
  const std::vector<PoolCase> cases = {
      {{3}, {1}, {1}, {0, 0}}, {{3}, {2}, {1}, {0, 0}}, {{3}, {3}, {1}, {0, 0}},                                                   // no padding
      {{3}, {1}, {1}, {1, 1}}, {{3}, {1}, {1}, {0, 2}}, {{4}, {1}, {1}, {1, 2}}, {{3}, {1}, {2}, {2, 2}}, {{2}, {1}, {1}, {1, 1}},  // padded
      {{3}, {2}, {1}, {1, 1}}, {{3}, {3}, {1}, {2, 0}}, {{3}, {2}, {2}, {4, 3}}, {{1}, {3}, {1}, {0, 0}},
      {{3}, {2}, {1}, {0, 0}, true}, {{3}, {2}, {1}, {1, 1}, true}, {{2}, {3}, {1}, {1, 1}, true}, {{3}, {4}, {1}, {2, 1}, true}, {{3}, {2}, {2}, {0, 1}, true}, {{1}, {4}, {1}, {0, 0}, true},
      {{3, 2}, {1, 2}, {1, 1}, {1, 1, 1, 0}, true, 5}, {{3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, true, 4}, {{2, 2}, {2, 1}, {1, 1}, {0, 1, 1, 1}, false, 3},
  };
  testing::Random random(22);
  for (const PoolCase& c : cases) {
    ForEachPool([&](const std::string& op, bool mean, bool counted) {
      const std::string what = absl::StrCat(op, counted, " over ", c.What());
      OnnxWriter file;
      file.Input(W::Declared("x", InTime(c))).Node(op, {"x"}, {"y"}, c.Attributes() + (mean ? W::Int("count_include_pad", counted) : ""));
      file.Node("Tanh", {"x"}, {"t"}).Node(op, {"t"}, {"u"}, c.Attributes() + (mean ? W::Int("count_include_pad", counted) : "")).Node("Neg", {"u"}, {"z"});
      const auto model = Import(file.Output("y").Output("z").File(19));
      ASSERT_TRUE(model.ok()) << what << ": " << model.status();
      const bool too_long = c.pads[0] == c.Extent(0) - 1 && c.strides[0] == 1;  // and causal, but for that
      EXPECT_THAT(model->not_streamable, HasSubstr(too_long ? "is longer than the sequence" : "pools over time")) << what;
      for (const uint32_t steps : {11u, 1u, 2u, 3u, 8u}) {
        const Rows x = Random(random, steps, static_cast<size_t>(2 * c.features));
        auto came = RunSequence(*model, steps, {{"x", x}});
        if (c.Windows(0, steps) < 1) {
          EXPECT_THAT(std::string(came.status().message()), HasSubstr("the graph needs at least")) << what << ", " << steps;
          continue;
        }
        ASSERT_TRUE(came.ok()) << what << ": " << came.status();
        ExpectNear((*came)["y"], PooledRows(x, c, mean, counted), 2e-6, absl::StrCat(what, ", ", steps));
        ExpectNear((*came)["z"], Mapped(PooledRows(Mapped(x, [](double v) { return std::tanh(v); }), c, mean, counted), [](double v) { return -v; }), 2e-6, absl::StrCat(what, ", ", steps));
      }
    });
  }
}

// Zeros that a Pad puts around the sequence are items like all others; a pool's own padding around those is not.
TEST(OnnxWholeTest, PoolsOverTimeThatAPadMadeLonger) {
  testing::Random random(24);
  for (const PoolCase& c : {PoolCase{{3}, {1}, {1}, {0, 0}}, {{3}, {1}, {1}, {1, 1}}, {{3}, {2}, {1}, {1, 0}, true}, {{2}, {2}, {1}, {0, 0}, true}}) {
    ForEachPool([&](const std::string& op, bool mean, bool counted) {
      OnnxWriter file;
      file.Input(W::Declared("x", {-1, 2, -2})).Initializer(W::IntTensor("p", {6}, {0, 0, 1, 0, 0, 2})).Node("Tanh", {"x"}, {"t"}).Node("Pad", {"t", "p"}, {"w"});
      const auto model = Import(file.Node(op, {"w"}, {"y"}, c.Attributes() + (mean ? W::Int("count_include_pad", counted) : "")).Output("y").File());
      ASSERT_TRUE(model.ok()) << model.status();
      for (const uint32_t steps : {6u, 1u, 5u}) {
        const Rows x = Random(random, steps, 2);
        Rows wide = Mapped(x, [](double v) { return std::tanh(v); });
        wide.insert(wide.begin(), Vector(2, 0));
        wide.resize(wide.size() + 2, Vector(2, 0));
        auto came = RunSequence(*model, steps, {{"x", x}});
        ASSERT_TRUE(came.ok()) << came.status();
        ExpectNear((*came)["y"], PooledRows(wide, c, mean, counted), 2e-6, absl::StrCat(op, counted, " over ", c.What()));
      }
    });
  }
}

// A channel that is the same in all frames is zero beside them as the others are.
TEST(OnnxWholeTest, PaddingOfTimeIsNotFilledByConstants) {
  testing::Random random(27);
  const std::vector<float> k = Numbers(random, 2 * 3 * 3);
  OnnxWriter file;
  file.Input(W::Declared("x", {-1, 2, -2})).Initializer(W::IntTensor("p", {6}, {0, 0, 0, 0, 1, 0})).Initializer(W::Tensor("v", {}, {0.5f})).Initializer(W::Tensor("K", {2, 3, 3}, k));
  file.Node("Tanh", {"x"}, {"t"}).Node("Pad", {"t", "p", "v"}, {"w"}).Node("Conv", {"w", "K"}, {"c"}, W::Ints("pads", {3, 4}) + W::Ints("strides", {2}) + W::Ints("dilations", {2})).Output("c");
  const PoolCase pool{{2}, {1}, {1}, {1, 1}};
  for (const bool counted : {true, false}) file.Node("AveragePool", {"w"}, {counted ? "a" : "b"}, pool.Attributes() + W::Int("count_include_pad", counted)).Output(counted ? "a" : "b");
  const auto model = Import(file.File());
  ASSERT_TRUE(model.ok()) << model.status();
  for (const uint32_t steps : {6u, 5u, 1u}) {
    const Rows x = Random(random, steps, 2);
    Rows w = Mapped(x, [](double v) { return std::tanh(v); });
    for (Vector& row : w) row.push_back(0.5);
    auto came = RunSequence(*model, steps, {{"x", x}});
    ASSERT_TRUE(came.ok()) << came.status();
    ExpectNear((*came)["c"], Convolved(w, k, 2, 3, 4, 2, 2), 2e-6, "c");
    ExpectNear((*came)["a"], PooledRows(w, pool, true, true), 2e-6, "a");
    ExpectNear((*came)["b"], PooledRows(w, pool, true, false), 2e-6, "b");
  }
}

TEST(OnnxWholeTest, PoolsOverTimeAsLongAsTheirInput) {
  testing::Random random(25);
  for (const std::string mode : {"SAME_UPPER", "SAME_LOWER"}) {
    for (const int64_t kernel : {3, 4, 2}) {
      ForEachPool([&](const std::string& op, bool mean, bool counted) {
        const std::string what = absl::StrCat(op, counted, " ", mode, " ", kernel);
        OnnxWriter file;
        file.Input(W::Declared("x", {-1, 2, -2})).Node("Tanh", {"x"}, {"t"}).Node(op, {"t"}, {"u"}, W::Ints("kernel_shape", {kernel}) + W::Text("auto_pad", mode) + (mean ? W::Int("count_include_pad", counted) : ""));
        file.Node("Add", {"t", "u"}, {"v"}).Node("GlobalMaxPool", {"v"}, {"m"});  // as long, and looking ahead
        const auto model = Import(file.Output("u").Output("v").Output("m").File());
        ASSERT_TRUE(model.ok()) << what << ": " << model.status();
        const int64_t all = kernel - 1, front = mode == "SAME_UPPER" ? all / 2 : all - all / 2;
        for (const uint32_t steps : {7u, 1u, 2u}) {
          const Rows x = Random(random, steps, 2), t = Mapped(x, [](double v) { return std::tanh(v); }), u = PooledRows(t, {{kernel}, {1}, {1}, {front, all - front}}, mean, counted);
          Rows v = t;
          for (size_t i = 0; i < v.size(); ++i) for (size_t k = 0; k < 2; ++k) v[i][k] += u[i][k];
          auto came = RunSequence(*model, steps, {{"x", x}});
          ASSERT_TRUE(came.ok()) << what << ": " << came.status();
          ExpectNear((*came)["u"], u, 2e-6, what);
          ExpectNear((*came)["v"], v, 2e-6, what);
        }
      });
    }
  }
}

Rows Streamed(const Model& model, const Rows& x) {
  const auto program = testing::MustCompile(model, 4);
  const auto scratch = program->MakeScratch();
  testing::Row row(*program);
  Rows out;
  for (const Vector& step : x) {
    std::copy(step.begin(), step.end(), row.input[0].begin());
    const StepRow one = row.row();
    EXPECT_TRUE(program->Run({&one, 1}, *scratch).ok());
    row.Accept();
    out.emplace_back(row.output[0].begin(), row.output[0].end());
  }
  return out;
}

// A pool that is padded in front by what it reaches back: step by step, whole, and by its definition.
TEST(OnnxWholeTest, CausalPoolsStepByStepAreThoseOfTheWholeSequence) {
  testing::Random random(26);
  struct Case { PoolCase pool; int64_t zeros = 0, cut = 0; std::string mode = ""; };  // zeros before by a Pad; frames that a Slice cuts
  const std::vector<Case> cases = {
      {{{3}, {1}, {1}, {2, 0}}}, {{{2}, {1}, {1}, {1, 0}}}, {{{3}, {1}, {2}, {4, 0}}}, {{{3}, {1}, {1}, {2, 0}, true}}, {{{1}, {1}, {1}, {0, 0}}},
      {{{3}, {1}, {1}, {2, 2}}, 0, 2}, {{{3}, {1}, {1}, {0, 0}}, 2}, {{{4}, {1}, {1}, {2, 0}}, 1}, {{{3}, {1}, {2}, {1, 0}}, 3},
      {{{2}, {1}, {1}, {1, 0}}, 0, 0, "SAME_LOWER"},
      {{{3, 2}, {1, 2}, {1, 1}, {2, 1, 0, 0}, true, 4}}, {{{2, 3}, {1, 2}, {1, 1}, {1, 1, 0, 1}, false, 5}},
  };
  for (const Case& c : cases) {
    ForEachPool([&](const std::string& op, bool mean, bool counted) {
      const std::string what = absl::StrCat(op, counted, " over ", c.pool.What(), " after ", c.zeros, " zeros");
      const size_t rank = c.pool.kernel.size() + 2;
      OnnxWriter file;
      file.Input(W::Declared("x", InTime(c.pool))).Node("Tanh", {"x"}, {"t"});
      std::vector<int64_t> pads(2 * rank, 0);
      pads[2] = c.zeros;
      if (c.zeros > 0) file.Initializer(W::IntTensor("p", {static_cast<int64_t>(pads.size())}, pads)).Node("Pad", {"t", "p"}, {"w"});
      file.Node(op, {c.zeros > 0 ? "w" : "t"}, {c.cut > 0 ? "u" : "y"}, (c.mode.empty() ? c.pool.Attributes() : W::Ints("kernel_shape", c.pool.kernel) + W::Text("auto_pad", c.mode)) + (mean ? W::Int("count_include_pad", counted) : ""));
      file.Initializer(W::IntTensor("b", {1}, {0})).Initializer(W::IntTensor("e", {1}, {-c.cut})).Initializer(W::IntTensor("a", {1}, {2}));
      if (c.cut > 0) file.Node("Slice", {"u", "b", "e", "a"}, {"y"});
      OnnxWriter whole = file;  // the mean of all steps makes it one of whole sequences
      const auto steps = Import(file.Output("y").File(19)), sequence = Import(whole.Node("GlobalAveragePool", {"y"}, {"m"}).Output("y").Output("m").File(19));
      ASSERT_TRUE(steps.ok()) << what << ": " << steps.status();
      ASSERT_TRUE(sequence.ok()) << what << ": " << sequence.status();
      EXPECT_EQ(steps->not_streamable, "") << what;
      EXPECT_THAT(sequence->not_streamable, HasSubstr("GlobalAveragePool")) << what;
      for (const uint32_t n : {9u, 1u, 2u}) {
        const Rows x = Random(random, n, static_cast<size_t>(2 * c.pool.features));
        Rows t = Mapped(x, [](double v) { return std::tanh(v); });
        t.insert(t.begin(), static_cast<size_t>(c.zeros), Vector(t[0].size(), 0));
        Rows y = PooledRows(t, c.pool, mean, counted);
        y.resize(n);
        const Rows streamed = Streamed(*steps, x);
        ExpectNear(streamed, y, 2e-6, what);
        auto came = RunSequence(*sequence, n, {{"x", x}});
        ASSERT_TRUE(came.ok()) << what << ": " << came.status();
        ExpectNear((*came)["y"], c.cut > 0 || c.zeros > 0 ? y : streamed, c.cut > 0 || c.zeros > 0 ? 2e-6 : 0, what);
      }
    });
  }
}

TEST(OnnxWholeTest, PoolsOverTimeThatNobodyCanComputeAreRefused) {
  const auto said = [](const std::string& op, const std::string& attributes, bool cut = false) {
    OnnxWriter file;
    file.Input(W::Declared("x", {-1, 2, -2})).Node("Tanh", {"x"}, {"t"}).Node(op, {"t"}, {"y"}, attributes);
    if (cut) file.Initializer(W::IntTensor("b", {1}, {0})).Initializer(W::IntTensor("e", {1}, {-2})).Initializer(W::IntTensor("a", {1}, {2})).Node("Slice", {"y", "b", "e", "a"}, {"z"});
    const auto model = Import(file.Output(cut ? "z" : "y").File());
    return model.ok() ? "for sessions: " + model->not_streamable : std::string(model.status().message());
  };
  const std::string three = W::Ints("kernel_shape", {3});
  EXPECT_THAT(said("MaxPool", three + W::Ints("pads", {1, 1})), HasSubstr("for sessions: MaxPool node 'MaxPool_1': pools over time: it reads 3 frames and has 1 frames of padding before them: it looks 1 frames ahead"));
  EXPECT_THAT(said("MaxPool", three + W::Ints("strides", {2})), HasSubstr("for sessions: MaxPool node 'MaxPool_1': pools over time by strides of 2"));
  EXPECT_THAT(said("AveragePool", three + W::Ints("pads", {3, 0}) + W::Int("count_include_pad", 1)), HasSubstr("for sessions: AveragePool node 'AveragePool_1': pools over time: it pads time by 3 frames in front, expected 2"));
  EXPECT_THAT(said("MaxPool", three + W::Ints("pads", {2, 2})), HasSubstr("for sessions: output 'y' is longer than the sequence by 2 frames"));
  for (const char* op : {"MaxPool", "AveragePool"}) {
    const std::string node = absl::StrCat(op, " node '", op, "_1': ");
    EXPECT_THAT(said(op, three + W::Ints("strides", {2}) + W::Text("auto_pad", "SAME_UPPER")), HasSubstr(node + "pools over time by strides of 2 with auto_pad 'SAME_UPPER': what it pads depends on the length"));
    EXPECT_THAT(said(op, three + W::Ints("pads", {3, 0})), HasSubstr(node + "pools over time padded by 3 and 0 frames: some windows may have padding alone"));
    EXPECT_THAT(said(op, three + W::Ints("pads", {1, 3})), HasSubstr(node + "pools over time padded by 1 and 3 frames: some windows may have padding alone"));
    // Its two taps lie on both sides of a sequence of one frame.
    EXPECT_THAT(said(op, W::Ints("kernel_shape", {2}) + W::Ints("dilations", {2}) + W::Ints("pads", {1, 1})), HasSubstr("some windows may have padding alone"));
    EXPECT_THAT(said(op, W::Ints("kernel_shape", {5000}) + W::Ints("pads", {1, 1})), HasSubstr(node + "pools over 5000 frames, expected at most 4097"));
    EXPECT_THAT(said(op, W::Ints("kernel_shape", {200'000}) + W::Ints("dilations", {200'000}) + W::Ints("pads", {1, 1})), HasSubstr(node + "pools over 39999800001 frames"));
    EXPECT_THAT(said(op, three + W::Ints("strides", {200'000}) + W::Int("ceil_mode", 1)), HasSubstr("more than 65536 in one is not supported"));
  }
}

// As speech models have it: frames are made fewer, then a network reads them both ways; one branch is unpadded, one cut.
TEST(OnnxWholeTest, RecurrentLayersOverFewerFrames) {
  testing::Random random(23);
  const std::vector<float> k = Numbers(random, 4 * 3 * 3);
  for (const int64_t fixed : {0, 12}) {
    OnnxWriter file;
    file.Input(W::Declared("x", {1, 3, fixed == 0 ? -2 : fixed})).Initializer(W::Tensor("K", {4, 3, 3}, k));
    file.Node("Conv", {"x", "K"}, {"u"}, W::Ints("strides", {2})).Node("Transpose", {"u"}, {"t"}, W::Ints("perm", {2, 0, 1}));
    if (fixed != 0) file.Initializer(W::IntTensor("S", {3}, {5, 1, 4})).Node("Reshape", {"t", "S"}, {"r"});
    TwoWay rnn(random, file, fixed == 0 ? "t" : "r", "a", 4, 3);
    // Every second frame and an average of two, whose lengths are the same.
    file.Initializer(W::IntTensor("b", {1}, {0})).Initializer(W::IntTensor("e", {1}, {-1})).Initializer(W::IntTensor("ax", {1}, {0})).Node("Slice", {"a", "b", "e", "ax"}, {"front"});
    file.Node("Transpose", {"a"}, {"c"}, W::Ints("perm", {1, 2, 0})).Node("AveragePool", {"c"}, {"p"}, W::Ints("kernel_shape", {2})).Node("Transpose", {"p"}, {"q"}, W::Ints("perm", {2, 0, 1}));
    file.Node("Add", {"front", "q"}, {"y"}).Output("a").Output("y").Output("ah");
    const auto model = Import(file.File());
    ASSERT_TRUE(model.ok()) << model.status();
    for (const uint32_t steps : {12u, 7u}) {
      const Rows x = Random(random, steps, 3), a = rnn.Over(Convolved(x, k, 4, 0, 0, 2, 1));
      Rows y(a.begin(), a.end() - 1);
      for (size_t t = 0; t < y.size(); ++t) for (size_t i = 0; i < 6; ++i) y[t][i] += (a[t][i] + a[t + 1][i]) / 2;
      Vector ends = rnn.forward.h;
      ends.insert(ends.end(), rnn.back.h.begin(), rnn.back.h.end());
      auto came = RunSequence(*model, steps, {{"x", x}});
      ASSERT_TRUE(came.ok()) << came.status();
      ExpectNear((*came)["a"], a, 1e-5, "a");
      ExpectNear((*came)["y"], y, 1e-5, "y");
      ExpectNear((*came)["ah"], {ends}, 1e-5, "ah");
    }
  }
}

TEST(OnnxWholeTest, AnotherSequenceBeginsWhereOneEnds) {
  testing::Random random(5);
  OnnxWriter file;
  Reference first, second;
  file.Input(W::Declared("x", {-2, -1, 2}));
  for (Reference* ref : {&first, &second}) {
    const std::string n = ref == &first ? "1" : "2";
    ref->op = "GRU", ref->hidden = 3, ref->width = 2, ref->activations = {"Sigmoid", "Tanh"};
    ref->w = Numbers(random, 18), ref->r = Numbers(random, 27), ref->b = Numbers(random, 18), ref->h.assign(3, 0), ref->c = ref->h;
    file.Initializer(W::Tensor("W" + n, {1, 9, 2}, ref->w)).Initializer(W::Tensor("R" + n, {1, 9, 3}, ref->r)).Initializer(W::Tensor("B" + n, {1, 18}, ref->b));
  }
  file.Node("GRU", {"x", "W1", "R1", "B1"}, {"", "h"}, W::Int("hidden_size", 3)).Node("Neg", {"h"}, {"g"});
  file.Node("GRU", {"x", "W2", "R2", "B2", "", "g"}, {"y"}, W::Int("hidden_size", 3)).Output("y");
  const auto model = Import(file.File());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->not_streamable, HasSubstr("GRU_2"));
  const Rows x = Random(random, 5, 2);
  for (const Vector& row : x) first.Step(row);
  for (size_t i = 0; i < 3; ++i) second.h[i] = -first.h[i];
  Rows y;
  for (const Vector& row : x) second.Step(row), y.push_back(second.h);
  auto came = RunSequence(*model, 5, {{"x", x}});
  ASSERT_TRUE(came.ok()) << came.status();
  ExpectNear((*came)["y"], y, 1e-5, "y");
}

TEST(OnnxWholeTest, WhatNeitherStepsNorSequencesCanSayIsRefused) {
  const auto refusal = [](const OnnxWriter& file) {
    const auto model = Import(file.File(), "onnx { input { name: 'x' time: 0 } }");
    return model.ok() ? "accepted" : std::string(model.status().message());
  };
  OnnxWriter file;
  file.Input(W::Declared("x", {-2, -1, 3}));
  OnnxWriter apart = file, cut = file, square = file;
  apart.Initializer(W::IntTensor("b", {1}, {-1})).Initializer(W::IntTensor("e", {1}, {3})).Initializer(W::IntTensor("a", {1}, {0})).Initializer(W::IntTensor("s", {1}, {-2}));
  EXPECT_THAT(refusal(apart.Node("Slice", {"x", "b", "e", "a", "s"}, {"y"}).Output("y")), HasSubstr("Slice node 'Slice_0': takes steps of time apart"));
  cut.Initializer(W::IntTensor("b", {1}, {1})).Initializer(W::IntTensor("e", {1}, {9})).Initializer(W::IntTensor("a", {1}, {0}));
  EXPECT_THAT(refusal(cut.Node("Slice", {"x", "b", "e", "a"}, {"y"}).Output("y")), HasSubstr("cuts time"));
  OnnxWriter two = file;  // lengths that do not agree
  two.Initializer(W::IntTensor("b", {1}, {1})).Initializer(W::IntTensor("e", {1}, {INT64_MAX})).Initializer(W::IntTensor("a", {1}, {0})).Node("Slice", {"x", "b", "e", "a"}, {"s"}).Node("Add", {"x", "s"}, {"y"});
  EXPECT_THAT(refusal(two.Output("y")), HasSubstr("Add node 'Add_1': reads sequences of two lengths side by side, of T and of T - 1 frames for T steps"));
  square.Node("Transpose", {"x"}, {"l"}, W::Ints("perm", {1, 0, 2})).Node("Transpose", {"x"}, {"r"}, W::Ints("perm", {1, 2, 0})).Node("MatMul", {"l", "r"}, {"y"});
  EXPECT_THAT(refusal(square.Output("y")), HasSubstr("MatMul_2"));
}

TEST(OnnxWholeTest, HostileGraphsCostLittle) {
  OnnxWriter turns;
  turns.Input(W::Declared("x", {-2, -1, 3})).Initializer(W::IntTensor("b", {1}, {-1})).Initializer(W::IntTensor("e", {1}, {INT64_MIN})).Initializer(W::IntTensor("a", {1}, {0})).Initializer(W::IntTensor("s", {1}, {-1}));
  std::string at = "x";
  for (int i = 0; i < 300; ++i) {
    const std::string n = std::to_string(i);
    turns.Node("Tanh", {at}, {"t" + n}).Node("Slice", {"t" + n, "b", "e", "a", "s"}, {"r" + n});
    at = "r" + n;
  }
  const auto many = Import(turns.Output(at).File(), "onnx { input { name: 'x' time: 0 } }");
  EXPECT_THAT(std::string(many.status().message()), HasSubstr("takes more than 256 passes"));
  OnnxWriter moves;  // a large value that is only moved, very often
  moves.Input(W::Declared("x", {-2, -1, 700, 2})).Node("Transpose", {"x"}, {"p"}, W::Ints("perm", {0, 1, 3, 2}));
  at = "p";
  for (int i = 0; i < 99'000; ++i) moves.Node("Identity", {at}, {"i" + std::to_string(i)}), at = "i" + std::to_string(i);
  moves.Node("ReduceMean", {at}, {"y"}, W::Ints("axes", {0}));
  const auto moved = Import(moves.Output("y").File(), "onnx { input { name: 'x' time: 0 } }");
  EXPECT_THAT(std::string(moved.status().message()), HasSubstr("moves more elements between passes"));
}

}  // namespace
}  // namespace lstm::core
