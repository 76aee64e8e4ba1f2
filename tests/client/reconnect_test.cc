// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "client/cpp/client.h"
#include "client/cpp/error.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"

// The library's streams against a server that dies, drains and comes back. A small one of its own: it adds numbers up, so
// that every answer tells all that was applied before it.
namespace lstm::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What a real server keeps on its disk.
struct Store {
  struct Session {
    std::vector<int64_t> sums;
    uint64_t acked = 0;
    std::shared_ptr<struct Wire> holder;
    uint32_t lane = 0;
    std::string token, nonce;
    v1::Durability durability;
  };
  std::mutex mutex;
  std::map<std::string, Session> sessions;
  std::multiset<std::string> affinities;  // of each stream
  int instance = 0;
};

struct Wire {
  std::mutex mutex;
  grpc::ServerReaderWriter<v1::StreamResponse, v1::StreamRequest>* rpc;
  void Write(v1::StreamResponse& message) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (rpc != nullptr && message.responses_size() > 0) rpc->Write(message);
    message.Clear();
  }
};

class AddingServer : public v1::Prediction::Service {
 public:
  explicit AddingServer(Store& store) : store_(store) {}

  grpc::Status Stream(grpc::ServerContext* context, grpc::ServerReaderWriter<v1::StreamResponse, v1::StreamRequest>* rpc) override {
    {
      const std::lock_guard<std::mutex> lock(store_.mutex);
      const auto [begin, end] = context->client_metadata().equal_range("lstm-affinity");
      for (auto it = begin; it != end; ++it) store_.affinities.insert(std::string(it->second.begin(), it->second.end()));
    }
    auto wire = std::make_shared<Wire>();
    wire->rpc = rpc;
    {
      const std::lock_guard<std::mutex> lock(wires_mutex_);
      wires_.push_back(wire);
    }
    std::map<uint32_t, std::string> lanes;
    v1::StreamRequest message;
    v1::StreamResponse out;
    while (rpc->Read(&message)) {
      std::unique_lock<std::mutex> lock(store_.mutex);
      for (const v1::Request& request : message.requests()) Handle(request, wire, lanes, out);
      lock.unlock();
      wire->Write(out);
    }
    const std::lock_guard<std::mutex> lock(wire->mutex);
    wire->rpc = nullptr;
    return grpc::Status::OK;
  }

  void Drain() {
    const std::lock_guard<std::mutex> lock(wires_mutex_);
    for (const auto& wire : wires_) {
      v1::StreamResponse message;
      message.add_responses()->mutable_draining()->set_resume_after_ms(1);
      wire->Write(message);
    }
  }

 private:
  void Handle(const v1::Request& request, const std::shared_ptr<Wire>& wire, std::map<uint32_t, std::string>& lanes, v1::StreamResponse& out) {
    const auto refuse = [&](uint32_t lane, uint64_t seq, absl::StatusCode code, v1::Reason reason) {
      v1::Reject* reject = out.add_responses()->mutable_reject();
      reject->set_lane(lane), reject->set_seq(seq), reject->set_code(static_cast<int>(code)), reject->set_reason(reason);
      reject->set_message(v1::Reason_Name(reason));
    };
    if (request.has_open()) {
      const v1::Open& open = request.open();
      std::string id;
      for (const auto& [key, session] : store_.sessions) id = session.nonce == open.client_nonce() ? key : id;
      if (id.empty()) id = std::to_string(store_.instance) + std::string(3, '.') + std::to_string(100'000'000'000 + static_cast<long long>(store_.sessions.size()));
      auto& session = store_.sessions[id];
      session.nonce = open.client_nonce();
      session.token = id + id;
      session.durability = open.durability() == v1::VOLATILE ? v1::VOLATILE : v1::PROCESS;
      Take(session, wire, open.lane());
      lanes[open.lane()] = id;
      v1::Opened* opened = out.add_responses()->mutable_opened();
      opened->set_lane(open.lane()), opened->set_session_id(id), opened->set_resume_token(session.token), opened->set_window(8);
      opened->set_applied_seq(session.sums.size()), opened->set_durability(session.durability);
    } else if (request.has_resume()) {
      const v1::Resume& resume = request.resume();
      const auto it = store_.sessions.find(resume.session_id());
      if (it == store_.sessions.end() || it->second.token != resume.resume_token()) {
        const bool ours = resume.session_id().substr(0, 1) == std::to_string(store_.instance);
        return refuse(resume.lane(), 0, ours ? absl::StatusCode::kNotFound : absl::StatusCode::kUnavailable, ours ? v1::NOT_FOUND : v1::ELSEWHERE);
      }
      Store::Session& session = it->second;
      Take(session, wire, resume.lane());
      lanes[resume.lane()] = it->first;
      session.acked = std::max(session.acked, resume.have_seq());
      v1::Resumed* resumed = out.add_responses()->mutable_resumed();
      resumed->set_lane(resume.lane()), resumed->set_applied_seq(session.sums.size()), resumed->set_window(8);
      resumed->set_durability(session.durability);
      for (uint64_t seq = resume.have_seq() + 1; seq <= session.sums.size(); ++seq) Answer(session, resume.lane(), seq, out);
    } else if (request.has_close()) {
      const auto it = lanes.find(request.close().lane());
      if (it == lanes.end()) return refuse(request.close().lane(), 0, absl::StatusCode::kFailedPrecondition, v1::NO_SESSION);
      store_.sessions.erase(it->second);
      lanes.erase(it);
      out.add_responses()->mutable_closed()->set_lane(request.close().lane());
    } else {
      const v1::Step& step = request.step();
      const auto it = lanes.find(step.lane());
      if (it == lanes.end() || !store_.sessions.contains(it->second) || store_.sessions[it->second].holder != wire) {
        return refuse(step.lane(), step.seq(), absl::StatusCode::kFailedPrecondition, v1::NO_SESSION);
      }
      Store::Session& session = store_.sessions[it->second];
      session.acked = std::max(session.acked, step.ack());
      if (step.seq() > session.acked + 8) return refuse(step.lane(), step.seq(), absl::StatusCode::kResourceExhausted, v1::WINDOW);
      if (step.seq() > session.sums.size() + 1) return refuse(step.lane(), step.seq(), absl::StatusCode::kOutOfRange, v1::GAP);
      if (++turns_ % 50 == 0) return refuse(step.lane(), step.seq(), absl::StatusCode::kUnavailable, v1::RETRY);
      if (step.seq() == session.sums.size() + 1) session.sums.push_back((session.sums.empty() ? 0 : session.sums.back()) + step.inputs(0).ints(0));
      Answer(session, step.lane(), step.seq(), out);
    }
  }
  static void Take(Store::Session& session, const std::shared_ptr<Wire>& wire, uint32_t lane) {
    if (session.holder && session.holder != wire) {
      v1::StreamResponse fenced;
      fenced.add_responses()->mutable_fenced()->set_lane(session.lane);
      session.holder->Write(fenced);
    }
    session.holder = wire;
    session.lane = lane;
  }
  static void Answer(const Store::Session& session, uint32_t lane, uint64_t seq, v1::StreamResponse& out) {
    const int64_t sum = session.sums[static_cast<size_t>(seq - 1)];
    v1::Result* result = out.add_responses()->mutable_result();
    result->set_lane(lane), result->set_seq(seq), result->set_state_digest(std::to_string(sum));
    result->add_outputs()->add_ints(sum);
  }

  Store& store_;
  int turns_ = 0;
  std::mutex wires_mutex_;
  std::vector<std::shared_ptr<Wire>> wires_;
};

class ReconnectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    address_ = "unix:" + ::testing::TempDir() + "lstm-reconnect-test." + std::to_string(getpid());
    Start();
    Connect(absl::Seconds(60));
  }
  void TearDown() override { Kill(); }
  void Start() {
    service_ = std::make_unique<AddingServer>(store_);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_TRUE(server_ != nullptr);
  }
  void Kill() {
    if (!server_) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  // As after a death of the process: what was volatile is gone, and the ids of this instance are others.
  void Restart() {
    Kill();
    ++store_.instance;
    std::erase_if(store_.sessions, [](const auto& s) { return s.second.durability == v1::VOLATILE; });
    for (auto& [id, session] : store_.sessions) session.holder = nullptr;
    Start();
  }
  void Connect(absl::Duration reconnect) {
    ConnectOptions options;
    options.address = address_;
    options.reconnect_timeout = reconnect;
    options.on_event = [this](const StreamEvent& event) { ++(event.kind == StreamEvent::Kind::kLost ? lost_ : resumed_); };
    auto client = Client::Connect(options);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }
  static v1::Step Number(int64_t n) {
    v1::Step step;
    step.add_inputs()->add_ints(n);
    return step;
  }
  static int64_t Sum(const absl::StatusOr<v1::Result>& result) {
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->outputs(0).ints(0) : -1;
  }

  Store store_;
  std::string address_;
  std::unique_ptr<AddingServer> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
  std::atomic<int> lost_{0}, resumed_{0};
};

TEST_F(ReconnectTest, EveryAnswerComesOnceWhileTheServerDiesAgainAndAgain) {
  auto stream = *client_->OpenStream();
  constexpr size_t kSessions = 20;
  constexpr int64_t kTurns = 300;
  std::vector<std::unique_ptr<Session>> sessions;
  for (size_t i = 0; i < kSessions; ++i) sessions.push_back(*stream->Open(v1::Open()));
  std::vector<std::vector<int64_t>> answers(kSessions);  // of the stream's thread
  std::atomic<int64_t> count{0};
  std::thread sender([&] {
    for (int64_t n = 1; n <= kTurns; ++n) {
      for (size_t i = 0; i < kSessions; ++i) {
        const absl::Status sent = sessions[i]->Send(Number(n), [&, i](absl::StatusOr<v1::Result> r) { answers[i].push_back(Sum(r)), ++count; });
        ASSERT_TRUE(sent.ok()) << sent;
      }
    }
  });
  for (int64_t kill = 1; kill <= 5; ++kill) {
    while (count < kill * 1000) std::this_thread::yield();
    Restart();
  }
  sender.join();
  for (auto& session : sessions) EXPECT_TRUE(session->Close().ok());
  for (const auto& sums : answers) {
    ASSERT_EQ(sums.size(), static_cast<size_t>(kTurns));
    for (int64_t n = 1; n <= kTurns; ++n) ASSERT_EQ(sums[static_cast<size_t>(n - 1)], n * (n + 1) / 2);
  }
  EXPECT_GE(lost_, 5);
  EXPECT_EQ(lost_, resumed_);
  EXPECT_TRUE(store_.sessions.empty());
}

TEST_F(ReconnectTest, AWaitOutlastsAServerThatIsAway) {
  auto stream = *client_->OpenStream();
  auto session = *stream->Open(v1::Open());
  EXPECT_EQ(Sum(session->Step(Number(1))), 1);
  Kill();
  auto late = std::async(std::launch::async, [&] { return session->Step(Number(2)); });
  auto opened = std::async(std::launch::async, [&] { return stream->Open(v1::Open(), absl::Seconds(60)); });
  while (lost_ == 0) std::this_thread::yield();
  Start();
  EXPECT_EQ(Sum(late.get()), 3);
  auto second = opened.get();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Sum((*second)->Step(Number(7))), 7);
}

TEST_F(ReconnectTest, ADrainingServerIsLeftByItself) {
  auto stream = *client_->OpenStream();
  auto session = *stream->Open(v1::Open());
  int64_t sum = 0;
  for (int64_t n = 1; n <= 200; ++n) {
    if (n % 50 == 0) service_->Drain();
    EXPECT_EQ(Sum(session->Step(Number(n))), sum += n);
  }
  EXPECT_GT(resumed_, 0);
  {
    const std::lock_guard<std::mutex> lock(store_.mutex);
    ASSERT_GT(store_.affinities.size(), 1u) << "every stream says by what it is to be routed";
    EXPECT_EQ(store_.affinities.count(*store_.affinities.begin()), store_.affinities.size()) << "and all say the same";
    EXPECT_FALSE(store_.affinities.begin()->empty());
  }
  v1::Open open;
  open.set_durability(v1::VOLATILE);
  auto fragile = *stream->Open(std::move(open));
  const int before = lost_;
  service_->Drain();
  while (!stream->draining()) std::this_thread::yield();
  EXPECT_EQ(Sum(fragile->Step(Number(3))), 3);
  EXPECT_EQ(lost_, before) << "what would be lost by leaving stays";
}

TEST_F(ReconnectTest, AVolatileSessionIsGivenUpSoonWhereItsProcessIsGone) {
  auto stream = *client_->OpenStream();
  v1::Open open;
  open.set_durability(v1::VOLATILE);
  auto fragile = *stream->Open(std::move(open));
  auto lasting = *stream->Open(v1::Open());
  EXPECT_EQ(Sum(fragile->Step(Number(1))), 1);
  Restart();
  const auto gone = fragile->Step(Number(2));
  EXPECT_EQ(RefusalOf(gone.status())->reason, v1::ELSEWHERE) << gone.status();
  EXPECT_THAT(std::string(gone.status().message()), HasSubstr("VOLATILE"));
  EXPECT_EQ(Sum(lasting->Step(Number(5))), 5);
}

TEST_F(ReconnectTest, ASavedSessionGoesOnElsewhereAndIsFencedHere) {
  auto stream = *client_->OpenStream();
  auto session = *stream->Open(v1::Open());
  const std::string saved = *session->Save();
  for (int64_t n = 1; n <= 3; ++n) Sum(session->Step(Number(n)));
  auto other = *client_->OpenStream();
  std::vector<int64_t> missed;
  auto taken = other->Resume(saved, [&](v1::Result result) { missed.push_back(result.outputs(0).ints(0)); });
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kOk) << taken.status();
  EXPECT_THAT(missed, ElementsAre(1, 3, 6)) << "all of them by the time that Resume returns";
  EXPECT_EQ(Sum((*taken)->Step(Number(4))), 10);
  EXPECT_TRUE(IsFenced(session->Step(Number(4)).status()));
  (*taken)->Release();
  const std::string handle = *(*taken)->Save();
  EXPECT_EQ((*taken)->Send(Number(5), nullptr).code(), absl::StatusCode::kFailedPrecondition) << "of a session that was let go";
  EXPECT_EQ((*taken)->Close().code(), absl::StatusCode::kFailedPrecondition);
  taken->reset();
  EXPECT_EQ(store_.sessions.size(), 1u) << "a released session stays";
  auto again = *other->Resume(handle);
  EXPECT_EQ(Sum(again->Step(Number(5))), 15);
  EXPECT_EQ(other->Resume("rubbish").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(again->Close().ok());
  EXPECT_EQ(other->Resume(handle).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ReconnectTest, AConnectionIsNotGivenUpWhereTheServerIsFarOrSlow) {
  sockaddr_un where{};
  where.sun_family = AF_UNIX;
  const std::string path = address_.substr(5) + ".slow";
  ASSERT_LT(path.size(), sizeof(where.sun_path));
  path.copy(where.sun_path, path.size());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&where), sizeof(where)), 0);
  ASSERT_EQ(listen(listener, 64), 0);
  ConnectOptions options;
  options.address = "unix:" + path;
  options.timeout = absl::Milliseconds(500);
  EXPECT_FALSE(Client::Connect(options).ok()) << "nobody answers there";
  int attempts = 0;
  for (int fd; (fd = accept(listener, nullptr, nullptr)) >= 0; close(fd)) ++attempts;
  EXPECT_EQ(attempts, 1);
  close(listener);
  unlink(path.c_str());
}

TEST_F(ReconnectTest, NothingHangsWhereTheServerStaysAway) {
  Connect(absl::Milliseconds(300));
  auto stream = *client_->OpenStream();
  auto session = *stream->Open(v1::Open());
  Kill();
  const auto result = session->Step(Number(1), absl::Seconds(60));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
  EXPECT_FALSE(stream->status().ok());
  EXPECT_FALSE(session->Close(absl::Seconds(60)).ok());

  Start();
  Connect(absl::Hours(24));
  auto patient = *client_->OpenStream();
  session.reset();
  stream.reset();
  auto waiting = *patient->Open(v1::Open());
  lost_ = 0;
  Kill();
  while (lost_ == 0) std::this_thread::yield();
  const auto begin = std::chrono::steady_clock::now();
  waiting.reset();
  patient.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10)) << "an end does not wait for a server";
}

}  // namespace
}  // namespace lstm::client
