// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "client/cpp/client.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "server/rpc/grpc_server.h"

namespace lstm::testing {

// A whole server in this process on a free port, with the bundled models, and a client to it.
class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  // `change` is applied to the options of the test: two shards, not pinned.
  void Start(const std::function<void(server::GrpcServer::Options&)>& change);
  // `reconnect`: for how long its streams look for a server that is gone.
  std::unique_ptr<client::Client> Connect(absl::Duration reconnect = absl::Seconds(1), const std::string& token = "");
  std::unique_ptr<client::Session> Open(client::Stream& stream, const std::string& model = "french", uint32_t window = 0);
  static v1::Step Words(const std::vector<int>& ids);
  // The bits that `ids` give from the initial state, by Predict.
  std::string Reference(const std::vector<int>& ids);

  static std::shared_ptr<const server::ModelRepository> Models();
  std::unique_ptr<server::GrpcServer> server_;
  std::unique_ptr<client::Client> client_;
};

}  // namespace lstm::testing
