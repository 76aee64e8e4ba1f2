// SPDX-License-Identifier: MIT
#include "server/shard/tensor_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TensorCodecTest : public ::testing::Test {
 protected:
  v1::Tensor& Add(const std::string& name = "") {
    v1::Tensor& tensor = *tensors_.Add();
    tensor.set_name(name);
    return tensor;
  }
  std::string Refusal(uint32_t steps) {
    const auto decoded = DecodeInputs(*program_, tensors_, steps, bytes_);
    if (decoded.ok()) return "accepted";
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(decoded.status().message());
  }
  std::shared_ptr<const core::StepProgram> program_ = testing::MustCompile(testing::OneLayer("lstm", 3, 4, 1), 2);
  Tensors tensors_;
  std::vector<std::byte> bytes_;
};

TEST_F(TensorCodecTest, TakesFloatsAndBytesAlikeAndCountsTheSteps) {
  const float values[] = {1, 2, 3, 4, 5, 6};
  Add().mutable_floats()->Add(values, values + 6);
  EXPECT_EQ(*DecodeInputs(*program_, tensors_, 0, bytes_), 2u);
  const std::vector<std::byte> as_floats = bytes_;
  tensors_.Clear();
  Add("x").set_data(values, sizeof(values));
  EXPECT_EQ(*DecodeInputs(*program_, tensors_, 2, bytes_), 2u);
  EXPECT_EQ(as_floats, bytes_);
  tensors_[0].set_data(values + 3, 12);
  EXPECT_EQ(*DecodeInputs(*program_, tensors_, 1, bytes_), 1u);
  EXPECT_EQ(bytes_, std::vector<std::byte>(as_floats.begin() + 12, as_floats.end())) << "what the buffer held before is gone";
}

TEST_F(TensorCodecTest, RefusalsNameTheTensorTheExpectedAndTheReceived) {
  EXPECT_THAT(Refusal(1), HasSubstr("'x' is missing"));
  const float values[] = {1, 2, 3, 4};
  Add("z").set_data(values, 12);
  EXPECT_THAT(Refusal(1), AllOf(HasSubstr("'z'"), HasSubstr("'x'")));
  tensors_.Clear();
  Add("x").set_data(values, 16);
  EXPECT_THAT(Refusal(1), AllOf(HasSubstr("4 values"), HasSubstr("1 steps of 3")));
  EXPECT_THAT(Refusal(0), HasSubstr("multiple of 3"));
  tensors_[0].set_data(values, 11);
  EXPECT_THAT(Refusal(1), HasSubstr("multiple of 4"));
  tensors_[0].set_data(values, 12);
  tensors_[0].add_shape(3);
  EXPECT_THAT(Refusal(1), AllOf(HasSubstr("shape [3]"), HasSubstr("expected [1, 3]")));
  tensors_[0].clear_shape();
  tensors_[0].set_type(v1::INT32);
  EXPECT_THAT(Refusal(1), HasSubstr("expected FLOAT32"));
  tensors_[0].clear_type();
  tensors_[0].add_floats(1);
  EXPECT_THAT(Refusal(1), HasSubstr("exactly one"));
  tensors_.Clear();
  Add("x").add_ints(1);
  EXPECT_THAT(Refusal(1), HasSubstr("ints"));
  tensors_.Clear();
  Add("x").set_data(values, 12);
  Add("").set_data(values, 12);
  EXPECT_THAT(Refusal(1), HasSubstr("twice"));
  tensors_.RemoveLast();
  EXPECT_THAT(Refusal(4'000'000'000), HasSubstr("at most"));
}

TEST_F(TensorCodecTest, RefusesNumbersThatAreNotFiniteAndSaysWhere) {
  float values[] = {1, 2, 3, 4, std::numeric_limits<float>::quiet_NaN(), 6};
  Add("x").set_data(values, sizeof(values));
  EXPECT_THAT(Refusal(2), AllOf(HasSubstr("element 1 of step 1"), HasSubstr("NaN")));
  values[4] = -std::numeric_limits<float>::infinity();
  tensors_[0].set_data(values, sizeof(values));
  EXPECT_THAT(Refusal(2), HasSubstr("infinite"));
}

TEST_F(TensorCodecTest, RefusesIdsOutOfRange) {
  program_ = testing::MustCompile(testing::SmallStack(1), 2);
  for (const int64_t bad : {int64_t{-1}, int64_t{17}, int64_t{1} << 40, std::numeric_limits<int64_t>::min()}) {
    tensors_.Clear();
    Add().add_ints(3);
    tensors_[0].add_ints(bad);
    EXPECT_THAT(Refusal(0), AllOf(HasSubstr("step 1"), HasSubstr("expected 0 to 16")));
  }
  const int64_t wide[] = {3, 16};
  tensors_.Clear();
  Add().set_data(wide, sizeof(wide));
  tensors_[0].set_type(v1::INT64);
  EXPECT_EQ(*DecodeInputs(*program_, tensors_, 2, bytes_), 2u);
}

TEST_F(TensorCodecTest, NamesOfClientsAreShownHarmlessly) {
  Add("a\x1b[31m\n" + std::string(1000, 'b')).add_floats(1);
  const std::string text = Refusal(1);
  EXPECT_LT(text.size(), 200u);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST_F(TensorCodecTest, StateIsSetByName) {
  std::vector<float> state(program_->state_floats());
  const float c[] = {1, 2, 3, 4};
  Add("layer.c").set_data(c, sizeof(c));
  ASSERT_TRUE(DecodeState(*program_, tensors_, state).ok());
  EXPECT_EQ(state[program_->state_offset(1) + 3], 4);
  tensors_[0].set_name("layer.q");
  EXPECT_THAT(std::string(DecodeState(*program_, tensors_, state).message()), HasSubstr("'layer.q'"));
  tensors_[0].set_name("layer.h");
  tensors_[0].set_data(c, 8);
  EXPECT_THAT(std::string(DecodeState(*program_, tensors_, state).message()), HasSubstr("2 values, expected 4"));
}

TEST_F(TensorCodecTest, OutputsAndTracesAreSelectedByName) {
  v1::OpenOptions options;
  EXPECT_EQ(*SelectOutputs(*program_, options), std::vector<uint32_t>{0});
  options.add_traces("layer.c");
  EXPECT_EQ(SelectOutputs(*program_, options)->size(), 2u);
  options.add_traces("layer.c");
  EXPECT_THAT(std::string(SelectOutputs(*program_, options).status().message()), HasSubstr("twice"));
  options.clear_traces();
  options.add_outputs("layer.c");
  EXPECT_THAT(std::string(SelectOutputs(*program_, options).status().message()), HasSubstr("expected one of 'y'"));
}

TEST(WiredInputsTest, IntegersTravelForFloats) {
  for (const auto& [type, wire] : {std::pair{v1::INT16, core::Wire::kInt16}, {v1::UINT8, core::Wire::kUint8}}) {
    core::Model model = testing::OneLayer("linear", 3, 4, 1);
    model.inputs[0].wire = {wire, 0.5f, -2};
    const auto program = testing::MustCompile(std::move(model), 2);
    EXPECT_EQ(program->inputs()[0].wire.type, wire);
    Tensors tensors;
    v1::Tensor& tensor = *tensors.Add();
    std::vector<std::byte> bytes;
    const auto decoded = [&] {
      std::vector<float> out(bytes.size() / 4);
      std::memcpy(out.data(), bytes.data(), bytes.size());
      return out;
    };
    const int16_t pcm[] = {-32768, 0, 32767, 1, 2, 3};
    const uint8_t small[] = {0, 128, 255, 1, 2, 3};
    const bool wide = type == v1::INT16;
    wide ? tensor.set_data(pcm, sizeof(pcm)) : tensor.set_data(small, sizeof(small));
    const std::vector<float> expected = wide ? std::vector<float>{-16386, -2, 16381.5f, -1.5f, -1, -0.5f} : std::vector<float>{-2, 62, 125.5f, -1.5f, -1, -0.5f};
    for (const auto said : {v1::DATA_TYPE_UNSPECIFIED, type}) {
      tensor.set_type(said);
      const auto steps = DecodeInputs(*program, tensors, 0, bytes);
      ASSERT_TRUE(steps.ok()) << steps.status();
      EXPECT_EQ(*steps, 2u);
      EXPECT_EQ(decoded(), expected);
    }
    // Floats are what the model sees, and may be sent in place.
    tensor.Clear();
    tensor.set_type(v1::FLOAT32);
    const float floats[] = {1, 2, 3};
    tensor.set_data(floats, sizeof(floats));
    ASSERT_TRUE(DecodeInputs(*program, tensors, 0, bytes).ok());
    EXPECT_EQ(decoded(), (std::vector<float>{1, 2, 3}));
    tensor.Clear();
    for (int64_t v : {wide ? -32768 : 0, 5, 7}) tensor.add_ints(v);
    ASSERT_TRUE(DecodeInputs(*program, tensors, 0, bytes).ok());
    EXPECT_EQ(decoded()[1], 0.5f);
    tensor.set_ints(1, wide ? 32768 : -1);
    EXPECT_THAT(std::string(DecodeInputs(*program, tensors, 0, bytes).status().message()), HasSubstr(wide ? "value 32768 at step 0, expected -32768 to 32767" : "value -1 at step 0, expected 0 to 255"));
    tensor.Clear();
    tensor.set_type(wide ? v1::UINT8 : v1::INT16);
    tensor.set_data("abcdef");
    EXPECT_THAT(std::string(DecodeInputs(*program, tensors, 0, bytes).status().message()), HasSubstr(wide ? "expected INT16" : "expected UINT8"));
    tensor.Clear();
    tensor.set_data("abcde");
    EXPECT_FALSE(DecodeInputs(*program, tensors, 0, bytes).ok());
  }
}

}  // namespace
}  // namespace lstm::server
