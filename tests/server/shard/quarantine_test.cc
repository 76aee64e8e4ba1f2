// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <future>

#include "server/store/slab.h"
#include "tests/sim/hash_program.h"
#include "tests/support/shard_world.h"

// A session whose turn ends the process: real processes that die of it, over a real state directory.
namespace lstm::server {
namespace {

using testing::HashProgram;

void OnFault(int signal) {
  Shard::NoteCrash(signal);
  raise(signal);
}

v1::StreamRequest Open(uint32_t lane) {
  v1::StreamRequest message;
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_lane(lane);
  open->set_model("hash");
  open->set_client_nonce(std::string(16, static_cast<char>('a' + lane)));
  return message;
}

v1::StreamRequest Step(uint32_t lane, uint64_t seq, int input) {
  v1::StreamRequest message;
  v1::Step* step = message.add_requests()->mutable_step();
  step->set_lane(lane);
  step->set_seq(seq);
  step->add_inputs()->add_ints(input);
  return message;
}

class QuarantineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(::testing::TempDir()) / ("lstm-quarantine-" + std::to_string(getpid()));
    std::filesystem::remove_all(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // One life of a server, in a process of its own: two sessions by their nonces, turns on both in one batch, the second's a
  // crash. Returns how it ended, and what the lanes got.
  struct Life {
    int status = 0;
    std::string responses;
  };
  Life Live(int second_input) {
    int pipe_ends[2];
    EXPECT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      struct sigaction action {};
      action.sa_handler = OnFault;
      action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
      sigaction(SIGSEGV, &action, nullptr);
      uint64_t now = 1'000'000;
      auto slab = Slab::Open({.directory = directory_});
      auto suspects = Suspects::Open(directory_ / "suspects");
      if (!slab.ok() || !suspects.ok()) _exit(7);
      std::promise<void> grown;  // before, so that the shards need no other thread
      (*slab)->Grow(8000, [&](const absl::Status&) { grown.set_value(); });
      grown.get_future().wait();
      testing::ShardWorld::Options options;
      options.suspects = suspects->get();
      testing::ShardWorld world(options, testing::HashRepository(std::make_shared<HashProgram>()), slab->get(), &now);
      testing::Sink sink;
      Stream* stream = world.shard().Attach(&sink, "");
      const auto say = [&](const v1::StreamRequest& message) { world.shard().OnMessage(stream, message); };
      say(Open(1)), say(Open(2));
      say(Step(1, 1, 5));
      say(Step(2, 1, second_input));
      world.Settle();
      std::string out;
      for (const v1::Response& r : sink.responses) {
        out += r.has_opened() ? "opened " : r.has_result() ? (r.result().replayed() ? "replayed " : "result ") : v1::Reason_Name(r.reject().reason()) + ": " + r.reject().message() + " ";
      }
      for (const absl::Status& failure : world.failures()) out += "set aside: " + std::string(failure.message());
      static_cast<void>(!write(pipe_ends[1], out.data(), out.size()));
      _exit(0);
    }
    close(pipe_ends[1]);
    Life life;
    char buffer[4096];
    for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof(buffer))) > 0;) life.responses.append(buffer, static_cast<size_t>(n));
    close(pipe_ends[0]);
    waitpid(child, &life.status, 0);
    return life;
  }
  std::filesystem::path directory_;
};

TEST_F(QuarantineTest, TheThirdStartSetsTheSessionAsideAndTheServerLives) {
  const Life first = Live(HashProgram::kCrash);
  EXPECT_TRUE(WIFSIGNALED(first.status) && WTERMSIG(first.status) == SIGSEGV) << "it dies as it would have";
  const Life second = Live(HashProgram::kCrash);
  EXPECT_TRUE(WIFSIGNALED(second.status)) << "both are suspects now, and each is computed alone";
  const Life third = Live(7);
  EXPECT_TRUE(WIFEXITED(third.status)) << third.status;
  EXPECT_NE(third.responses.find("set aside: turn 1 of this session ended the server 2 times (signal 11)"), std::string::npos) << third.responses;
  // The innocent one goes on; the nonce of the one that is set aside opens another.
  EXPECT_NE(third.responses.find("opened opened"), std::string::npos) << third.responses;
  EXPECT_EQ(third.responses.find("set aside: ", third.responses.find("set aside: ") + 1), std::string::npos) << "one session alone";
}

TEST_F(QuarantineTest, AKillFromOutsideAccusesNobody) {
  const Life first = Live(6);
  EXPECT_TRUE(WIFEXITED(first.status));
  auto suspects = Suspects::Open(directory_ / "suspects");
  ASSERT_TRUE(suspects.ok());
  EXPECT_FALSE((*suspects)->Find(SessionId{}).has_value());
}

TEST(SuspectsTest, CountsTheSameTurnAndForgetsWhatWentWell) {
  const std::string path = ::testing::TempDir() + "/lstm-suspects-" + std::to_string(getpid());
  const SessionId a{1}, b{2};
  {
    auto suspects = Suspects::Open(path);
    ASSERT_TRUE(suspects.ok()) << suspects.status();
    (*suspects)->Note(a, 3, SIGSEGV);
    (*suspects)->Note(a, 3, SIGABRT);
    (*suspects)->Note(b, 9, SIGSEGV);
    (*suspects)->Note(b, 10, SIGSEGV);
  }
  auto suspects = Suspects::Open(path);
  ASSERT_TRUE(suspects.ok());
  EXPECT_EQ((*suspects)->Find(a)->crashes, 2u);
  EXPECT_EQ((*suspects)->Find(a)->signal, SIGABRT);
  EXPECT_EQ((*suspects)->Find(b)->crashes, 1u) << "another turn is another matter";
  (*suspects)->Clear(a);
  EXPECT_FALSE((*suspects)->Find(a).has_value());
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace lstm::server
