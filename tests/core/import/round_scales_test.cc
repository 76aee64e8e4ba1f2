// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <variant>

#include "core/import/hash_list.h"
#include "core/import/manifest_import.h"
#include "core/import/scales_file.h"
#include "core/model/round_weights.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/core/import/tensors.h"
#include "tests/support/model_directory.h"

namespace lstm::core {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kLayers[] = "input { name: 'x' shape: 3 } layer { name: 'cell' lstm { bias: BIAS_ONE } } layer { name: 'l' linear { no_bias: true } } ";
constexpr char kLines[] = "round_weights: INT8 round_scales: 's'";

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// Half of what clips nothing: not what least squares would take.
RowScales Halves(const Model& model) {
  RowScales scales;
  for (const RoundedMatrix& matrix : RoundedMatrices(model)) {
    for (int64_t r = 0; r < matrix.rows(); ++r) {
      const auto row = matrix.row(r);
      scales[matrix.name].push_back(WeightedScale(row, std::vector<double>(row.size(), 1.0)) / 2);
      if (!CheckScale(row, scales[matrix.name].back()).ok()) scales[matrix.name].back() *= 2;
    }
  }
  return scales;
}

class RoundScalesTest : public ::testing::Test {
 protected:
  RoundScalesTest() {
    tensors_.Add("cell.weight_ih_l0", {8, 3}), tensors_.Add("cell.weight_hh_l0", {8, 2}), tensors_.Add("cell.bias_ih_l0", {8});
    tensors_.Add("l.weight", {4, 2});
    const auto exact = Import(kLayers, tensors_);
    EXPECT_TRUE(exact.ok()) << exact.status();
    scales_ = Halves(*exact);
  }
  absl::StatusOr<Model> Load(const std::string& scales, const std::string& lines = kLines) const {
    const std::string file = tensors_.File();
    return ImportManifest(absl::StrCat(kLayers, lines), Bytes(file), nullptr, Bytes(scales));
  }
  std::string Refusal(const std::string& scales, const std::string& lines = kLines) const {
    const auto model = Load(scales, lines);
    EXPECT_TRUE(model.ok() || absl::IsInvalidArgument(model.status())) << model.status();
    return model.ok() ? "accepted" : std::string(model.status().message());
  }

  Tensors tensors_;
  RowScales scales_;
};

TEST_F(RoundScalesTest, TheScalesOfTheFileAreThoseOfTheModel) {
  const auto read = ParseScales(Bytes(FormatScales(scales_)));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, scales_);
  const auto exact = Import(kLayers, tensors_);
  const auto model = Load(FormatScales(scales_));
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<RoundedMatrix> before = RoundedMatrices(*exact), after = RoundedMatrices(*model);
  ASSERT_EQ(after.size(), 3u);
  for (size_t m = 0; m < after.size(); ++m) {
    for (int64_t r = 0; r < after[m].rows(); ++r) {
      const float scale = scales_.at(after[m].name)[static_cast<size_t>(r)];
      for (size_t k = 0; k < after[m].width(); ++k) EXPECT_EQ(after[m].row(r)[k], ToInt8(before[m].row(r)[k], scale)) << after[m].name;
    }
  }
}

TEST_F(RoundScalesTest, AnotherScaleIsAnotherModel) {
  const auto model = Load(FormatScales(scales_)), again = Load(FormatScales(scales_));
  scales_["l.weight"][1] = LeastSquaresScale(RoundedMatrices(*Import(kLayers, tensors_))[2].row(1));
  const auto other = Load(FormatScales(scales_));
  ASSERT_TRUE(model.ok() && again.ok() && other.ok()) << other.status();
  EXPECT_EQ(model->hash, again->hash);
  EXPECT_NE(model->hash, other->hash);
}

TEST_F(RoundScalesTest, AFileThatDoesNotFitIsRefusedByName) {
  const auto with = [&](const auto& change) {
    RowScales scales = scales_;
    change(scales);
    return Refusal(FormatScales(scales));
  };
  EXPECT_THAT(with([](RowScales& s) { s.erase("cell.recurrent"); }), AllOf(HasSubstr("round_scales 's': tensor 'cell.recurrent' is missing"), HasSubstr("[8]")));
  EXPECT_THAT(with([](RowScales& s) { s["other.weight"] = {1}; }), HasSubstr("tensor 'other.weight' is of no matrix"));
  EXPECT_THAT(with([](RowScales& s) { s["l.weight"].push_back(1); }), HasSubstr("tensor 'l.weight' has shape [5], expected [4]"));
  EXPECT_THAT(with([](RowScales& s) { s["l.weight"][2] = std::numeric_limits<float>::infinity(); }), AllOf(HasSubstr("'l.weight'"), HasSubstr("not a finite float at element 2")));
  EXPECT_THAT(with([](RowScales& s) { s["l.weight"][2] = -1; }), HasSubstr("tensor 'l.weight', row 2: is -1, expected a finite number above 0"));
  EXPECT_THAT(with([](RowScales& s) { s["cell.weight"][7] *= 1.0001f; }), AllOf(HasSubstr("tensor 'cell.weight', row 7"), HasSubstr("7 low bits")));
  EXPECT_THAT(with([](RowScales& s) { s["cell.weight"][7] = 1024; }), AllOf(HasSubstr("tensor 'cell.weight', row 7"), HasSubstr("largest weight")));
  Tensors square;
  square.Add("l.weight", {2, 2});
  EXPECT_THAT(Refusal(square.File()), HasSubstr("tensor 'l.weight' has shape [2, 2], expected F32 of one dimension"));
  const std::string half = R"({"l.weight":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})";
  const uint64_t length = half.size();
  EXPECT_THAT(Refusal(std::string(reinterpret_cast<const char*>(&length), 8) + half + std::string(8, '\1')), HasSubstr("'l.weight' has shape [4] and is not F32"));
  for (const std::string& broken : {std::string(), std::string("x"), FormatScales(scales_) + "x"}) EXPECT_THAT(Refusal(broken), HasSubstr("round_scales 's': safetensors"));
}

TEST_F(RoundScalesTest, TheLineStandsBesideInt8Alone) {
  const std::string file = FormatScales(scales_);
  EXPECT_EQ(Refusal(file), "accepted");
  EXPECT_THAT(Refusal(file, "round_scales: 's'"), HasSubstr("round_weights: NONE, expected INT8"));
  EXPECT_THAT(Refusal(file, "round_weights: BFLOAT16 round_scales: 's'"), HasSubstr("round_weights: BFLOAT16, expected INT8"));
}

class RoundScalesFileTest : public RoundScalesTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(files_.At("m", 1));
    Write("model.safetensors", tensors_.File());
    Write("s", FormatScales(scales_));
  }
  void Write(const std::string& name, const std::string& text) const { std::ofstream(files_.At("m", 1) / name, std::ios::binary) << text; }
  absl::Status LoadWith(const std::string& lines, ImportNotes* notes = nullptr, bool exact = false) {
    text_ = absl::StrCat(kLayers, lines);
    Write("model.textproto", text_);
    return LoadModelDirectory(files_.At("m", 1).string(), "m", "1", notes, {}, exact).status();
  }

  testing::ModelDirectory files_;
  std::string text_;
};

TEST_F(RoundScalesFileTest, IsAPlainFileBesideTheManifest) {
  ImportNotes notes;
  ASSERT_TRUE(LoadWith(kLines, &notes).ok());
  EXPECT_THAT(notes.files, ElementsAre("model.textproto", "model.safetensors", "s"));
  for (const char* name : {"../s", "/etc/hostname", ".s", "a/s"}) {
    EXPECT_THAT(std::string(LoadWith(absl::StrCat("round_weights: INT8 round_scales: '", name, "'")).message()), HasSubstr("round_scales must be the name of a file beside the manifest"));
  }
  std::filesystem::create_symlink("s", files_.At("m", 1) / "link");
  EXPECT_THAT(std::string(LoadWith("round_weights: INT8 round_scales: 'link'").message()), HasSubstr("'link' is a link"));
  EXPECT_EQ(LoadWith("round_weights: INT8 round_scales: 'gone'").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(LoadWith("round_weights: INT8 round_scales: 'gone'", nullptr, /*exact=*/true).ok());
}

TEST_F(RoundScalesFileTest, IsInTheListOfHashes) {
  ASSERT_TRUE(LoadWith(kLines).ok());
  std::string list = absl::StrCat(Sha256Hex(Bytes(text_)), "  model.textproto\n", Sha256Hex(Bytes(tensors_.File())), "  model.safetensors\n");
  Write("SHA256SUMS", list);
  EXPECT_THAT(std::string(LoadWith(kLines).message()), HasSubstr("'s' is not in SHA256SUMS"));
  Write("SHA256SUMS", absl::StrCat(list, Sha256Hex(Bytes(FormatScales(scales_))), "  s\n"));
  EXPECT_TRUE(LoadWith(kLines).ok());
  scales_["l.weight"][0] /= 2;
  Write("s", FormatScales(scales_));
  EXPECT_THAT(std::string(LoadWith(kLines).message()), HasSubstr("'s' is not what it was"));
}

TEST_F(RoundScalesFileTest, AGraphHasThemAsWell) {
  using W = testing::OnnxWriter;
  W graph;
  graph.Input(W::Declared("x", {-1, 3})).Output("y").Initializer(W::Tensor("W", {3, 2}, {1, 2, 3, 4, 5, 6})).Node("MatMul", {"x", "W"}, {"y"});
  Write("model.onnx", graph.File());
  const auto load = [&](const std::string& manifest, bool exact = false) {
    Write("model.textproto", manifest);
    return LoadModelDirectory(files_.At("m", 1).string(), "m", "1", nullptr, {}, exact);
  };
  const std::string lines = absl::StrCat("onnx { } ", kLines);
  const auto exact = load(lines, true);
  ASSERT_TRUE(exact.ok()) << exact.status();
  EXPECT_THAT(std::string(load(lines).status().message()), HasSubstr("is missing"));  // the file is of another model
  Write("s", FormatScales(Halves(*exact)));
  const auto model = load(lines);
  ASSERT_TRUE(model.ok()) << model.status();
  const RoundedMatrix before = RoundedMatrices(*exact)[0], after = RoundedMatrices(*model)[0];
  EXPECT_EQ(after.row(1)[2], ToInt8(before.row(1)[2], Halves(*exact).at(before.name)[1]));
}

}  // namespace
}  // namespace lstm::core
