// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/import/manifest_import.h"
#include "tests/core/import/onnx/onnx_writer.h"

// A refused file costs at most twice its size and 16 MB beside it: counted at operator new, through which all of it goes.
namespace {

std::atomic<size_t> live{0}, peak{0};

void* Counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const size_t now = live += malloc_usable_size(p);
  size_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return p;
}

void Uncounted(void* p) noexcept {
  if (p != nullptr) live -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace

void* operator new(size_t n) { return Counted(std::malloc(n)); }
void* operator new(size_t n, std::align_val_t a) {
  const auto alignment = static_cast<size_t>(a);
  return Counted(std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment));
}
void operator delete(void* p) noexcept { Uncounted(p); }
void operator delete(void* p, size_t) noexcept { Uncounted(p); }
void operator delete(void* p, std::align_val_t) noexcept { Uncounted(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Uncounted(p); }

namespace lstm::core {
namespace {

std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\0');
}

std::string Tensor(const std::string& name, const std::string& shape, size_t from, size_t to) {
  return absl::StrCat("\"", name, R"(":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[)", from, ",", to, "]}");
}

void ExpectRefusedCheaply(const std::string& manifest, const std::string& file) {
  const size_t before = live;
  peak = before;
  const auto model = ImportManifest(manifest, std::as_bytes(std::span(file)));
  EXPECT_FALSE(model.ok());
  EXPECT_LT(peak - before, 2 * (file.size() + manifest.size()) + (16u << 20)) << model.status();
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
  const size_t before = live;
  peak = before;
  const auto model = ImportOnnx(std::as_bytes(std::span(file)), {});
  EXPECT_FALSE(model.ok());
  EXPECT_LT(peak - before, 2 * file.size() + (16u << 20)) << model.status();
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

}  // namespace
}  // namespace lstm::core
