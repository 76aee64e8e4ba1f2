// SPDX-License-Identifier: MIT
#include "bench/swarm.h"

#include <algorithm>

namespace lstm::bench {
namespace {

constexpr std::chrono::microseconds kTick(100), kHogTick(1000);  // the hog's messages are fewer: it shares a core with who is measured
constexpr uint32_t kHogWindow = 256;
constexpr int kMostInAMessage = 4096;
constexpr std::chrono::seconds kPatience(60);

Clock::duration Seconds(double s) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s)); }

v1::Step TurnOf(const v1::ModelInfo& model, uint32_t lane, uint32_t steps) {
  v1::Step step;
  step.set_lane(lane);
  step.set_steps(steps);
  for (const v1::TensorSpec& spec : model.inputs()) {
    v1::Tensor* tensor = step.add_inputs();
    tensor->set_name(spec.name());
    int64_t n = steps;
    for (const int64_t dim : spec.shape()) n *= dim;
    for (int64_t i = 0; i < n; ++i) {
      if (spec.type() == v1::FLOAT32) {
        tensor->add_floats(0.5f);
      } else {
        tensor->add_ints((i * 7 + lane) % std::max<int64_t>(spec.limit(), 1));
      }
    }
  }
  return step;
}

void Open(v1::StreamRequest& message, const v1::ModelInfo& model, uint32_t lane, uint32_t window, uint64_t unique) {
  v1::Open* open = message.add_requests()->mutable_open();
  open->set_lane(lane);
  open->set_model(model.name());
  open->set_window(window);
  open->mutable_options()->set_last_step_only(true);  // the answers' way is not what is measured
  open->mutable_options()->set_timings(true);
  std::string nonce(16, '\0');
  const uint64_t now = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
  std::copy_n(reinterpret_cast<const char*>(&now), 8, nonce.begin());
  std::copy_n(reinterpret_cast<const char*>(&unique), 8, nonce.begin() + 8);
  open->set_client_nonce(nonce);
}

}  // namespace

Swarm::Swarm(const std::shared_ptr<grpc::Channel>& channel, const v1::ModelInfo& model, const Options& options)
    : options_(options), stub_(v1::Prediction::NewStub(channel)) {
  for (uint32_t i = 0; i < options.streams; ++i) {
    lines_.push_back(std::make_unique<Line>());
    lines_.back()->call = stub_->Stream(&lines_.back()->context);
    lines_.back()->by_lane.resize(options.sessions + 1);
  }
  for (uint32_t i = 0; i < options.sessions; ++i) {
    Line& line = *lines_[i % options.streams];
    auto session = std::make_unique<Session>();
    session->stream = i % options.streams;
    session->lane = i + 1;
    session->turn = TurnOf(model, session->lane, options.steps);
    line.by_lane[session->lane] = session.get();
    Open(line.message, model, session->lane, options.window, i);
    sessions_.push_back(std::move(session));
  }
  for (const auto& line : lines_) {
    if (!line->call->Write(line->message)) Die("the stream broke off: " + line->call->Finish().error_message());
    line->message.Clear();
    line->reader = std::thread([this, raw = line.get()] { Read(*raw); });
  }
  const auto until = Clock::now() + kPatience;
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (opened_ == sessions_.size()) return;
    }
    if (Clock::now() > until) Die("not all sessions were opened");
    std::this_thread::sleep_for(kTick);
  }
}

Swarm::~Swarm() {
  for (const auto& line : lines_) line->context.TryCancel();
  for (const auto& line : lines_) line->reader.join();
}

void Swarm::Read(Line& line) {
  v1::StreamResponse message;
  while (line.call->Read(&message)) {
    const auto now = Clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const v1::Response& response : message.responses()) {
      Session* session = nullptr;
      if (response.has_opened()) {
        session = line.by_lane[response.opened().lane()];
        ++opened_;
      } else if (response.has_result()) {
        session = line.by_lane[response.result().lane()];
        session->seq = response.result().seq();
        ++figures_.answered;
        figures_.answers.Add(now - session->due);
        const v1::Timings& timings = response.result().timings();
        figures_.inside.Add(std::chrono::microseconds(timings.queue_us() + timings.compute_us()));
      } else if (response.has_reject()) {
        if (response.reject().seq() == 0) Die("a session was refused: " + response.reject().message());
        session = line.by_lane[response.reject().lane()];
        ++figures_.refused;
        figures_.refusals.Add(now - session->sent);
      } else {
        continue;
      }
      free_.push_back(session);
    }
  }
  line.call->Finish();
}

Swarm::Figures Swarm::Run(double rate, double seconds) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    figures_ = {};
  }
  const auto begin = Clock::now(), end = begin + Seconds(seconds);
  uint64_t offered = 0, unsent = 0;
  std::vector<Session*> taken;
  for (auto now = begin; now < end; now = Clock::now()) {
    const double elapsed = std::chrono::duration<double>(now - begin).count();
    const uint64_t due = rate > 0 ? static_cast<uint64_t>(elapsed * rate) - offered : UINT64_MAX;
    taken.clear();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const size_t n = std::min<uint64_t>(due, free_.size());
      taken.assign(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(n));  // who waits longest first
      free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(n));
      for (size_t i = 0; i < n; ++i) taken[i]->due = rate > 0 ? begin + Seconds(static_cast<double>(offered + i) / rate) : now;
      for (Session* session : taken) session->sent = Clock::now();
    }
    if (rate > 0) {
      unsent += due - taken.size();
      offered += due;
    } else {
      offered += taken.size();
    }
    for (Session* session : taken) {
      v1::Step* step = lines_[session->stream]->message.add_requests()->mutable_step();
      *step = session->turn;
      step->set_seq(session->seq + 1);
      step->set_ack(session->seq);
    }
    for (const auto& line : lines_) {
      if (line->message.requests_size() == 0) continue;
      if (!line->call->Write(line->message)) Die("the stream broke off");
      line->message.Clear();
    }
    std::this_thread::sleep_for(kTick);
  }
  // What was begun is answered, too: the next run begins with all of them free.
  for (const auto until = Clock::now() + kPatience; true; std::this_thread::sleep_for(kTick)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < sessions_.size()) {
      if (Clock::now() > until) Die("turns stayed without an answer");
      continue;
    }
    figures_.due = offered;
    figures_.unsent = unsent;
    figures_.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    return std::move(figures_);
  }
}

Hog::Hog(const std::shared_ptr<grpc::Channel>& channel, const v1::ModelInfo& model, uint32_t steps)
    : stub_(v1::Prediction::NewStub(channel)), call_(stub_->Stream(&context_)), turn_(TurnOf(model, 1, steps)) {
  v1::StreamRequest message;
  Open(message, model, 1, kHogWindow, 1u << 30);
  v1::StreamResponse response;
  if (!call_->Write(message) || !call_->Read(&response) || !response.responses(0).has_opened()) Die("the hog's session was not opened");
}

Hog::~Hog() {
  ending_ = true;
  context_.TryCancel();
  if (writer_.joinable()) writer_.join();
  if (reader_.joinable()) reader_.join();
}

void Hog::Begin(double rate) {
  reader_ = std::thread([this] {
    v1::StreamResponse message;
    while (call_->Read(&message)) {
      for (const v1::Response& response : message.responses()) {
        if (response.has_result()) {
          ++answered_;
          applied_ = response.result().seq();
        } else if (response.has_reject()) {  // from there on again
          const v1::Reject& reject = response.reject();
          next_ = reject.expected_seq() > 0 ? reject.expected_seq() : reject.seq();
        }
      }
    }
  });
  writer_ = std::thread([this, rate] {
    const auto begin = Clock::now();
    v1::StreamRequest message;
    while (!ending_) {
      const auto due = static_cast<uint64_t>(std::chrono::duration<double>(Clock::now() - begin).count() * rate);
      message.Clear();
      for (; sent_ < due && message.requests_size() < kMostInAMessage; ++sent_) {
        v1::Step* step = message.add_requests()->mutable_step();
        *step = turn_;
        step->set_seq(next_++);
        step->set_ack(applied_);
      }
      if (message.requests_size() > 0 && !call_->Write(message)) return;
      std::this_thread::sleep_for(kHogTick);
    }
  });
}

}  // namespace lstm::bench
