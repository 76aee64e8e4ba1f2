// SPDX-License-Identifier: MIT
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "server/metrics/exposer.h"
#include "server/store/slab.h"
#include "tests/client/server_process.h"
#include "tests/server/store/temp_dir.h"

// The numbers of a running server, as Prometheus gets them.
namespace lstm::testing {
namespace {

using ::testing::HasSubstr;
using server::Exposer;

std::string Get(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(port));
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char bytes[4096];
  for (ssize_t n; (n = read(fd, bytes, sizeof(bytes))) > 0;) answer.append(bytes, static_cast<size_t>(n));
  close(fd);
  return answer;
}

class MetricsTest : public ServerTest {
 protected:
  void SetUp() override {}
  void Serve(std::unique_ptr<server::SessionStore> store = nullptr, const std::function<void(server::GrpcServer::Options&)>& change = {}) {
    server::GrpcServer::Options options;
    options.listen = {"127.0.0.1:0"};
    options.shards = 2;
    options.loop.pin = false;
    if (change) change(options);
    auto started = server::GrpcServer::Start(options, Models(), std::move(store));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    client_ = Connect();
    auto exposer = Exposer::Start("127.0.0.1:0", {.shards = server_->counters(), .budget = &server_->budget(), .models = Models(), .callers = &server_->callers(), .serving = [this] { return server_->serving(); }, .not_recovered = 0});
    ASSERT_TRUE(exposer.ok()) << exposer.status();
    exposer_ = *std::move(exposer);
  }
  void TearDown() override { exposer_.reset(); }
  void Scrape() {
    text_ = Get(exposer_->port(), "/metrics");
    ASSERT_THAT(text_, HasSubstr("200 OK"));
  }
  // Of the line that begins with this name and these labels; -1: there is none.
  double Value(const std::string& series) const {
    std::istringstream lines(text_);
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with(series + " ")) return std::strtod(line.c_str() + series.size(), nullptr);
    }
    return -1;
  }
  // Until `series` is `value`: what a shard does after its answer left is seen soon.
  void Await(const std::string& series, double value) {
    for (Scrape(); Value(series) != value; Scrape()) std::this_thread::yield();
  }

  std::unique_ptr<Exposer> exposer_;
  std::string text_;
};

TEST_F(MetricsTest, KnownTrafficIsCounted) {
  Serve();
  Scrape();
  EXPECT_EQ(Value("lstm_sessions_live"), 0);
  EXPECT_EQ(Value("lstm_turns_total"), 0);
  EXPECT_EQ(Value("lstm_serving"), 1);
  auto stream = *client_->OpenStream();
  auto a = Open(*stream), b = Open(*stream);
  for (int turn = 0; turn < 5; ++turn) ASSERT_TRUE(a->Step(Words({5, 9, 22})).ok());
  EXPECT_FALSE(b->Step(Words({4711})).ok()) << "no such id";
  Reference({5, 9, 22, 3, 7, 80, 41});
  Await("lstm_predicts_total", 1);
  EXPECT_EQ(Value("lstm_sessions_live"), 2);
  EXPECT_EQ(Value("lstm_sessions_idle"), 0);
  EXPECT_EQ(Value("lstm_sessions_parked"), 0);
  EXPECT_EQ(Value("lstm_streams"), 1);
  EXPECT_EQ(Value("lstm_sessions_opened_total"), 2);
  EXPECT_EQ(Value("lstm_sessions_closed_total"), 0);
  EXPECT_EQ(Value("lstm_turns_total"), 5);
  EXPECT_EQ(Value("lstm_steps_total"), 15);
  EXPECT_EQ(Value("lstm_predict_steps_total"), 7);
  EXPECT_EQ(Value("lstm_rejects_total{reason=\"invalid\"}"), 1);
  EXPECT_EQ(Value("lstm_rejects_total{reason=\"gap\"}"), 0);
  EXPECT_EQ(Value("lstm_batch_rows_sum"), 22) << "every step is a row of a batch";
  EXPECT_EQ(Value("lstm_batch_rows_bucket{le=\"+Inf\"}"), Value("lstm_batch_rows_count"));
  EXPECT_EQ(Value("lstm_batch_rows_count"), Value("lstm_step_compute_seconds_count"));
  EXPECT_EQ(Value("lstm_turn_queue_seconds_count"), 5);
  EXPECT_EQ(Value("lstm_turn_compute_seconds_count"), 5);
  const size_t first = text_.find("lstm_turn_compute_seconds_bucket{le=\"");
  EXPECT_DOUBLE_EQ(std::strtod(text_.c_str() + text_.find('"', first) + 1, nullptr), 1e-5) << "from 10 microseconds";
  EXPECT_GT(Value("lstm_turn_compute_seconds_sum"), 0);
  EXPECT_EQ(Value("lstm_commit_seconds_count"), 0) << "nothing is stored";
  EXPECT_EQ(Value("nv_inference_request_success"), 6);
  EXPECT_GE(Value("nv_inference_queue_duration_us"), 0);
  EXPECT_EQ(Value("lstm_model_versions{model=\"french\",state=\"open\"}"), 1);
  EXPECT_GT(Value("lstm_session_bytes"), 1000);
  EXPECT_GT(Value("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(Value("process_open_fds"), 3);
  EXPECT_NEAR(Value("process_start_time_seconds"), static_cast<double>(time(nullptr)), 3600);
  for (const char* kind : {"kernel", "session_set_aside", "answer_lost", "session_not_recovered"}) {
    EXPECT_EQ(Value(std::string("lstm_faults_total{kind=\"") + kind + "\"}"), 0) << kind;
  }

  EXPECT_TRUE(a->Close().ok());
  Await("lstm_sessions_closed_total", 1);
  Await("lstm_sessions_live", 1);  // a scrape may fall between the two
  b->Release();
  a.reset();
  b.reset();
  stream.reset();
  Await("lstm_sessions_idle", 1);
  Await("lstm_streams", 0);
  EXPECT_EQ(Value("lstm_sessions_live"), 1);
}

TEST_F(MetricsTest, StoredSessionsCommitAndWaitForTheDisk) {
  server::TempDir state;
  auto slab = *server::Slab::Open({.directory = state.path(), .max_bytes = 64u << 20, .wait = absl::Seconds(30)});
  const bool disk = slab->survives_power_loss();
  Serve(std::move(slab));
  auto stream = *client_->OpenStream();
  v1::Open open;
  open.set_model("french");
  open.set_durability(disk ? v1::HOST : v1::PROCESS);
  auto session = *stream->Open(std::move(open), absl::Seconds(30));
  for (int turn = 0; turn < 4; ++turn) ASSERT_TRUE(session->Step(Words({5})).ok());
  Await("lstm_turns_total", 4);
  EXPECT_EQ(Value("lstm_commit_seconds_count"), 4);
  EXPECT_EQ(Value("lstm_sync_seconds_count"), disk ? 5 : 0) << "the Open too";
}

TEST_F(MetricsTest, ExpiredSessionsAreToldFromClosedOnes) {
  Serve(nullptr, [](server::GrpcServer::Options& options) { options.loop.shard.ttl_s = options.loop.shard.orphan_ttl_s = 1; });
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  Await("lstm_sessions_expired_total", 1);
  EXPECT_EQ(Value("lstm_sessions_closed_total"), 0);
  Await("lstm_sessions_live", 0);
}

TEST_F(MetricsTest, EveryMetricIsInTheDocumentsTable) {
  Serve();
  Scrape();
  std::ifstream file("docs/operations.md");
  const std::string page((std::istreambuf_iterator<char>(file)), {});
  std::istringstream lines(text_);
  int metrics = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("# TYPE ")) continue;
    const std::string name = line.substr(7, line.find(' ', 7) - 7);
    if (name.starts_with("exposer_")) continue;
    ++metrics;
    EXPECT_TRUE(page.find("`" + name + "`") != std::string::npos || page.find("`" + name + "{") != std::string::npos) << name;
  }
  EXPECT_GT(metrics, 25);
}

TEST_F(MetricsTest, OtherPathsAndAddressesAreRefused) {
  Serve();
  EXPECT_THAT(Get(exposer_->port(), "/"), HasSubstr("404"));
  EXPECT_THAT(Get(exposer_->port(), "/../../etc/passwd").substr(0, 20), ::testing::Not(HasSubstr("200")));
  for (const char* bad : {"8002", ":8002", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:8002s", "127.0.0.1:70000", "127.0.0.1:1,0.0.0.0:2", "example.org:1", "[::1:8002", "[1.2.3.4]:1", "unix:/x"}) {
    EXPECT_EQ(Exposer::Start(bad, {}).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_TRUE(Exposer::IsLocal("127.0.0.1:0") && Exposer::IsLocal("[::1]:8002") && Exposer::IsLocal("localhost:1"));
  EXPECT_FALSE(Exposer::IsLocal("0.0.0.0:8002") || Exposer::IsLocal("[::]:8002") || Exposer::IsLocal("10.0.0.1:8002"));
  const auto twice = Exposer::Start("127.0.0.1:" + std::to_string(exposer_->port()), {.shards = server_->counters(), .budget = &server_->budget(), .models = Models(), .callers = &server_->callers(), .serving = {}, .not_recovered = 0});
  EXPECT_EQ(twice.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("can not listen"));
}

}  // namespace
}  // namespace lstm::testing
