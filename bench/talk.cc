// SPDX-License-Identifier: MIT
#include <google/protobuf/message.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <utility>

#include "bench/stream_load.h"
#include "echo.pb.h"
#include "lstm/v1/session.pb.h"

namespace lstm::bench {
namespace {

template <typename Message>
grpc::ByteBuffer ToBytes(const Message& message) {
  grpc::ByteBuffer out;
  bool own = false;
  if (!grpc::SerializationTraits<Message>::Serialize(message, &out, &own).ok()) Die("a message cannot be written");
  return out;
}
template <typename Message>
void FromBytes(grpc::ByteBuffer& bytes, Message& message) {
  if (!grpc::SerializationTraits<Message>::Deserialize(&bytes, &message).ok()) Die("an answer cannot be read");
}

class ServerTalk : public Talk {
 public:
  ServerTalk(std::string model, const Layout& layout, uint32_t floats, uint32_t steps, int64_t ids)
      : model_(std::move(model)), layout_(layout), steps_(steps), seq_(static_cast<size_t>(layout.sessions)) {
    if (ids > 0) {
      std::vector<int32_t> values(size_t{floats} * steps);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(static_cast<int64_t>(i) * 7 % ids);
      data_.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t));
    } else {
      const std::vector<float> values(size_t{floats} * steps, 0.25f);
      data_.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    }
  }
  const char* method() const override { return "/lstm.v1.Prediction/Stream"; }
  grpc::ByteBuffer Opening() override {
    static uint64_t nonce = 0;
    v1::StreamRequest message;
    for (int lane = 1; lane <= layout_.sessions; ++lane) {
      v1::Open* open = message.add_requests()->mutable_open();
      open->set_lane(static_cast<uint32_t>(lane));
      open->set_model(model_);
      open->set_durability(v1::VOLATILE);
      open->set_window(static_cast<uint32_t>(layout_.window));
      std::string bytes(16, '\0');
      ++nonce;
      std::copy_n(reinterpret_cast<const char*>(&nonce), sizeof(nonce), bytes.data());
      const uint64_t self = static_cast<uint64_t>(getpid());
      std::copy_n(reinterpret_cast<const char*>(&self), sizeof(self), bytes.data() + 8);
      open->set_client_nonce(bytes);
    }
    return ToBytes(message);
  }
  bool Opened(grpc::ByteBuffer& answer) override {
    FromBytes(answer, response_);
    for (const v1::Response& r : response_.responses()) {
      if (!r.has_opened()) Die("not opened: " + r.ShortDebugString());
      ++opened_;
    }
    return opened_ == layout_.sessions;
  }
  grpc::ByteBuffer Turns(const std::vector<uint32_t>& sessions) override {
    const int n = static_cast<int>(sessions.size());
    while (request_.requests_size() > n) request_.mutable_requests()->RemoveLast();  // kept for later by protobuf
    for (int i = 0; i < n; ++i) {
      const uint32_t session = sessions[static_cast<size_t>(i)];
      v1::Step* step = (i < request_.requests_size() ? request_.mutable_requests(i) : request_.add_requests())->mutable_step();
      step->set_lane(session + 1);
      step->set_seq(++seq_[session]);
      step->set_ack(seq_[session] > static_cast<uint64_t>(layout_.window) ? seq_[session] - static_cast<uint64_t>(layout_.window) : 0);
      step->set_steps(steps_);
      if (step->inputs_size() == 0) step->add_inputs();
      if (step->inputs(0).data().size() != data_.size()) step->mutable_inputs(0)->set_data(data_);
    }
    return ToBytes(request_);
  }
  void Answers(grpc::ByteBuffer& answer, std::vector<uint32_t>& sessions) override {
    FromBytes(answer, response_);
    for (const v1::Response& r : response_.responses()) {
      if (!r.has_result()) Die("not answered: " + r.ShortDebugString());
      sessions.push_back(r.result().lane() - 1);
    }
  }

 private:
  const std::string model_;
  const Layout layout_;
  const uint32_t steps_;
  std::string data_;
  std::vector<uint64_t> seq_;
  int opened_ = 0;
  v1::StreamRequest request_;
  v1::StreamResponse response_;
};

class EchoTalk : public Talk {
 public:
  EchoTalk(const Layout& layout, size_t bytes) : batched_(layout.sessions > 1), seq_(static_cast<size_t>(layout.sessions)) {
    Fill(single_, 0);
    single_.set_seq(1000);
    const size_t head = single_.ByteSizeLong();  // x of one byte: its length will take one more
    single_.mutable_x()->assign(bytes > head + 1 ? bytes - head - 1 : 1, 'x');
    data_ = single_.x();
  }
  const char* method() const override { return batched_ ? "/lstm.bench.Echo/Batched" : "/lstm.bench.Echo/Single"; }
  grpc::ByteBuffer Opening() override { return {}; }
  bool Opened(grpc::ByteBuffer&) override { return true; }
  grpc::ByteBuffer Turns(const std::vector<uint32_t>& sessions) override {
    if (!batched_) {
      if (sessions.size() != 1) Die("an echo stream of one session has one turn under way");
      single_.set_seq(++seq_[0]);
      return ToBytes(single_);
    }
    const int n = static_cast<int>(sessions.size());
    while (batch_.steps_size() > n) batch_.mutable_steps()->RemoveLast();
    while (batch_.steps_size() < n) batch_.add_steps();
    for (int i = 0; i < n; ++i) {
      Step& step = *batch_.mutable_steps(i);
      const uint32_t session = sessions[static_cast<size_t>(i)];
      step.set_session(session);
      step.set_seq(++seq_[session]);
      if (step.x().size() != data_.size()) step.set_x(data_);
    }
    return ToBytes(batch_);
  }
  void Answers(grpc::ByteBuffer& answer, std::vector<uint32_t>& sessions) override {
    if (!batched_) {
      FromBytes(answer, answer_);
      sessions.push_back(static_cast<uint32_t>(answer_.session()));
      return;
    }
    FromBytes(answer, answers_);
    for (const Step& step : answers_.steps()) sessions.push_back(static_cast<uint32_t>(step.session()));
  }

 private:
  static void Fill(Step& step, uint64_t session) {
    step.set_session(session);
    step.set_x("x");
  }
  const bool batched_;
  std::string data_;
  std::vector<uint64_t> seq_;
  Step single_, answer_;
  Batch batch_, answers_;
};

}  // namespace

std::unique_ptr<Talk> TalkToServer(const std::string& model, const Layout& layout, uint32_t floats, uint32_t steps, int64_t ids) {
  return std::make_unique<ServerTalk>(model, layout, floats, steps, ids);
}

std::unique_ptr<Talk> TalkToEcho(const Layout& layout, size_t request_bytes) { return std::make_unique<EchoTalk>(layout, request_bytes); }

}  // namespace lstm::bench
