// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/aligned_buffer.h"
#include "core/import/manifest_import.h"
#include "tests/core/import/onnx/onnx_writer.h"

// A refused file costs at most twice its size and 16 MB beside it: of the process's memory, whoever it came from.
namespace lstm::core {
namespace {

// In bytes, of /proc/self/status.
size_t Memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoul(line.substr(field.size() + 1)) << 10;
  }
  ADD_FAILURE() << "no " << field;
  return 0;
}

// What `run` took at its peak beyond what there was before.
template <typename F>
size_t Peak(F run) {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak so far is forgotten
  const size_t before = Memory("VmRSS");
  run();
  const size_t peak = Memory("VmHWM");
  return peak - std::min(peak, before);
}

TEST(ImportMemoryTest, WhatIsWrittenIsCounted) {
  constexpr size_t kBytes = 100u << 20;
  const auto filled = [](size_t n) {
    AlignedBuffer<float> buffer(kBytes / sizeof(float));
    for (size_t i = 0; i < n / sizeof(float); ++i) buffer[i] = 1;
    EXPECT_EQ(buffer[buffer.size() / 2], n == kBytes ? 1.0f : 0.0f);  // one page of it: on some machines what is read takes up memory too
  };
  EXPECT_GT(Peak([&] { filled(kBytes); }), kBytes * 9 / 10);
  EXPECT_LT(Peak([&] { filled(kBytes / 4); }), kBytes / 2);
  EXPECT_GT(Peak([] { const std::vector<float> v(kBytes / sizeof(float), 1.0f); EXPECT_EQ(v[77], 1.0f); }), kBytes * 9 / 10);
}

std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\0');
}

std::string Tensor(const std::string& name, const std::string& shape, size_t from, size_t to) {
  return absl::StrCat("\"", name, R"(":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[)", from, ",", to, "]}");
}

void ExpectRefusedCheaply(const std::string& manifest, const std::string& file) {
  absl::Status status;
  const size_t peak = Peak([&] { status = ImportManifest(manifest, std::as_bytes(std::span(file))).status(); });
  EXPECT_FALSE(status.ok());
  EXPECT_LT(peak, 2 * (file.size() + manifest.size()) + (16u << 20)) << status;
}

constexpr char kInput[] = "input { name: 'x' shape: 1000 } ";

TEST(ImportMemoryTest, HeadersOfMillions) {
  std::string many = "{", deep = "{\"__metadata__\":{", dims;
  for (int i = 0; i < 500'000; ++i) absl::StrAppend(&many, i ? "," : "", Tensor(absl::StrCat(i), "[0]", 0, 0));
  for (int i = 0; i < 500'000; ++i) absl::StrAppend(&deep, i ? "," : "", "\"", i, "\":\"", i, "\"");
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(many + "}", 0));
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(deep + "}}", 0));
  for (const std::string& endless : {std::string(50u << 20, ' '), "{\"" + std::string(50u << 20, 'a'), "{\"a\":{\"shape\":[" + std::string(50u << 20, '1')}) {
    ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(endless, 0));
  }
}

TEST(ImportMemoryTest, SizesThatAreOnlyDeclared) {
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File("{" + Tensor("l.weight", "[1000000,1000000]", 0, 4'000'000'000'000) + "}", 0));
  ExpectRefusedCheaply("input { name: 'x' shape: [16777216] } layer { name: 'l' slice { begin: 0 end: 16777216 } } layer { name: 'k' linear { } }", File("{}", 0));
}

// A manifest of a few bytes can name sizes that no weight has to pay for.
TEST(ImportMemoryTest, SizesThatNoWeightBears) {
  ExpectRefusedCheaply("input { name: 'x' shape: 16777216 } layer { name: 'l' activation { function: RELU } }", File("{}", 0));
  std::string many = "input { name: 'x' shape: 1000 } ", dilated = "input { name: 'x' shape: 1 } ", shared = kInput;
  for (int i = 0; i < 2000; ++i) {
    absl::StrAppend(&many, "layer { name: 'l", i, "' activation { function: RELU } } ");
    absl::StrAppend(&dilated, "layer { name: 'l", i, "' tensors: 'c' conv1d { dilation: 1048576 no_bias: true } } ");
    absl::StrAppend(&shared, "layer { name: 'l", i, "' tensors: 'w' linear { no_bias: true } } ");
  }
  ExpectRefusedCheaply(many, File("{}", 0));
  ExpectRefusedCheaply(dilated, File("{" + Tensor("c.weight", "[1,1,2]", 0, 8) + "}", 8));
  ExpectRefusedCheaply(shared, File("{" + Tensor("w.weight", "[1000,1000]", 0, 4'000'000) + "}", 4'000'000));
  std::string cells = "input { name: 'x' shape: 500 } ";
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&cells, "layer { name: 'l", i, "' tensors: 'c' lstm { bias: BIAS_NONE } } ");
  const size_t half = 4 * 500 * 500 * 4;
  ExpectRefusedCheaply(cells, File("{" + Tensor("c.weight_ih_l0", "[2000,500]", 0, half) + "," + Tensor("c.weight_hh_l0", "[2000,500]", half, 2 * half) + "}", 2 * half));
}

TEST(ImportMemoryTest, LargeWeightsOfEveryFormRefusedForASmallFault) {
  const size_t width = 1000, hidden = 1000, floats = (width + hidden) * 4 * hidden;
  const std::string one = File("{" + Tensor("c.kernel", "[2000,4000]", 0, floats * 4) + "}", floats * 4);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { convention: TENSORFLOW } }"), one);  // no bias
  const size_t half = width * 4 * hidden * 4;
  const std::string two = File("{" + Tensor("c.kernel", "[1000,4000]", 0, half) + "," + Tensor("c.recurrent_kernel", "[1000,4000]", half, 2 * half) + "}", 2 * half);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { convention: KERAS } }"), two);
  const std::string torch = File("{" + Tensor("c.weight_ih_l0", "[4000,1000]", 0, half) + "," + Tensor("c.weight_hh_l0", "[4000,1000]", half, 2 * half) + "}", 2 * half);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { } }"), torch);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { bias: BIAS_NONE projection: true } }"), torch);
}

void ExpectOnnxRefusedCheaply(const std::string& file) {
  absl::Status status;
  const size_t peak = Peak([&] { status = ImportOnnx(std::as_bytes(std::span(file)), {}).status(); });
  EXPECT_FALSE(status.ok());
  EXPECT_LT(peak, 2 * file.size() + (16u << 20)) << status;
}

// A few bytes that name a weight, or a size, again and again.
TEST(ImportMemoryTest, ConstantsComputedFromNothingAndWeightsNamedTwice) {
  using W = testing::OnnxWriter;
  for (const char* op : {"Equal", "Not", "Neg", "Cast", "Range", "ScatterElements"}) {
    W file;
    const bool ints = std::string(op) != "Neg" && std::string(op) != "Cast";
    file.Input(W::Declared("x", {1, 2})).Initializer(W::IntTensor("s", {1}, {1 << 20})).Initializer(W::IntTensor("a", {}, {0})).Initializer(W::IntTensor("b", {}, {1 << 20})).Initializer(W::IntTensor("c", {}, {1}));
    file.Initializer(W::IntTensor("i", {1}, {0}));
    file.Node("ConstantOfShape", {"s"}, {"k"}, ints ? W::Bytes(5, W::Bytes(1, "value") + W::Bytes(5, W::IntTensor("", {1}, {1})) + W::Number(20, 4)) : "");
    for (int n = 0; n < 300; ++n) {
      std::vector<std::string> in = {"k"};
      if (std::string(op) == "Equal") in = {"k", "k"};
      if (std::string(op) == "Range") in = {"a", "b", "c"};
      if (std::string(op) == "ScatterElements") in = {"k", "i", "i"};
      file.Node(op, in, {absl::StrCat("o", n)}, std::string(op) == "Cast" ? W::Int("to", 7) : "");
    }
    ExpectOnnxRefusedCheaply(file.Node("Frob", {"x"}, {"y"}).Output("y").File());
  }
  const std::vector<float> ones(300 * 300, 1);
  for (const char* op : {"MatMul", "Gemm", "Conv", "Gather"}) {
    W file;
    const bool conv = std::string(op) == "Conv", gather = std::string(op) == "Gather";
    file.Initializer(W::Tensor("w", conv ? Shape{300, 300, 1} : Shape{300, 300}, ones));
    file.Input(gather ? W::Declared("x", {1}, 7) : W::Declared("x", conv ? Shape{1, 300, 1} : Shape{1, 300}));
    std::string at = "x";
    for (int n = 0; n < 3000; ++n) {
      const std::string to = absl::StrCat("o", n);
      file.Node(op, gather ? std::vector<std::string>{"w", "x"} : std::vector<std::string>{at, "w"}, {to});
      if (!gather) at = to;
    }
    ExpectOnnxRefusedCheaply(file.Node("Frob", {at}, {"y"}).Output("y").File());
  }
  W cells;
  cells.Initializer(W::Tensor("w", {1, 600, 150}, ones)).Initializer(W::Tensor("r", {1, 600, 150}, ones)).Input(W::Declared("x", {-2, 1, 150}));
  for (int n = 0; n < 300; ++n) cells.Node("LSTM", {"x", "w", "r"}, {absl::StrCat("o", n)});
  ExpectOnnxRefusedCheaply(cells.Node("Frob", {"o0"}, {"y"}).Output("y").File());
}

TEST(ImportMemoryTest, GraphsThatAskForMoreThanTheyBring) {
  using W = testing::OnnxWriter;
  const std::string end = W::Bytes(8, W::Number(2, 17));
  std::string many, chain;
  for (int i = 0; i < 1'000'000; ++i) many += W::Bytes(1, W::Bytes(4, "Tanh"));
  ExpectOnnxRefusedCheaply(W::Bytes(7, many) + end);
  for (int i = 0; i < 90'000; ++i) chain += W::Bytes(1, W::Bytes(1, absl::StrCat("v", i)) + W::Bytes(2, absl::StrCat("v", i + 1)) + W::Bytes(4, "Identity"));
  W file;
  file.nodes = chain;
  ExpectOnnxRefusedCheaply(file.Input(W::Declared("v0", {4})).Output("nothing").File());
  W shapes;
  shapes.Input(W::Declared("x", {2})).Initializer(W::IntTensor("s", {1}, {1 << 20}));
  for (int i = 0; i < 200; ++i) shapes.Node("ConstantOfShape", {"s"}, {absl::StrCat("c", i)});
  ExpectOnnxRefusedCheaply(shapes.Output("c0").File());
  W spread;
  spread.Input(W::Declared("x", {1, 1000})).Initializer(W::IntTensor("s", {2}, {1000, 1000}));
  for (int i = 0; i < 50; ++i) spread.Node("Expand", {"x", "s"}, {absl::StrCat("c", i)});
  ExpectOnnxRefusedCheaply(spread.Output("c0").File());
  W weights;  // a large cell, refused at its end for a small fault
  weights.Input(W::Declared("x", {-2, -1, 500})).Initializer(W::Tensor("W", {1, 2000, 500}, std::vector<float>(1'000'000, 0.1f)));
  weights.Initializer(W::Tensor("R", {1, 2000, 500}, std::vector<float>(1'000'000, 0.1f))).Node("LSTM", {"x", "W", "R"}, {"y"}).Node("Loop", {"y"}, {"z"});
  ExpectOnnxRefusedCheaply(weights.Output("z").File());
  ExpectOnnxRefusedCheaply(W().Input(W::Declared("x", {int64_t{1} << 24})).Node("Tanh", {"x"}, {"y"}).Output("y").File());
}

// Weights of 8 bits become floats, where the file is not refused for something behind them.
TEST(ImportMemoryTest, WeightsOf8BitsRefusedForWhatIsBehindThem) {
  using W = testing::OnnxWriter;
  constexpr int64_t kUnits = 2000;
  const std::vector<int64_t> sevens(kUnits * kUnits, 7);
  for (const char* op : {"MatMul", "Gemm", "Conv", "LSTM"}) {
    const bool lstm = op == std::string("LSTM"), conv = op == std::string("Conv");
    W file;
    file.Input(W::Declared("x", lstm ? Shape{-2, 1, kUnits} : conv ? Shape{1, kUnits, 1} : Shape{1, kUnits})).Initializer(W::Tensor("scale", {}, {0.01f}));
    std::string at = "x";
    for (int n = 0; n < 4; ++n) {
      const std::string w = absl::StrCat("w", n), f = absl::StrCat("f", n), y = absl::StrCat("y", n);
      const Shape shape = lstm ? Shape{1, kUnits, kUnits} : conv ? Shape{kUnits, kUnits, 1} : Shape{kUnits, kUnits};
      file.Initializer(W::SmallTensor(w, shape, sevens, 3)).Node("DequantizeLinear", {w, "scale"}, {f});
      if (lstm) continue;
      file.Node(op, {at, f}, {y});
      at = y;
    }
    if (lstm) file.Initializer(W::SmallTensor("r", {1, kUnits, kUnits / 4}, std::vector<int64_t>(kUnits * kUnits / 4, 7), 3)).Node("DequantizeLinear", {"r", "scale"}, {"fr"}).Node("LSTM", {"x", "f0", "fr"}, {at = "y"});
    ExpectOnnxRefusedCheaply(file.Node("Frob", {at}, {"z"}).Output("z").File());
  }
}

}  // namespace
}  // namespace lstm::core
