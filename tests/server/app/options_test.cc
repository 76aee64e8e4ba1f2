// SPDX-License-Identifier: MIT
#include "server/app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
    const bool looks_local = std::string(address).starts_with("127.");
    EXPECT_EQ(o.Validate().ok(), looks_local) << address;
    o.behind_proxy = true;
    EXPECT_TRUE(o.Validate().ok());
    o.behind_proxy = false;
    o.tls_cert = o.tls_key = "f";
    EXPECT_TRUE(o.Validate().ok());
  }
}

TEST(ServerOptionsTest, RefusalsNameTheOption) {
  ServerOptions o;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--models"));
  o.models = "m";
  o.max_batch = 5000;
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--max-batch is 5000"));
  o.max_batch = 1;
  o.tls_cert = "f";
  EXPECT_THAT(std::string(o.Validate().message()), HasSubstr("--tls-key"));
}

TEST(ServerOptionsTest, TheConfigFileSetsAndItsErrorsGiveTheLine) {
  ServerOptions o;
  ASSERT_TRUE(ReadConfig("listen: '127.0.0.1:1' listen: 'unix:/x'\nmax_sessions: 7 reflection: true", o).ok());
  EXPECT_EQ(o.listen.size(), 2u);
  EXPECT_EQ(o.max_sessions, 7u);
  EXPECT_TRUE(o.reflection);
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

}  // namespace
}  // namespace lstm::server
