// SPDX-License-Identifier: MIT
#include "core/check/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/check/self_check.h"
#include "core/import/manifest_import.h"

namespace lstm::core {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const StepProgram> Bundled(const std::string& name, Engine engine = Engine::kAuto) {
  auto model = LoadModelDirectory("models/repository/" + name + "/1", name, "1");
  EXPECT_TRUE(model.ok()) << model.status();
  auto program =
      StepProgram::Compile(std::make_shared<const Model>(*std::move(model)), {.max_batch = 4, .engine = engine});
  EXPECT_TRUE(program.ok()) << program.status();
  return *program;
}

absl::StatusOr<Recording> Parsed(const std::string& file) { return Recording::Parse(std::as_bytes(std::span(file))); }

TEST(RecordingTest, EveryEngineComputesWhatAnotherRecorded) {
  for (const char* name : {"telemetry", "french", "shakespeare"}) {
    const auto made = Recording::Make(*Bundled(name), 16);
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->steps(), 16);
    const auto read = Parsed(made->Format());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->Format(), made->Format());
    for (const Engine engine : {Engine::kAuto, Engine::kOneDnn}) {
      const auto program = Bundled(name, engine);
      EXPECT_TRUE(SelfCheck(*program).ok());
      const absl::Status status = read->Replay(*program);
      EXPECT_TRUE(status.ok()) << name << ": " << status;
    }
  }
}

TEST(RecordingTest, AModelThatComputesSomethingElseIsNoticed) {
  const auto program = Bundled("telemetry");
  std::string file = Recording::Make(*program, 16)->Format();
  // The last number of the file is of the last output in the last step.
  float last = 0;
  std::memcpy(&last, file.data() + file.size() - sizeof(last), sizeof(last));
  last += 0.1f;
  std::memcpy(file.data() + file.size() - sizeof(last), &last, sizeof(last));
  const auto changed = Parsed(file);
  ASSERT_TRUE(changed.ok());
  EXPECT_THAT(std::string(changed->Replay(*program).message()),
              HasSubstr("self-check: in step 15 output 'forecast' is"));
  EXPECT_EQ(changed->Replay(*program).code(), absl::StatusCode::kInternal);
}

TEST(RecordingTest, ARecordingOfAnotherModelIsRefused) {
  const auto of_telemetry = Recording::Make(*Bundled("telemetry"), 4),
             of_shakespeare = Recording::Make(*Bundled("shakespeare"), 4);
  ASSERT_TRUE(of_telemetry.ok() && of_shakespeare.ok());
  EXPECT_THAT(std::string(of_telemetry->Replay(*Bundled("french")).message()),
              HasSubstr("self_check.safetensors: 'input.word' has 0 numbers, expected 4"));
  EXPECT_FALSE(of_shakespeare->Replay(*Bundled("french")).ok());
}

TEST(RecordingTest, FilesThatAreNoneAndIdsThatAreTooLargeAreRefused) {
  for (const std::string& text : {std::string(), std::string("rubbish"), std::string(100, '\0')})
    EXPECT_FALSE(Parsed(text).ok());
  const auto file = [](const std::string& header, size_t bytes) {
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + std::string(bytes, '\0');
  };
  EXPECT_THAT(
      std::string(
          Parsed(file(R"({"input.x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 16)).status().message()),
      HasSubstr("'input.x' has shape [4]"));
  EXPECT_THAT(
      std::string(
          Parsed(
              file(
                  R"({"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}})",
                  16))
              .status()
              .message()),
      HasSubstr("as many in each"));
  const auto program = Bundled("french");
  std::string recorded = Recording::Make(*program, 4)->Format();
  const float id = 1e6f;
  uint64_t header = 0;
  std::memcpy(&header, recorded.data(), sizeof(header));
  std::memcpy(recorded.data() + sizeof(header) + header, &id, sizeof(id));  // "input.word" comes first
  EXPECT_THAT(std::string(Parsed(recorded)->Replay(*program).message()), HasSubstr("expected an id below"));
}

}  // namespace
}  // namespace lstm::core
