// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <iomanip>
#include <iostream>
#include <map>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "tests/chaos/crowd.h"
#include "tests/chaos/judge.h"
#include "tests/chaos/process.h"

// The promise (docs/protocol.md) against a real server that is killed with SIGKILL again and again, at any moment and at each
// of the instants that are named in it, while real clients stream. LSTM_KILLS: how often. LSTM_SEED: which inputs and moments.
namespace lstm::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// The count is of the passings since the server's start, up to `most`: some come with every turn, some once a session.
struct Point {
  const char* name;
  uint64_t most;
};
constexpr Point kPoints[] = {
    {"turn.computed", 300},      {"turn.answered", 300},       {"commit.before_answer", 300}, {"commit.after_answer", 300},
    {"commit.before_half", 300}, {"commit.before_state", 300}, {"commit.before_flip", 300},   {"commit.after_flip", 300},
    {"open.before_seal", 12},    {"open.after_seal", 12},      {"attach.before_epoch", 70},   {"attach.after_epoch", 70},
    {"attach.moving", 20},       {"close.before_wipe", 12},    {"close.after_wipe", 12},      {"grow.before_header", 1},
    {"grow.after_header", 1},     {"park.sealed", 30},         {"park.left", 30},           {"unpark.sealed", 30},
    {"unpark.removed", 20}};
constexpr uint64_t kMostAnswers = 400;      // between two kills at random moments
constexpr uint64_t kAnswersToPoint = 4000;  // a point that was not passed until then is given up

struct Campaign {
  std::string binary;
  std::map<std::string, std::string> environment;
  uint64_t kills = 100;
  std::vector<std::string> only;  // the points; empty: all of them, and random moments
};

struct Report {
  std::map<std::string, uint64_t> kills;
  uint64_t answers = 0;
  std::string violations;  // empty where the promise was kept
};

class Killer {
 public:
  Killer(const Campaign& run, Crowd& crowd, Server& server) : run_(run), crowd_(crowd), server_(server), random_(Setting("LSTM_SEED", 1) * 31 + 7) {
    for (const Point& point : kPoints) {
      if (run.only.empty() || std::count(run.only.begin(), run.only.end(), point.name) > 0) points_.push_back(point);
    }
  }

  void Go() {
    for (uint64_t k = 0; k < run_.kills && !crowd_.failed(); ++k) {
      const bool at_point = !run_.only.empty() || Below(2) == 0;
      at_point ? AtPoint(points_[next_++ % points_.size()]) : AtRandom();
    }
    // In the end a server that breaks no rule: seats that still wait for something get it, or are told that they will not.
    server_.Kill();
    if (!server_.Start({{"LSTM_MUTANT", "-1"}})) crowd_.Violated("the server does not start any more: " + server_.log());
  }

  std::map<std::string, uint64_t> kills;

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }

  // Until there are so many more answers, or the server died. True if it died.
  bool Watch(uint64_t more) {
    const uint64_t goal = crowd_.answers() + more;
    uint64_t seen = crowd_.answers();
    auto until = std::chrono::steady_clock::now() + kPatience;
    while (crowd_.answers() < goal && !crowd_.failed()) {
      if (server_.process().Ended()) return true;
      if (crowd_.answers() != std::exchange(seen, crowd_.answers())) until = std::chrono::steady_clock::now() + kPatience;
      if (std::chrono::steady_clock::now() > until) crowd_.Violated("no answer came for a long time");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return server_.process().Ended();
  }

  void AtRandom() {
    const uint64_t kind = Below(10);
    if (kind == 0) {  // while it takes its sessions back
      server_.Launch();
      server_.process().WaitForText("state directory");
    } else if (!server_.Start() || (kind > 1 && Watch(1 + Below(kMostAnswers)))) {
      return crowd_.Violated("the server died by itself: " + server_.log());
    }
    server_.Kill();
    ++kills[kind == 0 ? "as it starts" : kind == 1 ? "as it listens" : "at random"];
  }

  void AtPoint(const Point& point) {
    if (std::string_view(point.name).starts_with("grow")) {
      // A slot of a size that the store has not: there are four in each power of two, up to 16 MB.
      const uint64_t size = growths_++;
      if (size >= 28) return AtRandom();
      crowd_.WantRoom((4 + size % 4) << (15 + size / 4));
    }
    const std::string armed = absl::StrCat(point.name, ":", 1 + Below(point.most));
    server_.Start({{"LSTM_FAIL_POINT", armed}});
    const bool died = Watch(kAnswersToPoint);
    server_.Kill();
    const int status = server_.process().Wait();
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
      return crowd_.Violated(absl::StrCat("the server ended with status ", status, ": ", server_.log()));
    }
    ++kills[died ? point.name : "at random"];
  }

  const Campaign& run_;
  Crowd& crowd_;
  Server& server_;
  std::mt19937_64 random_;
  std::vector<Point> points_;
  size_t next_ = 0;
  uint64_t growths_ = 0;
};

class ChaosTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { plans_ = Judge().Plans(256, 60); }

  static Report Do(const Campaign& run) {
    const auto begin = std::chrono::steady_clock::now();
    TempDirectory directory;
    Server server(run.binary, directory / "state", run.environment, {"--park-after-seconds", "0.01"});
    Report report;
    if (!server.Start()) {
      report.violations = "the server does not start: " + server.log();
      return report;
    }
    Crowd::Options options;
    options.address = server.address();
    options.host = !directory.in_memory();
    options.seed = Setting("LSTM_SEED", 1);
    Crowd crowd(options, plans_);
    while (crowd.sessions() == 0 && !crowd.failed()) {
      if (server.process().Ended()) crowd.Violated("the server died by itself: " + server.log());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    server.Kill();
    Killer killer(run, crowd, server);
    killer.Go();
    crowd.Finish();
    if (!crowd.failed()) AfterAll(crowd, server);
    report.kills = killer.kills;
    report.answers = crowd.answers();
    report.violations = crowd.violations();
    uint64_t kills = 1;  // the one above
    for (const auto& [name, n] : report.kills) kills += n;
    std::cout << kills << " kills, " << crowd.answers() << " turns answered (" << crowd.replayed() << " by a replay), "
              << crowd.sessions() << " sessions, " << crowd.handed_over() << " handed over, " << crowd.lost() << " connections lost, " << std::fixed << std::setprecision(1)
              << std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() << " s, seed " << options.seed << "\n ";
    for (const auto& [name, n] : report.kills) std::cout << " " << name << " " << n;
    std::cout << "\n" << std::flush;
    return report;
  }

  // All sessions were closed: nothing is left, and the server ends as it should.
  static void AfterAll(Crowd& crowd, Server& server) {
    const auto left = Must(Connect(server.address())->ListSessions());
    if (left.total() > 0) crowd.Violated(absl::StrCat(left.total(), " sessions are left: ", left.sessions(0).ShortDebugString()));
    if (const int code = server.Terminate(); code != 0) crowd.Violated(absl::StrCat("exit code ", code));
    if (server.log().find("set aside") != std::string::npos) crowd.Violated("a session was set aside: " + server.log());
  }

  static inline std::vector<Plan> plans_;
};

TEST_F(ChaosTest, EveryAnswerComesOnceWithTheSameBitsWhateverMomentTheServerIsKilledAt) {
  const uint64_t kills = Setting("LSTM_KILLS", 100);
  const Report report = Do({LSTM_CHAOS_SERVER, {}, kills, {}});
  EXPECT_EQ(report.violations, "");
  EXPECT_GT(report.answers, 0u);
  if (kills < 100) return;
  for (const Point& point : kPoints) EXPECT_TRUE(report.kills.contains(point.name)) << point.name << " was never reached";
}

// The controls: the same run against a server that breaks one rule must find it out (server/session/mutant.h).
TEST_F(ChaosTest, AServerThatAnswersBeforeItCommitsIsFoundOut) {
  const Report report = Do({LSTM_CHAOS_SERVER_MUTANT, {{"LSTM_MUTANT", "25"}}, 20, {}});
  // The second, where the kill met a session that had just come back from the log of the parked.
  EXPECT_THAT(report.violations, AnyOf(HasSubstr("answers were lost"), HasSubstr("neither half is whole")));
}

TEST_F(ChaosTest, AServerThatWritesOverTheOneStateThatItHasIsFoundOut) {
  const std::vector<std::string> inside = {"commit.before_half", "commit.before_state", "commit.before_flip"};
  const Report report = Do({LSTM_CHAOS_SERVER_MUTANT, {{"LSTM_MUTANT", "23"}}, 20, inside});
  EXPECT_NE(report.violations.find("neither half is whole"), std::string::npos) << report.violations;
}

TEST_F(ChaosTest, TheControlsServerIsAGoodOneWhereNoRuleIsBroken) {
  const Report report = Do({LSTM_CHAOS_SERVER_MUTANT, {}, 5, {}});
  EXPECT_EQ(report.violations, "");
}

}  // namespace
}  // namespace lstm::testing
