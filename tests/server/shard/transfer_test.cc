// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "tests/support/session_fixture.h"

// Sessions made of others: Fork, Export and Import.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;
using testing::MemoryStore;
using testing::ShardWorld;
using testing::Sink;

class TransferTest : public testing::SessionFixture {
 protected:
  template <typename Request, typename Response>
  struct Call {
    Request request;
    Response response;
    std::optional<absl::Status> status;
    int answers = 0;
    Shard::Done done() {
      return [this](const absl::Status& s) {
        status = s;
        ++answers;
      };
    }
  };
  using ForkCall = Call<v1::ForkSessionRequest, v1::ForkSessionResponse>;
  using ImportCall = Call<v1::ImportSessionRequest, v1::ImportSessionResponse>;
  using ExportCall = Call<v1::ExportSessionRequest, v1::ExportSessionResponse>;

  static v1::ForkSessionRequest ForkRequest(const v1::Opened& opened, uint64_t at_seq, char nonce = 'f') {
    v1::ForkSessionRequest request;
    request.set_session_id(opened.session_id());
    request.set_resume_token(opened.resume_token());
    request.set_at_seq(at_seq);
    request.set_client_nonce(std::string(16, nonce));
    return request;
  }
  void Begin(const v1::ForkSessionRequest& request, ForkCall& call) {
    call.request = request;
    world_->shard().Fork(call.request, "", &call.response, call.done());
  }
  template <typename Response>
  static v1::Opened OpenedOf(const Response& made) {
    v1::Opened opened;
    opened.set_session_id(made.session_id());
    opened.set_resume_token(made.resume_token());
    return opened;
  }
  // Carried out; what it made, or why not.
  absl::StatusOr<v1::Opened> Fork(const v1::ForkSessionRequest& request) {
    ForkCall call;
    Begin(request, call);
    Settle();
    EXPECT_EQ(call.answers, 1);
    if (!call.status || !call.status->ok()) return call.status.value_or(absl::InternalError("no answer"));
    return OpenedOf(call.response);
  }
  absl::StatusOr<std::string> Export(const v1::Opened& opened, uint64_t at_seq) {
    ExportCall call;
    call.request.set_session_id(opened.session_id());
    call.request.set_resume_token(opened.resume_token());
    call.request.set_at_seq(at_seq);
    world_->shard().Export(call.request, "", &call.response, call.done());
    Settle();
    EXPECT_EQ(call.answers, 1);
    if (!call.status->ok()) return *call.status;
    return call.response.blob();
  }
  absl::StatusOr<v1::Opened> Import(const std::string& blob, char nonce = 'm', v1::Durability durability = v1::DURABILITY_UNSPECIFIED) {
    ImportCall call;
    call.request.set_blob(blob);
    call.request.set_client_nonce(std::string(16, nonce));
    call.request.set_durability(durability);
    world_->shard().Import(call.request, "", &call.response, call.done());
    Settle();
    EXPECT_EQ(call.answers, 1);
    if (!call.status || !call.status->ok()) return call.status.value_or(absl::InternalError("no answer"));
    return OpenedOf(call.response);
  }
  // Another server, with nothing in its store.
  void GoElsewhere() {
    world_.reset();
    for (Sink& sink : sinks_) sink.responses.clear();
    store_ = MemoryStore();
    Start();
  }
};

TEST_F(TransferTest, AForkGoesOnFromTheSameStateAndLeavesTheOther) {
  const v1::Opened opened = Open();
  std::string before = Data(Run(1, 5));
  before += Data(Run(2, 9, 1));
  const auto fork = Fork(ForkRequest(opened, 2));
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_NE(fork->session_id(), opened.session_id());
  EXPECT_NE(fork->resume_token(), opened.resume_token());
  EXPECT_EQ(before + Data(Run(3, 22, 2)), Undisturbed({5, 9, 22})) << "the session that was forked knows nothing of it";
  const v1::Response taken = Resumed(Resume(*fork, 2), 1);
  ASSERT_TRUE(taken.has_resumed()) << taken.ShortDebugString();
  EXPECT_EQ(taken.resumed().durability(), v1::PROCESS);
  EXPECT_EQ(before + Data(Run(3, 40, 2, 1)), Undisturbed({5, 9, 40}));
  Kill();
  ASSERT_TRUE(Resumed(Resume(*fork, 3)).has_resumed());
  EXPECT_EQ(before + Undisturbed({5, 9, 40}).substr(before.size()) + Data(Run(4, 7, 3)), Undisturbed({5, 9, 40, 7}));
}

TEST_F(TransferTest, ForkAndExportAreForItsOwnerAtTheSeqThatHeKnows) {
  const v1::Opened opened = Open();
  Run(1, 5);
  EXPECT_THAT(std::string(Fork(ForkRequest(opened, 0)).status().message()), HasSubstr("at_seq is 0, but the session's applied_seq is 1"));
  EXPECT_TRUE(absl::IsFailedPrecondition(Export(opened, 2).status()));
  v1::Opened wrong = opened;
  (*wrong.mutable_resume_token())[0] ^= 1;
  EXPECT_TRUE(absl::IsNotFound(Fork(ForkRequest(wrong, 1)).status()));
  EXPECT_TRUE(absl::IsNotFound(Export(wrong, 1).status()));
  wrong = opened;
  wrong.set_session_id("short");
  EXPECT_THAT(std::string(Fork(ForkRequest(wrong, 1)).status().message()), HasSubstr("session_id has 5 bytes, expected 16"));
  v1::ForkSessionRequest no_nonce = ForkRequest(opened, 1);
  no_nonce.clear_client_nonce();
  EXPECT_THAT(std::string(Fork(no_nonce).status().message()), HasSubstr("client_nonce has 0 bytes, expected 16"));
  ForkCall other;
  other.request = ForkRequest(opened, 1);
  world_->shard().Fork(other.request, "somebody else", &other.response, other.done());
  EXPECT_TRUE(absl::IsNotFound(*other.status));
  world_->shard().Drain(1000);
  EXPECT_TRUE(absl::IsUnavailable(Fork(ForkRequest(opened, 1)).status()));
}

TEST_F(TransferTest, ARepeatedForkFindsItsSessionUntilItHasGoneOn) {
  const v1::Opened opened = Open();
  Run(1, 5);
  const auto lost = Fork(ForkRequest(opened, 1));
  const auto again = Fork(ForkRequest(opened, 1));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->session_id(), lost->session_id());
  EXPECT_EQ(Resumed(Resume(*lost, 1), 1).reject().reason(), v1::NOT_FOUND) << "the token of the answer that was lost";
  ASSERT_TRUE(Resumed(Resume(*again, 1), 1).has_resumed());
  EXPECT_TRUE(absl::IsFailedPrecondition(Fork(ForkRequest(opened, 1)).status())) << "somebody holds it";
  EXPECT_EQ(world_->sessions(), 2u);
}

TEST_F(TransferTest, AnExportedSessionGoesOnElsewhereBitForBit) {
  const v1::Opened opened = Open();
  std::string before = Data(Run(1, 5));
  before += Data(Run(2, 9, 1));
  const auto blob = Export(opened, 2);
  ASSERT_TRUE(blob.ok()) << blob.status();
  GoElsewhere();
  const auto made = Import(*blob);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_TRUE(Resumed(Resume(*made, 2)).has_resumed());
  EXPECT_EQ(before + Data(Run(3, 22, 2)), Undisturbed({5, 9, 22}));
  Kill();
  EXPECT_EQ(Resumed(Resume(*made, 3)).resumed().applied_seq(), 3u) << "what was imported is stored";
  const auto once_more = Export(*made, 3);  // of a session that did not begin at turn 1
  ASSERT_TRUE(once_more.ok()) << once_more.status();
  const auto another = Import(*once_more, 'o', v1::VOLATILE);
  ASSERT_TRUE(another.ok()) << another.status();
  const v1::Response back = Resumed(Resume(*another, 3), 1);
  EXPECT_EQ(back.resumed().durability(), v1::VOLATILE) << back.ShortDebugString();
}

TEST_F(TransferTest, ABlobThatWasChangedAnywhereIsRefused) {
  const v1::Opened opened = Open();
  Run(1, 5);
  const std::string blob = *Export(opened, 1);
  std::mt19937 random(1);
  for (size_t i = 0; i < blob.size(); i += 1 + i / 64) {
    std::string changed = blob;
    changed[i] = static_cast<char>(changed[i] ^ (1 << random() % 8));
    const absl::Status status = Import(changed).status();
    EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsInvalidArgument(status)) << "byte " << i << ": " << status;
    EXPECT_THAT(std::string(Import(blob.substr(0, i)).status().message()), HasSubstr("blob: ")) << "cut at " << i;
  }
  EXPECT_EQ(world_->sessions(), 1u);
  EXPECT_EQ(world_->shard().sessions() + world_->shard(1).sessions(), 1u);
}

TEST_F(TransferTest, AHostForkIsAnsweredWhenTheDiskHasItAndSoIsItsRepetition) {
  for (uint64_t seed = 0; seed < 64; ++seed) {
    GoElsewhere();
    const v1::Opened opened = Open('h', v1::HOST);
    Run(1, 5);
    ASSERT_TRUE(Fork(ForkRequest(opened, 1)).ok());
    ForkCall again;
    Begin(ForkRequest(opened, 1), again);
    world_->Settle();
    EXPECT_EQ(again.answers, 0) << "the new token is not on the disk yet";
    Settle();
    ASSERT_EQ(again.answers, 1);
    const v1::Opened fork = OpenedOf(again.response);
    // The power goes while the session's next commit is under way.
    Send(Resume(fork, 1), 1);
    world_->Settle();
    std::mt19937_64 random(seed);
    store_.CutPower(random);
    Kill();
    const v1::Response back = Resumed(Resume(fork, 1), 1);
    ASSERT_TRUE(back.has_resumed()) << "seed " << seed << ": " << back.ShortDebugString();
    EXPECT_EQ(Undisturbed({5}) + Data(Run(2, 9, 1, 1)), Undisturbed({5, 9}));
  }
}

TEST_F(TransferTest, ATurnOnItsWayToTheDiskIsWaitedFor) {
  const v1::Opened opened = Open('h', v1::HOST);
  Send(Step(1, 5));
  world_->Settle();  // computed and written, not synced, not answered
  ForkCall early, late;
  Begin(ForkRequest(opened, 0, 'e'), early);
  Begin(ForkRequest(opened, 1, 'l'), late);
  world_->Settle();
  EXPECT_EQ(early.answers + late.answers, 0);
  Settle();
  EXPECT_TRUE(absl::IsFailedPrecondition(*early.status)) << "the state is that of turn 1 now";
  ASSERT_TRUE(late.status->ok()) << *late.status;
  const std::string first = Data(Take().result());
  ASSERT_TRUE(Resumed(Resume(OpenedOf(late.response), 1), 1).has_resumed());
  EXPECT_EQ(first + Data(Run(2, 9, 1, 1)), Undisturbed({5, 9}));
}

// Whoever waits for the disk is told when the session ends instead: by its operator, or because the disk failed.
class EndedOnTheWayTest : public TransferTest, public ::testing::WithParamInterface<bool> {
 protected:
  void End() {
    if (GetParam()) {
      ASSERT_TRUE(store_.Complete(absl::InternalError("I/O error")));
      return world_->Settle();
    }
    for (size_t i = 0; i < world_->shards(); ++i) {
      std::vector<v1::SessionInfo> sessions;
      world_->shard(i).List("", SIZE_MAX, &sessions);
      for (const v1::SessionInfo& info : sessions) {
        SessionId id;
        std::copy(info.session_id().begin(), info.session_id().end(), id.begin());
        EXPECT_TRUE(testing::CloseByOperator(world_->shard(i), id).ok());
      }
    }
    Settle();
  }
  std::string why() const { return GetParam() ? "the disk of the state directory failed: I/O error" : "an operator closed it"; }
};

TEST_P(EndedOnTheWayTest, Fork) {
  const v1::Opened opened = Open('h', v1::HOST);
  ForkCall call, again;
  Begin(ForkRequest(opened, 0), call);
  Begin(ForkRequest(opened, 0), again);  // repeated before the first is answered
  world_->Settle();
  ASSERT_EQ(call.answers + again.answers, 0);
  End();
  ASSERT_EQ(call.answers, 1);
  ASSERT_EQ(again.answers, 1);
  EXPECT_TRUE(absl::IsAborted(*call.status)) << *call.status;
  EXPECT_THAT(std::string(call.status->message()), HasSubstr(why()));
  EXPECT_THAT(std::string(again.status->message()), HasSubstr(why()));
}

TEST_P(EndedOnTheWayTest, Open) {
  Open('a');  // the store has room at hand then
  Lose();
  Send(OpenRequest('h', v1::HOST));
  world_->Settle();
  End();
  EXPECT_THAT(Take().reject().message(), HasSubstr(why()));
}

TEST_P(EndedOnTheWayTest, ResumeOnAnotherShard) {
  Start(3);
  const v1::Opened opened = Open('h', v1::HOST);
  Send(Resume(opened, 0), 1);
  Send(Resume(opened, 0), 2);  // waits behind it
  world_->Settle();
  ASSERT_TRUE(Quiet(1) && Quiet(2));
  End();
  EXPECT_THAT(Take(1).reject().message(), HasSubstr(why()));
  EXPECT_THAT(Take(2).reject().message(), HasSubstr(why()));
}

INSTANTIATE_TEST_SUITE_P(OperatorOrDisk, EndedOnTheWayTest, ::testing::Bool());

}  // namespace
}  // namespace lstm::server
