// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/client_interceptor.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "server/auth/token.h"
#include "tests/client/server_process.h"

// The server's refusal comes while the client writes: the write fails first, and only then the reader asks how the call ended.
// gRPC forgets the answer of a call that is cancelled in between.
namespace lstm::testing {
namespace {

using ::testing::HasSubstr;
using Point = grpc::experimental::InterceptionHookPoints;

// Holds the first message back until the reader knows that the call is over, and the reader until that message has failed.
struct Order {
  std::mutex mutex;
  std::condition_variable changed;
  bool over = false, failed = false, cancelled = false;
};

class Holding : public grpc::experimental::Interceptor {
 public:
  explicit Holding(Order* order) : order_(*order) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    std::unique_lock<std::mutex> lock(order_.mutex);
    if (methods->QueryInterceptionHookPoint(Point::PRE_SEND_CANCEL)) order_.cancelled = true;
    if (methods->QueryInterceptionHookPoint(Point::PRE_SEND_MESSAGE)) order_.changed.wait(lock, [&] { return order_.over; });
    if (methods->QueryInterceptionHookPoint(Point::POST_SEND_MESSAGE)) order_.failed = !methods->GetSendMessageStatus();
    order_.changed.notify_all();
    if (methods->QueryInterceptionHookPoint(Point::POST_RECV_MESSAGE)) {
      order_.over = true;
      order_.changed.notify_all();
      order_.changed.wait(lock, [&] { return order_.failed; });
      // Who cancels does it right then: bounded, for nobody should.
      order_.changed.wait_for(lock, std::chrono::milliseconds(200), [&] { return order_.cancelled; });
    }
    lock.unlock();
    methods->Proceed();
  }

 private:
  Order& order_;
};

class HoldingFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit HoldingFactory(Order* order) : order_(order) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override { return new Holding(order_); }

 private:
  Order* const order_;
};

class RefusedStreamTest : public ServerTest {
 protected:
  void SetUp() override {}
};

TEST_F(RefusedStreamTest, ItsClientIsToldThoughItsFirstMessageFailedBefore) {
  const auto callers = std::make_shared<server::Callers>();
  ASSERT_TRUE(callers->Read(absl::StrCat("caller { name: 'a' token_sha256: '", server::ToHex(server::HashOf("token of a")), "' }\n")).ok());
  Start([&](auto& options) { options.callers = callers; });
  Order order;
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> factories;
  factories.push_back(std::make_unique<HoldingFactory>(&order));
  client::Stream::Wiring wiring;
  wiring.channel = grpc::experimental::CreateCustomChannelWithInterceptors(server_->addresses()[0], grpc::InsecureChannelCredentials(), {}, std::move(factories));
  const auto stub = v1::Prediction::NewStub(wiring.channel);
  wiring.stub = stub.get();
  wiring.context = [] { return std::make_unique<grpc::ClientContext>(); };
  wiring.reconnect_timeout = absl::Seconds(1);
  const auto stream = client::Stream::Start(std::move(wiring));
  v1::Open open;
  open.set_model("french");
  const absl::Status status = stream->Open(open, absl::Seconds(30)).status();
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("a token is missing"));
  EXPECT_FALSE(order.cancelled) << "before the reader has asked";
}

}  // namespace
}  // namespace lstm::testing
