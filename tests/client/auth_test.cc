// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"
#include "inference/grpc_service.grpc.pb.h"
#include "server/auth/token.h"
#include "server/models/model_admin.h"
#include "tests/client/server_process.h"

// A server that knows its callers by their tokens, over real sockets.
namespace lstm::testing {
namespace {

using ::testing::HasSubstr;

std::string Line(const std::string& name, const std::string& more = "") {
  return absl::StrCat("caller { name: '", name, "' token_sha256: '", server::ToHex(server::HashOf("token of " + name)), "' ", more, " }\n");
}

class FakeAdmin : public server::ModelAdmin {
 public:
  void Load(const std::string&, Done done) override { done(absl::OkStatus()); }
  void Unload(const std::string&, Done done) override { done(absl::OkStatus()); }
};

class AuthTest : public ServerTest {
 protected:
  void SetUp() override {}
  void Serve(const std::string& file, uint64_t max_session_bytes = uint64_t{1} << 30) {
    callers_ = std::make_shared<server::Callers>();
    const absl::Status read = callers_->Read(file);
    ASSERT_TRUE(read.ok()) << read;
    Start([&](auto& options) {
      options.callers = callers_;
      options.max_session_bytes = max_session_bytes;
      options.admin = &admin_;
    });
    channel_ = grpc::CreateChannel(server_->addresses()[0], grpc::InsecureChannelCredentials());
  }
  std::unique_ptr<client::Client> As(const std::string& name) { return Connect(absl::Seconds(1), "token of " + name); }
  static void Prepare(grpc::ClientContext& context, const std::string& name) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!name.empty()) context.AddMetadata("authorization", "Bearer token of " + name);
  }
  // One empty message to a method of any service, and how the call ends.
  grpc::Status Call(const std::string& method, const std::string& name) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    Prepare(context, name);
    grpc::CompletionQueue queue;
    const auto wait = [&] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    const auto call = stub.PrepareCall(&context, method, &queue);
    call->StartCall(nullptr);
    wait();
    const grpc::Slice nothing;
    call->WriteLast(grpc::ByteBuffer(&nothing, 1), {}, nullptr);
    wait();
    for (bool more = true; more;) {
      grpc::ByteBuffer answer;
      call->Read(&answer, nullptr);
      more = wait();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    return status;
  }

  FakeAdmin admin_;
  std::shared_ptr<server::Callers> callers_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(AuthTest, NoMethodOfAnyServiceIsServedWithoutATokenButHealth) {
  Serve(Line("a", "admin: true"));
  const std::set<std::string> open = {"ServerLive", "ServerReady"};
  size_t methods = 0;
  v1::StreamRequest linked;  // their descriptors are in the pool then
  inference::ModelInferRequest too;
  for (const char* name : {"lstm.v1.Prediction", "inference.GRPCInferenceService"}) {
    const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    for (int i = 0; i < service->method_count(); ++i, ++methods) {
      const std::string method = absl::StrCat("/", name, "/", service->method(i)->name());
      const grpc::Status nobody = Call(method, ""), stranger = Call(method, "b"), known = Call(method, "a");
      EXPECT_NE(known.error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      if (open.contains(service->method(i)->name())) {
        EXPECT_TRUE(nobody.ok()) << method;
        continue;
      }
      EXPECT_EQ(nobody.error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      EXPECT_THAT(nobody.error_message(), HasSubstr("a token is missing")) << method;
      EXPECT_EQ(stranger.error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      EXPECT_THAT(stranger.error_message(), HasSubstr("the token is not known here")) << method;
    }
  }
  EXPECT_GE(methods, 20u);
  EXPECT_TRUE(Call("/grpc.health.v1.Health/Check", "").ok());
}

TEST_F(AuthTest, TheLibrarySaysWhatIsMissingAndDoesNotComeBackForIt) {
  Serve(Line("a"));
  EXPECT_TRUE(absl::IsUnauthenticated(client_->ListModels().status()));
  auto stream = *client_->OpenStream();
  v1::Open open;
  open.set_model("french");
  const auto session = stream->Open(open, absl::Seconds(30));
  EXPECT_TRUE(absl::IsUnauthenticated(session.status())) << session.status();
  EXPECT_THAT(std::string(session.status().message()), HasSubstr("a token is missing, expected 'authorization: Bearer TOKEN' (lstm-client --token)"));
  EXPECT_TRUE(As("a")->ListModels().ok());
}

TEST_F(AuthTest, ASessionIsItsCallersAloneAndAnAdmins) {
  Serve(Line("a") + Line("b") + Line("ops", "admin: true"));
  const auto a = As("a"), b = As("b"), ops = As("ops");
  auto stream = *a->OpenStream(), other_stream = *b->OpenStream();
  auto session = Open(*stream);
  ASSERT_TRUE(session->Step(Words({5})).ok());
  const std::string id = session->opened().session_id(), handle = *session->Save();

  EXPECT_EQ(a->ListSessions()->total(), 1u);
  EXPECT_EQ(b->ListSessions()->total(), 0u);
  EXPECT_EQ(b->ListSessions()->sessions_size(), 0);
  EXPECT_EQ(ops->ListSessions()->total(), 1u);
  const absl::Status unknown = b->CloseSession(std::string(16, 'x'));
  EXPECT_EQ(b->CloseSession(id), unknown) << "one that is somebody else's can not be told from none";
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_TRUE(absl::IsNotFound(other_stream->Resume(handle).status()));
  EXPECT_TRUE(absl::IsNotFound(b->Fork(handle).status()));
  EXPECT_TRUE(absl::IsNotFound(b->Export(handle).status()));
  const auto get = [&](const std::string& who) {
    grpc::ClientContext context;
    Prepare(context, who);
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::GetSessionResponse response;
    return v1::Prediction::NewStub(channel_)->GetSession(&context, request, &response).error_code();
  };
  EXPECT_EQ(get("a"), grpc::StatusCode::OK);
  EXPECT_EQ(get("b"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(get("ops"), grpc::StatusCode::OK);
  EXPECT_TRUE(session->Step(Words({9})).ok()) << "none of that touched it";
  EXPECT_TRUE(a->Fork(*session->Save()).ok());
  EXPECT_TRUE(ops->CloseSession(id).ok());
  EXPECT_EQ(a->ListSessions()->total(), 1u) << "the fork";
  EXPECT_TRUE(a->CloseSession(a->ListSessions()->sessions(0).session_id()).ok());
}

TEST_F(AuthTest, ASequenceIdIsItsCallersOwn) {
  Serve(Line("a") + Line("b") + Line("ops", "admin: true"));
  const auto stub = inference::GRPCInferenceService::NewStub(channel_);
  const auto infer = [&](const std::string& who, bool start) {
    grpc::ClientContext context;
    Prepare(context, who);
    inference::ModelInferRequest request;
    request.set_model_name("french");
    (*request.mutable_parameters())["sequence_id"].set_int64_param(7);
    if (start) (*request.mutable_parameters())["sequence_start"].set_bool_param(true);
    auto* input = request.add_inputs();
    input->set_name("word");
    input->set_datatype("INT32");
    input->add_shape(1);
    input->mutable_contents()->add_int_contents(5);
    inference::ModelInferResponse response;
    return stub->ModelInfer(&context, request, &response);
  };
  const grpc::Status begun = infer("a", true);
  EXPECT_TRUE(begun.ok()) << begun.error_message();
  EXPECT_EQ(infer("b", false).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(infer("b", true).ok()) << "the id is free to others";
  EXPECT_TRUE(infer("a", false).ok());

  const auto load = [&](const std::string& who) {
    grpc::ClientContext context;
    Prepare(context, who);
    inference::RepositoryModelLoadRequest request;
    request.set_model_name("french");
    inference::RepositoryModelLoadResponse response;
    return stub->RepositoryModelLoad(&context, request, &response).error_code();
  };
  EXPECT_EQ(load("a"), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(load("ops"), grpc::StatusCode::OK);
}

TEST_F(AuthTest, AWithdrawnTokenEndsItsStreamsAndNoOthers) {
  Serve(Line("a") + Line("b"));
  const auto b = As("b");
  auto stream = *b->OpenStream();
  auto session = Open(*stream);
  grpc::ClientContext context, inference_context;
  Prepare(context, "a");
  Prepare(inference_context, "a");
  const auto call = v1::Prediction::NewStub(channel_)->Stream(&context);
  const auto inference_call = inference::GRPCInferenceService::NewStub(channel_)->ModelStreamInfer(&inference_context);
  call->WaitForInitialMetadata();
  inference_call->WaitForInitialMetadata();
  ASSERT_TRUE(callers_->Read(Line("b")).ok());
  v1::StreamResponse response;
  EXPECT_FALSE(call->Read(&response));
  const grpc::Status ended = call->Finish();
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(ended.error_message(), HasSubstr("the token was withdrawn"));
  inference::ModelStreamInferResponse inference_response;
  EXPECT_FALSE(inference_call->Read(&inference_response));
  EXPECT_EQ(inference_call->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(session->Step(Words({5})).ok());
}

TEST_F(AuthTest, TheLimitOfSessionsIsEachCallersOwn) {
  Serve("limits { sessions: 2 }" + Line("a") + Line("b") + Line("c", "limits { session_bytes: 1 }"));
  const auto a = As("a"), b = As("b"), c = As("c");
  auto stream = *a->OpenStream(), other_stream = *b->OpenStream(), third_stream = *c->OpenStream();
  auto one = Open(*stream), two = Open(*stream);
  v1::Open open;
  open.set_model("french");
  const auto three = stream->Open(open, absl::Seconds(30));
  EXPECT_TRUE(absl::IsResourceExhausted(three.status())) << three.status();
  EXPECT_THAT(std::string(three.status().message()), HasSubstr("'a' has its 2 sessions; close one, or ask the operator for more"));
  EXPECT_GT(client::RefusalOf(three.status())->retry_after_ms, 0u);
  const auto fork = a->Fork(*one->Save());
  EXPECT_TRUE(absl::IsResourceExhausted(fork.status())) << fork.status();
  EXPECT_TRUE(one->Step(Words({5})).ok());
  EXPECT_TRUE(two->Step(Words({5})).ok()) << "the stream and what is on it live";
  auto other = Open(*other_stream);
  EXPECT_TRUE(other->Step(Words({5})).ok());
  EXPECT_THAT(std::string(third_stream->Open(open, absl::Seconds(30)).status().message()), HasSubstr("bytes, at most 1 may be"));
  EXPECT_TRUE(one->Close().ok());
  EXPECT_TRUE(stream->Open(open, absl::Seconds(30)).ok());
  EXPECT_EQ(callers_->AccountOf(server::Callers::PrincipalOf("b"))->sessions(), 1u);
}

TEST_F(AuthTest, TooManyStepsAreRefusedInBandAndComeLater) {
  Serve(Line("a", "limits { steps_per_second: 200 }") + Line("b"));
  client_ = As("b");
  std::vector<int> ids;
  for (int i = 0; i < 400; ++i) ids.push_back((i * 31 + 5) % 129);
  const std::string whole = Reference(ids);
  const auto a = As("a");
  auto stream = *a->OpenStream();
  auto session = Open(*stream);
  std::string pieces;
  for (size_t i = 0; i < ids.size(); i += 20) {  // twice what it may have at once
    const auto sent = session->Send(Words({ids.begin() + static_cast<int>(i), ids.begin() + static_cast<int>(i) + 20}), [&](absl::StatusOr<v1::Result> r) {
      pieces += r.ok() ? r->outputs(0).data() : std::string(r.status().message());
    });
    ASSERT_TRUE(sent.ok()) << sent;
  }
  ASSERT_TRUE(session->Close().ok());
  EXPECT_EQ(pieces, whole) << "every answer, once, with the same bits";
  uint64_t refused = 0;
  for (const auto* counters : server_->counters()) refused += counters->rejects[v1::RATE].value();
  EXPECT_GT(refused, 0u);
}

TEST_F(AuthTest, WhatIsRefusedForWantOfMemoryCostsNoSteps) {
  const std::string one = "limits { steps_per_second: 0.001 }";  // one turn goes through, and no other while this runs
  Serve(Line("a", one) + Line("b", one), 1u << 20);
  v1::PredictRequest predict;
  predict.set_model("french");
  const std::vector<int> many(3000, 5);  // the answer would have 3000 x 129 floats
  *predict.mutable_inputs() = Words(many).inputs();
  const auto a = As("a");
  EXPECT_THAT(std::string(a->Predict(predict).status().message()), HasSubstr("no memory"));
  *predict.mutable_inputs() = Words({5}).inputs();
  EXPECT_TRUE(a->Predict(predict).ok());
  EXPECT_THAT(std::string(a->Predict(predict).status().message()), HasSubstr("steps a second"));

  grpc::ClientContext context;
  Prepare(context, "b");
  const auto call = v1::Prediction::NewStub(channel_)->Stream(&context);
  v1::StreamRequest message;
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_model("french");
  open->set_simple(true);
  *message.add_requests()->mutable_step() = Words(many);
  *message.add_requests()->mutable_step() = Words({5});
  *message.add_requests()->mutable_step() = Words({5});
  ASSERT_TRUE(call->Write(message));
  std::vector<v1::Reason> rejects;
  size_t results = 0;
  v1::StreamResponse response;
  while (rejects.size() + results < 3) {
    ASSERT_TRUE(call->Read(&response));
    for (const auto& r : response.responses()) {
      if (r.has_reject()) rejects.push_back(r.reject().reason());
      results += r.has_result() ? 1 : 0;
    }
  }
  EXPECT_EQ(results, 1u);
  EXPECT_THAT(rejects, ::testing::ElementsAre(v1::BYTES, v1::RATE));
}

TEST_F(AuthTest, ARefusalForStepsLeavesStreamAndStateAsTheyWere) {
  const std::string others = Line("b");
  Serve(Line("a", "limits { steps_per_second: 0.001 }") + others);  // what is gone does not come back while this runs
  const auto a = As("a"), b = As("b");
  grpc::ClientContext context;
  Prepare(context, "a");
  const auto call = v1::Prediction::NewStub(channel_)->Stream(&context);
  std::vector<v1::Result> results;
  v1::Reject reject;
  const auto read = [&] {
    v1::StreamResponse response;
    if (!call->Read(&response)) return false;
    for (const auto& r : response.responses()) {
      if (r.has_reject()) reject = r.reject();
      if (r.has_result()) results.push_back(r.result());
    }
    return true;
  };
  v1::StreamRequest message;
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_model("french");
  open->set_simple(true);
  *message.add_requests()->mutable_step() = Words({5, 9});  // more than it has: one turn goes through
  *message.add_requests()->mutable_step() = Words({22});
  ASSERT_TRUE(call->Write(message));
  while (reject.code() == 0 || results.empty()) ASSERT_TRUE(read());
  EXPECT_EQ(reject.reason(), v1::RATE);
  EXPECT_EQ(reject.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(reject.seq(), 2u);
  EXPECT_THAT(reject.message(), HasSubstr("'a' may have 0.001 steps a second, and had them; nothing was applied, send it again in "));
  EXPECT_EQ(reject.retry_after_ms(), 60'000u);

  v1::PredictRequest predict;
  predict.set_model("french");
  *predict.mutable_inputs() = Words({5, 9, 3}).inputs();
  EXPECT_TRUE(absl::IsResourceExhausted(a->Predict(predict).status())) << "whole sequences count too";
  const auto whole = b->Predict(predict);
  ASSERT_TRUE(whole.ok()) << "others are not held up";

  ASSERT_TRUE(callers_->Read(Line("a") + others).ok());
  message.Clear();
  *message.add_requests()->mutable_step() = Words({3});
  ASSERT_TRUE(call->Write(message));
  while (results.size() < 2) ASSERT_TRUE(read());
  EXPECT_EQ(results[0].outputs(0).data() + results[1].outputs(0).data(), whole->outputs(0).data()) << "the limit is gone at once, and the state was kept";
}

}  // namespace
}  // namespace lstm::testing
