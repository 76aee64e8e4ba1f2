// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/base/fail_point.h"
#include "tests/support/session_fixture.h"

// What happens at each failure point: the rows of docs/protocol.md's table, a test each, and what stands around them. Real
// shards over a store in memory that outlives them; the models are the bundled ones.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;
using testing::MemoryStore;
using testing::ShardWorld;
using testing::Sink;

struct Killed {};

class ResumeTest : public testing::SessionFixture {};

TEST_F(ResumeTest, Row1ConnectionLostBeforeTheStepArrives) {
  const v1::Opened opened = Open();
  EXPECT_EQ(opened.durability(), v1::PROCESS) << "the default where there is a store";
  std::string data = Data(Run(1, 5));
  Lose();
  const v1::Response back = Resumed(Resume(opened, 1));
  EXPECT_EQ(back.resumed().applied_seq(), 1u);
  EXPECT_EQ(back.resumed().epoch(), 2u);
  EXPECT_TRUE(Quiet()) << "nothing is sent again that was consumed";
  data += Data(Run(2, 9, 1));
  EXPECT_EQ(data, Undisturbed({5, 9}));
}

TEST_F(ResumeTest, Row2LostWhileComputing) {
  const v1::Opened opened = Open();
  Send(Step(1, 5));
  ASSERT_TRUE(world_->shard().has_work());
  // Another stream takes it before the turn is done: nothing of that turn is kept.
  EXPECT_EQ(Resumed(Resume(opened, 0), 1).resumed().applied_seq(), 0u);
  EXPECT_EQ(Take().fenced().by_epoch(), 2u);
  EXPECT_TRUE(Quiet()) << "no answer to the stream that was fenced";
  EXPECT_EQ(Data(Run(1, 5, 0, 1)), Undisturbed({5}));
  // The connection goes, the turn goes on: its answer is kept.
  Send(Step(2, 9, 1), 1);
  world_->shard(1).Detach(streams_[1]);
  sinks_[1].responses.clear();
  streams_[1] = world_->shard(1).Attach(&sinks_[1], "");
  Settle();
  EXPECT_EQ(Resumed(Resume(opened, 1), 1).resumed().applied_seq(), 2u);
  const v1::Result kept = Take(1).result();
  EXPECT_TRUE(kept.replayed());
  EXPECT_EQ(Undisturbed({5, 9}), Undisturbed({5}) + Data(kept));
}

TEST_F(ResumeTest, Row3LostAfterTheCommit) {
  const v1::Opened opened = Open();
  const v1::Result first = Run(1, 5);
  Lose();
  EXPECT_EQ(Resumed(Resume(opened, 0)).resumed().applied_seq(), 1u);
  const v1::Result again = Take().result();
  EXPECT_TRUE(again.replayed());
  EXPECT_EQ(again.seq(), 1u);
  EXPECT_EQ(Data(again), Data(first));
  EXPECT_EQ(again.state_digest(), first.state_digest());
  Send(Step(1, 5));
  Settle();
  EXPECT_EQ(Data(Take().result()), Data(first)) << "a resend gets the stored bytes too";
}

// Rows 4 to 6: kill -9 at each instant of a commit, here by an exception out of it.
class KillInCommitTest : public ResumeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(KillInCommitTest, TheTurnIsAppliedOnce) {
  const v1::Opened opened = Open();
  std::string data = Data(Run(1, 5));
  data += Data(Run(2, 9, 1));
  static const char* at;
  at = GetParam();
  core::fail_point_hook = [](const char* name) {
    if (std::strcmp(name, at) == 0) throw Killed();
  };
  EXPECT_THROW(Run(3, 22, 2), Killed);
  core::fail_point_hook = nullptr;
  Kill();
  const v1::Response back = Resumed(Resume(opened, 2));
  ASSERT_TRUE(back.has_resumed()) << back.ShortDebugString();
  const uint64_t applied = back.resumed().applied_seq();
  const bool flipped = std::string(GetParam()) == "commit.after_flip" || std::string(GetParam()) == "turn.answered";
  EXPECT_EQ(applied, flipped ? 3u : 2u);
  data += flipped ? Data(Take().result()) : Data(Run(3, 22, 2));
  data += Data(Run(4, 3, 3));
  EXPECT_EQ(data, Undisturbed({5, 9, 22, 3}));
}

INSTANTIATE_TEST_SUITE_P(Row4BeforeTheFlip, KillInCommitTest,
                         ::testing::Values("turn.computed", "commit.before_answer", "commit.after_answer", "commit.before_half"));
INSTANTIATE_TEST_SUITE_P(Row5InTheMiddleOfTheFlip, KillInCommitTest, ::testing::Values("commit.before_state", "commit.before_flip"));
INSTANTIATE_TEST_SUITE_P(Row6AfterTheFlip, KillInCommitTest, ::testing::Values("commit.after_flip", "turn.answered"));

TEST_F(ResumeTest, Row7KilledWhileOpening) {
  for (const char* point : {"open.before_seal", "open.after_seal"}) {
    static const char* at;
    at = point;
    Send(OpenRequest());  // the store grows first
    world_->Settle();
    core::fail_point_hook = [](const char* name) {
      if (std::strcmp(name, at) == 0) throw Killed();
    };
    EXPECT_THROW(Settle(), Killed);
    core::fail_point_hook = nullptr;
    Kill();
    store_.grow_by_ = 1;
    Send(OpenRequest());
    Settle();
    const v1::Opened opened = Take().opened();
    EXPECT_EQ(world_->sessions(), 1u) << "one session, at " << point;
    EXPECT_EQ(opened.epoch(), std::string(point) == "open.after_seal" ? 2u : 1u);
    EXPECT_EQ(Data(Run(1, 5)), Undisturbed({5}));
    SessionId id;
    std::copy(opened.session_id().begin(), opened.session_id().end(), id.begin());
    for (size_t i = 0; i < 2; ++i) testing::CloseByOperator(world_->shard(i), id).IgnoreError();
    store_ = {};
    Kill();
  }
}

TEST_F(ResumeTest, Row8AClientProcessDiesAndIsStartedAgain) {
  const v1::Opened opened = Open();
  Run(1, 5);
  const v1::Result second = Run(2, 9, 1), third = Run(3, 22, 1);
  Lose();
  EXPECT_EQ(Resumed(Resume(opened, 1)).resumed().applied_seq(), 3u);
  EXPECT_EQ(Data(Take().result()), Data(second)) << "what its predecessor had not consumed";
  EXPECT_EQ(Data(Take().result()), Data(third));
  Lose();
  EXPECT_EQ(Resumed(Resume(opened, 0)).reject().reason(), v1::ALREADY_ACKED) << "what was acknowledged is gone";
}

TEST_F(ResumeTest, Row9TwoClientsUseTheSameToken) {
  const v1::Opened opened = Open();
  Run(1, 5);
  EXPECT_EQ(Resumed(Resume(opened, 1), 1).resumed().epoch(), 2u);
  const v1::Fenced fenced = Take().fenced();
  EXPECT_EQ(fenced.lane(), 1u);
  EXPECT_EQ(fenced.by_epoch(), 2u);
  Send(Step(2, 100, 1));  // the first goes on all the same
  Settle();
  EXPECT_EQ(Take().reject().reason(), v1::NO_SESSION);
  EXPECT_EQ(Undisturbed({5}) + Data(Run(2, 9, 1, 1)), Undisturbed({5, 9}));
}

TEST_F(ResumeTest, Row10AServerThatWasStoppedWritesNothingOnceAnotherHasTheStore) {
  // One store has one server at a time, by the lock on its directory (slab_test); a session has one shard by the epoch.
  const v1::Opened opened = Open();
  Send(Step(1, 5));
  Send(Resume(opened, 0), 1);
  Settle();
  EXPECT_TRUE(Take().has_fenced());
  EXPECT_EQ(Take(1).resumed().applied_seq(), 0u);
  EXPECT_EQ(world_->shard(0).sessions(), 0u) << "the session moved with all that it is";
}

TEST_F(ResumeTest, Row11TheHostIsLostAndTheClientReplays) {
  const v1::Opened opened = Open();
  std::vector<v1::Result> results = {Run(1, 1), Run(2, 2, 1)};
  const MemoryStore replica = store_;  // two turns behind, when the host is lost
  for (int seq = 3; seq <= 4; ++seq) results.push_back(Run(static_cast<uint64_t>(seq), seq, static_cast<uint64_t>(seq) - 1));
  store_ = replica;
  Kill();
  EXPECT_EQ(Resumed(Resume(opened, 4, results[3].state_digest())).reject().reason(), v1::LOST) << "the client has answers that the server never gave";
  EXPECT_EQ(Resumed(Resume(opened, 4, results[3].state_digest(), 4)).reject().reason(), v1::LOST) << "turn 3 can not be had again";
  const v1::Response back = Resumed(Resume(opened, 4, results[3].state_digest(), 1));
  EXPECT_EQ(back.resumed().replay_from(), 3u);
  EXPECT_EQ(Run(3, 3).state_digest(), results[2].state_digest()) << "computed again: the digests tell that it is the same history";
  EXPECT_NE(Run(4, 99).state_digest(), results[3].state_digest()) << "or that it is not";
}

TEST_F(ResumeTest, Row12TheHostIsLost) {
  const v1::Opened opened = Open();
  Run(1, 5);
  store_ = MemoryStore();
  Kill();
  EXPECT_EQ(Resumed(Resume(opened, 1)).reject().reason(), v1::NOT_FOUND);
  v1::Opened foreign = opened;
  (*foreign.mutable_session_id())[0] = 'x';
  EXPECT_EQ(Resumed(Resume(foreign, 1)).reject().reason(), v1::ELSEWHERE) << "another server's session is not unknown, it is elsewhere";
}

TEST_F(ResumeTest, Row13BitRotInTheSlot) {
  const v1::Opened opened = Open();
  Run(1, 5), Run(2, 9, 1);
  world_.reset();
  for (const auto slot : store_.used()) {
    for (size_t at = 512; at < 4096; at += 64) slot[at] ^= std::byte{1};  // both halves
  }
  Start();
  EXPECT_EQ(Resumed(Resume(opened, 2)).reject().reason(), v1::LOST);
  EXPECT_EQ(Resumed(Resume(opened, 0)).reject().reason(), v1::LOST) << "never zeros";
}

TEST_F(ResumeTest, Row14TheDiskIsFull) {
  store_.max_slots_ = 1;
  const v1::Opened opened = Open();
  v1::Request second = OpenRequest('m');
  second.mutable_open()->set_lane(2);
  Send(second);
  Send(Step(1, 5));
  Settle();
  const v1::Response one = Take(), other = Take();
  const v1::Reject full = one.has_reject() ? one.reject() : other.reject();
  EXPECT_EQ(full.reason(), v1::SESSIONS);
  EXPECT_GT(full.retry_after_ms(), 0u);
  EXPECT_EQ(Data(one.has_result() ? one.result() : other.result()), Undisturbed({5})) << "those that live are not touched";
}

TEST_F(ResumeTest, Row15SigtermDrains) {
  const v1::Opened opened = Open();
  Send(Step(1, 5));
  world_->shard().Drain(1000);
  EXPECT_EQ(Take().draining().deadline_ms(), 1000u);
  Settle();
  EXPECT_EQ(Take().result().seq(), 1u) << "what runs goes on";
  v1::Request second = OpenRequest('m');
  second.mutable_open()->set_lane(2);
  Send(second);
  EXPECT_EQ(Take().reject().reason(), v1::DRAINING);
  Kill();
  EXPECT_EQ(Resumed(Resume(opened, 0)).resumed().applied_seq(), 1u) << "and nothing is lost by the end of the process";
  EXPECT_EQ(Data(Take().result()), Undisturbed({5}));
}

TEST_F(ResumeTest, Row16TheAnswerIsLostAndTheClientGone) {
  Open();
  for (uint64_t seq = 1; seq <= 8; ++seq) Run(seq, 5);  // none is acknowledged
  Send(Step(9, 5));
  Settle();
  EXPECT_EQ(Take().reject().reason(), v1::WINDOW) << "what is kept is bounded by the window";
  Lose();
  const uint64_t bytes = world_->budget().bytes();
  EXPECT_LT(bytes, 64u << 10);
  now_us_ += 1'000'000'000;
  for (size_t i = 0; i < 2; ++i) world_->shard(i).RunTimers();
  EXPECT_EQ(world_->budget().bytes(), 0u) << "and by its time to live";
  EXPECT_TRUE(store_.FreeSlotsAreWiped());
}

TEST_F(ResumeTest, ARepeatedOpenFindsItsSessionUntilSomethingWasAcknowledged) {
  const v1::Opened opened = Open();
  const v1::Result first = Run(1, 5);
  Lose();
  Send(OpenRequest(), 1);
  Settle();
  const v1::Opened again = Take(1).opened();
  EXPECT_EQ(again.session_id(), opened.session_id());
  EXPECT_EQ(again.applied_seq(), 1u);
  EXPECT_EQ(again.epoch(), 2u);
  EXPECT_NE(again.resume_token(), opened.resume_token());
  EXPECT_EQ(Data(Run(1, 5, 0, 1)), Data(first));
  EXPECT_EQ(Resumed(Resume(opened, 0)).reject().reason(), v1::NOT_FOUND) << "the old token is void";
  EXPECT_EQ(Resumed(Resume(again, 1)).resumed().applied_seq(), 1u);
  Send(OpenRequest(), 1);
  Settle();
  EXPECT_TRUE(Take(1).has_fenced());
  EXPECT_EQ(Take(1).reject().reason(), v1::NONCE_USED);
}

TEST_F(ResumeTest, AHostSessionAnswersWhenTheDiskHasIt) {
  Send(OpenRequest('h', v1::HOST));
  world_->Settle();
  EXPECT_TRUE(Quiet()) << "not opened before it is on the disk";
  Settle();
  EXPECT_EQ(Take().opened().durability(), v1::HOST);
  Send(Step(1, 5));
  Send(Step(2, 9));
  world_->Settle();
  EXPECT_TRUE(Quiet());
  EXPECT_EQ(store_.pending(), 1u) << "the second turn waits for the sync of the first";
  ASSERT_TRUE(store_.Complete());
  world_->Settle();
  std::string data = Data(Take().result());
  EXPECT_TRUE(Quiet());
  Settle();
  data += Data(Take().result());
  EXPECT_EQ(data, Undisturbed({5, 9}));
  store_.survives_power_loss_ = false;
  Lose();
  Send(OpenRequest('i', v1::HOST));
  EXPECT_EQ(Take().reject().reason(), v1::UNSUPPORTED);
}

TEST_F(ResumeTest, ADiskThatFailsEndsTheSessionAndKeepsWhatIsThere) {
  const v1::Opened opened = Open('h', v1::HOST);
  Send(Step(1, 5));
  world_->Settle();
  ASSERT_TRUE(store_.Complete(absl::InternalError("I/O error")));
  world_->Settle();
  EXPECT_EQ(Take().ended().reason(), v1::BROKEN);
  EXPECT_EQ(Resumed(Resume(opened, 0)).reject().reason(), v1::BROKEN);
  EXPECT_EQ(store_.used().size(), 1u);
}

TEST_F(ResumeTest, NothingIsToldToWhoeverDoesNotKnowTheToken) {
  const v1::Opened opened = Open();
  v1::Opened wrong = opened;
  (*wrong.mutable_resume_token())[31] ^= 1;
  const v1::Reject guess = Resumed(Resume(wrong, 0), 1).reject();
  wrong = opened;
  (*wrong.mutable_session_id())[15] ^= 1;
  const v1::Reject unknown = Resumed(Resume(wrong, 0), 1).reject();
  EXPECT_EQ(guess.SerializeAsString(), unknown.SerializeAsString()) << "one text for both";
  EXPECT_EQ(guess.reason(), v1::NOT_FOUND);
  EXPECT_EQ(Data(Run(1, 5)), Undisturbed({5})) << "and its holder is not disturbed";
}

// Ids and tokens at random, each right but for one bit, and both right from somebody else.
TEST_F(ResumeTest, NoWrongResumeOfAMillionGetsTheSessionOrAnotherAnswer) {
  const v1::Opened opened = Open();
  Sink sink;
  Stream* const others = world_->shard(1).Attach(&sink, "somebody else");
  std::mt19937_64 random(11);
  const auto any = [&](size_t n) {
    std::string out;
    while (n-- > 0) out.push_back(static_cast<char>(random()));
    return out;
  };
  const auto flip = [&](std::string& bytes) { bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8); };
  std::string answer;
  for (int i = 0; i < 1'000'000; ++i) {
    v1::StreamRequest message;
    v1::Resume* resume = message.add_requests()->mutable_resume();
    resume->set_lane(7);
    resume->set_session_id(i % 4 == 0 ? opened.session_id().substr(0, 4) + any(12) : opened.session_id());
    resume->set_resume_token(i % 4 == 1 ? any(32) : opened.resume_token());
    if (i % 4 == 2) flip(*resume->mutable_resume_token());
    // i % 4 == 3: id and token as they are, by another principal
    world_->shard(1).OnMessage(i % 4 == 3 ? others : streams_[1], message);
    world_->Settle();
    std::deque<v1::Response>& got = i % 4 == 3 ? sink.responses : sinks_[1].responses;
    ASSERT_EQ(got.size(), 1u);
    ASSERT_EQ(got.front().reject().reason(), v1::NOT_FOUND) << i;
    const std::string said = got.front().SerializeAsString();
    if (answer.empty()) answer = said;
    ASSERT_EQ(said, answer) << "one answer for all, " << i;
    got.clear();
  }
  EXPECT_EQ(Data(Run(1, 5)), Undisturbed({5})) << "its holder is not disturbed";
}

TEST_F(ResumeTest, StepsMayFollowTheirResumeAtOnce) {
  const v1::Opened opened = Open();
  std::string data = Data(Run(1, 5));
  Lose();
  Send(Resume(opened, 1), 1);  // to the other shard: it takes a moment
  Send(Step(2, 9, 1), 1);
  Send(Step(3, 22, 1), 1);
  EXPECT_TRUE(Quiet(1));
  Settle();
  EXPECT_TRUE(Take(1).has_resumed());
  data += Data(Take(1).result());
  data += Data(Take(1).result());
  EXPECT_EQ(data, Undisturbed({5, 9, 22}));
}

TEST_F(ResumeTest, AVolatileSessionSurvivesItsConnectionAndNotItsServer) {
  const v1::Opened opened = Open('v', v1::VOLATILE);
  const v1::Result first = Run(1, 5);
  Lose();
  EXPECT_EQ(Resumed(Resume(opened, 0), 1).resumed().applied_seq(), 1u);
  EXPECT_EQ(Data(Take(1).result()), Data(first));
  EXPECT_EQ(Undisturbed({5, 9}), Data(first) + Data(Run(2, 9, 1, 1)));
  Kill();
  EXPECT_EQ(Resumed(Resume(opened, 2)).reject().reason(), v1::NOT_FOUND);
}

TEST_F(ResumeTest, AnswersHaveTheRoomThatOpenNamed) {
  v1::Request request = OpenRequest();
  request.mutable_open()->set_answer_bytes(5000);
  Send(request);
  Settle();
  EXPECT_EQ(Take().opened().max_turn_answer_bytes(), 5000u);
  v1::Request step = Step(1, 5);
  for (int i = 1; i < 12; ++i) step.mutable_step()->mutable_inputs(0)->add_ints(i);  // 12 answers of 516 bytes
  Send(step);
  EXPECT_THAT(Take().reject().message(), HasSubstr("steps may be at most 9"));
  step.mutable_step()->mutable_inputs(0)->mutable_ints()->Truncate(5);
  Send(step);
  step.mutable_step()->set_seq(2);
  Send(step);
  Settle();
  EXPECT_EQ(Take().result().seq(), 1u);
  EXPECT_EQ(Take().reject().reason(), v1::WINDOW) << "the room is full of an answer that was not acknowledged";
  step.mutable_step()->set_ack(1);
  Send(step);
  Settle();
  EXPECT_EQ(Take().result().seq(), 2u);
}

TEST_F(ResumeTest, AModelThatIsGoneOrOthersNumericsAreSaid) {
  const v1::Opened opened = Open();
  Run(1, 5);
  world_.reset();
  std::vector<ServedModelPtr> others;
  for (const ServedModelPtr& model : Models()->open()) {
    if (model->name != "french") others.push_back(model);
  }
  world_ = std::make_unique<ShardWorld>(ShardWorld::Options{}, std::make_shared<const ModelRepository>(others), &store_, &now_us_);
  streams_[0] = world_->shard().Attach(&sinks_[0], "");
  const v1::Reject retired = Resumed(Resume(opened, 1)).reject();
  EXPECT_EQ(retired.reason(), v1::MODEL_RETIRED);
  EXPECT_THAT(retired.message(), HasSubstr("french"));
  Kill();
  EXPECT_EQ(Resumed(Resume(opened, 1)).resumed().applied_seq(), 1u) << "and nothing was lost by it";
}

TEST_F(ResumeTest, TimeGoesOnWhileTheServerIsAway) {
  const v1::Opened opened = Open();
  Run(1, 5);
  now_us_ += 3'000'000'000;  // far beyond its TTL
  Kill();
  now_us_ += 50'000'000;
  for (size_t i = 0; i < 2; ++i) world_->shard(i).RunTimers();
  EXPECT_EQ(world_->sessions(), 1u) << "a client gets a minute to come back";
  now_us_ += 11'000'000;
  for (size_t i = 0; i < 2; ++i) world_->shard(i).RunTimers();
  EXPECT_EQ(world_->sessions(), 0u);
  EXPECT_EQ(Resumed(Resume(opened, 1)).reject().reason(), v1::EXPIRED);
  EXPECT_TRUE(store_.FreeSlotsAreWiped());
}

}  // namespace
}  // namespace lstm::server
