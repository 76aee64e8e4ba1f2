// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <csignal>
#include <iostream>
#include <thread>

#include "tests/chaos/crowd.h"
#include "tests/chaos/judge.h"
#include "tests/chaos/process.h"
#include "tests/chaos/proxy.h"

// Servers that stand still, and servers that are replaced while clients stream.
namespace lstm::testing {
namespace {

class UpgradeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { plans_ = Judge().Plans(64, 60); }
  // False where that does not come to be.
  static bool Until(const Crowd& crowd, const std::function<bool()>& so) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (!so() && !crowd.failed() && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return so() && !crowd.failed();
  }
  static bool Progress(const Crowd& crowd, uint64_t more) {
    return Until(crowd, [&, goal = crowd.answers() + more] { return crowd.answers() >= goal; });
  }
  static void NothingIsLeft(Crowd& crowd, const std::string& address) {
    crowd.Finish();
    EXPECT_EQ(crowd.violations(), "");
    EXPECT_EQ(Must(Connect(address)->ListSessions()).total(), 0u);
    std::cout << crowd.answers() << " turns answered, " << crowd.replayed() << " by a replay, " << crowd.sessions() << " sessions, " << crowd.lost()
              << " connections lost\n";
  }
  static inline std::vector<Plan> plans_;
};

TEST_F(UpgradeTest, AServerThatStandsStillIsLeftAndNothingIsLost) {
  TempDirectory directory;
  Server server(LSTM_CHAOS_SERVER, directory / "state");
  ASSERT_TRUE(server.Start()) << server.log();
  Crowd crowd({.address = server.address(), .host = !directory.in_memory(), .keepalive = absl::Seconds(1)}, plans_);
  for (int round = 0; round < 4; ++round) {
    ASSERT_TRUE(Progress(crowd, 1000)) << crowd.violations();
    server.process().Signal(SIGSTOP);
    // Every stream has given its connection up: the server stood still for longer than the keepalive.
    ASSERT_TRUE(Until(crowd, [&] { return crowd.AllDown(); })) << crowd.violations();
    if (round % 2 == 0) {
      server.Kill();
      ASSERT_TRUE(server.Start()) << server.log();
    } else {
      server.process().Signal(SIGCONT);  // it finds requests of streams that are gone, and has answers for nobody
    }
  }
  ASSERT_TRUE(Progress(crowd, 1000)) << crowd.violations();
  NothingIsLeft(crowd, server.address());
}

TEST_F(UpgradeTest, AServerIsReplacedWhileItsClientsStreamOn) {
  TempDirectory directory;
  const std::string binary = LSTM_CHAOS_SERVER;
  Server a(binary, directory / "state", {}, {"--log-level", "debug"}), b(binary, directory / "state", {}, {"--log-level", "debug"});
  ASSERT_TRUE(a.Start()) << a.log();
  Proxy proxy({a.port(), b.port()});  // stands for what finds the server that is up: a name, a load balancer
  const uint64_t rounds = Setting("LSTM_ROUNDS", 6), seats = Setting("LSTM_SEATS", 8);  // of each of eight streams
  Crowd crowd({.address = proxy.address(), .seats = seats, .host = !directory.in_memory()}, plans_);
  const uint64_t turns = 16 * seats * crowd.streams();
  uint64_t late = 0;
  Server *now = &a, *next = &b;
  for (uint64_t round = 0; round < rounds; ++round) {
    ASSERT_TRUE(Progress(crowd, turns)) << crowd.violations();
    if (round % 3 != 2) {
      next->Launch();
      ASSERT_TRUE(next->process().WaitForText("waiting for the state directory")) << next->log();
      ASSERT_TRUE(Progress(crowd, turns / 5)) << crowd.violations();
      EXPECT_EQ(now->Terminate(), 0) << now->log();
    } else {  // and without a successor that waits
      EXPECT_EQ(now->Terminate(), 0) << now->log();
      next->Launch();
    }
    ASSERT_TRUE(next->process().WaitForText(kListening)) << next->log();
    if (now->log().find("the drain's deadline passed") != std::string::npos) {
      ++late;
      std::cout << "round " << round << ": not all streams left by themselves\n" << now->log() << "\n";
    }
    std::swap(now, next);
  }
  EXPECT_EQ(late, 0u);
  ASSERT_TRUE(Progress(crowd, 1000)) << crowd.violations();
  NothingIsLeft(crowd, now->address());
  EXPECT_EQ(now->Terminate(), 0) << now->log();
}

}  // namespace
}  // namespace lstm::testing
