// SPDX-License-Identifier: MIT
#include "client/cpp/session_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "client/cpp/error.h"

// A session's bookkeeping on the client, event by event, and then against a small server that loses connections.
namespace lstm::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Phase = SessionLog::Phase;

v1::Open AnOpen(uint32_t window = 4) {
  v1::Open open;
  open.set_client_nonce("0123456789abcdef");
  open.set_model("m");
  open.set_window(window);
  return open;
}

v1::Step Turn(int64_t value) {
  v1::Step step;
  step.add_inputs()->add_ints(value);
  return step;
}

v1::Response Opened(uint32_t window = 4, uint64_t applied = 0, v1::Durability durability = v1::PROCESS) {
  v1::Response response;
  v1::Opened* opened = response.mutable_opened();
  opened->set_session_id(std::string(16, 'i'));
  opened->set_resume_token(std::string(32, 't'));
  opened->set_window(window);
  opened->set_applied_seq(applied);
  opened->set_durability(durability);
  return response;
}

v1::Response Resumed(uint64_t applied, const std::string& digest = "", uint32_t window = 4) {
  v1::Response response;
  response.mutable_resumed()->set_applied_seq(applied);
  response.mutable_resumed()->set_state_digest(digest);
  response.mutable_resumed()->set_window(window);
  return response;
}

v1::Response Result(uint64_t seq, const std::string& digest = "", uint64_t durable = 0) {
  v1::Response response;
  response.mutable_result()->set_seq(seq);
  response.mutable_result()->set_state_digest(digest.empty() ? "digest" + std::to_string(seq) : digest);
  response.mutable_result()->set_durable_seq(durable);
  return response;
}

v1::Response Reject(uint64_t seq, v1::Reason reason, absl::StatusCode code = absl::StatusCode::kUnavailable, uint64_t expected = 0) {
  v1::Response response;
  response.mutable_reject()->set_seq(seq);
  response.mutable_reject()->set_reason(reason);
  response.mutable_reject()->set_code(static_cast<int>(code));
  response.mutable_reject()->set_message("refused");
  response.mutable_reject()->set_retry_after_ms(20);
  response.mutable_reject()->set_expected_seq(expected);
  return response;
}

// A log, what it did last as short words ("open", "resume 3", "step 4", "close"), and all answers so far.
struct Client {
  explicit Client(SessionLog made) : log(std::move(made)) {}
  static Client Live(uint32_t window = 4, size_t keep_turns = 0, v1::Durability durability = v1::PROCESS) {
    Client client(SessionLog(AnOpen(window), keep_turns));
    client.Connect();
    client.Take(Opened(window, 0, durability));
    return client;
  }
  template <typename Call>
  std::vector<std::string> Do(Call call) {
    SessionLog::Actions actions;
    call(actions);
    pause = actions.pause_ms;
    for (auto& answer : actions.answers) {
      answers.push_back((answer.missed ? "missed " : "") + std::to_string(answer.seq) + (answer.result.ok() ? "" : " failed"));
      statuses.push_back(answer.result.status());
    }
    requests = actions.requests;
    std::vector<std::string> words;
    for (const v1::Request& r : requests) {
      if (r.has_open()) words.push_back("open");
      if (r.has_resume()) words.push_back("resume " + std::to_string(r.resume().have_seq()));
      if (r.has_step()) words.push_back("step " + std::to_string(r.step().seq()));
      if (r.has_close()) words.push_back("close");
    }
    return words;
  }
  std::vector<std::string> Connect(uint32_t lane = 1) { return Do([&](auto& a) { log.Connected(lane, a); }); }
  std::vector<std::string> Lose() { return Do([&](auto& a) { log.Lost(absl::UnavailableError("gone"), a); }); }
  std::vector<std::string> Retry() { return Do([&](auto& a) { log.Retry(a); }); }
  std::vector<std::string> Close() { return Do([&](auto& a) { log.Close(a); }); }
  std::vector<std::string> Take(v1::Response response) { return Do([&](auto& a) { log.Take(response, a); }); }
  std::vector<std::string> Send(int n = 1) {
    return Do([&](auto& a) { for (int i = 0; i < n; ++i) log.Send(Turn(++sent), a); });
  }
  SessionLog log;
  int sent = 0;
  std::optional<uint32_t> pause;
  std::vector<v1::Request> requests;
  std::vector<std::string> answers;
  std::vector<absl::Status> statuses;
};
using Words = std::vector<std::string>;

TEST(SessionLogTest, CountsAcknowledgesAndKeepsToTheWindow) {
  Client c{SessionLog(AnOpen(2))};
  EXPECT_EQ(c.Connect(7), Words{"open"});
  EXPECT_EQ(c.requests[0].open().lane(), 7u);
  EXPECT_THAT(c.Send(2), IsEmpty()) << "turns wait for Opened";
  EXPECT_FALSE(c.log.room());
  EXPECT_EQ(c.Take(Opened(2)), (Words{"step 1", "step 2"}));
  EXPECT_THAT(c.Take(Result(1)), IsEmpty());
  EXPECT_TRUE(c.log.room());
  EXPECT_EQ(c.Send(), Words{"step 3"});
  EXPECT_EQ(c.requests[0].step().ack(), 1u);
  EXPECT_EQ(c.requests[0].step().lane(), 7u);
  c.Take(Result(1));  // a repeat
  c.Take(Result(2));
  c.Take(Result(3));
  EXPECT_THAT(c.answers, ElementsAre("1", "2", "3"));
}

TEST(SessionLogTest, TheOpenIsRepeatedWithItsNonceAndTheTurnsFromOne) {
  Client c{SessionLog(AnOpen())};
  EXPECT_EQ(c.Connect(), Words{"open"});
  c.Send(2);
  c.Lose();
  EXPECT_EQ(c.Connect(2), Words{"open"});
  EXPECT_EQ(c.requests[0].open().client_nonce(), "0123456789abcdef");
  EXPECT_EQ(c.requests[0].open().lane(), 2u);
  EXPECT_EQ(c.Take(Opened(4, 2)), (Words{"step 1", "step 2"})) << "applied before, under an Opened that was lost";
  c.Take(Result(1));
  c.Take(Result(2));
  EXPECT_THAT(c.answers, ElementsAre("1", "2"));
}

TEST(SessionLogTest, ResumesWithNothingSomeOrAllOfTheTurnsApplied) {
  for (uint64_t applied : {1u, 2u, 3u, 4u}) {
    Client c = Client::Live();
    c.Send(4);
    c.Take(Result(1));
    c.Lose();
    EXPECT_EQ(c.log.phase(), Phase::kResuming);
    EXPECT_EQ(c.Connect(9), Words{"resume 1"});
    EXPECT_EQ(c.requests[0].resume().have_digest(), "digest1");
    EXPECT_EQ(c.requests[0].resume().replay_from(), 0u);
    Words again;
    for (uint64_t seq = applied + 1; seq <= 4; ++seq) again.push_back("step " + std::to_string(seq));
    EXPECT_EQ(c.Take(Resumed(applied)), again);
    for (uint64_t seq = 2; seq <= 4; ++seq) EXPECT_THAT(c.Take(Result(seq)), IsEmpty());
    EXPECT_THAT(c.answers, ElementsAre("1", "2", "3", "4")) << applied;
    EXPECT_EQ(c.Send(), Words{"step 5"});
    EXPECT_EQ(c.requests[0].step().inputs(0).ints(0), 5);
  }
}

TEST(SessionLogTest, TurnsQueuedWhileDisconnectedFollowTheReplay) {
  Client c = Client::Live();
  c.Send(2);
  c.Lose();
  EXPECT_THAT(c.Send(2), IsEmpty());
  EXPECT_FALSE(c.log.room()) << "the window bounds them";
  c.Connect();
  c.Lose();  // before Resumed came
  EXPECT_EQ(c.Connect(), Words{"resume 0"});
  EXPECT_EQ(c.Take(Resumed(1)), (Words{"step 2", "step 3", "step 4"}));
  for (uint64_t seq = 1; seq <= 4; ++seq) c.Take(Result(seq));
  EXPECT_THAT(c.answers, ElementsAre("1", "2", "3", "4"));
}

TEST(SessionLogTest, WhatIsRefusedForTheMomentIsSentAgainOnceAllIsAnswered) {
  Client c = Client::Live();
  c.Send(3);
  EXPECT_THAT(c.Take(Reject(2, v1::RATE)), IsEmpty());
  EXPECT_FALSE(c.pause.has_value());
  c.Take(Reject(3, v1::GAP, absl::StatusCode::kOutOfRange, 2));
  EXPECT_FALSE(c.pause.has_value()) << "turn 1 is still due";
  EXPECT_THAT(c.Send(), IsEmpty()) << "it would be a gap";
  c.Take(Result(1));
  EXPECT_EQ(c.pause, 20u);
  EXPECT_EQ(c.Retry(), (Words{"step 2", "step 3", "step 4"}));
  EXPECT_EQ(c.requests[0].step().ack(), 1u);
  EXPECT_THAT(c.Retry(), IsEmpty()) << "a late timer";
}

TEST(SessionLogTest, ATransientRefusalIsForgottenWithItsConnection) {
  Client c = Client::Live();
  c.Send(2);
  c.Take(Reject(1, v1::RETRY));
  c.Lose();
  EXPECT_THAT(c.Retry(), IsEmpty());
  c.Connect();
  EXPECT_EQ(c.Take(Resumed(0)), (Words{"step 1", "step 2"}));
  c.Take(Result(1));
  c.Take(Reject(2, v1::RETRY));
  EXPECT_TRUE(c.pause.has_value());
  c.Lose();  // in the pause
  c.Connect();
  EXPECT_THAT(c.Retry(), IsEmpty());
  EXPECT_EQ(c.Take(Resumed(1)), Words{"step 2"});
}

TEST(SessionLogTest, AFinalRefusalFailsTheTurnAndThoseBehindItInOrder) {
  Client c = Client::Live();
  c.Send(4);
  c.Take(Reject(3, v1::INVALID, absl::StatusCode::kInvalidArgument));  // at once, while 1 and 2 are being computed
  EXPECT_THAT(c.answers, IsEmpty()) << "those in front are told first";
  EXPECT_FALSE(c.log.room());
  c.Take(Result(1));
  c.Take(Result(2));
  EXPECT_THAT(c.answers, ElementsAre("1", "2", "3 failed", "4 failed"));
  EXPECT_EQ(c.statuses[2].code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(c.statuses[3].code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(c.log.room()) << "the refusal of 4 is still to come, and must not be taken for a new 4's";
  c.Take(Reject(4, v1::GAP));
  EXPECT_TRUE(c.log.room());
  EXPECT_EQ(c.Send(), Words{"step 3"});
  c.Take(Result(3));
  EXPECT_EQ(c.answers.back(), "3");
}

TEST(SessionLogTest, GhostsEndWithTheirConnection) {
  Client c = Client::Live();
  c.Send(3);
  c.Take(Reject(2, v1::INVALID, absl::StatusCode::kInvalidArgument));
  c.Lose();
  EXPECT_THAT(c.answers, IsEmpty());
  c.Connect();
  EXPECT_EQ(c.Take(Resumed(0)), Words{"step 1"});
  c.Take(Result(1));
  EXPECT_THAT(c.answers, ElementsAre("1", "2 failed", "3 failed"));
  EXPECT_EQ(c.Send(), Words{"step 2"});
}

TEST(SessionLogTest, AnotherStreamsTakeoverEndsItHere) {
  Client c = Client::Live();
  c.Send(2);
  v1::Response fenced;
  fenced.mutable_fenced()->set_by_epoch(2);
  c.Take(fenced);
  EXPECT_THAT(c.answers, ElementsAre("1 failed", "2 failed"));
  EXPECT_TRUE(IsFenced(c.log.status()));
  EXPECT_EQ(c.log.status().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(c.log.room());
  c.Lose();
  EXPECT_THAT(c.Connect(), IsEmpty()) << "nothing more is sent for it";

  // The Fenced itself was lost, and the other client has sent turns since.
  Client d = Client::Live();
  d.Send(1);
  d.Lose();
  d.Connect();
  d.Take(Resumed(2));
  EXPECT_TRUE(IsFenced(d.log.status())) << d.log.status();
  EXPECT_THAT(d.answers, ElementsAre("1 failed")) << "never with another's answer";
}

TEST(SessionLogTest, AServerThatForgotAnswersIsDataLoss) {
  Client c = Client::Live();
  c.Send(3);
  c.Take(Result(1));
  c.Take(Result(2));
  c.Lose();
  c.Connect();
  c.Take(Resumed(1));
  EXPECT_TRUE(absl::IsDataLoss(c.log.status()));
  EXPECT_FALSE(IsDiverged(c.log.status()));
  EXPECT_THAT(c.answers, ElementsAre("1", "2", "3 failed"));

  Client d = Client::Live();
  d.Send(1);
  d.Take(Result(1));
  d.Lose();
  d.Connect();
  d.Take(Resumed(1, "another"));
  EXPECT_TRUE(IsDiverged(d.log.status()));

  Client e = Client::Live();  // while the connection lives
  e.Send(2);
  e.Take(Result(1));
  e.Take(Reject(2, v1::GAP, absl::StatusCode::kOutOfRange, 1));
  EXPECT_TRUE(absl::IsDataLoss(e.log.status()));
}

TEST(SessionLogTest, KeptTurnsAreComputedAgainAndCompared) {
  for (bool diverges : {false, true}) {
    Client c = Client::Live(2, 8);
    for (uint64_t seq = 1; seq <= 6; ++seq) {
      c.Send();
      c.Take(Result(seq, "", seq == 2 ? 2 : 0));
    }
    c.Send();
    c.Lose();
    EXPECT_EQ(c.Connect(), Words{"resume 6"});
    EXPECT_EQ(c.requests[0].resume().replay_from(), 3u) << "what is durable need not be kept";
    EXPECT_EQ(c.Take(Resumed(3, "digest3", 2)), (Words{"step 4", "step 5"})) << "within the window";
    EXPECT_EQ(c.requests[0].step().inputs(0).ints(0), 4);
    EXPECT_EQ(c.Take(Result(4)), Words{"step 6"});
    EXPECT_EQ(c.Take(Result(5)), Words{"step 7"});
    if (diverges) {
      c.Take(Result(6, "another"));
      EXPECT_TRUE(IsDiverged(c.log.status()));
      EXPECT_EQ(c.answers.back(), "7 failed");
      continue;
    }
    c.Lose();  // in the middle of it
    EXPECT_EQ(c.Connect(), Words{"resume 6"});
    EXPECT_EQ(c.Take(Resumed(5, "digest5", 2)), (Words{"step 6", "step 7"}));
    c.Take(Result(6));
    c.Take(Result(7));
    EXPECT_EQ(c.answers, (Words{"1", "2", "3", "4", "5", "6", "7"})) << "answers of before are not given twice";
  }
}

TEST(SessionLogTest, NoMoreTurnsAreKeptThanAskedFor) {
  Client c = Client::Live(4, 2);
  for (uint64_t seq = 1; seq <= 5; ++seq) {
    c.Send();
    c.Take(Result(seq));
  }
  c.Lose();
  c.Connect();
  EXPECT_EQ(c.requests[0].resume().replay_from(), 4u);
  c.Take(Resumed(2));
  EXPECT_TRUE(absl::IsDataLoss(c.log.status()));
}

TEST(SessionLogTest, AResumeIsTriedAgainOrEndsTheSession) {
  Client c = Client::Live();
  c.Send();
  c.Lose();
  c.Connect();
  c.Take(Reject(0, v1::ELSEWHERE));
  EXPECT_EQ(c.pause, 100u);
  EXPECT_EQ(c.Retry(), Words{"resume 0"});
  c.Take(Reject(0, v1::DRAINING));
  EXPECT_EQ(c.pause, 200u) << "it grows";
  EXPECT_EQ(RefusalOf(c.log.refusal())->reason, v1::DRAINING);
  c.Retry();
  EXPECT_EQ(c.Take(Resumed(0)), Words{"step 1"});
  EXPECT_TRUE(c.log.refusal().ok());
  c.Lose();
  c.Connect();
  c.Take(Reject(0, v1::EXPIRED, absl::StatusCode::kNotFound));
  EXPECT_EQ(c.log.phase(), Phase::kEnded);
  EXPECT_EQ(c.log.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(c.answers, ElementsAre("1 failed"));

  Client d = Client::Live();
  d.Send();
  d.Lose();
  d.Do([&](auto& a) { d.log.GiveUp(absl::UnavailableError("nobody there"), a); });
  EXPECT_THAT(d.answers, ElementsAre("1 failed"));
  EXPECT_EQ(d.log.status().message(), "nobody there");
}

TEST(SessionLogTest, CloseGoesAcrossAReconnect) {
  Client c = Client::Live();
  c.Send();
  EXPECT_THAT(c.Close(), IsEmpty()) << "once every turn is answered";
  EXPECT_FALSE(c.log.room());
  EXPECT_EQ(c.Take(Result(1)), Words{"close"});
  c.Lose();
  EXPECT_EQ(c.Connect(), Words{"resume 1"});
  EXPECT_EQ(c.Take(Resumed(1)), Words{"close"});
  c.Lose();
  c.Connect();
  c.Take(Reject(0, v1::NOT_FOUND, absl::StatusCode::kNotFound));
  EXPECT_EQ(c.log.phase(), Phase::kClosed) << "its Closed was lost";
  EXPECT_TRUE(c.log.status().ok());

  Client d = Client::Live();
  d.Lose();
  EXPECT_THAT(d.Close(), IsEmpty());
  d.Connect();
  d.Take(Reject(0, v1::NOT_FOUND, absl::StatusCode::kNotFound));
  EXPECT_EQ(d.log.phase(), Phase::kEnded) << "no Close was sent: it is gone for another reason";

  Client e = Client::Live(4, 0, v1::VOLATILE);
  EXPECT_EQ(e.Close(), Words{"close"});
  e.Lose();
  e.Do([&](auto& a) { e.log.GiveUp(absl::UnavailableError("elsewhere"), a); });
  EXPECT_EQ(e.log.phase(), Phase::kClosed) << "it ended with its server at the latest";
}

TEST(SessionLogTest, ASavedSessionGivesTheMissedAnswersFirst) {
  Client first = Client::Live();
  EXPECT_FALSE(SessionLog(AnOpen()).Save().ok());
  first.Send(2);
  first.Take(Result(1));
  const auto saved = first.log.Save();
  ASSERT_TRUE(saved.ok());

  Client c(*SessionLog::FromSaved(*saved));
  EXPECT_FALSE(c.log.room()) << "the seq of the next turn is not known yet";
  EXPECT_EQ(c.Connect(), Words{"resume 1"});
  EXPECT_EQ(c.requests[0].resume().session_id(), std::string(16, 'i'));
  EXPECT_EQ(c.requests[0].resume().resume_token(), std::string(32, 't'));
  EXPECT_EQ(c.requests[0].resume().have_digest(), "digest1");
  c.Take(Resumed(3));
  EXPECT_TRUE(c.log.missing());
  EXPECT_EQ(c.Send(), Words{"step 4"});
  c.Take(Result(2));
  c.Lose();
  EXPECT_EQ(c.Connect(), Words{"resume 2"});
  EXPECT_THAT(c.Take(Resumed(4)), IsEmpty());
  c.Take(Result(3));
  EXPECT_FALSE(c.log.missing());
  c.Take(Result(4));
  EXPECT_THAT(c.answers, ElementsAre("missed 2", "missed 3", "4"));

  Client d(*SessionLog::FromSaved(*saved));
  d.Connect();
  d.Take(Resumed(3));
  d.Lose();
  d.Connect();
  d.Take(Resumed(2));  // 3 was answered by nobody we know, and cannot be sent again
  EXPECT_TRUE(absl::IsDataLoss(d.log.status()));

  EXPECT_FALSE(SessionLog::FromSaved("rubbish").ok());
  EXPECT_THAT(std::string(SessionLog::FromSaved("").status().message()), HasSubstr("stream --save"));
}

TEST(SessionLogTest, AnswersThatCannotBeEndTheSession) {
  for (uint64_t seq : {2u, 3u}) {
    Client c = Client::Live();
    c.Send(2);
    if (seq == 3) {
      c.Take(Result(1));
      c.Take(Result(2));
    }
    c.Take(Result(seq));  // turn 1 was left out; or nothing was sent
    EXPECT_EQ(c.log.status().code(), absl::StatusCode::kInternal);
  }
  Client c(*SessionLog::FromSaved(*Client::Live().log.Save()));
  c.Connect();
  c.Take(Resumed(uint64_t{1} << 40));
  EXPECT_EQ(c.log.status().code(), absl::StatusCode::kInternal) << "what a hostile server makes us keep is bounded";
}

TEST(SessionLogTest, ASimpleSessionEndsWithItsConnection) {
  v1::Open open = AnOpen();
  open.set_simple(true);
  Client c{SessionLog(open)};
  c.Connect();
  c.Lose();
  EXPECT_EQ(c.Connect(), Words{"open"});
  c.Take(Opened());
  c.Send();
  c.Lose();
  EXPECT_THAT(c.answers, ElementsAre("1 failed"));
  EXPECT_EQ(c.log.status().code(), absl::StatusCode::kUnavailable);
}

// The server's side in a few lines: what it applied, what it still can answer, and two queues that a lost connection empties.
struct Server {
  explicit Server(uint32_t seed) : random(seed) {}
  bool Chance(int percent) { return std::uniform_int_distribution<int>(0, 99)(random) < percent; }
  std::string Digest(uint64_t seq) const {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < seq; ++i) sum = sum * 31 + static_cast<uint64_t>(applied[static_cast<size_t>(i)]);
    return std::to_string(sum);
  }
  v1::Response Answer(uint64_t seq, bool replayed) {
    v1::Response response = Result(seq, Digest(seq), durable);
    response.mutable_result()->set_replayed(replayed);
    response.mutable_result()->add_outputs()->add_ints(applied[static_cast<size_t>(seq - 1)]);
    return response;
  }
  void Handle(const v1::Request& request) {
    const uint64_t a = applied.size();
    if (request.has_open()) {
      attached = true;
      if (open) ++reopened;
      open = true;
      return out.push_back(Opened(4, a));
    }
    if (request.has_resume()) {
      if (Chance(10)) return out.push_back(Reject(0, v1::RETRY));
      const v1::Resume& resume = request.resume();
      if (closed) return out.push_back(Reject(0, v1::NOT_FOUND, absl::StatusCode::kNotFound));
      ASSERT_GE(resume.have_seq(), acked);
      if (resume.have_seq() > a && (resume.replay_from() == 0 || resume.replay_from() > a + 1)) {
        return out.push_back(Reject(0, v1::LOST, absl::StatusCode::kDataLoss));
      }
      acked = std::max(acked, std::min(resume.have_seq(), a));
      attached = true;
      out.push_back(Resumed(a, Digest(a)));
      for (uint64_t seq = resume.have_seq() + 1; seq <= a; ++seq) out.push_back(Answer(seq, true));
      return;
    }
    ASSERT_TRUE(attached) << "a Step or Close ahead of Opened or Resumed";
    if (request.has_close()) {
      closed = true;
      attached = false;
      v1::Response response;
      response.mutable_closed();
      return out.push_back(response);
    }
    const v1::Step& step = request.step();
    const int64_t value = step.inputs(0).ints(0);
    acked = std::max(acked, std::min(step.ack(), a));
    if (step.seq() > a + 1) return out.push_back(Reject(step.seq(), v1::GAP, absl::StatusCode::kOutOfRange, a + 1));
    ASSERT_GT(step.seq(), acked);
    ASSERT_LE(step.seq(), acked + 4);
    if (step.seq() <= a) {
      ASSERT_EQ(applied[static_cast<size_t>(step.seq() - 1)], value) << "another input under the same seq";
      return out.push_back(Answer(step.seq(), true));
    }
    if (Chance(5)) return out.push_back(Reject(step.seq(), v1::RETRY));
    if (value % 17 == 0) return out.push_back(Reject(step.seq(), v1::INVALID, absl::StatusCode::kInvalidArgument));
    applied.push_back(value);
    out.push_back(Answer(step.seq(), false));
  }
  void Lose(bool forget) {
    in.clear();
    out.clear();
    attached = false;
    if (forget) applied.resize(std::max<size_t>(static_cast<size_t>(durable), applied.size() - std::min<size_t>(applied.size(), 3)));
    if (forget) acked = std::min<uint64_t>(acked, applied.size());
    durable = std::max<uint64_t>(durable, applied.size() - std::min<size_t>(applied.size(), 3));
  }
  std::mt19937 random;
  std::vector<int64_t> applied;
  uint64_t acked = 0, durable = 0;
  bool open = false, attached = false, closed = false;
  int reopened = 0;
  std::deque<v1::Request> in;
  std::deque<v1::Response> out;
};

TEST(SessionLogTest, EveryTurnIsAnsweredOnceAndInOrderWhateverIsLost) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    Server server(seed);
    const bool forgetful = seed % 2 == 1;  // its restarts lose what is not durable
    SessionLog log(AnOpen(), forgetful ? 16 : 0);
    bool connected = false, pausing = false;
    std::deque<int64_t> due;  // turns sent, not answered
    int64_t sent = 0;
    int answered = 0;
    bool behind_failed = false;
    constexpr int kTurns = 40;
    const auto perform = [&](SessionLog::Actions& actions) {
      for (auto& request : actions.requests) server.in.push_back(std::move(request));
      if (actions.pause_ms) pausing = true;
      for (auto& answer : actions.answers) {
        ASSERT_FALSE(due.empty());
        const int64_t value = due.front();
        due.pop_front();
        ++answered;
        if (answer.result.ok()) {
          ASSERT_EQ(answer.result->outputs(0).ints(0), value);
          behind_failed = false;
        } else {
          ASSERT_TRUE(value % 17 == 0 || behind_failed) << answer.result.status();
          behind_failed = true;
        }
      }
    };
    int steps = 0;
    for (; !log.over() && steps < 20000; ++steps) {
      SessionLog::Actions actions;
      switch (std::uniform_int_distribution<int>(0, 19)(server.random)) {
        case 0:
          if (connected && server.Chance(40)) {
            server.Lose(forgetful && server.Chance(50));
            connected = pausing = false;
            log.Lost(absl::UnavailableError("gone"), actions);
          }
          break;
        case 1: case 2:
          if (!std::exchange(connected, true)) log.Connected(1, actions);
          break;
        case 3: case 4:
          if (std::exchange(pausing, false)) log.Retry(actions);
          break;
        case 5: case 6: case 7:
          if (sent < kTurns && log.room()) {
            due.push_back(++sent);
            log.Send(Turn(sent), actions);
          } else if (sent == kTurns) {
            log.Close(actions);
          }
          break;
        case 8: case 9: case 10: case 11: case 12: case 13:
          if (connected && !server.in.empty()) {
            const v1::Request request = server.in.front();
            server.in.pop_front();
            server.Handle(request);
          }
          break;
        default:
          if (connected && !server.out.empty()) {
            v1::Response response = server.out.front();
            server.out.pop_front();
            log.Take(response, actions);
          }
      }
      perform(actions);
      if (HasFatalFailure()) return;
    }
    ASSERT_TRUE(log.over()) << "it hangs";
    ASSERT_EQ(log.phase(), Phase::kClosed) << log.status();
    ASSERT_EQ(answered, kTurns);
    ASSERT_TRUE(due.empty());
  }
}

}  // namespace
}  // namespace lstm::client
