// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "tests/client/server_process.h"

// The server as its clients meet it: raw messages, rubbish, streams that stall and vanish.
namespace lstm::testing {
namespace {

using ::testing::HasSubstr;

// A stream by hand, without the library's manners.
struct RawStream {
  explicit RawStream(const std::string& address) : channel(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())) {
    stub = v1::Prediction::NewStub(channel);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    call = stub->Stream(&context);
  }
  v1::StreamResponse Read() {
    v1::StreamResponse response;
    EXPECT_TRUE(call->Read(&response)) << "the stream ended";
    return response;
  }
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Prediction::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> call;
};

v1::StreamRequest SimpleOpen(uint32_t lane) {
  v1::StreamRequest message;
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_lane(lane);
  open->set_model("french");
  open->set_simple(true);
  return message;
}

TEST_F(ServerTest, ASimpleCallerNeedsNoBookkeeping) {
  RawStream raw(server_->addresses()[0]);
  v1::StreamRequest message = SimpleOpen(0);
  for (int id : {5, 9, 22}) {
    message.add_requests()->mutable_step()->add_inputs()->add_ints(id);
  }
  ASSERT_TRUE(raw.call->Write(message));
  raw.call->WritesDone();
  std::vector<v1::Response> responses;
  v1::StreamResponse response;
  while (raw.call->Read(&response)) responses.insert(responses.end(), response.responses().begin(), response.responses().end());
  EXPECT_TRUE(raw.call->Finish().ok()) << "half-closing lets the answers out and ends with OK";
  ASSERT_EQ(responses.size(), 4u);
  EXPECT_TRUE(responses[0].has_opened());
  std::string data;
  for (int i = 1; i < 4; ++i) data += responses[static_cast<size_t>(i)].result().outputs(0).data();
  EXPECT_EQ(data, Reference({5, 9, 22}));
}

TEST_F(ServerTest, LargeAnswersComeInMessagesThatAClientTakesByDefault) {
  RawStream raw(server_->addresses()[0]);
  v1::StreamRequest message;
  constexpr int kLanes = 12;
  for (uint32_t lane = 1; lane <= kLanes; ++lane) {
    message.MergeFrom(SimpleOpen(lane));
    v1::Step* step = message.add_requests()->mutable_step();
    step->set_lane(lane);
    v1::Tensor* tensor = step->add_inputs();
    for (int i = 0; i < 2000; ++i) tensor->add_ints(i % 129);  // a megabyte of answer each
  }
  ASSERT_TRUE(raw.call->Write(message));
  int results = 0;
  while (results < kLanes) {
    const v1::StreamResponse response = raw.Read();
    EXPECT_LE(response.ByteSizeLong(), 2u << 20);
    for (const auto& r : response.responses()) results += r.has_result();
  }
}

TEST_F(ServerTest, RubbishEndsItsOwnStreamAlone) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  ASSERT_TRUE(session->Step(Words({5})).ok());
  {
    // A message larger than the limit.
    RawStream raw(server_->addresses()[0]);
    v1::StreamRequest message = SimpleOpen(1);
    message.add_requests()->mutable_step()->add_inputs()->set_data(std::string(5 << 20, 'x'));
    raw.call->Write(message);
    v1::StreamResponse response;
    while (raw.call->Read(&response)) {}
    EXPECT_EQ(raw.call->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  {
    // Bytes that are no HTTP/2.
    sockaddr_in where{};
    where.sin_family = AF_INET;
    const std::string& address = server_->addresses()[0];
    where.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 20; ++i) {
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
      const std::string rubbish = i % 2 ? std::string(10'000, static_cast<char>(i)) : "GET / HTTP/1.1\r\n\r\n";
      EXPECT_GT(send(fd, rubbish.data(), rubbish.size(), MSG_NOSIGNAL), 0);
      close(fd);
    }
  }
  {
    RawStream raw(server_->addresses()[0]);
    v1::StreamRequest message;
    message.add_requests();
    raw.call->Write(message);
    EXPECT_EQ(raw.Read().responses(0).reject().reason(), v1::INVALID) << "an empty request";
    v1::StreamRequest resume;
    resume.add_requests()->mutable_resume()->set_lane(4);
    raw.call->Write(resume);
    EXPECT_EQ(raw.Read().responses(0).reject().reason(), v1::INVALID) << "an id of no bytes";
  }
  EXPECT_TRUE(session->Step(Words({9})).ok()) << "nobody else is disturbed";
}

TEST_F(ServerTest, AClientThatStopsReadingIsNotReadAndCostsABoundedAmount) {
  RawStream raw(server_->addresses()[0]);
  ASSERT_TRUE(raw.call->Write(SimpleOpen(1)));
  std::atomic<int> written{0};
  std::atomic<bool> blocked_writer_ended{false};
  std::thread writer([&] {
    v1::StreamRequest message;
    v1::Step* step = message.add_requests()->mutable_step();
    step->set_lane(1);
    for (int i = 0; i < 500; ++i) (i ? step->mutable_inputs(0) : step->add_inputs())->add_ints(4);
    while (raw.call->Write(message)) ++written;  // answers of 258 KB that nobody takes
    blocked_writer_ended = true;
  });
  // The server's own account must stay below its bounds whatever the client pours in: watched until it stands still.
  uint64_t bytes = 0, before = 1;
  for (int still = 0; still < 20; still = bytes == before ? still + 1 : 0) {
    before = bytes;
    auto stream = *client_->OpenStream();
    auto session = Open(*stream);
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(session->Step(Words({5})).ok()) << "an honest client beside it";
    ASSERT_TRUE(session->Close().ok());
    bytes = server_->budget().bytes();
    EXPECT_LT(bytes, 64u << 20);
  }
  raw.context.TryCancel();
  writer.join();
  EXPECT_TRUE(blocked_writer_ended);
}

TEST_F(ServerTest, SessionsOfVanishedStreamsAreCleanedUp) {
  for (int i = 0; i < 20; ++i) {
    RawStream raw(server_->addresses()[0]);
    ASSERT_TRUE(raw.call->Write(SimpleOpen(1)));
    raw.Read();
    raw.context.TryCancel();
  }
  // The end of a stream reaches the server a moment later: asked until it has.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (client_->ListSessions()->total() > 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(client_->ListSessions()->total(), 0u);
  EXPECT_EQ(server_->budget().bytes(), 0u);
}

TEST_F(ServerTest, StreamsAreSpreadOverTheShards) {
  std::vector<std::unique_ptr<client::Stream>> streams;
  std::vector<std::unique_ptr<client::Session>> sessions;
  for (int i = 0; i < 16; ++i) {
    streams.push_back(*client_->OpenStream());
    sessions.push_back(Open(*streams.back()));
    ASSERT_TRUE(sessions.back()->Step(Words({5})).ok());
  }
  EXPECT_EQ(client_->ListSessions()->total(), 16u) << "what every shard holds is listed";
}

TEST_F(ServerTest, OutOfDescriptorsHealsByItself) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<int> taken;
  rlimit low = limit;
  low.rlim_cur = 256;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int fd = dup(0); fd >= 0; fd = dup(0)) taken.push_back(fd);
  const auto channel = grpc::CreateChannel(server_->addresses()[0], grpc::InsecureChannelCredentials());
  EXPECT_FALSE(channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::milliseconds(300)));
  for (int fd : taken) close(fd);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(Connect() != nullptr) << "connections are accepted again";
}

// Connections and streams that begin and say no more (slow loris), while an honest client works.
TEST_F(ServerTest, PeersThatStallAreCutOffOnTimeAndNobodyNotices) {
  Start([](server::GrpcServer::Options& o) {
    o.handshake_ms = 500;
    o.loop.idle_stream_s = 1;
  });
  const size_t per_shape = std::getenv("LSTM_PEERS") != nullptr ? std::stoul(std::getenv("LSTM_PEERS")) : 50;
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  if (limit.rlim_max < 8 * per_shape + 200) GTEST_SKIP() << "at most " << limit.rlim_max << " descriptors may be open: too few for both ends of " << 4 * per_shape << " connections";
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings("\0\0\0\4\0\0\0\0\0", 9);
  const std::string half_headers("\0\0\100\1\4\0\0\0\1\203\206", 11);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  const std::string& address = server_->addresses()[0];
  where.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct Peer {
    size_t shape;
    int fd;
  };
  const std::string shapes[] = {"", preface.substr(0, 12), preface + settings, preface + settings + half_headers};
  std::vector<Peer> peers;
  for (size_t i = 0; i < 4 * per_shape; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
    const std::string& shape = shapes[i % 4];
    EXPECT_EQ(send(fd, shape.data(), shape.size(), MSG_NOSIGNAL), static_cast<ssize_t>(shape.size()));
    peers.push_back({i % 4, fd});
    if (i % 50 == 0) {
      ASSERT_TRUE(session->Step(Words({5})).ok());
    }
  }
  RawStream silent(address);  // and a stream without a message
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(session->Step(Words({5})).ok());
  for (const Peer& peer : peers) {
    const timeval patience{.tv_sec = 60, .tv_usec = 0};
    setsockopt(peer.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char bytes[4096];
    ssize_t n = 1;
    while (n > 0) n = recv(peer.fd, bytes, sizeof(bytes), 0);
    EXPECT_TRUE(n == 0 || errno == ECONNRESET) << "it is still connected; shape " << peer.shape;
    close(peer.fd);
  }
  v1::StreamResponse response;
  EXPECT_FALSE(silent.call->Read(&response));
  EXPECT_EQ(silent.call->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(session->Step(Words({9})).ok());
}

TEST_F(ServerTest, AStreamThatSaysNothingIsClosedSoonAndOneThatSpokeIsNot) {
  Start([](server::GrpcServer::Options& o) { o.loop.first_message_s = 1; });
  const auto unused = *client_->OpenStream();  // the library begins it with its first session
  RawStream spoke(server_->addresses()[0]);
  v1::StreamRequest message = SimpleOpen(1);
  message.add_requests()->mutable_close()->set_lane(1);
  ASSERT_TRUE(spoke.call->Write(message));
  for (bool closed = false; !closed;) {
    const v1::StreamResponse answers = spoke.Read();
    for (const auto& answer : answers.responses()) closed |= answer.has_closed();
  }
  RawStream silent(server_->addresses()[0]);
  v1::StreamResponse response;
  EXPECT_FALSE(silent.call->Read(&response));
  const grpc::Status status = silent.call->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("no message came"));
  ASSERT_TRUE(spoke.call->Write(SimpleOpen(1))) << "it has no session either, but has the time of an idle stream";
  EXPECT_TRUE(spoke.Read().responses(0).has_opened());
  EXPECT_TRUE(Open(*unused)->Step(Words({5})).ok());
}

TEST_F(ServerTest, AMessageOfManyRequestsIsAnsweredWholeAndInOrder) {
  RawStream raw(server_->addresses()[0]);
  v1::StreamRequest message = SimpleOpen(1);
  constexpr int kSteps = 3000;  // more than a round takes of one message
  for (int i = 0; i < kSteps; ++i) {
    v1::Step* step = message.add_requests()->mutable_step();
    step->set_lane(1);
    step->add_inputs()->add_ints(i % 129);
  }
  message.add_requests()->mutable_close()->set_lane(1);
  ASSERT_TRUE(raw.call->Write(message));
  raw.call->WritesDone();  // not taken for the end of it
  uint64_t seq = 0;
  bool closed = false;
  v1::StreamResponse answers;
  while (raw.call->Read(&answers)) {
    for (const auto& r : answers.responses()) {
      if (r.has_result()) {
        EXPECT_EQ(r.result().seq(), ++seq);
      }
      closed |= r.has_closed();
    }
  }
  EXPECT_TRUE(raw.call->Finish().ok());
  EXPECT_EQ(seq, static_cast<uint64_t>(kSteps));
  EXPECT_TRUE(closed);
}

TEST_F(ServerTest, DrainTellsTheClientsAndEndsWhenTheyDo) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  ASSERT_TRUE(session->Step(Words({5})).ok());
  std::thread drain([this] { EXPECT_TRUE(server_->Drain(60'000)); });
  while (!stream->draining()) std::this_thread::yield();
  EXPECT_TRUE(session->Step(Words({9})).ok()) << "what runs goes on";
  EXPECT_TRUE(session->Close().ok());
  session.reset();
  stream.reset();
  drain.join();
}

// Over a connection that another stream still holds: nobody would tell it to go, and the drain would wait for it.
TEST_F(ServerTest, AStreamThatComesWhileTheServerDrainsIsRefused) {
  RawStream raw(server_->addresses()[0]);
  ASSERT_TRUE(raw.call->Write(SimpleOpen(1)));
  EXPECT_TRUE(raw.Read().responses(0).has_opened());
  std::thread drain([this] { EXPECT_TRUE(server_->Drain(60'000)); });
  EXPECT_TRUE(raw.Read().responses(0).has_draining());
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    const auto late = raw.stub->Stream(&context);
    v1::StreamResponse response;
    EXPECT_FALSE(late->Read(&response));
    const grpc::Status status = late->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_THAT(status.error_message(), HasSubstr("the server is going away"));
  }
  raw.call->WritesDone();
  EXPECT_TRUE(raw.call->Finish().ok());
  drain.join();
}

TEST_F(ServerTest, UnixSocketsServeToo) {
  const std::string path = ::testing::TempDir() + "lstm-server-test." + std::to_string(getpid());
  Start([&](server::GrpcServer::Options& o) { o.listen = {"unix:" + path}; });
  EXPECT_EQ(client_->ListModels()->size(), Models()->open().size());
  server_.reset();
  EXPECT_NE(access(path.c_str(), F_OK), 0) << "the socket is taken away";
}

}  // namespace
}  // namespace lstm::testing
