// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <cstdlib>

#include "client/cpp/client.h"
#include "server/app/server_main.h"

// What a process does when it exits. gRPC's threads run to the very end, and one of them may be in the middle of a TLS handshake: OpenSSL has to
// be there as long as they are.
namespace lstm {
namespace {

// Registered before OpenSSL can register its own, and so called after that.
void ExitByWhetherOpenSslIsThere() {
  std::atexit([] { _exit(OPENSSL_init_crypto(0, nullptr) == 1 ? 0 : 1); });
}

void RunClient() {
  ExitByWhetherOpenSslIsThere();
  client::ConnectOptions options;
  options.address = "127.0.0.1:1";
  options.tls_ca = "none";
  options.timeout = absl::Milliseconds(1);
  const bool connected = client::Client::Connect(options).ok();
  std::exit(connected ? 3 : 2);
}

void RunServer() {
  ExitByWhetherOpenSslIsThere();
  char name[] = "lstm-server", probe[] = "--probe", listen[] = "--listen", address[] = "127.0.0.1:1";
  char* arguments[] = {name, probe, listen, address, nullptr};
  server::ServerMain(4, arguments);
  OPENSSL_init_crypto(OPENSSL_INIT_ADD_ALL_CIPHERS, nullptr);  // as a server with TLS does
  std::exit(2);
}

class ExitDeathTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }  // a new process, where nobody has used OpenSSL yet
};

TEST_F(ExitDeathTest, OpenSslOutlivesAClient) { EXPECT_EXIT(RunClient(), ::testing::ExitedWithCode(0), ""); }
TEST_F(ExitDeathTest, OpenSslOutlivesAServer) { EXPECT_EXIT(RunServer(), ::testing::ExitedWithCode(0), ""); }

}  // namespace
}  // namespace lstm
