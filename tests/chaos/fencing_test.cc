// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <csignal>
#include <iostream>
#include <sstream>

#include "absl/strings/escaping.h"
#include "client/cpp/error.h"
#include "tests/chaos/judge.h"
#include "tests/chaos/process.h"

// Two processes and one session: who is stopped in the middle, loses it to another and wakes up again, is told so, and nothing
// of what it sends then is applied. LSTM_ROUNDS: how often.
namespace lstm::testing {
namespace {

std::string FromBase64(const std::string& text) {
  std::string bytes;
  EXPECT_TRUE(absl::WebSafeBase64Unescape(text, &bytes)) << text;
  return bytes;
}

struct Answer {
  uint64_t seq;
  std::string bits;
};

// What holder.cc writes.
class Holder {
 public:
  Holder(const std::string& address, uint64_t seed, bool host)
      : child_({LSTM_CHAOS_HOLDER, address, std::to_string(seed), host ? "host" : "process"}) {
    std::istringstream(WaitFor("handle ").substr(7)) >> handle_;
  }
  v1::Resume handle() const {
    v1::Resume resume;
    EXPECT_TRUE(resume.ParseFromString(FromBase64(handle_)));
    return resume;
  }
  void WaitForAnswers(size_t n) {
    while (answers.size() < n) WaitFor("answer ");
  }
  std::string WaitForEnd() { return WaitFor("ended "); }
  Child& process() { return child_; }

  std::vector<Answer> answers;

 private:
  std::string WaitFor(const std::string& what) {
    const auto line = child_.WaitForLine([&](const std::string& text) {
      if (text.starts_with("answer ")) {
        std::istringstream words(text.substr(7));
        std::string bits;
        words >> answers.emplace_back().seq >> bits;
        answers.back().bits = FromBase64(bits);
      }
      return text.starts_with(what);
    });
    if (!line) throw std::runtime_error("the holder did not say '" + what + "': " + child_.said().substr(0, 500));
    return *line;
  }
  Child child_;
  std::string handle_;
};

TEST(FencingTest, WhoWasAsleepWhileAnotherTookItsSessionIsToldSoAndChangesNothing) {
  const uint64_t rounds = Setting("LSTM_ROUNDS", 60), seed = Setting("LSTM_SEED", 1) * 1'000'000;
  Judge judge;
  TempDirectory directory;
  Server server(LSTM_CHAOS_SERVER, directory / "state");
  ASSERT_TRUE(server.Start()) << server.log();
  const auto client = Connect(server.address());
  const auto stream = Must(client->OpenStream());
  const v1::ModelInfo& model = judge.model("french");
  std::mt19937_64 random(seed);
  uint64_t missed_ones = 0, refused = 0, kills = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    Holder holder(server.address(), seed + round, round % 4 == 0 && !directory.in_memory());
    holder.WaitForAnswers(1 + random() % 50);
    holder.process().Signal(SIGSTOP);
    if (round % 8 == 7) {  // and the server dies in between
      server.Kill();
      ASSERT_TRUE(server.Start()) << server.log();
      ++kills;
    }
    // The handle is of the beginning. What was acknowledged since is told by the server: acks may still be on their way.
    v1::Resume handle = holder.handle();
    std::vector<Answer> got;
    const auto take = [&](absl::StatusOr<v1::Result> result) {
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) got.push_back({result->seq(), BitsOf(*result)});
    };
    std::unique_ptr<client::Session> session;
    for (int attempt = 0; session == nullptr && attempt < 100; ++attempt) {
      const v1::ListSessionsResponse list = Must(Connect(server.address())->ListSessions());
      for (const v1::SessionInfo& info : list.sessions()) {
        if (info.session_id() == handle.session_id()) handle.set_have_seq(info.acked_seq());
      }
      auto taken = stream->Resume(handle.SerializeAsString(), take, absl::FromChrono(kPatience));
      if (taken.ok()) {
        session = *std::move(taken);
      } else {
        ASSERT_EQ(client::RefusalOf(taken.status())->reason, v1::ALREADY_ACKED) << taken.status();
      }
    }
    ASSERT_NE(session, nullptr);
    const uint64_t applied = handle.have_seq() + got.size();  // by the first; from here on it is ours
    missed_ones += got.size();
    Turns ours(model, seed + rounds + round);
    std::vector<v1::Step> sent;
    const auto send = [&](size_t n) {
      for (size_t i = 0; i < n; ++i) {
        sent.push_back(ours.Next());
        ASSERT_TRUE(session->Send(sent.back(), take).ok());
      }
    };
    send(1 + random() % 10);
    holder.process().Signal(SIGCONT);
    send(1 + random() % 10);
    const std::string end = holder.WaitForEnd();
    ASSERT_TRUE(end.starts_with("ended ABORTED fenced ")) << end;
    send(1 + random() % 10);
    ASSERT_TRUE(session->Close().ok());

    Turns theirs(model, seed + round);
    std::vector<v1::Step> all;
    while (all.size() < applied) all.push_back(theirs.Next());
    all.insert(all.end(), sent.begin(), sent.end());
    const std::vector<std::string> truth = judge.Answers("french", all);
    for (size_t i = 0; i < holder.answers.size(); ++i) {
      ASSERT_EQ(holder.answers[i].seq, i + 1);
      ASSERT_LE(i + 1, applied) << "an answer to a turn that was not applied";
      ASSERT_EQ(holder.answers[i].bits, truth[i]) << "the first holder's turn " << i + 1;
    }
    uint64_t tried = 0;
    std::istringstream(end.substr(std::string("ended ABORTED fenced ").size())) >> tried;
    refused += tried - applied;
    ASSERT_EQ(got.size(), truth.size() - handle.have_seq());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].seq, handle.have_seq() + i + 1);
      ASSERT_EQ(got[i].bits, truth[handle.have_seq() + i]) << "the second holder's turn " << got[i].seq << ", first of its own " << applied + 1;
    }
  }
  EXPECT_EQ(Must(Connect(server.address())->ListSessions()).total(), 0u);
  EXPECT_GT(refused, 0u);
  std::cout << rounds << " rounds: every first holder was fenced; " << missed_ones << " answers were missed and came to the second, " << refused
            << " turns of the first were not applied; " << kills << " kills in between\n";
}

}  // namespace
}  // namespace lstm::testing
