// SPDX-License-Identifier: MIT
#include "server/models/model_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <span>

#include "core/base/fail_point.h"
#include "core/check/recording.h"
#include "core/import/hash_list.h"
#include "tests/support/model_directory.h"

namespace lstm::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ModelKeeperTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& policy = {"latest:1"}, uint32_t max_live = 4) {
    keeper_ = std::make_unique<ModelKeeper>(
        ModelKeeper::Options{.directory = files_.path(), .max_batch = 4, .policies = *ParseVersionPolicies(policy), .max_live_versions = max_live});
    ASSERT_TRUE(keeper_->LoadAtStart(notes_).ok());
  }
  // Until what has changed is settled.
  void Look() {
    notes_.clear();
    for (int i = 0; i < 10 && keeper_->Look(notes_); ++i) {
    }
  }
  void Collect() {
    for (int i = 0; i < 2; ++i) keeper_->Collect([](const ServedModelPtr&) {}, notes_);
  }
  std::vector<std::string> Open() const { return Names(keeper_->repository()->open()); }
  std::vector<std::string> Pinned() const { return Names(keeper_->repository()->pinned()); }
  static std::vector<std::string> Names(const std::vector<ServedModelPtr>& models) {
    std::vector<std::string> out;
    for (const ServedModelPtr& model : models) out.push_back(model->name + ":" + model->version);
    return out;
  }
  std::vector<std::string> Bad() const {
    std::vector<std::string> out;
    for (const ModelKeeper::Note& note : notes_) {
      if (note.bad) out.push_back(note.text);
    }
    return out;
  }

  testing::ModelDirectory files_;
  std::unique_ptr<ModelKeeper> keeper_;
  ModelKeeper::Notes notes_;
};

TEST_F(ModelKeeperTest, TheHighestVersionAsANumberIsServed) {
  for (int version : {2, 9, 10}) files_.Put("french-rnn", "m", version, std::to_string(version));
  files_.Put("french-rnn", "other", 1);
  Start();
  EXPECT_THAT(Open(), ElementsAre("m:10", "other:1"));
  EXPECT_EQ((*keeper_->repository()->Find("m", ""))->version, "10");
  EXPECT_EQ(keeper_->repository()->Find("m", "9").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelKeeperTest, APolicySaysWhichVersions) {
  for (int version = 1; version <= 4; ++version) files_.Put("french-rnn", "m", version, std::to_string(version));
  Start({"latest:2"});
  EXPECT_THAT(Open(), ElementsAre("m:4", "m:3"));
  Start({"all"});
  EXPECT_THAT(Open(), ElementsAre("m:4", "m:3", "m:2", "m:1"));
  Start({"m=specific:1,3,7"});
  EXPECT_THAT(Open(), ElementsAre("m:3", "m:1"));
  EXPECT_EQ((*keeper_->repository()->Find("m", ""))->version, "3");
}

TEST_F(ModelKeeperTest, PoliciesAreReadOrRefused) {
  const auto read = ParseVersionPolicies({"latest:3", "a=all", "b=specific:1,20"});
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->For("x").latest, 3u);
  EXPECT_EQ(read->For("a").latest, VersionPolicy::kAll);
  EXPECT_THAT(read->For("b").specific, ElementsAre(1, 20));
  for (const char* text : {"", "latest", "latest:0", "latest:-1", "latest:01", "specific:", "specific:1,,2", "every", "=all", "a/b=all", "a=b=all", "all "}) {
    const auto bad = ParseVersionPolicies({text});
    ASSERT_FALSE(bad.ok()) << text;
    EXPECT_THAT(std::string(bad.status().message()), HasSubstr(std::string("'") + text + "'"));
  }
  EXPECT_FALSE(ParseVersionPolicies({"all", "latest:1"}).ok());
  EXPECT_FALSE(ParseVersionPolicies({"a=all", "a=latest:1"}).ok());
}

TEST_F(ModelKeeperTest, APackedVersionIsTakenOnlyWhereItsFilesAreWhatTheyWere) {
  files_.Put("french", "m", 1);
  Start();
  files_.Put("french-rnn", "m", 2);
  const auto read = [&](const char* name) {
    std::ifstream in(files_.At("m", 2) / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  std::string list;
  for (const char* name : {"model.textproto", "model.safetensors"}) {
    const std::string bytes = read(name);
    list += core::Sha256Hex(std::as_bytes(std::span(bytes))) + "  " + name + "\n";
  }
  std::string other = list;
  other[0] = other[0] == '0' ? '1' : '0';
  std::ofstream(files_.At("m", 2) / "SHA256SUMS") << other;
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("'model.textproto' is not what it was when the version was packed")));
  std::ofstream(files_.At("m", 2) / "SHA256SUMS") << list;
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:2"));
}

TEST_F(ModelKeeperTest, AVersionThatDoesNotComputeWhatWasRecordedIsNotServed) {
  files_.Put("french", "m", 1);
  Start();
  std::string recorded = core::Recording::Make(*(*keeper_->repository()->Find("m", ""))->program, 8)->Format();
  files_.Put("french", "m", 2, "the same");
  std::ofstream(files_.At("m", 2) / "self_check.safetensors", std::ios::binary) << recorded;
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:2"));
  files_.Put("french-rnn", "m", 3);
  std::ofstream(files_.At("m", 3) / "self_check.safetensors", std::ios::binary) << recorded;
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:2"));
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("was recorded when the version was packed")));
}

TEST_F(ModelKeeperTest, ANewVersionIsTakenOnceItsFilesRest) {
  files_.Put("french", "m", 1);
  Start();
  const ServedModelPtr first = *keeper_->repository()->Find("m", "");
  files_.Put("french-rnn", "m", 2);
  notes_.clear();
  EXPECT_TRUE(keeper_->Look(notes_)) << "it has changed, and is not taken yet";
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  files_.Put("french-rnn", "m", 2, "the copy goes on");
  EXPECT_TRUE(keeper_->Look(notes_));
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  EXPECT_FALSE(keeper_->Look(notes_));
  EXPECT_THAT(Open(), ElementsAre("m:2"));
  EXPECT_THAT(Pinned(), ElementsAre("m:1"));
  EXPECT_THAT(Bad(), IsEmpty());
  EXPECT_EQ(*keeper_->repository()->FindHash("m", "1", first->info.model_hash()), first) << "for sessions that come back";
  const auto info = keeper_->repository()->Describe("m", "");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->version(), "2");
  EXPECT_EQ(info->latest(), "2");
  EXPECT_THAT(info->versions(), ElementsAre("2"));
  ASSERT_EQ(info->pinned_size(), 1);
  EXPECT_EQ(info->pinned(0).version(), "1");
  EXPECT_EQ(info->pinned(0).model_hash(), first->info.model_hash());
  EXPECT_EQ(keeper_->repository()->Describe("m", "1")->version(), "1") << "whoever has a session on it may want its vocabulary";
}

TEST_F(ModelKeeperTest, ABadVersionLeavesTheOldOneAndIsToldOnce) {
  files_.Put("french", "m", 1);
  Start();
  files_.PutRubbish("m", 2, "no manifest");
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("model m version 2 was not loaded: manifest line 1")));
  Look();
  EXPECT_THAT(Bad(), IsEmpty());
  keeper_->TryAgain();
  Look();
  EXPECT_EQ(Bad().size(), 1u) << "who asks is told again";
  std::filesystem::remove(files_.At("m", 2) / "model.textproto");
  files_.Put("french-rnn", "m", 2);
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:2")) << "mended";
}

TEST_F(ModelKeeperTest, OtherBytesOfTheSameVersion) {
  files_.Put("french", "m", 1);
  Start();
  const ServedModelPtr first = *keeper_->repository()->Find("m", "");
  files_.PutRubbish("m", 1, "cut");
  Look();
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("the one before it stays")));
  EXPECT_EQ(*keeper_->repository()->Find("m", "1"), first);
  files_.Put("french-rnn", "m", 1);
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  EXPECT_NE(*keeper_->repository()->Find("m", "1"), first);
  EXPECT_THAT(Pinned(), ElementsAre("m:1"));
  EXPECT_EQ(*keeper_->repository()->FindHash("m", "1", first->info.model_hash()), first);
}

TEST_F(ModelKeeperTest, WhatIsOnlyTouchedIsNotLoadedAgain) {
  files_.Put("french", "m", 1);
  Start();
  const ServedModelPtr first = *keeper_->repository()->Find("m", "");
  files_.Put("french", "m", 1);
  Look();
  EXPECT_EQ(*keeper_->repository()->Find("m", "1"), first);
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(ModelKeeperTest, TheSameBytesShareWhatIsLoaded) {
  files_.Put("french", "m", 1);
  Start();
  const auto first = (*keeper_->repository()->Find("m", ""))->program;
  files_.Put("french", "m", 2);
  files_.Put("french", "n", 7);
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:2", "n:7"));
  EXPECT_EQ((*keeper_->repository()->Find("m", ""))->program, first);
  EXPECT_EQ((*keeper_->repository()->Find("n", ""))->program, first);
  EXPECT_EQ((*keeper_->repository()->Find("n", ""))->info.name(), "n");
  Collect();
  EXPECT_THAT(Pinned(), IsEmpty());
}

TEST_F(ModelKeeperTest, AnOldVersionIsFreedWhenNobodyHoldsItAndAllHaveForgottenIt) {
  files_.Put("french", "m", 1);
  Start();
  ServedModelPtr session = *keeper_->repository()->Find("m", ""), shard;
  const std::weak_ptr<const core::StepProgram> memory = session->program;
  files_.Put("french-rnn", "m", 2);
  Look();
  Collect();
  EXPECT_THAT(Pinned(), ElementsAre("m:1"));
  session.reset();
  notes_.clear();
  EXPECT_TRUE(keeper_->Collect([&](const ServedModelPtr& model) { shard = model; }, notes_));
  ASSERT_NE(shard, nullptr);
  EXPECT_THAT(Pinned(), IsEmpty());
  EXPECT_TRUE(keeper_->Collect(nullptr, notes_));
  EXPECT_FALSE(memory.expired()) << "a shard has not let go yet";
  shard.reset();
  EXPECT_FALSE(keeper_->Collect(nullptr, notes_));
  EXPECT_TRUE(memory.expired());
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_THAT(notes_[0].text, HasSubstr("model m version 1: its last session is gone"));
}

TEST_F(ModelKeeperTest, AtTheLimitTheNewLoadIsRefusedAndSaysWhatIsPinned) {
  files_.Put("french-rnn", "m", 1);
  Start({"latest:1"}, 3);
  std::vector<ServedModelPtr> sessions = {*keeper_->repository()->Find("m", "")};
  for (int version = 2; version <= 3; ++version) {
    files_.Put("french-rnn", "m", version, std::to_string(version));
    Look();
    sessions.push_back(*keeper_->repository()->Find("m", ""));
    EXPECT_EQ(sessions.back()->version, std::to_string(version));
  }
  files_.Put("french-rnn", "m", 4, "4");
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:3"));
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("model m version 4 is not loaded: 3 versions of it are live, 2 of them pinned")));
  Look();
  EXPECT_THAT(Bad(), IsEmpty()) << "told once";
  sessions.erase(sessions.begin());
  Collect();
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:4"));
  files_.Put("french-rnn", "m", 5, "4");
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:5")) << "the same bytes cost nothing";
}

TEST_F(ModelKeeperTest, AVersionThatIsTakenAwayGoesAndOneThatComesBackIsNotLoadedAgain) {
  files_.Put("french", "m", 1);
  Start();
  const ServedModelPtr first = *keeper_->repository()->Find("m", "");
  files_.Put("french-rnn", "m", 2);
  Look();
  const ServedModelPtr second = *keeper_->repository()->Find("m", "");
  files_.Remove("m", 2);
  keeper_->Look(notes_);
  EXPECT_THAT(Open(), ElementsAre("m:2")) << "a look that does not find it says nothing yet";
  keeper_->Look(notes_);
  EXPECT_THAT(Open(), ElementsAre("m:1")) << "back to what was before";
  EXPECT_EQ(*keeper_->repository()->Find("m", ""), first);
  std::filesystem::remove_all(files_.path() + "/m");
  Look();
  EXPECT_THAT(Open(), IsEmpty());
  EXPECT_THAT(Pinned(), ElementsAre("m:2", "m:1"));
  const auto infos = keeper_->repository()->DescribeAll();
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_THAT(infos[0].versions(), IsEmpty());
  EXPECT_EQ(infos[0].latest(), "");
  EXPECT_EQ(infos[0].pinned_size(), 2);
}

TEST_F(ModelKeeperTest, AForbiddenModelStaysAwayUntilItIsAllowedAgain) {
  files_.Put("french-rnn", "m", 1);
  files_.Put("french-rnn", "other", 1, "o");
  Start();
  const ServedModelPtr held = *keeper_->repository()->Find("m", "");
  EXPECT_EQ(keeper_->Forbid("x", notes_).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(keeper_->Forbid("m", notes_).ok());
  EXPECT_THAT(Open(), ElementsAre("other:1"));
  EXPECT_THAT(Pinned(), ElementsAre("m:1"));
  EXPECT_EQ(keeper_->Forbid("m", notes_).code(), absl::StatusCode::kNotFound);
  files_.Put("french-rnn", "m", 2, "2");
  Look();
  EXPECT_THAT(Open(), ElementsAre("other:1"));
  files_.Remove("m", 2);
  keeper_->Allow("m");
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:1", "other:1"));
  EXPECT_EQ(*keeper_->repository()->Find("m", ""), held) << "loaded twice";
  EXPECT_TRUE(keeper_->StateOf("m").ok());
}

TEST_F(ModelKeeperTest, TheStateOfAModelSaysWhatWasRefusedAndWhy) {
  files_.Put("french-rnn", "m", 1);
  Start();
  EXPECT_EQ(keeper_->StateOf("x").code(), absl::StatusCode::kNotFound);
  files_.PutRubbish("m", 2, "rubbish");
  Look();
  const absl::Status state = keeper_->StateOf("m");
  EXPECT_EQ(state.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(state.message()), ::testing::MatchesRegex("version 2 was not loaded: .+; what serves is version 1"));
  EXPECT_THAT(std::string(state.message()), ::testing::Not(HasSubstr(files_.path())));
  files_.Remove("m", 2);
  files_.Put("french-rnn", "m", 2, "2");
  keeper_->Allow("m");
  Look();
  EXPECT_TRUE(keeper_->StateOf("m").ok()) << keeper_->StateOf("m");
  EXPECT_THAT(Open(), ElementsAre("m:2"));
}

TEST_F(ModelKeeperTest, ADirectoryThatCannotBeReadChangesNothing) {
  files_.Put("french", "m", 1);
  Start();
  const std::string away = files_.path() + ".away";
  std::filesystem::rename(files_.path(), away);
  for (int i = 0; i < 3; ++i) keeper_->Look(notes_);
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("all models stay as they are")));
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  std::filesystem::rename(away, files_.path());
  ModelKeeper none({.directory = away, .max_batch = 4, .policies = {}, .max_live_versions = 4});
  EXPECT_EQ(none.LoadAtStart(notes_).code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelKeeperTest, LinksAndOtherEntriesAreNotFollowed) {
  namespace fs = std::filesystem;
  files_.Put("french", "m", 1);
  testing::ModelDirectory outside;
  outside.Put("french-rnn", "x", 1);
  fs::create_directory_symlink(outside.path() + "/x", files_.path() + "/linked");
  fs::create_directory_symlink(outside.At("x", 1), files_.At("m", 2));
  fs::create_directories(files_.At("m", 3));
  fs::create_symlink(outside.At("x", 1) / "model.textproto", files_.At("m", 3) / "model.textproto");
  fs::create_symlink(outside.At("x", 1) / "model.safetensors", files_.At("m", 3) / "model.safetensors");
  files_.Put("french-rnn", "m", 4);
  fs::remove(files_.At("m", 4) / "model.safetensors");
  fs::create_symlink(outside.At("x", 1) / "model.safetensors", files_.At("m", 4) / "model.safetensors");
  files_.Put("french-rnn", "m", 5);
  fs::remove(files_.At("m", 5) / "model.safetensors");
  ASSERT_EQ(mkfifo((files_.At("m", 5) / "model.safetensors").c_str(), 0600), 0);
  for (const char* name : {"07", "-1", "1.5", "x", "9999999999"}) fs::create_directories(fs::path(files_.path()) / "m" / name);
  fs::create_directories(fs::path(files_.path()) / "a b" / "1");
  std::ofstream(files_.path() + "/m/6") << "a file";
  Start({"all"});
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  EXPECT_THAT(Bad(), ElementsAre(HasSubstr("not a regular file"), HasSubstr("is a link"), HasSubstr("is a link")));
  for (const std::string& text : Bad()) EXPECT_EQ(text.find("/proc"), std::string::npos) << text;
}

TEST_F(ModelKeeperTest, SessionsOfAnEarlierProcessKeepTheirVersion) {
  for (int version = 1; version <= 3; ++version) files_.Put("french-rnn", "m", version, std::to_string(version));
  Start({"all"});
  const auto mark = [&](const char* version, bool right = true) {
    std::string hash = (*keeper_->repository()->Find("m", version))->info.model_hash();
    if (!right) hash[0] = static_cast<char>(hash[0] + 1);
    return MarkOf("m", version, hash);
  };
  const std::vector<ModelMark> marks = {mark("1"), mark("2", false), mark("3"), ModelMark{}, MarkOf("gone", "1", std::string(32, 'x'))};
  Start({"latest:1"}, 2);
  notes_.clear();
  keeper_->LoadMarked(marks, notes_);
  EXPECT_THAT(Open(), ElementsAre("m:3"));
  EXPECT_THAT(Pinned(), ElementsAre("m:1")) << "the second has other bytes now";
  EXPECT_THAT(Bad(), IsEmpty());
  EXPECT_EQ(keeper_->repository()->FindMark(marks[0]), keeper_->repository()->pinned()[0]);
  Look();
  EXPECT_THAT(Open(), ElementsAre("m:3"));
  EXPECT_THAT(Pinned(), ElementsAre("m:1"));
  EXPECT_EQ(keeper_->repository()->Find("m", "1").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelKeeperTest, FilesThatChangeWhileTheyAreReadAreNotTaken) {
  files_.Put("french", "m", 1);
  Start();
  files_.Put("french-rnn", "m", 2);
  keeper_->Look(notes_);
  static testing::ModelDirectory* files;
  static int at;
  files = &files_;
  at = 0;
  core::fail_point_hook = [](const char* name) {
    if (std::string(name) == "reload.read" && at++ == 0) files->Put("french-rnn", "m", 2, "another");
  };
  EXPECT_TRUE(keeper_->Look(notes_));
  EXPECT_THAT(Open(), ElementsAre("m:1"));
  Look();
  core::fail_point_hook = nullptr;
  EXPECT_THAT(Open(), ElementsAre("m:2"));
  EXPECT_THAT(Bad(), IsEmpty());
}

}  // namespace
}  // namespace lstm::server
