// SPDX-License-Identifier: MIT
#include "tests/client/server_process.h"

#include "server/models/model_keeper.h"

namespace lstm::testing {

std::shared_ptr<const server::ModelRepository> ServerTest::Models() {
  static const auto models = *server::LoadAllModels("models/repository", 16);
  return models;
}

void ServerTest::Start(const std::function<void(server::GrpcServer::Options&)>& change) {
  client_.reset();
  server_.reset();
  server::GrpcServer::Options options;
  options.listen = {"127.0.0.1:0"};
  options.shards = 2;
  options.loop.pin = false;
  if (change) change(options);
  auto started = server::GrpcServer::Start(options, Models(), nullptr);
  ASSERT_TRUE(started.ok()) << started.status();
  server_ = *std::move(started);
  client_ = Connect();
}

std::unique_ptr<client::Client> ServerTest::Connect(absl::Duration reconnect, const std::string& token) {
  client::ConnectOptions options;
  options.address = server_->addresses()[0];
  options.token = token;
  options.timeout = absl::Seconds(30);
  options.reconnect_timeout = reconnect;
  auto client = client::Client::Connect(options);
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

std::unique_ptr<client::Session> ServerTest::Open(client::Stream& stream, const std::string& model, uint32_t window) {
  v1::Open open;
  open.set_model(model);
  open.set_window(window);
  auto session = stream.Open(std::move(open), absl::Seconds(30));
  EXPECT_TRUE(session.ok()) << session.status();
  return *std::move(session);
}

v1::Step ServerTest::Words(const std::vector<int>& ids) {
  v1::Step step;
  v1::Tensor* tensor = step.add_inputs();
  for (int id : ids) tensor->add_ints(id);
  return step;
}

std::string ServerTest::Reference(const std::vector<int>& ids) {
  v1::PredictRequest request;
  request.set_model("french");
  *request.mutable_inputs() = Words(ids).inputs();
  const auto response = client_->Predict(request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response->outputs(0).data();
}

}  // namespace lstm::testing
