// SPDX-License-Identifier: MIT
#include "tests/support/random_model.h"

#include <cmath>
#include <cstdlib>
#include <iostream>

namespace lstm::testing {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << "test model: " << value.status() << "\n";
    std::abort();
  }
  return *std::move(value);
}

core::StateId State(core::ModelBuilder& builder, Random& random, const std::string& name, core::Shape shape, bool initial) {
  std::vector<float> values;
  for (int64_t i = 0; initial && i < core::CheckedElementCount(shape); ++i) values.push_back(random.Uniform());
  return Must(builder.AddState(name, std::move(shape), values));
}

core::Op MakeOp(core::ModelBuilder& b, Random& random, const std::string& kind, const std::string& name, int64_t in, int64_t h, bool initial) {
  const float scale = 1 / std::sqrt(static_cast<float>(h)), in_scale = 1 / std::sqrt(static_cast<float>(in));
  if (kind.starts_with("lstm")) {
    const bool projected = kind.find("projection") != std::string::npos;
    const int64_t p = projected ? (h + 1) / 2 : h;
    core::LstmOp op{.weight = random.Constant({4 * h, in}, in_scale * 2), .recurrent = random.Constant({4 * h, p}, scale * 2),
                    .bias = random.Constant({4 * h}, 0.5f)};
    if (kind.find("peephole") != std::string::npos) op.peephole = random.Constant({3 * h}, 0.5f);
    if (projected) op.projection = random.Constant({p, h}, scale * 2);
    op.hidden = State(b, random, name + ".h", {p}, initial);
    op.cell = State(b, random, name + ".c", {h}, initial);
    return op;
  }
  if (kind.starts_with("gru")) {
    const bool after = kind == "gru_after";
    core::GruOp op{.weight = random.Constant({3 * h, in}, in_scale * 2), .recurrent = random.Constant({3 * h, h}, scale * 2),
                   .bias = random.Constant({(after ? 4 : 3) * h}, 0.5f), .reset_after = after};
    op.hidden = State(b, random, name + ".h", {h}, initial);
    return op;
  }
  if (kind.starts_with("rnn")) {
    const bool relu = kind == "rnn_relu";  // weights below 1, or its state would grow for ever
    core::RnnOp op{.weight = random.Constant({h, in}, in_scale), .recurrent = random.Constant({h, h}, scale * (relu ? 0.8f : 1.0f)),
                   .bias = random.Constant({h}, 0.5f), .relu = relu};
    op.hidden = State(b, random, name + ".h", {h}, initial);
    return op;
  }
  if (kind.starts_with("conv1d")) {
    const int64_t groups = kind == "conv1d_groups" ? 2 : 1;
    core::Conv1dOp op{.weight = random.Constant({h * groups, in / groups, 3}, in_scale), .bias = random.Constant({h * groups}, 0.5f),
                      .dilation = 2, .groups = groups};
    op.context = State(b, random, name + ".context", {4, in}, initial);
    return op;
  }
  if (kind == "layernorm") return core::LayerNormOp{random.Constant({in}, 1), random.Constant({in}, 1), 1e-5f};
  if (kind == "softmax") return core::SoftmaxOp{};
  return core::LinearOp{random.Constant({h, in}, in_scale), random.Constant({h}, 0.5f)};
}

}  // namespace

core::ConstantPtr Random::Constant(core::Shape shape, float scale) {
  auto constant = std::make_shared<core::Constant>();
  constant->values = core::AlignedBuffer<float>(static_cast<size_t>(core::CheckedElementCount(shape)));
  constant->shape = std::move(shape);
  for (float& v : constant->values.span()) v = Uniform(scale);
  return constant;
}

std::vector<std::string> LayerKinds() {
  return {"lstm", "lstm_peephole", "lstm_projection", "lstm_peephole_projection", "gru_after", "gru_before", "rnn_tanh", "rnn_relu",
          "linear", "conv1d", "conv1d_groups", "layernorm", "softmax"};
}

core::Model OneLayer(const std::string& kind, int64_t in, int64_t hidden, uint64_t seed, bool initial) {
  Random random(seed);
  core::ModelBuilder builder;
  if (kind == "conv1d_groups") in += in % 2;
  const core::ValueId x = Must(builder.AddInput({.name = "x"}, core::DType::kF32, {in}));
  core::Op op = MakeOp(builder, random, kind, "layer", in, hidden, initial);
  const core::ValueId y = Must(builder.AddNode("layer", std::move(op), {x}));
  if (!builder.AddOutput({.name = "y", .value = y}).ok()) std::abort();
  builder.model().name = kind;
  builder.model().version = "1";
  builder.model().hash = std::string(32, 'h');
  return Must(std::move(builder).Build());
}

core::Model LstmStack(int64_t in, int64_t hidden, int layers, uint64_t seed) {
  Random random(seed);
  core::ModelBuilder b;
  core::ValueId v = Must(b.AddInput({.name = "x"}, core::DType::kF32, {in}));
  for (int i = 0; i < layers; ++i) {
    const std::string name = "lstm" + std::to_string(i);
    v = Must(b.AddNode(name, MakeOp(b, random, "lstm", name, i == 0 ? in : hidden, hidden, false), {v}));
  }
  if (!b.AddOutput({.name = "y", .value = v}).ok()) std::abort();
  b.model().name = "lstm";
  b.model().version = "1";
  b.model().hash = std::string(32, 'l');
  return Must(std::move(b).Build());
}

core::Model SmallStack(uint64_t seed) {
  Random random(seed);
  core::ModelBuilder b;
  core::ValueId v = Must(b.AddInput({.name = "id"}, core::DType::kI32, {}));
  v = Must(b.AddNode("embedding", core::EmbeddingOp{random.Constant({17, 12}, 1)}, {v}));
  const core::ValueId embedded = v;
  v = Must(b.AddNode("lstm0", MakeOp(b, random, "lstm", "lstm0", 12, 20, false), {v}));
  v = Must(b.AddNode("lstm1", MakeOp(b, random, "lstm", "lstm1", 20, 12, true), {v}));
  const core::ValueId linear = Must(b.AddNode("linear", MakeOp(b, random, "linear", "", 12, 12, false), {v}));
  v = Must(b.AddNode("residual", core::ElementwiseOp{core::ElementwiseKind::kAdd}, {linear, embedded}));
  v = Must(b.AddNode("norm", MakeOp(b, random, "layernorm", "", 12, 12, false), {v}));
  v = Must(b.AddNode("both", core::ConcatOp{}, {v, linear}));
  v = Must(b.AddNode("softmax", core::SoftmaxOp{}, {v}));
  if (!b.AddOutput({.name = "y", .value = v}).ok()) std::abort();
  b.model().name = "stack";
  b.model().version = "1";
  b.model().hash = std::string(32, 's');
  return Must(std::move(b).Build());
}

}  // namespace lstm::testing
