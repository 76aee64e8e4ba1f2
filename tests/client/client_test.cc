// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "client/cpp/error.h"
#include "tests/client/server_process.h"

// The C++ library against a real server over a real socket.
namespace lstm::testing {
namespace {

using ::testing::HasSubstr;
using ClientTest = ServerTest;

TEST_F(ClientTest, ListsAndDescribesTheModels) {
  const auto models = client_->ListModels();
  ASSERT_TRUE(models.ok());
  EXPECT_EQ(models->size(), Models()->open().size());
  const auto french = client_->GetModel("french");
  ASSERT_TRUE(french.ok());
  EXPECT_GT(french->vocabulary().tokens_size(), 100);
  EXPECT_EQ(client_->GetModel("nosuch").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ClientTest, StepsAndPredictGiveTheSameBits) {
  const std::vector<int> ids = {5, 9, 22, 3, 7};
  const std::string whole = Reference(ids);
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  std::string pieces;
  for (int id : ids) {
    const auto result = session->Step(Words({id}));
    ASSERT_TRUE(result.ok()) << result.status();
    pieces += result->outputs(0).data();
  }
  EXPECT_EQ(whole, pieces);
  EXPECT_TRUE(session->Close().ok());
}

TEST_F(ClientTest, ManySessionsOnOneStreamDoNotDisturbEachOther) {
  const std::vector<int> ids = {5, 9, 22, 3, 7, 80, 41, 2, 60, 33};
  const std::string whole = Reference(ids);
  auto stream = *client_->OpenStream();
  std::vector<std::unique_ptr<client::Session>> sessions;
  std::vector<std::string> answers(50);
  for (size_t i = 0; i < answers.size(); ++i) sessions.push_back(Open(*stream));
  for (size_t k = 0; k < ids.size(); ++k) {
    for (size_t i = 0; i < sessions.size(); ++i) {
      const int id = i % 2 == 0 ? ids[k] : static_cast<int>((k * 31 + i) % 129);
      ASSERT_TRUE(sessions[i]->Send(Words({id}), [&answers, i](absl::StatusOr<v1::Result> r) { answers[i] += r.ok() ? r->outputs(0).data() : "failed"; }).ok());
    }
  }
  for (auto& session : sessions) EXPECT_TRUE(session->Close().ok());
  for (size_t i = 0; i < answers.size(); i += 2) EXPECT_EQ(answers[i], whole) << i;
  EXPECT_NE(answers[1], whole);
}

TEST_F(ClientTest, ARefusedTurnFailsWithItsReasonAndTheSessionGoesOn) {
  const std::string whole = Reference({5, 9});
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  auto first = session->Step(Words({5}));
  ASSERT_TRUE(first.ok());
  // Sent together: the second is refused, and the third with it.
  std::promise<absl::Status> bad, behind;
  ASSERT_TRUE(session->Send(Words({4711}), [&](absl::StatusOr<v1::Result> r) { bad.set_value(r.status()); }).ok());
  ASSERT_TRUE(session->Send(Words({9}), [&](absl::StatusOr<v1::Result> r) { behind.set_value(r.status()); }).ok());
  const absl::Status refused = bad.get_future().get();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("4711"));
  ASSERT_TRUE(client::RefusalOf(refused).has_value());
  EXPECT_EQ(client::RefusalOf(refused)->reason, v1::INVALID);
  const absl::Status after = behind.get_future().get();
  EXPECT_FALSE(after.ok());
  const auto second = session->Step(Words({9}));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->outputs(0).data() + second->outputs(0).data(), whole);
}

TEST_F(ClientTest, ARefusedOpenSaysWhy) {
  auto stream = *client_->OpenStream();
  v1::Open open;
  open.set_model("nosuch");
  const auto session = stream->Open(std::move(open));
  EXPECT_EQ(session.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("french"));
  EXPECT_TRUE(Open(*stream) != nullptr) << "the stream lives on";
}

TEST_F(ClientTest, ADeadServerEndsEveryWait) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  ASSERT_TRUE(session->Step(Words({5})).ok());
  server_->Stop();
  const auto result = session->Step(Words({5}), absl::Seconds(60));
  EXPECT_FALSE(result.ok());
  EXPECT_NE(result.status().code(), absl::StatusCode::kDeadlineExceeded) << "the end of the stream is told, not waited for";
  EXPECT_FALSE(stream->status().ok());
  EXPECT_FALSE(client_->OpenStream().value()->Open(v1::Open(), absl::Seconds(30)).ok());
}

TEST_F(ClientTest, AClosedSessionIsGoneOnTheServer) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  EXPECT_EQ(client_->ListSessions()->total(), 1u);
  EXPECT_TRUE(session->Close().ok());
  EXPECT_EQ(client_->ListSessions()->total(), 0u);
  EXPECT_EQ(session->Step(Words({5})).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClientTest, AnOperatorsCloseReachesTheClient) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream);
  ASSERT_TRUE(client_->CloseSession(session->opened().session_id()).ok());
  absl::StatusOr<v1::Result> result = session->Step(Words({5}));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kAborted) << result.status();
  EXPECT_EQ(client_->CloseSession(session->opened().session_id()).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client_->CloseSession("short").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, AWindowFullOfTurnsHoldsTheSenderNotTheServer) {
  auto stream = *client_->OpenStream();
  auto session = Open(*stream, "french", 2);
  EXPECT_EQ(session->opened().window(), 2u);
  std::atomic<int> answered{0};
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(session->Send(Words({i % 129}), [&](absl::StatusOr<v1::Result> r) { answered += r.ok(); }).ok());
  }
  EXPECT_TRUE(session->Close().ok());
  EXPECT_EQ(answered, 200);
}

}  // namespace
}  // namespace lstm::testing
