// SPDX-License-Identifier: MIT
#include "tests/fuzz/seeds.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/core/import/onnx/onnx_writer.h"

namespace lstm::testing {
namespace {

using W = OnnxWriter;
using core::Shape;

std::vector<float> Numbers(int64_t n) {
  std::vector<float> out;
  uint32_t state = static_cast<uint32_t>(n) * 2654435761u + 1;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    out.push_back(static_cast<float>(state >> 8) * 0x1p-24f - 0.5f);
  }
  return out;
}

std::string Floats(const std::string& name, const Shape& shape) { return W::Tensor(name, shape, Numbers(core::CheckedElementCount(shape))); }

// One recurrent node with all that it may have.
std::string Recurrent(const std::string& op, const std::string& direction, int layout, bool inputs, const std::string& more = "") {
  const int64_t d = direction == "bidirectional" ? 2 : 1, g = op == "LSTM" ? 4 : op == "GRU" ? 3 : 1;
  OnnxWriter file;
  file.Input(W::Declared("x", layout ? Shape{-1, -2, 2} : Shape{-2, -1, 2}));
  file.Initializer(Floats("W", {d, g * 3, 2})).Initializer(Floats("R", {d, g * 3, 3})).Initializer(Floats("B", {d, g * 6}));
  std::vector<std::string> in = {"x", "W", "R", "B", inputs ? "n" : "", inputs ? "h" : ""}, out = {"y", "yh"};
  if (inputs) file.Input(W::Declared("n", {-1}, 6)).Input(W::Declared("h", layout ? Shape{-1, d, 3} : Shape{d, -1, 3}));
  if (op == "LSTM") {
    in.push_back(inputs ? "c" : "");
    if (inputs) file.Input(W::Declared("c", layout ? Shape{-1, d, 3} : Shape{d, -1, 3}));
    in.push_back("P");
    file.Initializer(Floats("P", {d, 9}));
    out.push_back("yc");
  }
  file.Node(op, in, out, W::Int("hidden_size", 3) + W::Text("direction", direction) + W::Int("layout", layout) + more);
  for (const std::string& o : out) file.Output(o);
  return file.File(22);
}

OnnxWriter Over(const Shape& shape) {
  OnnxWriter file;
  file.Input(W::Declared("x", shape)).Output("y");
  return file;
}

std::string Header(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string Tensors(const std::vector<std::pair<std::string, Shape>>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const auto& [name, shape] : tensors) {
    const std::vector<float> values = Numbers(core::CheckedElementCount(shape));
    absl::StrAppend(&header, ",\"", name, R"(":{"dtype":"F32","shape":[)", absl::StrJoin(shape, ","), R"(],"data_offsets":[)", data.size(), ",", data.size() + values.size() * 4, "]}");
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  }
  return Header(header + "}", data);
}

}  // namespace

Seeds OnnxSeeds() {
  Seeds out;
  for (const std::string op : {"LSTM", "GRU", "RNN"}) {
    for (const std::string direction : {"forward", "reverse", "bidirectional"}) {
      for (const int layout : {0, 1}) out[absl::StrCat(op, "_", direction, "_", layout)] = Recurrent(op, direction, layout, layout == 1);
    }
  }
  out["gru_after"] = Recurrent("GRU", "forward", 0, false, W::Int("linear_before_reset", 1) + W::Real("clip", 0.5f));
  out["lstm_coupled"] = Recurrent("LSTM", "forward", 0, false, W::Int("input_forget", 1) + W::Texts("activations", {"HardSigmoid", "ScaledTanh", "Affine"}) + W::Reals("activation_alpha", {0.2f, 1, 2}) + W::Reals("activation_beta", {0.5f, 1, 0}));
  const auto one = [&](const std::string& name, OnnxWriter file) { out[name] = file.File(); };
  for (const std::string op : {"Relu", "Softplus", "Exp", "Neg", "HardSwish", "Mish", "Selu", "Gelu", "Erf", "Softsign", "Sign", "GlobalAveragePool"}) one("op_" + op, Over({1, 3, 4}).Node(op, {"x"}, {"y"}));
  for (const std::string op : {"ReduceMean", "ReduceMax", "ReduceL2", "ReduceProd"}) one("time_" + op, Over({-2, -1, 3}).Node("Tanh", {"x"}, {"t"}).Node(op, {"t"}, {"y"}, W::Ints("axes", {0})));
  one("softmax_time", Over({-1, -2, 3}).Node("Softmax", {"x"}, {"y"}, W::Int("axis", 1)));
  one("conv_causal", Over({-1, 2, -2}).Initializer(Floats("K", {3, 2, 3})).Node("Conv", {"x", "K"}, {"y"}, W::Ints("pads", {2, 0})));
  one("conv_ahead", Over({-1, 2, -2}).Initializer(Floats("K", {2, 1, 3})).Initializer(Floats("B", {2})).Node("Conv", {"x", "K", "B"}, {"y"}, W::Ints("pads", {2, 2}) + W::Ints("dilations", {2}) + W::Int("group", 2)));
  one("conv_transpose", Over({1, 2, 3, 4}).Initializer(Floats("K", {2, 2, 3, 2})).Node("ConvTranspose", {"x", "K"}, {"y"}, W::Ints("strides", {2, 3}) + W::Ints("pads", {1, 0, 0, 1}) + W::Ints("output_padding", {1, 0}) + W::Int("group", 1)));
  one("conv_transpose_time", Over({-1, 2, -2}).Initializer(Floats("K", {2, 3, 3})).Initializer(W::IntTensor("b", {1}, {0})).Initializer(W::IntTensor("e", {1}, {-2})).Initializer(W::IntTensor("a", {1}, {2})).Node("ConvTranspose", {"x", "K"}, {"l"}).Node("Slice", {"l", "b", "e", "a"}, {"y"}));
  one("conv_frames", Over({-1, 2, 3}).Initializer(Floats("K", {1, 2, 1})).Initializer(W::IntTensor("o", {1}, {1})).Initializer(Floats("W", {1, 9, 3})).Initializer(Floats("R", {1, 9, 3})).Node("Conv", {"x", "K"}, {"k"}).Node("Flatten", {"k"}, {"f"}).Node("Unsqueeze", {"f", "o"}, {"u"}).Node("GRU", {"u", "W", "R"}, {"y"}, W::Int("hidden_size", 3)));
  one("scatter", Over({1, 3, 4}).Initializer(W::IntTensor("i", {2, 2}, {0, 2, 0, -3})).Initializer(W::IntTensor("j", {1, 2, 2}, {3, 0, -1, 1})).Initializer(Floats("u", {2, 4})).Initializer(Floats("v", {1, 2, 2})).Node("ScatterND", {"x", "i", "u"}, {"s"}).Node("ScatterElements", {"s", "j", "v"}, {"y"}, W::Int("axis", 2)));
  // Along the bands of a step both ways, then over time with a state for each band.
  one("bands", Over({-2, 6}).Initializer(W::IntTensor("to", {3}, {-1, 3, 2})).Initializer(W::IntTensor("flat", {3}, {3, -1, 4})).Initializer(Floats("W", {2, 6, 2})).Initializer(Floats("R", {2, 6, 2})).Initializer(Floats("V", {1, 8, 4})).Initializer(Floats("S", {1, 8, 2}))
                   .Node("Reshape", {"x", "to"}, {"tb"}).Node("Transpose", {"tb"}, {"bt"}, W::Ints("perm", {1, 0, 2})).Node("GRU", {"bt", "W", "R"}, {"g"}, W::Int("hidden_size", 2) + W::Text("direction", "bidirectional"))
                   .Node("Transpose", {"g"}, {"gt"}, W::Ints("perm", {0, 2, 1, 3})).Node("Reshape", {"gt", "flat"}, {"r"}).Node("Transpose", {"r"}, {"tr"}, W::Ints("perm", {1, 0, 2})).Node("LSTM", {"tr", "V", "S"}, {"y"}, W::Int("hidden_size", 2)));
  one("conv_2d", Over({1, 2, 6, 5}).Initializer(Floats("K", {3, 2, 3, 2})).Node("Conv", {"x", "K"}, {"c"}, W::Ints("strides", {2, 1}) + W::Ints("pads", {1, 0, 1, 1})).Node("MaxPool", {"c"}, {"y"}, W::Ints("kernel_shape", {2, 2})));
  one("pad_reflect", Over({1, 6}).Initializer(W::IntTensor("p", {4}, {0, 2, 0, 1})).Node("Pad", {"x", "p"}, {"y"}, W::Text("mode", "reflect")));
  one("slices", Over({1, 8}).Initializer(W::IntTensor("b", {1}, {-1})).Initializer(W::IntTensor("e", {1}, {-9})).Initializer(W::IntTensor("a", {1}, {1})).Initializer(W::IntTensor("s", {1}, {-2})).Node("Slice", {"x", "b", "e", "a", "s"}, {"y"}));
  one("split_concat", Over({1, 6}).Node("Split", {"x"}, {"a", "b"}, W::Int("axis", 1)).Node("Concat", {"b", "a"}, {"y"}, W::Int("axis", -1)));
  one("shapes", Over({-2, -1, 4}).Initializer(W::IntTensor("i", {1}, {0})).Initializer(W::IntTensor("r", {1}, {-1})).Node("Shape", {"x"}, {"n"}).Node("Gather", {"n", "i"}, {"t"}).Node("Concat", {"t", "r"}, {"w"}, W::Int("axis", 0)).Node("Reshape", {"x", "w"}, {"y"}));
  one("expand_time", Over({-2, -1, 4}).Initializer(W::IntTensor("i", {}, {-1})).Node("Shape", {"x"}, {"n"}).Node("Gather", {"x", "i"}, {"l"}, W::Int("axis", 0)).Node("Expand", {"l", "n"}, {"y"}));
  one("embedding", OnnxWriter().Input(W::Declared("x", {-1, -2}, 7)).Output("y").Initializer(Floats("E", {5, 3})).Node("Gather", {"E", "x"}, {"y"}));
  one("gemm_norms", Over({1, 4}).Initializer(Floats("A", {3, 4})).Initializer(Floats("b", {3})).Initializer(W::Tensor("v", {3}, {1, 2, 3})).Node("Gemm", {"x", "A", "b"}, {"g"}, W::Int("transB", 1) + W::Real("alpha", 0.5f)).Node("BatchNormalization", {"g", "b", "b", "b", "v"}, {"n"}).Node("LayerNormalization", {"n", "b", "b"}, {"l"}).Node("LogSoftmax", {"l"}, {"y"}));
  one("matmul_step", Over({1, 4}).Initializer(W::IntTensor("s", {2}, {2, 2})).Node("Reshape", {"x", "s"}, {"a"}).Node("Transpose", {"a"}, {"b"}).Node("MatMul", {"a", "b"}, {"y"}));
  one("alike", Over({1, 64}).Initializer(Floats("w", {1, 70})).Initializer(W::IntTensor("s", {2}, {64, 70})).Node("Expand", {"w", "s"}, {"W"}).Node("MatMul", {"x", "W"}, {"y"}));  // inputs that meet the same weights
  one("state_by_name", OnnxWriter().Input(W::Declared("x", {1, 2})).Input(W::Declared("h_in", {1, 3})).Output("y").Output("h_out").Initializer(Floats("A", {5, 3})).Node("Concat", {"x", "h_in"}, {"c"}, W::Int("axis", 1)).Node("MatMul", {"c", "A"}, {"p"}).Node("Tanh", {"p"}, {"h_out"}).Node("Sigmoid", {"h_out"}, {"y"}));
  const std::string then = W::Bytes(1, W::Bytes(1, "x") + W::Bytes(2, "t") + W::Bytes(4, "Tanh")) + W::Bytes(12, W::Bytes(1, "t"));
  one("if", Over({1, 2}).Initializer(W::IntTensor("c", {}, {1})).Node("If", {"c"}, {"y"}, W::Bytes(5, W::Bytes(1, "then_branch") + W::Bytes(6, then)) + W::Bytes(5, W::Bytes(1, "else_branch") + W::Bytes(6, then))));
  one("moves", Over({1, 4, 2, 2}).Initializer(W::Tensor("n", {4}, {1, 1, 2, 2})).Initializer(W::IntTensor("i", {1, 1, 1, 2}, {0, -1})).Node("DepthToSpace", {"x"}, {"d"}, W::Int("blocksize", 2)).Node("SpaceToDepth", {"d"}, {"s"}, W::Int("blocksize", 2)).Node("Trilu", {"s"}, {"t"}, W::Int("upper", 0)).Node("Resize", {"t", "", "n"}, {"r"}, W::Text("mode", "linear")).Node("GatherElements", {"r", "i"}, {"y"}));
  one("upsample", Over({1, 1, 3}).Initializer(W::Tensor("n", {3}, {1, 1, 2})).Initializer(W::IntTensor("i", {1, 2}, {0, 0})).Node("Upsample", {"x", "n"}, {"u"}).Node("GatherND", {"u", "i"}, {"y"}));
  const auto bytes = [](const char* name, const core::Shape& shape, int64_t type) {
    std::vector<int64_t> v(static_cast<size_t>(core::CheckedElementCount(shape)));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i * 37 % 100);
    return W::SmallTensor(name, shape, v, type);
  };
  const std::string extended = W::Domain("com.microsoft");
  const auto scales = [&](OnnxWriter file) { return file.Initializer(W::Tensor("s", {}, {0.02f})).Initializer(W::SmallTensor("o", {}, {7}, 3)); };
  one("quantised", scales(Over({-2, 1, 4})).Initializer(bytes("w", {4, 3}, 3)).Initializer(W::Tensor("ws", {3}, {0.1f, 0.2f, 0.3f})).Initializer(bytes("wo", {3}, 3)).Node("QuantizeLinear", {"x", "s", "o"}, {"q"}).Node("DequantizeLinear", {"q", "s", "o"}, {"d"}).Node("DequantizeLinear", {"w", "ws", "wo"}, {"W"}).Node("MatMul", {"d", "W"}, {"y"}));
  one("quantised_by_range", Over({-2, 1, 4}).Initializer(bytes("w", {4, 3}, 3)).Initializer(bytes("k", {1, 3, 3}, 2)).Initializer(W::IntTensor("p", {6}, {0, 0, 2, 0, 0, 0})).Node("DynamicQuantizeLinear", {"x"}, {"q", "s", "o"}).Node("MatMulInteger", {"q", "w", "o"}, {"m"}).Node("Mul", {"m", "s"}, {"f"}).Node("Transpose", {"f"}, {"t"}, W::Ints("perm", {1, 2, 0})).Node("Pad", {"t", "p"}, {"c"}).Node("DynamicQuantizeLinear", {"c"}, {"cq", "cs", "co"}).Node("ConvInteger", {"cq", "k", "co"}, {"y"}));
  one("quantised_ops", scales(Over({1, 2, 5})).Initializer(bytes("k", {2, 2, 2}, 3)).Initializer(W::SmallTensor("b", {2}, {5, -9}, 6)).Node("QuantizeLinear", {"x", "s", "o"}, {"q"}).Node("QLinearConv", {"q", "s", "o", "k", "s", "o", "s", "o", "b"}, {"c"}, W::Ints("pads", {1, 0})).Node("QLinearAdd", {"c", "s", "o", "q", "s", "o", "s", "o"}, {"a"}, extended).Node("QLinearSigmoid", {"a", "s", "o", "s", "o"}, {"g"}, extended).Node("QLinearConcat", {"s", "o", "g", "s", "o", "a", "s", "o"}, {"y"}, W::Int("axis", 2) + extended));
  one("quantised_lstm", Over({-2, 1, 2}).Initializer(bytes("w", {1, 2, 12}, 3)).Initializer(bytes("r", {1, 3, 12}, 3)).Initializer(W::Tensor("s", {1}, {0.01f})).Initializer(bytes("o", {1, 12}, 3)).Initializer(W::Tensor("ss", {1, 12}, std::vector<float>(12, 0.02f))).Node("DynamicQuantizeLSTM", {"x", "w", "r", "", "", "", "", "", "ss", "o", "ss", "o"}, {"y"}, extended));
  const auto body = [](int64_t width) {
    OnnxWriter step;
    step.Input(W::Declared("h", {1, 3})).Input(W::Declared("xt", {1, width})).Initializer(Floats("w", {width, 3})).Node("MatMul", {"xt", "w"}, {"a"}).Node("Add", {"a", "h"}, {"b"}).Node("Tanh", {"b"}, {"n"}).Node("Identity", {"n"}, {"yt"});
    return W::Int("num_scan_inputs", 1) + W::Graph("body", step.Output("n").Output("yt"));
  };
  one("scan", OnnxWriter().Input(W::Declared("x", {-2, 1, 2})).Input(W::Declared("h0", {1, 3})).Output("y").Output("end").Initializer(Floats("z", {1, 3})).Node("Scan", {"h0", "x"}, {"end", "m"}, body(2)).Node("Scan", {"z", "m"}, {"e", "y"}, body(3)));
  one("scan_within", Over({1, 4, 1, 2}).Initializer(Floats("z", {1, 1, 3})).Node("Scan", {"z", "x"}, {"e", "y"}, W::Ints("scan_input_axes", {1}) + W::Ints("scan_output_axes", {-2}) + W::Ints("scan_input_directions", {1}) + body(2)));
  OnnxWriter turn;
  turn.Input(W::Declared("t", {}, 7)).Input(W::Declared("go", {}, 9)).Input(W::Declared("h", {1, 2})).Input(W::Declared("l", {}));
  turn.Node("Gather", {"x", "t"}, {"xt"}).Node("Add", {"xt", "h"}, {"h2"}).Node("Identity", {"go"}, {"go2"}).Node("SequenceInsert", {"l", "h2"}, {"l2"}).Output("go2").Output("h2").Output("l2");
  one("loop", Over({-2, 1, 2}).Initializer(Floats("h0", {1, 2})).Initializer(W::IntTensor("i", {}, {0})).Node("Shape", {"x"}, {"n"}).Node("Gather", {"n", "i"}, {"m"}).Node("SequenceEmpty", {}, {"e"}).Node("Loop", {"m", "", "h0", "e"}, {"hn", "all"}, W::Graph("body", turn)).Node("ConcatFromSequence", {"all"}, {"y"}, W::Int("axis", 0) + W::Int("new_axis", 1)));
  OnnxWriter twice;
  twice.Input(W::Declared("t", {}, 7)).Input(W::Declared("go", {}, 9)).Input(W::Declared("h", {1, 2})).Node("Tanh", {"h"}, {"h2"}).Node("Less", {"t", "i"}, {"go2"}).Output("go2").Output("h2").Output("h2");
  one("loop_within", Over({1, 2}).Initializer(W::IntTensor("m", {}, {9})).Initializer(W::IntTensor("i", {}, {1})).Node("Loop", {"m", "", "x"}, {"y", "all"}, W::Graph("body", twice)));
  // An LSTM cell in parts, its state carried by the caller.
  out["decomposed"] = SeedGraph();
  return out;
}

std::string SeedGraph() {
  OnnxWriter file;
  file.Input(W::Declared("x", {1, 2})).Input(W::Declared("h", {1, 3})).Input(W::Declared("c", {1, 3})).Output("y").Output("hn").Output("cn");
  file.Initializer(Floats("W", {2, 12})).Initializer(Floats("R", {3, 12})).Initializer(Floats("b", {12}));
  file.Node("MatMul", {"x", "W"}, {"a"}).Node("MatMul", {"h", "R"}, {"r"}).Node("Add", {"a", "r"}, {"s"}).Node("Add", {"s", "b"}, {"g"}).Node("Split", {"g"}, {"gi", "gf", "gg", "go"}, W::Int("axis", 1));
  file.Node("Sigmoid", {"gi"}, {"i"}).Node("Sigmoid", {"gf"}, {"f"}).Node("Tanh", {"gg"}, {"g2"}).Node("Sigmoid", {"go"}, {"o"});
  file.Node("Mul", {"f", "c"}, {"k"}).Node("Mul", {"i", "g2"}, {"n"}).Node("Add", {"k", "n"}, {"cn"}).Node("Tanh", {"cn"}, {"t"}).Node("Mul", {"o", "t"}, {"hn"}).Node("Identity", {"hn"}, {"y"});
  return file.File();
}

std::string SeedWeights() {
  return Tensors({{"lstm.weight_ih_l0", {12, 2}}, {"lstm.weight_hh_l0", {12, 3}}, {"lstm.bias_ih_l0", {12}}, {"lstm.bias_hh_l0", {12}}, {"lstm.weight_hr_l0", {2, 3}},
                  {"gru.weight_ih_l0", {9, 2}}, {"gru.weight_hh_l0", {9, 3}}, {"gru.bias_ih_l0", {9}}, {"gru.bias_hh_l0", {9}}, {"rnn.weight_ih_l0", {3, 2}}, {"rnn.weight_hh_l0", {3, 3}},
                  {"rnn.bias_ih_l0", {3}}, {"rnn.bias_hh_l0", {3}}, {"head.weight", {2, 3}}, {"head.bias", {2}}, {"embed.weight", {5, 2}}, {"norm.weight", {2}}, {"norm.bias", {2}}, {"conv.weight", {2, 2, 3}},
                  {"conv.bias", {2}}, {"k.kernel", {2, 12}}, {"k.recurrent_kernel", {3, 12}}, {"k.bias", {12}}, {"t.kernel", {5, 12}}, {"t.bias", {12}}, {"lstm.h0_l0", {3}}, {"lstm.c0_l0", {3}}});
}

Seeds SafetensorsSeeds() {
  Seeds out;
  out["model"] = Tensors({{"head.bias", {2}}, {"head.weight", {2, 3}}, {"lstm.bias_hh_l0", {12}}, {"lstm.bias_ih_l0", {12}}, {"lstm.weight_hh_l0", {12, 3}}, {"lstm.weight_ih_l0", {12, 2}}});
  out["types"] = Header(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},"c":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"d":{"dtype":"I64","shape":[],"data_offsets":[16,24]}})", std::string(24, '\1'));
  out["scales"] = Tensors({{"head.weight", {2}}, {"lstm.recurrent", {12}}, {"lstm.weight", {12}}});
  out["empty"] = Header("{}", "");
  out["no_elements"] = Header(R"({"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}})", "");
  return out;
}

Seeds ManifestSeeds() {
  const std::string x = "input { name: \"x\" shape: 2 }\n";
  return {{"lstm", x + "layer { name: \"lstm\" lstm { layers: 1 initial_state: TRAINED } }\nlayer { name: \"head\" linear { } }\noutput { name: \"y\" labels: \"a\" labels: \"b\" }\n"},
          {"projection", x + "layer { name: \"lstm\" lstm { projection: true peepholes: true forget_bias: 1 bias: BIAS_TWO gate_order: IOFG } }\n"},
          {"gru", x + "layer { name: \"gru\" gru { reset: BEFORE_PRODUCT gate_order: ZRN } }\n"},
          {"rnn", x + "layer { name: \"rnn\" rnn { nonlinearity: RELU } }\nlayer { name: \"s\" softmax { log: true } }\n"},
          {"keras", x + "layer { name: \"k\" lstm { convention: KERAS } }\n"},
          {"tensorflow", x + "layer { name: \"t\" lstm { convention: TENSORFLOW forget_bias: 1 } }\n"},
          {"embedding", "input { name: \"x\" type: INT32 uses_vocabulary: true }\nlayer { name: \"embed\" embedding { } }\nlayer { name: \"norm\" layer_norm { epsilon: 1e-3 } }\nvocabulary { unit: WORD token: \"a\" token: \"b\" unknown: 1 }\n"},
          {"conv", x + "layer { name: \"conv\" conv1d { dilation: 2 } }\nlayer { name: \"a\" activation { function: CLIP alpha: -1 beta: 1 } }\nlayer { name: \"r\" input: \"x\" input: \"a\" elementwise { function: ADD } }\n"},
          {"rounded", x + "layer { name: \"head\" tensors: \"embed\" linear { no_bias: true } }\nround_weights: INT8\nround_scales: \"s\"\n"},
          {"plumbing", "input { name: \"x\" shape: 2 mean: 1 scale: 2 wire { type: INT16 scale: 3e-5 offset: 1 } }\nlayer { name: \"f\" affine { scale: 2 offset: 1 } }\nlayer { name: \"c\" input: \"x\" input: \"f\" concat { } }\nlayer { name: \"s\" slice { begin: 1 end: 3 } }\nlayer { name: \"q\" reshape { shape: 2 shape: 1 } }\noutput { name: \"y\" value: \"q\" }\n"},
          {"onnx", "onnx { input { name: \"x\" shape: 1 shape: 2 time: -1 look_back: 1 } input { name: \"h\" state: \"hn\" } input { name: \"c\" constant: 0.5 } }\ninput { name: \"x\" wire { type: UINT8 } }\noutput { name: \"y\" labels: \"a\" labels: \"b\" labels: \"c\" }\n"},
          {"onnx_data", "onnx { input { name: \"h\" state: \"\" } input { name: \"c\" state: \"\" time: 0 } }\n"}};
}

}  // namespace lstm::testing
