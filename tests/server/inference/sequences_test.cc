// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "server/inference/front.h"
#include "server/models/model_keeper.h"
#include "tests/support/shard_world.h"

// The Open Inference Protocol without a wire, on shards whose clock the test turns.
namespace lstm::testing {
namespace {

using server::InferJob;
using server::InferJobPtr;
using ::testing::HasSubstr;

struct TestHolder : server::Holder {
  bool gone() const override { return is_gone; }
  bool is_gone = false;
};

struct Asked {
  InferJobPtr job = std::make_shared<InferJob>();
  std::optional<absl::Status> status;
  std::string bits() const { return job->response.raw_output_contents_size() == 1 ? job->response.raw_output_contents(0) : "no answer"; }
  absl::StatusCode code() const { return status ? status->code() : absl::StatusCode::kUnknown; }
  std::string message() const { return status ? std::string(status->message()) : "no answer yet"; }
};

class SequencesTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(100); }
  void Start(uint64_t max_sessions) {
    front_.reset();
    ShardWorld::Options options;
    options.shards = 2;
    options.max_sessions = max_sessions;
    world_ = std::make_unique<ShardWorld>(options, Models(), nullptr, &now_us_);
    front_ = std::make_unique<server::InferenceFront>(server::InferenceFront::Options{}, world_->services());
    sequences_.clear();
    for (size_t i = 0; i < world_->shards(); ++i) sequences_.push_back(front_->AddShard(&world_->shard(i)));
  }
  static std::shared_ptr<const server::ModelRepository> Models() {
    static const auto models = *server::LoadAllModels("models/repository", 16);
    return models;
  }
  void Settle() {
    for (int i = 0; i < 20; ++i) {
      world_->Settle();
      for (server::Sequences* sequences : sequences_) sequences->Flush();
    }
  }
  // Words of the model french, raw; `id` 0: no sequence.
  std::shared_ptr<Asked> Ask(const std::vector<int32_t>& words, int64_t id, bool start = false, bool end = false,
                             const std::function<void(InferJob&)>& change = nullptr) {
    auto asked = std::make_shared<Asked>();
    InferJob& job = *asked->job;
    job.request.set_model_name("french");
    auto* input = job.request.add_inputs();
    input->set_name("word");
    input->set_datatype("INT32");
    input->add_shape(static_cast<int64_t>(words.size()));
    job.request.add_raw_input_contents(std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(int32_t)));
    auto& parameters = *job.request.mutable_parameters();
    if (id != 0) parameters["sequence_id"].set_int64_param(id);
    if (start) parameters["sequence_start"].set_bool_param(true);
    if (end) parameters["sequence_end"].set_bool_param(true);
    job.holder = holder_;
    job.shard = 0;
    job.done = [asked = asked.get()](const absl::Status& status) {
      EXPECT_FALSE(asked->status) << "answered twice";
      asked->status = status;
    };
    if (change) change(job);
    front_->Infer(asked->job);
    return asked;
  }
  std::shared_ptr<Asked> Do(const std::vector<int32_t>& words, int64_t id, bool start = false, bool end = false,
                            const std::function<void(InferJob&)>& change = nullptr) {
    auto asked = Ask(words, id, start, end, change);
    Settle();
    EXPECT_TRUE(asked->status) << "no answer";
    return asked;
  }
  size_t live() const {
    size_t n = 0;
    for (const server::Sequences* sequences : sequences_) n += sequences->live();
    return n;
  }
  static void Parameter(InferJob& job, const std::string& name, bool value) { (*job.request.mutable_parameters())[name].set_bool_param(value); }

  uint64_t now_us_ = 1'000'000;
  std::shared_ptr<TestHolder> holder_ = std::make_shared<TestHolder>();
  std::unique_ptr<ShardWorld> world_;
  std::unique_ptr<server::InferenceFront> front_;
  std::vector<server::Sequences*> sequences_;
};

TEST_F(SequencesTest, StepsOfASequenceGiveTheBitsOfTheWhole) {
  const std::vector<int32_t> words = {5, 9, 22, 3, 7};
  const std::string whole = Do(words, 0)->bits();
  std::string steps;
  for (size_t i = 0; i < words.size(); ++i) steps += Do({words[i]}, 77, i == 0, i + 1 == words.size())->bits();
  EXPECT_EQ(steps, whole);
  EXPECT_EQ(live(), 0u);
  EXPECT_EQ(world_->sessions(), 0u);
  EXPECT_EQ(world_->budget().bytes(), 0u);
}

TEST_F(SequencesTest, PipelinedStepsOfManySequencesKeepTheirOrderEach) {
  const std::vector<int32_t> words = {5, 9, 22, 3, 7, 80, 1};
  const std::string whole = Do(words, 0)->bits();
  std::vector<std::vector<std::shared_ptr<Asked>>> asked(50);
  for (size_t i = 0; i < words.size(); ++i) {
    for (size_t s = 0; s < asked.size(); ++s) asked[s].push_back(Ask({words[i]}, static_cast<int64_t>(s) - 60, i == 0, i + 1 == words.size()));
  }
  Settle();
  for (const auto& sequence : asked) {
    std::string got;
    for (const auto& step : sequence) got += step->bits();
    EXPECT_EQ(got, whole);
  }
  EXPECT_EQ(live(), 0u);
}

TEST_F(SequencesTest, TheFirstNeedsStartAndTheReasonOfAnEndIsTold) {
  EXPECT_THAT(Do({5}, 3)->message(), HasSubstr("sequence 3 of model 'french' is not known; its first request needs sequence_start"));
  EXPECT_EQ(Do({5}, 3)->code(), absl::StatusCode::kNotFound);
  Do({5}, 3, true, true);
  EXPECT_THAT(Do({5}, 3)->message(), HasSubstr("it was ended by its client"));
}

TEST_F(SequencesTest, ASequenceExpiresWithItsReason) {
  Do({5}, 3, true);
  EXPECT_EQ(live(), 1u);
  now_us_ += 901'000'000;
  for (size_t i = 0; i < world_->shards(); ++i) world_->shard(i).RunTimers();
  Settle();
  EXPECT_EQ(live(), 0u);
  const auto late = Do({5}, 3);
  EXPECT_EQ(late->code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(late->message(), HasSubstr("the session expired: no step for 900 s"));
}

TEST_F(SequencesTest, StartOnALiveIdIsRefusedUnlessTakenOverOrItsHolderIsGone) {
  const std::string first = Do({5}, 3, true)->bits();
  const std::string second = Do({9}, 3)->bits();
  const auto again = Do({5}, 3, true);
  EXPECT_EQ(again->code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(again->message(), HasSubstr("sequence_take_over"));
  EXPECT_EQ(Do({5}, 3, true, false, [](InferJob& job) { Parameter(job, "sequence_take_over", true); })->bits(), first);
  EXPECT_EQ(Do({9}, 3)->bits(), second);
  holder_->is_gone = true;
  holder_ = std::make_shared<TestHolder>();
  EXPECT_EQ(Do({5}, 3, true)->bits(), first);
  EXPECT_EQ(Do({9}, 3)->bits(), second);
  EXPECT_EQ(live(), 1u);
  EXPECT_EQ(world_->sessions(), 1u);
}

TEST_F(SequencesTest, AStartThatIsRefusedOpensNothingAndHarmsNothing) {
  const auto bad = [](InferJob& job) { Parameter(job, "sequence_take_over", true); };
  EXPECT_EQ(Do({100'000}, 3, true)->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world_->sessions(), 0u);
  Do({5}, 3, true);
  const std::string expected = Do({5, 9}, 0)->bits();
  EXPECT_EQ(Do({100'000}, 3, true, false, bad)->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Do({9}, 3)->bits(), expected.substr(expected.size() / 2));
}

TEST_F(SequencesTest, ARefusedStepTakesNoneOfThoseBehindItAlong) {
  const std::string expected = Do({5, 9}, 0)->bits();
  const auto first = Ask({5}, 3, true), bad = Ask({-1}, 3), next = Ask({9}, 3);
  Settle();
  EXPECT_EQ(bad->code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(first->bits() + next->bits(), expected);
}

TEST_F(SequencesTest, IdsAreThoseOfTheirCallerAndOfTheirKind) {
  const std::string first = Do({5}, 1, true)->bits();
  const auto other = [](InferJob& job) { job.principal = "other"; };
  EXPECT_EQ(Do({9}, 1, false, false, other)->code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Do({5}, 1, true, false, other)->bits(), first);
  const auto text = [](InferJob& job) { (*job.request.mutable_parameters())["sequence_id"].set_string_param("1"); };
  EXPECT_EQ(Do({9}, 1, false, false, text)->code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Do({5}, 1, true, false, text)->bits(), first);
  EXPECT_EQ(live(), 3u);
}

TEST_F(SequencesTest, WhatWaitsForAClientThatIsGoneIsNotApplied) {
  const std::string expected = Do({5, 9}, 0)->bits();
  const auto first = Ask({5}, 3, true), lost = Ask({7}, 3), next = Ask({9}, 3);
  front_->Cancel(lost->job);
  Settle();
  EXPECT_EQ(lost->code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(first->bits() + next->bits(), expected);
  const uint64_t bytes = world_->budget().bytes();
  const auto whole = Ask({5, 9}, 0);
  EXPECT_GT(world_->budget().bytes(), bytes);
  front_->Cancel(whole->job);
  EXPECT_EQ(world_->budget().bytes(), bytes);
  Settle();
  EXPECT_FALSE(whole->status);
}

TEST_F(SequencesTest, ATimeoutThatPassedRefusesTheStepAlone) {
  const auto in_a_ms = [](InferJob& job) { (*job.request.mutable_parameters())["timeout"].set_int64_param(1000); };
  const std::string expected = Do({5, 9}, 0)->bits();
  const std::string first = Do({5}, 3, true)->bits();
  const auto before = Ask({9}, 3), late = Ask({7}, 3, false, false, in_a_ms);
  now_us_ += 2000;
  Settle();
  EXPECT_EQ(first + before->bits(), expected);
  EXPECT_EQ(late->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(first + before->bits() + Do({22}, 3, false, false, in_a_ms)->bits(), Do({5, 9, 22}, 0)->bits());
}

TEST_F(SequencesTest, NoRoomIsRefusedAndEndedSequencesMakeIt) {
  Start(2);
  Do({5}, 1, true);
  Do({5}, 2, true);
  EXPECT_EQ(Do({5}, 3, true)->code(), absl::StatusCode::kResourceExhausted);
  Do({5}, 1, false, true);
  EXPECT_TRUE(Do({5}, 3, true)->status->ok());
}

TEST_F(SequencesTest, ADrainingServerBeginsNoneAndGoesOnWithThoseThatLive) {
  Do({5}, 1, true);
  for (size_t i = 0; i < world_->shards(); ++i) world_->shard(i).Drain(1000);
  EXPECT_EQ(Do({5}, 2, true)->code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Do({9}, 1)->status->ok());
}

TEST_F(SequencesTest, StatisticsAddUpOverTheShards) {
  for (int64_t id = 1; id <= 8; ++id) Do({5, 9}, id, true, true);
  Do({5, 9, 22}, 0);
  Do({-1}, 9, true);
  inference::ModelStatisticsResponse got;
  front_->ModelStatistics("french", "", [&](const absl::Status& status, inference::ModelStatisticsResponse response) {
    ASSERT_TRUE(status.ok()) << status;
    got.Swap(&response);
  });
  Settle();
  ASSERT_EQ(got.model_stats_size(), 1);
  EXPECT_EQ(got.model_stats(0).inference_count(), 8u * 2 + 3);
  EXPECT_EQ(got.model_stats(0).inference_stats().success().count(), 9u);
  EXPECT_EQ(got.model_stats(0).inference_stats().fail().count(), 1u);
  EXPECT_EQ(got.model_stats(0).execution_count(), 16u);
  EXPECT_EQ(got.model_stats(0).last_inference(), 1000u);
}

TEST_F(SequencesTest, WhatWasCountedOfAModelGoesWithIt) {
  for (int64_t id = 1; id <= 8; ++id) Do({5}, id, true, true);
  Do({5}, 0);
  const server::ServedModelPtr french = *Models()->Find("french", ""), telemetry = *Models()->Find("telemetry", "");
  const auto steps = [&] {
    uint64_t count = 0;
    front_->ModelStatistics("french", "", [&](const absl::Status&, const inference::ModelStatisticsResponse& response) { count = response.model_stats(0).inference_count(); });
    Settle();
    return count;
  };
  for (size_t i = 0; i < world_->shards(); ++i) front_->Forget(i, *telemetry);
  EXPECT_EQ(steps(), 9u);
  for (size_t i = 0; i < world_->shards(); ++i) front_->Forget(i, *french);
  EXPECT_EQ(steps(), 0u);
  Do({5}, 1, true);
  EXPECT_EQ(steps(), 1u);
}

struct Hostile {
  const char* name;
  std::function<void(inference::ModelInferRequest&)> change;
  absl::StatusCode code;
  const char* says;
};

TEST_F(SequencesTest, RefusalsNameTheFieldWhatWasExpectedAndWhatCame) {
  using R = inference::ModelInferRequest;
  const auto sequence = [](R& r) -> auto& { return (*r.mutable_parameters())["sequence_id"]; };
  const std::vector<Hostile> all = {
      {"unknown model", [](R& r) { r.set_model_name("../french"); }, absl::StatusCode::kNotFound, "no model of that name; there is: french:1"},
      {"unknown input", [](R& r) { r.mutable_inputs(0)->set_name("w\x01rd"); }, absl::StatusCode::kInvalidArgument, "no input is called 'w?rd', expected 'word'"},
      {"no input", [](R& r) { r.clear_inputs(); r.clear_raw_input_contents(); }, absl::StatusCode::kInvalidArgument, "0 inputs, expected 1: 'word'"},
      {"twice", [](R& r) { *r.add_inputs() = r.inputs(0); r.add_raw_input_contents(r.raw_input_contents(0)); }, absl::StatusCode::kInvalidArgument, "2 inputs, expected 1"},
      {"datatype", [](R& r) { r.mutable_inputs(0)->set_datatype("FP64"); }, absl::StatusCode::kInvalidArgument, "datatype 'FP64', expected INT32 or INT64"},
      {"rank", [](R& r) { r.mutable_inputs(0)->add_shape(1); }, absl::StatusCode::kInvalidArgument, "shape [1, 1], expected [steps]"},
      {"no step", [](R& r) { r.mutable_inputs(0)->set_shape(0, 0); }, absl::StatusCode::kInvalidArgument, "shape [0], expected [steps] with 1 to"},
      {"negative", [](R& r) { r.mutable_inputs(0)->set_shape(0, -1); }, absl::StatusCode::kInvalidArgument, "shape [-1]"},
      {"huge", [](R& r) { r.mutable_inputs(0)->set_shape(0, INT64_MAX); }, absl::StatusCode::kInvalidArgument, "shape [9223372036854775807]"},
      {"many dims", [](R& r) { for (int i = 0; i < 1000; ++i) r.mutable_inputs(0)->add_shape(1); }, absl::StatusCode::kInvalidArgument, ", ...]"},
      {"bytes", [](R& r) { r.mutable_raw_input_contents(0)->push_back('x'); }, absl::StatusCode::kInvalidArgument, "5 bytes in raw_input_contents, expected 4: 1 values of INT32"},
      {"raw count", [](R& r) { r.add_raw_input_contents("x"); }, absl::StatusCode::kInvalidArgument, "raw_input_contents has 2 entries, expected 1"},
      {"both forms", [](R& r) { r.mutable_inputs(0)->mutable_contents()->add_int_contents(5); }, absl::StatusCode::kInvalidArgument, "values in contents and in raw_input_contents"},
      {"neither form", [](R& r) { r.clear_raw_input_contents(); }, absl::StatusCode::kInvalidArgument, "0 values in int_contents, expected 1"},
      {"wrong field", [](R& r) { r.clear_raw_input_contents(); r.mutable_inputs(0)->mutable_contents()->add_fp32_contents(5); }, absl::StatusCode::kInvalidArgument, "values in another field of contents, expected int_contents for INT32"},
      {"id", [](R& r) { r.mutable_raw_input_contents(0)->assign("\xff\xff\xff\x7f", 4); }, absl::StatusCode::kInvalidArgument, "value 2147483647 at step 0, expected 0 to"},
      {"output", [](R& r) { r.add_outputs()->set_name("x"); }, absl::StatusCode::kInvalidArgument, "no output is called 'x', expected one of"},
      {"shared memory", [](R& r) { (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("x"); }, absl::StatusCode::kUnimplemented, "shared memory is not offered"},
      {"unsigned sequence", [&](R& r) { sequence(r).set_uint64_param(1); }, absl::StatusCode::kInvalidArgument, "parameter 'sequence_id': uint64_param, expected int64_param or string_param"},
      {"long sequence", [&](R& r) { sequence(r).set_string_param(std::string(257, 'x')); }, absl::StatusCode::kInvalidArgument, "257 bytes, expected at most 256"},
      {"start alone", [&](R& r) { sequence(r).set_int64_param(0); (*r.mutable_parameters())["sequence_start"].set_bool_param(true); }, absl::StatusCode::kInvalidArgument, "need a sequence_id"},
      {"start as text", [](R& r) { (*r.mutable_parameters())["sequence_start"].set_string_param("true"); }, absl::StatusCode::kInvalidArgument, "parameter 'sequence_start': string_param, expected bool_param"},
      {"reserved", [](R& r) { (*r.mutable_parameters())["triton_x"].set_bool_param(true); }, absl::StatusCode::kInvalidArgument, "parameter 'triton_x' is reserved"},
      {"priority", [](R& r) { (*r.mutable_parameters())["priority"].set_int64_param(-1); }, absl::StatusCode::kInvalidArgument, "parameter 'priority': -1, expected 0 or more"},
  };
  Do({5}, 3, true);
  for (const int64_t id : {0, 3}) {
    for (const Hostile& hostile : all) {
      const auto got = Do({5}, id, false, false, [&](InferJob& job) { hostile.change(job.request); });
      EXPECT_EQ(got->code(), hostile.code) << hostile.name << ": " << got->message();
      EXPECT_THAT(got->message(), HasSubstr(hostile.says)) << hostile.name;
    }
  }
  const auto version_7 = [](InferJob& job) { job.request.set_model_version("7"); };
  EXPECT_THAT(Do({5}, 0, false, false, version_7)->message(), HasSubstr("no model 'french' version 7"));
  EXPECT_THAT(Do({5}, 4, true, false, version_7)->message(), HasSubstr("no model 'french' version 7"));
  EXPECT_THAT(Do({5}, 3, false, false, version_7)->message(), HasSubstr("model_version is '7', but sequence 3 of model 'french' began on version 1"));
  const std::string expected = Do({5, 9}, 0)->bits();
  EXPECT_EQ(Do({9}, 3)->bits(), expected.substr(expected.size() / 2)) << "a refused request was applied";
}

}  // namespace
}  // namespace lstm::testing
