// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "server/models/model_keeper.h"
#include "server/shard/shard.h"
#include "tests/core/import/onnx/onnx_reference.h"
#include "tests/core/import/onnx/onnx_writer.h"
#include "tests/support/model_directory.h"
#include "tests/support/shard_world.h"

// A model of whole sequences, from its file to the answer of Predict.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;
using testing::OnnxWriter;
using testing::Reference;
using W = OnnxWriter;

class PredictWholeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::Random random(4);
    OnnxWriter file;
    std::vector<float> w, r, b;
    for (Reference* ref : {&forward_, &back_}) {
      ref->op = "LSTM", ref->activations = {"Sigmoid", "Tanh", "Tanh"};
      ref->w = testing::Numbers(random, 24), ref->r = testing::Numbers(random, 36), ref->b = testing::Numbers(random, 24);
      ref->h.assign(3, 0), ref->c = ref->h;
      w.insert(w.end(), ref->w.begin(), ref->w.end()), r.insert(r.end(), ref->r.begin(), ref->r.end()), b.insert(b.end(), ref->b.begin(), ref->b.end());
    }
    file.Input(W::Declared("x", {-2, -1, 2})).Input(W::Declared("lens", {-1}, 6)).Output("y").Output("h");
    file.Initializer(W::Tensor("W", {2, 12, 2}, w)).Initializer(W::Tensor("R", {2, 12, 3}, r)).Initializer(W::Tensor("B", {2, 24}, b));
    file.Node("LSTM", {"x", "W", "R", "B", "lens"}, {"y", "h"}, W::Int("hidden_size", 3) + W::Text("direction", "bidirectional"));
    std::filesystem::create_directories(directory_.At("both", 1));
    std::ofstream(directory_.At("both", 1) / "model.onnx", std::ios::binary) << file.File();
    OnnxWriter down;  // every second step of what two steps make
    down.Input(W::Declared("x", {1, 1, -1})).Output("y").Initializer(W::Tensor("k", {1, 1, 2}, {10, 1}));
    down.Node("Conv", {"x", "k"}, {"y"}, W::Ints("strides", {2}));
    std::filesystem::create_directories(directory_.At("down", 1));
    std::ofstream(directory_.At("down", 1) / "model.onnx", std::ios::binary) << down.File();
    auto models = LoadAllModels(directory_.path(), 8);
    ASSERT_TRUE(models.ok()) << models.status();
    models_ = *models;
    world_ = std::make_unique<testing::ShardWorld>(testing::ShardWorld::Options{}, models_, nullptr, &now_);
  }

  v1::PredictRequest Request(int steps) {
    testing::Random random(6);
    v1::PredictRequest request;
    request.set_model("both");
    v1::Tensor& x = *request.add_inputs();
    x.set_name("x");
    for (int i = 0; i < 2 * steps; ++i) x.add_floats(random.Uniform());
    return request;
  }
  absl::Status Predict(const v1::PredictRequest& request, v1::PredictResponse* response) {
    absl::Status out = absl::UnknownError("not done");
    world_->shard().Predict(request, response, [&](const absl::Status& status) { out = status; });
    world_->Settle();
    return out;
  }

  testing::ModelDirectory directory_;
  Reference forward_, back_;
  std::shared_ptr<const ModelRepository> models_;
  uint64_t now_ = 1;
  std::unique_ptr<testing::ShardWorld> world_;
};

TEST_F(PredictWholeTest, AnswersWithTheWholeSequenceUpToItsLength) {
  v1::PredictRequest request = Request(6);
  v1::Tensor& lens = *request.add_inputs();
  lens.set_name("lens");
  lens.add_ints(4);
  v1::PredictResponse response;
  ASSERT_TRUE(Predict(request, &response).ok());
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_THAT(response.outputs(0).shape(), ::testing::ElementsAre(6, 2, 3));
  EXPECT_THAT(response.outputs(1).shape(), ::testing::ElementsAre(2, 3));
  const auto x = [&](int t) { return testing::Vector{static_cast<double>(request.inputs(0).floats(2 * t)), static_cast<double>(request.inputs(0).floats(2 * t + 1))}; };
  std::vector<float> y(36), h(6);
  std::memcpy(y.data(), response.outputs(0).data().data(), 144);
  std::memcpy(h.data(), response.outputs(1).data().data(), 24);
  for (int t = 0; t < 4; ++t) {
    forward_.Step(x(t));
    for (size_t j = 0; j < 3; ++j) EXPECT_NEAR(static_cast<double>(y[static_cast<size_t>(6 * t) + j]), forward_.h[j], 1e-5);
  }
  for (int t = 3; t >= 0; --t) {
    back_.Step(x(t));
    for (size_t j = 0; j < 3; ++j) EXPECT_NEAR(static_cast<double>(y[static_cast<size_t>(6 * t) + 3 + j]), back_.h[j], 1e-5);
  }
  for (size_t j = 0; j < 3; ++j) {
    EXPECT_NEAR(static_cast<double>(h[j]), forward_.h[j], 1e-5);
    EXPECT_NEAR(static_cast<double>(h[3 + j]), back_.h[j], 1e-5);
  }
  for (size_t i = 24; i < 36; ++i) EXPECT_EQ(y[i], 0.0f) << "beyond the length";
  // The last step alone; what comes once comes as it is.
  request.mutable_options()->set_last_step_only(true);
  v1::PredictResponse last;
  ASSERT_TRUE(Predict(request, &last).ok());
  EXPECT_EQ(last.outputs(0).data(), response.outputs(0).data().substr(120));
  EXPECT_EQ(last.outputs(1).data(), response.outputs(1).data());
}

TEST_F(PredictWholeTest, AStrideGivesFewerFramesThanSteps) {
  v1::PredictRequest request;
  request.set_model("down");
  v1::Tensor& x = *request.add_inputs();
  x.set_name("x");
  for (int i = 1; i <= 7; ++i) x.add_floats(static_cast<float>(i));
  v1::PredictResponse response;
  const absl::Status whole = Predict(request, &response);
  ASSERT_TRUE(whole.ok()) << whole;
  ASSERT_EQ(response.outputs_size(), 1);
  ASSERT_EQ(response.outputs(0).shape(0), 3);
  float y[3];
  ASSERT_EQ(response.outputs(0).data().size(), sizeof(y));
  std::memcpy(y, response.outputs(0).data().data(), sizeof(y));
  EXPECT_THAT(y, ::testing::ElementsAre(12, 34, 56));
  request.mutable_options()->set_last_step_only(true);
  v1::PredictResponse last;
  ASSERT_TRUE(Predict(request, &last).ok());
  std::memcpy(y, last.outputs(0).data().data(), sizeof(float));
  EXPECT_EQ(y[0], 56);
  request.mutable_inputs(0)->mutable_floats()->Truncate(1);
  const absl::Status status = Predict(request, &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << "two steps are needed for one frame";
}

TEST_F(PredictWholeTest, SequencesBesideOneAnotherGiveTheSameBits) {
  const v1::PredictRequest request = Request(5);
  v1::PredictResponse alone, beside[3];
  ASSERT_TRUE(Predict(request, &alone).ok());
  int done = 0;
  for (auto& response : beside) world_->shard().Predict(request, &response, [&](const absl::Status& status) { done += status.ok() ? 1 : 0; });
  world_->shard().ForgetPredict(&beside[2]);
  world_->Settle();
  EXPECT_EQ(done, 2);
  for (int k = 0; k < 2; ++k) EXPECT_EQ(beside[k].SerializeAsString(), alone.SerializeAsString());
  EXPECT_EQ(world_->budget().bytes(), 0u) << "all memory is given back";
}

TEST_F(PredictWholeTest, SaysWhatItIsAndRefusesSessions) {
  const auto info = models_->Describe("both", "");
  ASSERT_TRUE(info.ok());
  EXPECT_THAT(info->not_streamable(), HasSubstr("LSTM node 'LSTM_0': its direction is 'bidirectional'"));
  EXPECT_EQ(info->inputs_size(), 0);
  ASSERT_EQ(info->predict_inputs_size(), 2);
  EXPECT_TRUE(info->predict_inputs(1).once());
  EXPECT_TRUE(info->predict_inputs(1).optional());
  ASSERT_EQ(info->predict_outputs_size(), 2);
  EXPECT_FALSE(info->predict_outputs(0).once());
  EXPECT_TRUE(info->predict_outputs(1).once());
}

TEST_F(PredictWholeTest, HostileRequestsAreRefusedByName) {
  const auto refusal = [&](const v1::PredictRequest& request) {
    v1::PredictResponse response;
    const absl::Status status = Predict(request, &response);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  v1::PredictRequest request = Request(5);
  request.add_initial_state()->set_name("h");
  EXPECT_THAT(refusal(request), HasSubstr("initial_state"));
  request = Request(5);
  request.set_return_state(true);
  EXPECT_THAT(refusal(request), HasSubstr("return_state"));
  request = Request(5);
  request.set_steps(4);
  EXPECT_THAT(refusal(request), HasSubstr("tensor 'x': 10 values, expected 4 steps of 2"));
  request = Request(5);
  request.mutable_inputs(0)->set_name("z");
  EXPECT_THAT(refusal(request), HasSubstr("no input is called 'z'"));
  request = Request(5);
  request.mutable_options()->add_traces("x");
  EXPECT_THAT(refusal(request), HasSubstr("traces"));
  request = Request(5);
  request.mutable_options()->add_outputs("no");
  EXPECT_THAT(refusal(request), HasSubstr("nothing is called 'no'"));
  request = Request(5);
  v1::Tensor& lens = *request.add_inputs();
  lens.set_name("lens");
  lens.add_ints(6);
  EXPECT_THAT(refusal(request), HasSubstr("input 'lens' is 6, expected 1 to 5"));
  lens.add_ints(1);
  EXPECT_THAT(refusal(request), HasSubstr("tensor 'lens': 2 values, expected 1 for the sequence"));
  request = Request(0);
  EXPECT_THAT(refusal(request), HasSubstr("tensor 'x'"));
}

}  // namespace
}  // namespace lstm::server
