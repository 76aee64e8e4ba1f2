// SPDX-License-Identifier: MIT
#include "core/import/manifest_import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/core/import/tensors.h"
#include "tests/support/oracle.h"

namespace lstm::core {
namespace {

using ::testing::HasSubstr;
using testing::Vector;

std::string Refusal(const std::string& manifest, const Tensors& tensors) {
  const auto model = Import(manifest, tensors);
  return model.ok() ? "accepted" : std::string(model.status().message());
}

const char kInput[] = "input { name: 'x' shape: 3 } ";

// Two steps of a model.
std::vector<Vector> TwoSteps(const Model& model) {
  testing::Oracle oracle(model);
  return {oracle.Step({{0.5, -0.25, 1}})[0], oracle.Step({{-1, 0.75, 0.125}})[0]};
}

void ExpectSame(const absl::StatusOr<Model>& a, const absl::StatusOr<Model>& b) {
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  const auto ya = TwoSteps(*a), yb = TwoSteps(*b);
  for (size_t t = 0; t < 2; ++t) {
    ASSERT_EQ(ya[t].size(), yb[t].size());
    for (size_t i = 0; i < ya[t].size(); ++i) EXPECT_NEAR(ya[t][i], yb[t][i], 1e-6) << t << " " << i;
  }
}

// An LSTM of 2 units in PyTorch's form, and the same numbers in other forms.
struct LstmForms {
  Tensors torch;
  LstmForms() {
    torch.Add("cell.weight_ih_l0", {8, 3});
    torch.Add("cell.weight_hh_l0", {8, 2});
    torch.Add("cell.bias_ih_l0", {8});
    torch.Add("cell.bias_hh_l0", {8});
  }
  float At(const std::string& name, size_t gate, size_t unit, size_t column, size_t columns) {
    return torch.all["cell." + name].second[(gate * 2 + unit) * columns + column];
  }
  // Kernels [in, gates x H] with the canonical gates (i f g o) at the given positions.
  Tensors Keras(const std::vector<size_t>& position, bool one_kernel, float forget_bias) {
    Tensors out;
    auto& kernel = out.Add("cell.kernel", one_kernel ? Shape{5, 8} : Shape{3, 8});
    auto& recurrent = out.Add("r", {2, 8});
    auto& bias = out.Add("cell.bias", {8});
    for (size_t g = 0; g < 4; ++g) {
      for (size_t u = 0; u < 2; ++u) {
        const size_t to = position[g] * 2 + u;
        for (size_t i = 0; i < 3; ++i) kernel[i * 8 + to] = At("weight_ih_l0", g, u, i, 3);
        for (size_t i = 0; i < 2; ++i) recurrent[i * 8 + to] = At("weight_hh_l0", g, u, i, 2);
        bias[to] = At("bias_ih_l0", g, u, 0, 1) + At("bias_hh_l0", g, u, 0, 1) - (g == 1 ? forget_bias : 0);
      }
    }
    if (one_kernel) {
      std::copy(recurrent.begin(), recurrent.end(), kernel.begin() + 24);
    } else {
      out.all["cell.recurrent_kernel"] = out.all["r"];
    }
    out.all.erase("r");
    return out;
  }
};

std::string LstmManifest(const std::string& fields) { return absl::StrCat(kInput, "layer { name: 'cell' lstm { ", fields, " } }"); }

TEST(ManifestImportTest, EveryConventionAndGateOrderGivesTheSameLstm) {
  LstmForms forms;
  const auto torch = Import(LstmManifest(""), forms.torch);
  ExpectSame(torch, Import(LstmManifest("convention: KERAS"), forms.Keras({0, 1, 2, 3}, false, 0)));
  ExpectSame(torch, Import(LstmManifest("convention: TENSORFLOW forget_bias: 1"), forms.Keras({0, 2, 1, 3}, true, 1)));
  ExpectSame(torch, Import(LstmManifest("convention: KERAS gate_order: IOFG"), forms.Keras({0, 2, 3, 1}, false, 0)));
  ExpectSame(torch, Import(LstmManifest("convention: KERAS gate_order: FIGO forget_bias: 0.5"), forms.Keras({1, 0, 2, 3}, false, 0.5)));
}

TEST(ManifestImportTest, ACoupledLstmKeepsOneMinusForget) {
  Tensors t;
  t.Add("cell.weight_ih_l0", {6, 3});
  t.Add("cell.weight_hh_l0", {6, 2});
  t.Add("cell.bias_ih_l0", {6});
  const auto model = Import(LstmManifest("coupled: true bias: BIAS_ONE forget_bias: 1"), t);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto& w = t.all["cell.weight_ih_l0"].second;
  const auto& b = t.all["cell.bias_ih_l0"].second;
  const double x[] = {0.5, -0.25, 1};
  const auto gate = [&](size_t g, size_t u) {
    double a = b[g * 2 + u];
    for (size_t i = 0; i < 3; ++i) a += w[(g * 2 + u) * 3 + i] * x[i];
    return a;
  };
  testing::Oracle oracle(*model);
  const Vector y = oracle.Step({{x[0], x[1], x[2]}})[0];
  for (size_t u = 0; u < 2; ++u) {
    const double f = 1 / (1 + std::exp(-gate(0, u) - 1)), c = (1 - f) * std::tanh(gate(1, u));
    EXPECT_NEAR(y[u], std::tanh(c) / (1 + std::exp(-gate(2, u))), 1e-6);
  }
}

TEST(ManifestImportTest, AStackOfUnequalSizesIsReadFromItsTensors) {
  Tensors t;
  t.Add("cell.weight_ih_l0", {8, 3}), t.Add("cell.weight_hh_l0", {8, 2}), t.Add("cell.bias_ih_l0", {8}), t.Add("cell.bias_hh_l0", {8});
  t.Add("cell.weight_ih_l1", {20, 2}), t.Add("cell.weight_hh_l1", {20, 5}), t.Add("cell.bias_ih_l1", {20}), t.Add("cell.bias_hh_l1", {20});
  t.Add("cell.h0_l0", {2}), t.Add("cell.c0_l0", {2}), t.Add("cell.h0_l1", {5}), t.Add("cell.c0_l1", {5});
  const auto model = Import(LstmManifest("layers: 2 initial_state: TRAINED"), t);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->state.size(), 4u);
  EXPECT_EQ(model->state[2].name, "cell.l1.h");
  EXPECT_EQ(model->state[3].initial, t.all["cell.c0_l1"].second);
  EXPECT_EQ(model->nodes.back().name, "cell");
}

TEST(ManifestImportTest, GruConventionsAgree) {
  Tensors torch;
  torch.Add("cell.weight_ih_l0", {6, 3}), torch.Add("cell.weight_hh_l0", {6, 2}), torch.Add("cell.bias_ih_l0", {6}), torch.Add("cell.bias_hh_l0", {6});
  Tensors keras;
  auto& kernel = keras.Add("cell.kernel", {3, 6});
  auto& recurrent = keras.Add("cell.recurrent_kernel", {2, 6});
  auto& bias = keras.Add("cell.bias", {2, 6});
  const size_t position[] = {1, 0, 2};  // r z n to z r n
  for (size_t g = 0; g < 3; ++g) {
    for (size_t u = 0; u < 2; ++u) {
      const size_t from = g * 2 + u, to = position[g] * 2 + u;
      for (size_t i = 0; i < 3; ++i) kernel[i * 6 + to] = torch.all["cell.weight_ih_l0"].second[from * 3 + i];
      for (size_t i = 0; i < 2; ++i) recurrent[i * 6 + to] = torch.all["cell.weight_hh_l0"].second[from * 2 + i];
      bias[to] = torch.all["cell.bias_ih_l0"].second[from];
      bias[6 + to] = torch.all["cell.bias_hh_l0"].second[from];
    }
  }
  ExpectSame(Import(absl::StrCat(kInput, "layer { name: 'cell' gru { } }"), torch),
             Import(absl::StrCat(kInput, "layer { name: 'cell' gru { convention: KERAS } }"), keras));
}

TEST(ManifestImportTest, RoundedWeightsAreTheNearestThatBfloat16Holds) {
  Tensors tensors;
  auto& weight = tensors.Add("y.weight", {1, 3});
  tensors.Add("y.bias", {1})[0] = 0.1f;
  // Halfway between two: the even one; above halfway; the largest float, above which there is none.
  weight[0] = 1.00390625f, weight[1] = -1.005f, weight[2] = std::numeric_limits<float>::max();
  const auto exact = Import("input { name: 'x' shape: 3 } layer { name: 'y' linear {} }", tensors);
  const auto rounded = Import("input { name: 'x' shape: 3 } layer { name: 'y' linear {} } round_weights: BFLOAT16", tensors);
  ASSERT_TRUE(exact.ok() && rounded.ok()) << rounded.status();
  EXPECT_NE(exact->hash, rounded->hash);
  const auto& linear = std::get<LinearOp>(rounded->nodes[0].op);
  EXPECT_THAT(std::vector<float>(linear.weight->values.data(), linear.weight->values.data() + 3),
              ::testing::ElementsAre(1.0f, -1.0078125f, std::numeric_limits<float>::max()));
  EXPECT_EQ(linear.bias->values.data()[0], 0.1f);
}

TEST(ManifestImportTest, WeightsRoundedToInt8AreWholeNumbersTimesOneOfTheirRow) {
  Tensors tensors;
  auto& weight = tensors.Add("y.weight", {3, 40});
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = std::sin(static_cast<float>(i * i)) * (i < 40 ? 1.0f : 0.01f);
  for (size_t i = 80; i < 120; ++i) weight[i] = 0;
  tensors.Add("y.bias", {3})[0] = 0.1f;
  const auto rounded = Import("input { name: 'x' shape: 40 } layer { name: 'y' linear {} } round_weights: INT8", tensors);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  const auto& linear = std::get<LinearOp>(rounded->nodes[0].op);
  EXPECT_EQ(linear.bias->values.data()[0], 0.1f);
  for (size_t row = 0; row < 3; ++row) {
    const float* const values = linear.weight->values.data() + row * 40;
    float most = 0;
    for (size_t i = 0; i < 40; ++i) most = std::max(most, std::fabs(values[i]));
    const float scale = most / 127;
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_NEAR(values[i], weight[row * 40 + i], row == 0 ? 0.01 : 0.0001);
      EXPECT_EQ(values[i], scale > 0 ? std::nearbyint(values[i] / scale) * scale : 0.0f);
      EXPECT_FALSE(values[i] == 0 && std::signbit(values[i]));
    }
  }
}

TEST(ManifestImportTest, InputsAreScaled) {
  Tensors t;
  t.Add("l.weight", {2, 3});
  const auto plain = Import(absl::StrCat(kInput, "layer { name: 'l' linear { no_bias: true } }"), t);
  const auto scaled = Import("input { name: 'x' shape: 3 mean: 1 scale: [2, 4, 8] } layer { name: 'l' linear { no_bias: true } }", t);
  ASSERT_TRUE(scaled.ok()) << scaled.status();
  const Vector a = testing::Oracle(*plain).Step({{-0.25, 0.0, 0.5}})[0], b = testing::Oracle(*scaled).Step({{0.5, 1, 5}})[0];
  EXPECT_NEAR(a[0], b[0], 1e-6);
}

TEST(ManifestImportTest, NamesWhatIsWrong) {
  Tensors t;
  t.Add("l.weight", {2, 3});
  t.Add("unused", {1});
  ImportNotes notes;
  ASSERT_TRUE(Import(absl::StrCat(kInput, "layer { name: 'l' linear { no_bias: true } }"), t, &notes).ok());
  EXPECT_THAT(notes.unused, ::testing::ElementsAre("unused"));
  EXPECT_THAT(Refusal("input { name: 'x' shape: 3 } layer {\n name: 'l' lineer { } }", t), ::testing::AllOf(HasSubstr("line 2"), HasSubstr("lineer")));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), t), HasSubstr("'l.bias' is missing"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' input: 'z' linear { no_bias: true } }"), t), HasSubstr("'z'"));
  EXPECT_THAT(Refusal("input { name: 'x' shape: 4 } layer { name: 'l' linear { no_bias: true } }", t), ::testing::AllOf(HasSubstr("layer 'l'"), HasSubstr("[4]")));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' }"), t), HasSubstr("no kind"));
  EXPECT_THAT(Refusal(kInput, t), HasSubstr("0 layers"));
  EXPECT_THAT(Refusal("", t), HasSubstr("0 inputs"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' linear { no_bias: true } } output { name: 'y' value: 'q' }"), t), HasSubstr("'q'"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' activation { function: CLIP alpha: 2 beta: 1 } }"), t), HasSubstr("alpha <= beta"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' reshape { shape: [1099511627776, 1099511627776] } }"), t), HasSubstr("elements"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' conv1d { dilation: 4000000000 } }"), t), HasSubstr("three dimensions"));
  EXPECT_THAT(Refusal(absl::StrCat(kInput, "layer { name: 'l' lstm { layers: 4000000000 } }"), t), HasSubstr("at most 64"));
  EXPECT_THAT(Refusal(std::string(5u << 20, ' '), t), HasSubstr("at most"));
}

TEST(ManifestImportTest, LayersMayShareATensorAndHaveItOnce) {
  Tensors t;
  t.Add("e.weight", {23, 8});
  const auto model = Import("input { name: 'x' type: INT32 } layer { name: 'e' embedding { } } layer { name: 'l' tensors: 'e' linear { no_bias: true } }", t);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(std::get<EmbeddingOp>(model->nodes[0].op).weight, std::get<LinearOp>(model->nodes[1].op).weight);
}

TEST(ManifestImportTest, RefusesWhatTextFormatLetsThrough) {
  Tensors t;
  t.Add("l.weight", {2, 3});
  const auto with = [&](const std::string& more) { return Refusal(absl::StrCat(kInput, more), t); };
  EXPECT_THAT(with("layer { name: 'l' linear { no_bias: true convention: 99 } }"),
              ::testing::AllOf(HasSubstr("layer[0].linear.convention is 99"), HasSubstr("Convention")));
  EXPECT_THAT(with("layer { name: 'l' gru { reset: -1 } }"), HasSubstr("layer[0].gru.reset is -1"));
  EXPECT_THAT(with("layer { name: 'l' lstm { forget_bias: nan } }"), HasSubstr("layer[0].lstm.forget_bias is nan"));
  EXPECT_THAT(with("layer { name: 'l' activation { function: ELU alpha: inf } }"), HasSubstr("layer[0].activation.alpha is inf"));
  EXPECT_THAT(Refusal("input { name: 'x' shape: 3 mean: [0, nan, 0] }", t), HasSubstr("input[0].mean[1] is nan"));
  const std::string plain = "layer { name: 'l' linear { no_bias: true } } ";
  for (const char* bad : {"\\xff", "a\\x80", "\\xc0\\xaf", "\\xe2\\x82", "\\xe0\\x9f\\xbf", "\\xed\\xa0\\x80", "\\xf0\\x8f\\xbf\\xbf", "\\xf4\\x90\\x80\\x80"}) {
    EXPECT_THAT(with(absl::StrCat(plain, "description: '", bad, "'")), HasSubstr("description has bytes that are not UTF-8")) << bad;
  }
  EXPECT_THAT(with(plain + "vocabulary { token: 'a' token: '\\xff' }"), HasSubstr("vocabulary.token[1]"));
  EXPECT_EQ(with(plain + "description: 'caf\u00e9 \u20ac \U0001f3b8 \\xf4\\x8f\\xbf\\xbf'"), "accepted");
}

TEST(ManifestImportTest, WeightsMustBeAPlainFileBesideTheManifest) {
  const auto directory = std::filesystem::temp_directory_path() / absl::StrCat("manifest_import_test.", getpid());
  std::filesystem::create_directories(directory);
  const auto load = [&](const std::string& manifest) {
    std::ofstream(directory / "model.textproto") << manifest;
    return LoadModelDirectory(directory.string(), "m", "1").status();
  };
  EXPECT_EQ(load(kInput).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(load("weights: '../secret'").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(load("weights: '.hidden'").code(), absl::StatusCode::kInvalidArgument);
  std::filesystem::create_symlink("/etc/hostname", directory / "model.safetensors");
  EXPECT_THAT(std::string(load(kInput).message()), HasSubstr("link"));
  std::filesystem::remove_all(directory);
}

TEST(ManifestImportTest, MutatedManifestsNeverCrash) {
  Tensors t;
  t.Add("cell.weight_ih_l0", {8, 3}), t.Add("cell.weight_hh_l0", {8, 2}), t.Add("cell.bias_ih_l0", {8}), t.Add("cell.bias_hh_l0", {8});
  t.Add("o.weight", {4, 2}), t.Add("o.bias", {4});
  const std::string whole = absl::StrCat(kInput, "layer { name: 'cell' lstm { layers: 1 gate_order: IFGO bias: BIAS_TWO peepholes: false } } "
                                                 "layer { name: 'o' linear { } } layer { name: 's' slice { begin: 1 end: 3 } } "
                                                 "layer { name: 'c' input: 's' input: 'o' concat { } } layer { name: 'p' softmax { } } output { name: 'y' value: 'p' }");
  ASSERT_TRUE(Import(whole, t).ok()) << Import(whole, t).status();
  const std::string file = t.File();
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string text = whole;
    for (int k = static_cast<int>(random() % 3); k >= 0; --k) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.erase(at, 1 + random() % 9); break;
        case 2: text.insert(at, text.substr(random() % text.size(), random() % 30)); break;
        default: text[at] = static_cast<char>('0' + random() % 10); break;
      }
    }
    ImportManifest(text, std::as_bytes(std::span(file))).IgnoreError();
  }
}

}  // namespace
}  // namespace lstm::core
