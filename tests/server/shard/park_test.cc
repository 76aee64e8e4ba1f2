// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include "server/shard/parked_index.h"
#include "tests/support/session_fixture.h"

// Idle sessions leave memory and slot for the log, and come back when somebody wants them. tests/sim has the kills.
namespace lstm::server {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSecond = 1'000'000;

class ParkTest : public testing::SessionFixture {
 protected:
  testing::ShardWorld::Options Options(size_t shards) override {
    auto options = SessionFixture::Options(shards);
    options.shard.park_after_us = 60 * kSecond;
    options.max_sessions = max_sessions_;
    options.callers = &callers_;
    return options;
  }
  v1::Opened OpenFor(uint32_t ttl_s, char nonce = 'n', v1::Durability durability = v1::PROCESS) {
    v1::Request request = OpenRequest(nonce, durability);
    request.mutable_open()->set_ttl_seconds(ttl_s);
    Send(request);
    Settle();
    const v1::Opened opened = Take().opened();
    first_ = Data(Run(1, 5));
    v1::Request touch;  // with an acknowledgement: its Open will not be repeated
    touch.mutable_touch()->set_lane(1);
    touch.mutable_touch()->set_ack(1);
    Send(touch);
    return opened;
  }
  size_t parked() const { return world_->parked(); }
  void Become(const std::string& principal) {
    world_->shard().Detach(streams_[0]);
    streams_[0] = world_->shard().Attach(&sinks_[0], principal);
  }
  uint64_t max_sessions_ = 100;
  server::Callers callers_;  // everybody, unless a test says otherwise
  std::string first_;  // the answer to turn 1 of the session that was opened last
};

// A stream that was half-closed meanwhile ends once nothing is under way on it; no response comes that would have it looked at.
TEST_F(ParkTest, AStreamWhoseTouchBroughtASessionBackIsToldThatNothingIsUnderWay) {
  OpenFor(600);
  Wait(61);
  ASSERT_EQ(parked(), 1u);
  v1::Request touch;
  touch.mutable_touch()->set_lane(1);
  Send(touch);
  EXPECT_FALSE(streams_[0]->quiet());
  const int settled = sinks_[0].settled;
  Settle();
  EXPECT_EQ(parked(), 0u);
  EXPECT_TRUE(Quiet());
  EXPECT_TRUE(streams_[0]->quiet());
  EXPECT_GT(sinks_[0].settled, settled);
}

TEST_F(ParkTest, OneWhoseOpenMayBeRepeatedStays) {
  const v1::Opened opened = Open();
  Run(1, 5);
  Wait(61);
  EXPECT_EQ(parked(), 0u);
  Kill();
  Wait(61);
  EXPECT_EQ(parked(), 0u);
  EXPECT_EQ(Open().session_id(), opened.session_id());
}

TEST_F(ParkTest, AnIdleSessionLeavesItsSlotAndIsBackOnItsNextTurn) {
  for (const v1::Durability durability : {v1::PROCESS, v1::HOST}) {
    Start();
    OpenFor(3600, 'n', durability);
    std::string data = first_;
    Wait(59);
    EXPECT_EQ(parked(), 0u);
    Wait(2);
    ASSERT_EQ(parked(), 1u);
    EXPECT_EQ(world_->sessions(), 0u);
    EXPECT_EQ(world_->budget().bytes(), 0u) << "it costs its place in the index alone";
    EXPECT_EQ(world_->budget().sessions(), 0u);
    EXPECT_TRUE(store_.used().empty());
    EXPECT_TRUE(store_.FreeSlotsAreWiped());
    EXPECT_TRUE(Quiet()) << "its client is told nothing";
    Send(Step(2, 9, 1));  // two at once
    Send(Step(3, 22, 1));
    Settle();
    data += Data(Take().result());
    data += Data(Take().result());
    EXPECT_EQ(data, Undisturbed({5, 9, 22}));
    EXPECT_EQ(parked(), 0u);
    EXPECT_EQ(parked_.size(), 0u) << "one copy";
    Lose();
    Wait(61);
    EXPECT_EQ(parked(), 1u) << "likewise one that no stream holds";
    world_.reset();
    store_ = testing::MemoryStore();
    parked_ = testing::MemoryParked();
  }
}

TEST_F(ParkTest, ItsAnswersAreKeptAndItsPlaceInTheProtocol) {
  const v1::Opened opened = OpenFor(3600);
  const v1::Result second = Run(2, 9, 1);
  Wait(61);
  ASSERT_EQ(parked(), 1u);
  Send(Step(2, 9, 1));
  Settle();
  const v1::Result again = Take().result();
  EXPECT_TRUE(again.replayed());
  EXPECT_EQ(Data(again), Data(second));
  Wait(61);
  ASSERT_EQ(parked(), 1u);
  EXPECT_EQ(Resumed(Resume(opened, 1), 1).resumed().epoch(), 2u);
  EXPECT_EQ(Take().fenced().by_epoch(), 2u) << "the stream on whose lane it was";
  EXPECT_EQ(Data(Take(1).result()), Data(second));
}

TEST_F(ParkTest, AParkedSessionSurvivesTheServerAndItsTokenIsAsked) {
  const v1::Opened opened = OpenFor(3600);
  const std::string data = first_;
  Wait(61);
  Kill();
  ASSERT_EQ(parked(), 1u);
  v1::Opened wrong = opened;
  (*wrong.mutable_resume_token())[3] ^= 1;
  EXPECT_EQ(Resumed(Resume(wrong, 1), 1).reject().reason(), v1::NOT_FOUND);
  EXPECT_EQ(Resumed(Resume(opened, 1), 1).resumed().applied_seq(), 1u);
  EXPECT_EQ(data + Data(Run(2, 9, 1, 1)), Undisturbed({5, 9}));
}

TEST_F(ParkTest, ARecordThatIsDamagedIsLostAndNeverServed) {
  const v1::Opened opened = OpenFor(3600);
  Wait(61);
  std::string& bytes = parked_.bytes(1);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  Send(Step(2, 9, 1));
  Settle();
  EXPECT_EQ(Take().ended().reason(), v1::LOST);
  EXPECT_EQ(Resumed(Resume(opened, 1)).reject().reason(), v1::LOST);
  EXPECT_EQ(parked_.size(), 1u) << "it stays as evidence";
  EXPECT_TRUE(store_.used().empty());
}

TEST_F(ParkTest, ItsClientIsWarnedAndToldOfItsEnd) {
  const v1::Opened opened = OpenFor(3600);
  Wait(61);
  ASSERT_EQ(parked(), 1u);
  Wait(3600 - 61 - 60);
  EXPECT_EQ(parked(), 0u) << "back, so that its client is told in time";
  Wait(31);
  EXPECT_TRUE(Take().has_expiring());
  Wait(30);
  EXPECT_EQ(Take().ended().reason(), v1::EXPIRED);
  EXPECT_EQ(Resumed(Resume(opened, 1)).reject().reason(), v1::EXPIRED);
  // One that nobody holds ends in the log.
  const v1::Opened second = OpenFor(3600, 'o');
  Lose();
  Wait(61);
  ASSERT_EQ(parked(), 1u);
  Wait(3700);
  EXPECT_EQ(parked(), 0u);
  EXPECT_EQ(parked_.size(), 0u);
  EXPECT_EQ(Resumed(Resume(second, 1)).reject().reason(), v1::EXPIRED);
}

TEST_F(ParkTest, AnOperatorSeesAndClosesIt) {
  const v1::Opened opened = OpenFor(3600);
  Wait(61);
  std::vector<v1::SessionInfo> all;
  world_->shard().List("french", SIZE_MAX, &all);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(all[0].parked());
  EXPECT_TRUE(all[0].attached());
  EXPECT_NEAR(all[0].ttl_seconds(), 3600 - 61, 1);
  EXPECT_TRUE(world_->shard().Get(IdOf(opened))->parked());
  uint64_t applied = 0;
  absl::Status closed = absl::UnknownError("");
  world_->shard().CloseByOperator(IdOf(opened), &applied, [&](const absl::Status& status) { closed = status; });
  Settle();
  EXPECT_TRUE(closed.ok()) << closed;
  EXPECT_EQ(applied, 1u);
  EXPECT_EQ(Take().ended().reason(), v1::CANCELLED_BY_OPERATOR);
  EXPECT_EQ(parked() + parked_.size() + world_->sessions(), 0u);
}

TEST_F(ParkTest, ItIsItsOwnersAndCountsForItsOwner) {
  ASSERT_TRUE(callers_.Read("caller { name: 'a' certificate: 'a' limits { sessions: 2 } } caller { name: 'b' certificate: 'b' }").ok());
  const std::string a = Callers::PrincipalOf("a"), b = Callers::PrincipalOf("b");
  const auto account = callers_.AccountOf(a);
  Become(a);
  const v1::Opened one = OpenFor(3600, '1');
  Become(a);
  OpenFor(3600, '2');
  Become(a);
  Wait(61);
  ASSERT_EQ(parked(), 2u);
  EXPECT_EQ(account->sessions(), 2u) << "they are its sessions, wherever they are";
  EXPECT_EQ(account->session_bytes(), 0u) << "but take no memory";
  Send(OpenRequest('3', v1::PROCESS));
  Settle();
  const v1::Reject full = Take().reject();
  EXPECT_EQ(full.reason(), v1::SESSIONS);
  EXPECT_THAT(full.message(), ::testing::HasSubstr("'a' has its 2 sessions"));

  std::vector<v1::SessionInfo> listed;
  EXPECT_EQ(world_->shard().List("", SIZE_MAX, &listed, a), 2u);
  EXPECT_EQ(world_->shard().List("", SIZE_MAX, &listed, b), 0u);
  EXPECT_EQ(world_->shard().List("", SIZE_MAX, &listed), 2u);
  const auto theirs = [&](const std::string& principal) {
    absl::Status out = absl::UnknownError("");
    world_->shard().CheckOwner(IdOf(one), principal, [&](const absl::Status& status) { out = status; });
    Settle();
    return out;
  };
  EXPECT_TRUE(theirs(a).ok());
  EXPECT_TRUE(absl::IsNotFound(theirs(b)));
  EXPECT_EQ(parked(), 2u) << "nobody had to look at them for it";

  EXPECT_TRUE(Resumed(Resume(one, 1)).has_resumed());
  EXPECT_EQ(parked(), 1u);
  EXPECT_EQ(account->sessions(), 2u);
  EXPECT_GT(account->session_bytes(), 0u);
  v1::Request close;
  close.mutable_close()->set_lane(1);
  Send(close);
  Settle();
  EXPECT_TRUE(Take().has_closed());
  EXPECT_EQ(account->sessions(), 1u);

  Kill();  // whose they are is not known of what another process has parked, before somebody asks
  EXPECT_EQ(world_->shard(0).List("", SIZE_MAX, &listed, a) + world_->shard(1).List("", SIZE_MAX, &listed, a), 0u);
  EXPECT_EQ(parked(), 1u);
  const size_t home = world_->shard(0).parked() == 1 ? 0 : 1;
  listed.clear();
  world_->shard(home).List("", SIZE_MAX, &listed);
  SessionId id;
  std::copy(listed[0].session_id().begin(), listed[0].session_id().end(), id.begin());
  absl::Status asked;
  world_->shard(home).CheckOwner(id, b, [&](const absl::Status& status) { asked = status; });
  Settle();
  EXPECT_TRUE(absl::IsNotFound(asked)) << asked;
  EXPECT_EQ(world_->shard(home).List("", SIZE_MAX, &listed, a), 1u);
}

TEST_F(ParkTest, WhereTheLogIsFullItStaysInItsSlot) {
  parked_.most_ = 0;
  OpenFor(3600);
  const std::string data = first_;
  Wait(61);
  EXPECT_EQ(parked(), 0u);
  EXPECT_EQ(data + Data(Run(2, 9, 1)), Undisturbed({5, 9}));
}

TEST_F(ParkTest, WhereThereIsNoRoomTheLeastRecentlyUsedMakeIt) {
  max_sessions_ = 20;
  Start();
  std::vector<v1::Opened> opened;
  for (char k = 0; k < 20; ++k) {
    opened.push_back(OpenFor(3600, static_cast<char>('a' + k)));
    Lose();
    now_us_ += 100'000;
  }
  now_us_ += 2 * kSecond;
  Resumed(Resume(opened[0], 1), 1);  // the oldest is in use
  Send(OpenRequest('z', v1::PROCESS));
  Settle();
  const v1::Response refused = Take();
  EXPECT_EQ(refused.reject().reason(), v1::SESSIONS) << "for a moment";
  EXPECT_EQ(parked(), 16u);
  EXPECT_EQ(OpenFor(3600, 'z').durability(), v1::PROCESS);
  EXPECT_FALSE(world_->shard(1).Get(IdOf(opened[0]))->parked());
  EXPECT_TRUE(world_->shard().Get(IdOf(opened[1]))->parked());
  EXPECT_FALSE(world_->shard().Get(IdOf(opened[19]))->parked());
}

TEST_F(ParkTest, WhereMemoryIsFullItsTurnIsRefusedForAMomentAndItsCloseIsNot) {
  max_sessions_ = 1;
  Start();
  OpenFor(3600, 'a');
  const std::string data = first_;
  Wait(61);
  Send(OpenRequest('b'), 1);
  Settle();
  ASSERT_TRUE(Take(1).has_opened());
  Send(Step(2, 9, 1));
  Settle();
  EXPECT_EQ(Take().reject().reason(), v1::RETRY);
  ASSERT_EQ(parked(), 1u);
  v1::Request close;
  close.mutable_close()->set_lane(1);
  Send(close, 1);
  Settle();
  ASSERT_TRUE(Take(1).has_closed());
  EXPECT_EQ(data + Data(Run(2, 9, 1)), Undisturbed({5, 9}));
  Wait(61);
  Send(OpenRequest('c'), 1);
  Settle();
  Send(close);
  Settle();
  EXPECT_EQ(Take().closed().applied_seq(), 2u);
  EXPECT_EQ(parked_.size(), 0u);
  std::vector<v1::SessionInfo> some;
  EXPECT_EQ(world_->shard(1).List("", 0, &some), 1u);
  EXPECT_TRUE(some.empty());
}

TEST_F(ParkTest, WhereTheStoreIsFullItIsClosedAllTheSame) {
  store_.grow_by_ = store_.max_slots_ = 1;
  OpenFor(3600, 'a');
  Wait(61);
  Send(OpenRequest('b'), 1);
  Settle();
  ASSERT_TRUE(Take(1).has_opened());
  v1::Request close;
  close.mutable_close()->set_lane(1);
  Send(close);
  Settle();
  EXPECT_EQ(Take().closed().applied_seq(), 1u);
  EXPECT_EQ(parked() + parked_.size(), 0u);
}

TEST_F(ParkTest, RoomIsMadeByThoseThatCanBeParkedWhoeverIsOlder) {
  max_sessions_ = 40;
  Start();
  for (char k = 0; k < 30; ++k) {
    OpenFor(3600, static_cast<char>('A' + k), v1::VOLATILE);
    Lose();
  }
  now_us_ += kSecond;
  for (char k = 0; k < 10; ++k) {
    OpenFor(3600, static_cast<char>('a' + k));
    Lose();
  }
  now_us_ += 2 * kSecond;
  Send(OpenRequest('z', v1::PROCESS));
  Settle();
  EXPECT_EQ(Take().reject().reason(), v1::SESSIONS);
  EXPECT_EQ(parked(), 10u);
}

TEST_F(ParkTest, AfterARestartTheyAreParkedThoughNobodyCame) {
  const v1::Opened opened = OpenFor(3600);
  const std::string data = first_ + Data(Run(2, 9, 1));
  Kill();
  EXPECT_EQ(world_->sessions(), 1u);
  Wait(61);
  EXPECT_EQ(parked(), 1u);
  ASSERT_TRUE(Resumed(Resume(opened, 2)).has_resumed());
  EXPECT_EQ(data + Data(Run(3, 22, 2)), Undisturbed({5, 9, 22}));
}

TEST_F(ParkTest, ManyThatAreIdleAtOnceArePaced) {
  for (char k = 0; k < 80; ++k) {
    OpenFor(3600, static_cast<char>('0' + k));
    Lose();
  }
  Wait(61);
  EXPECT_GT(parked(), 0u);
  EXPECT_LT(parked(), 80u) << "steps go on in between";
  for (int i = 0; i < 5; ++i) {
    now_us_ = std::max(now_us_, world_->shard().next_timer_us());
    world_->shard().RunTimers();
    Settle();
  }
  EXPECT_EQ(parked(), 80u);
}

TEST_F(ParkTest, OneThatWasTakenWhileItsRecordWasWrittenIsParkedTheNextTime) {
  const v1::Opened opened = OpenFor(3600);
  now_us_ += 61 * kSecond;
  world_->shard().RunTimers();
  ASSERT_TRUE(Resumed(Resume(opened, 1), 1).has_resumed()) << "before the log has done anything";
  Settle();
  EXPECT_EQ(parked(), 0u);
  EXPECT_EQ(parked_.size(), 0u) << "what was written is not kept";
  Wait(61);
  EXPECT_EQ(parked(), 1u);
}

TEST_F(ParkTest, ForkAndExportFindIt) {
  const v1::Opened opened = OpenFor(3600);
  const std::string data = first_;
  Wait(61);
  v1::ForkSessionRequest request;
  request.set_session_id(opened.session_id());
  request.set_resume_token(opened.resume_token());
  request.set_at_seq(1);
  request.set_client_nonce(std::string(16, 'f'));
  v1::ForkSessionResponse response;
  absl::Status forked = absl::UnknownError("");
  world_->shard().Fork(request, "", &response, [&](const absl::Status& status) { forked = status; });
  Settle();
  ASSERT_TRUE(forked.ok()) << forked;
  EXPECT_EQ(world_->sessions(), 2u);
  v1::Opened fork;
  fork.set_session_id(response.session_id());
  fork.set_resume_token(response.resume_token());
  Wait(61);
  EXPECT_EQ(parked(), 1u) << "the fork, whose call may be repeated, stays";
  ASSERT_TRUE(Resumed(Resume(fork, 1), 1).has_resumed());
  EXPECT_EQ(data + Data(Run(2, 9, 1, 1)), Undisturbed({5, 9}));
}

TEST_F(ParkTest, AnEntryOfTheIndexHasAtMost128Bytes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's allocator counts nothing";
#endif
  constexpr size_t kEntries = 200'000;
  const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
  auto index = std::make_unique<ParkedIndex>();
  auto directory = std::make_unique<SessionDirectory>();
  std::mt19937_64 random(1);
  for (size_t i = 0; i < kEntries; ++i) {
    SessionId id;
    for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
    index->Add(id, {});
    directory->Move(id, 0);
  }
  const size_t bytes = (mallinfo2().uordblks + mallinfo2().hblkhd - before) / kEntries;
  EXPECT_LE(bytes, 128u - 16) << "16 are the log's own";
  EXPECT_GE(bytes, sizeof(SessionId) + sizeof(Parked)) << "the measure is one";
}

}  // namespace
}  // namespace lstm::server
