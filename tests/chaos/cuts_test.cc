// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <mutex>
#include <thread>

#include "tests/chaos/judge.h"
#include "tests/chaos/process.h"
#include "tests/chaos/proxy.h"

// One short exchange, and its connection reset after every number of bytes that it can have in either direction. LSTM_STRIDE=n:
// every n-th alone, beginning at another one for every LSTM_SEED.
namespace lstm::testing {
namespace {

constexpr size_t kTurns = 6;

class CutsTest : public ::testing::Test {
 protected:
  CutsTest() : server_(LSTM_CHAOS_SERVER, directory_ / "state") {
    Judge judge;
    Turns turns(judge.model("telemetry"), Setting("LSTM_SEED", 1));
    while (turns_.size() < kTurns) {
      turns_.push_back(turns.Next());
      if (turns_.back().inputs_size() == 0) continue;
      auto* const values = turns_.back().mutable_inputs(0)->mutable_floats();
      values->Truncate(std::min(values->size(), 2 * 6));  // two steps at most: a short exchange
    }
    truth_ = judge.Answers("telemetry", turns_);
    EXPECT_TRUE(server_.Start()) << server_.log();
  }

  // Open, the turns in a window of 2, Close. What went wrong, or nothing.
  std::string Exchange(const std::string& address) const {
    client::ConnectOptions options;
    options.address = address;
    options.timeout = options.reconnect_timeout = absl::FromChrono(kPatience);
    const auto client = client::Client::Connect(options);
    if (!client.ok()) return "Connect: " + client.status().ToString();
    const auto stream = Must((*client)->OpenStream());
    v1::Open open;
    open.set_model("telemetry");
    open.set_window(2);
    auto session = stream->Open(std::move(open), absl::FromChrono(kPatience));
    if (!session.ok()) return "Open: " + session.status().ToString();
    std::string wrong;
    size_t got = 0;
    for (const v1::Step& turn : turns_) {
      const absl::Status sent = (*session)->Send(turn, [&](absl::StatusOr<v1::Result> result) {
        const size_t at = got++;
        const bool right = result.ok() && result->seq() == at + 1 && at < truth_.size() && BitsOf(*result) == truth_[at];
        if (!right) wrong += "turn " + std::to_string(at + 1) + ": " + (result.ok() ? "a wrong answer" : result.status().ToString());
      });
      if (!sent.ok()) return "Send: " + sent.ToString();
    }
    if (const absl::Status closed = (*session)->Close(absl::FromChrono(kPatience)); !closed.ok()) return "Close: " + closed.ToString();
    return got == kTurns ? wrong : "answers are missing";
  }

  TempDirectory directory_;
  Server server_;
  std::vector<v1::Step> turns_;
  std::vector<std::string> truth_;
};

TEST_F(CutsTest, AConnectionMayBeCutAtAnyByte) {
  uint64_t most[2] = {0, 0};
  for (int i = 0; i < 5; ++i) {
    Proxy proxy({server_.port()});
    proxy.CutNext(Proxy::kUp, UINT64_MAX);
    ASSERT_EQ(Exchange(proxy.address()), "");
    for (auto d : {Proxy::kUp, Proxy::kDown}) most[d] = std::max(most[d], proxy.passed(d));
  }
  const uint64_t stride = Setting("LSTM_STRIDE", 1);
  std::atomic<uint64_t> next{Setting("LSTM_SEED", 1) % stride}, cuts{0}, runs{0};
  std::mutex mutex;
  std::vector<std::string> failures;
  // A run is pauses, most of it: many at a time.
  std::vector<std::thread> workers;
  for (int w = 0; w < 16; ++w) {
    workers.emplace_back([&] {
      Proxy proxy({server_.port()});
      for (uint64_t n; (n = next.fetch_add(stride)) < most[0] + most[1];) {
        const auto direction = n < most[0] ? Proxy::kUp : Proxy::kDown;
        const uint64_t offset = n < most[0] ? n : n - most[0];
        proxy.CutNext(direction, offset);
        const std::string wrong = Exchange(proxy.address());
        ++runs;
        cuts += proxy.was_cut();
        if (wrong.empty()) continue;
        const std::lock_guard<std::mutex> lock(mutex);
        failures.push_back((direction == Proxy::kUp ? "up, byte " : "down, byte ") + std::to_string(offset) + ": " + wrong);
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  for (const std::string& failure : failures) ADD_FAILURE() << failure;
  EXPECT_GT(cuts, runs * 8 / 10) << "an exchange may be a few bytes shorter than the longest of five";
  EXPECT_EQ(Must(Connect(server_.address())->ListSessions()).total(), 0u);
  EXPECT_EQ(server_.Terminate(), 0);
  std::cout << "an exchange has up to " << most[0] << " bytes up and " << most[1] << " down; " << runs << " runs, " << cuts << " cut\n";
}

}  // namespace
}  // namespace lstm::testing
