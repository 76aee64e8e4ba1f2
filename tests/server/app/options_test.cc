// SPDX-License-Identifier: MIT
#include "server/app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

namespace lstm::server {
namespace {

using ::testing::HasSubstr;

TEST(ServerOptionsTest, LoopbackNeedsNothingMore) {
  ServerOptions o;
  o.models = "m";
  EXPECT_TRUE(o.Validate().ok());
  o.listen = {"[::1]:8001", "localhost:1", "unix:/run/x.sock"};
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  EXPECT_TRUE(o.OnlyLocal());
}

TEST(ServerOptionsTest, ElsewhereNeedsTlsOrAProxy) {
  for (const char* address : {"0.0.0.0:8001", "10.1.2.3:8001", "[::]:8001", "127.evil.example:1", "example.org:8001"}) {
    ServerOptions o;
    o.models = "m";
    o.listen = {"127.0.0.1:8001", address};
    EXPECT_FALSE(o.Validate().ok()) << address;
    o.behind_proxy = true;
    EXPECT_TRUE(o.Validate().ok());
    o.behind_proxy = false;
    o.tls_cert = o.tls_key = "f";
    EXPECT_TRUE(o.Validate().ok());
  }
}

TEST(ServerOptionsTest, HttpStaysOnThisMachineAndAwayFromOtherPorts) {
  ServerOptions o;
  o.models = "m";
  for (const char* address : {"", "127.0.0.1:0", "[::1]:8000", "localhost:80"}) {
    o.http_listen = address;
    EXPECT_TRUE(o.Validate().ok()) << address << o.Validate();
  }
  for (const char* address : {"8000", "example.org:80", "127.0.0.1", "127.0.0.1:80000", "::1:80", "127.0.0.1:8x", "unix:/x", "127.0.0.1:"}) {
    o.http_listen = address;
    EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--http-listen is '")) << address;
  }
  o.http_listen = "0.0.0.0:8000";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--http-beyond-loopback"));
  o.http_beyond_loopback = true;
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  o.http_listen = "127.0.0.1:8001";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--http-listen and --listen are both '127.0.0.1:8001'"));
  o.http_listen = "127.0.0.1:8002";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--http-listen and --metrics-listen are both"));
}

TEST(ServerOptionsTest, TokensDoNotTravelInTheClearBeyondThisMachine) {
  ServerOptions o;
  o.models = "m";
  o.token_file = "f";
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  o.http_listen = "0.0.0.0:8000";
  o.http_beyond_loopback = true;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("over which tokens would travel in the clear: say --behind-proxy"));
  o.behind_proxy = true;
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  o.behind_proxy = false;
  o.http_listen = "";
  o.listen = {"0.0.0.0:8001"};
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--tls-cert and --tls-key"));
  EXPECT_TRUE(ReadConfig("token_file: 'x'", o).ok());
  EXPECT_EQ(o.token_file, "x");
}

TEST(ServerOptionsTest, HttpIsNotServedBesideClientCertificatesUnlessAskedFor) {
  ServerOptions o;
  EXPECT_TRUE(o.ServesHttp());
  o.tls_client_ca = "f";
  EXPECT_FALSE(o.ServesHttp());
  o.http_anonymous = true;
  EXPECT_TRUE(o.ServesHttp());
  o.http_listen = "";
  EXPECT_FALSE(o.ServesHttp());
}

TEST(ServerOptionsTest, RefusalsNameTheOption) {
  ServerOptions o;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--models"));
  o.models = "m";
  o.max_batch = 5000;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--max-batch is 5000"));
  o.max_batch = 1;
  o.engine = "fast";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--engine is 'fast', expected auto, onednn or fused"));
  o.engine = "onednn";
  o.first_message_seconds = 0;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--first-message-seconds is 0, expected 1 to 86400"));
  o.first_message_seconds = 5;
  o.max_wait_ms = 3'600'001;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--max-wait-ms is 3600001, expected 0 to 3600000"));
  o.max_wait_ms = 0;
  o.tls_cert = "f";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--tls-key"));
}

TEST(ServerOptionsTest, VersionPoliciesMustFitTheLimit) {
  ServerOptions o;
  o.models = "m";
  o.version_policy = {"latest:3", "a=all", "b=specific:1,2,3,4"};
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  o.version_policy = {"a=latest:4"};
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("latest:4, expected less than --max-live-versions, which is 4"));
  o.version_policy = {"specific:1,2,3,4,5"};
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("5 versions"));
  o.version_policy = {"newest"};
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("'newest'"));
  o.version_policy = {"latest:1"};
  o.model_poll_seconds = -1;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--model-poll-seconds is -1"));
}

TEST(ServerOptionsTest, MetricsStayOnThisMachineUnlessTold) {
  ServerOptions o;
  o.models = "m";
  for (const char* local : {"", "127.0.0.1:0", "localhost:9", "[::1]:8002"}) {
    o.metrics_listen = local;
    EXPECT_TRUE(o.Validate().ok()) << o.Validate();
  }
  o.metrics_listen = "0.0.0.0:8002";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--metrics-beyond-loopback"));
  o.metrics_beyond_loopback = true;
  EXPECT_TRUE(o.Validate().ok());
  o.metrics_listen = "127.0.0.1:1,0.0.0.0:2";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--metrics-listen is '127.0.0.1:1,0.0.0.0:2'"));
}

TEST(ServerOptionsTest, TheConfigFileSetsAndItsErrorsGiveTheLine) {
  ServerOptions o;
  ASSERT_TRUE(ReadConfig("listen: '127.0.0.1:1' listen: 'unix:/x'\nmax_sessions: 7 reflection: true engine: 'fused'", o).ok());
  EXPECT_EQ(o.engine, "fused");
  EXPECT_EQ(o.listen.size(), 2u);
  EXPECT_EQ(o.max_sessions, 7u);
  EXPECT_TRUE(o.reflection);
  ASSERT_TRUE(ReadConfig("version_policy: 'all' version_policy: 'a=latest:2' model_poll_seconds: 0 max_live_versions: 9 metrics_listen: ''", o).ok());
  EXPECT_EQ(o.version_policy.size(), 2u);
  EXPECT_EQ(o.model_poll_seconds, 0);
  EXPECT_EQ(o.max_live_versions, 9u);
  EXPECT_EQ(o.metrics_listen, "");
  EXPECT_EQ(o.first_message_seconds, 5u);
  ASSERT_TRUE(ReadConfig("first_message_seconds: 9 max_wait_ms: 20", o).ok());
  EXPECT_EQ(o.first_message_seconds, 9u);
  EXPECT_EQ(o.max_wait_ms, 20u);
  EXPECT_EQ(o.window, 8u);
  EXPECT_THAT(std::string(ReadConfig("models: 'm'\nmax_sesions: 7", o).message()), HasSubstr("line 2"));
}

TEST(ServerOptionsTest, FlagsWinOverTheFile) {
  const char* line[] = {"lstm-server", "--models", "m", "--window", "5", "--listen", "127.0.0.1:9", "--listen", "unix:/x"};
  const CommandLine parsed = ParseCommandLine(9, const_cast<char**>(line));
  EXPECT_FALSE(parsed.exit);
  EXPECT_EQ(parsed.options.window, 5u);
  EXPECT_EQ(parsed.options.listen.size(), 2u);
}

struct Environment {
  Environment(const char* n, const char* value) : name(n) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name); }
  const char* name;
};

TEST(ServerOptionsTest, TheEnvironmentSetsWhatNoFlagDoes) {
  const Environment models("LSTM_MODELS", "m"), window("LSTM_WINDOW", "5"), shards("LSTM_SHARDS", "3"), proxy("LSTM_BEHIND_PROXY", "true"),
      listen("LSTM_LISTEN", "0.0.0.0:9");
  const char* line[] = {"lstm-server", "--window", "6"};
  const CommandLine parsed = ParseCommandLine(3, const_cast<char**>(line));
  EXPECT_FALSE(parsed.exit);
  EXPECT_EQ(parsed.options.models, "m");
  EXPECT_EQ(parsed.options.window, 6u);
  EXPECT_EQ(parsed.options.shards, 3u);
  EXPECT_TRUE(parsed.options.behind_proxy);
  EXPECT_EQ(parsed.options.listen, std::vector<std::string>{"0.0.0.0:9"});
  const Environment wrong("LSTM_MAX_BATCH", "many");
  EXPECT_EQ(ParseCommandLine(1, const_cast<char**>(line)).exit_code, 2);
}

TEST(ServerOptionsTest, TheEnvironmentWinsOverTheFile) {
  const std::string path = ::testing::TempDir() + "options_test.textproto";
  std::ofstream(path) << "models: 'file' window: 7 shards: 2";
  const Environment config("LSTM_CONFIG", path.c_str()), window("LSTM_WINDOW", "5");
  const char* line[] = {"lstm-server"};
  const CommandLine parsed = ParseCommandLine(1, const_cast<char**>(line));
  EXPECT_EQ(parsed.options.models, "file");
  EXPECT_EQ(parsed.options.window, 5u);
  EXPECT_EQ(parsed.options.shards, 2u);
}

}  // namespace
}  // namespace lstm::server
