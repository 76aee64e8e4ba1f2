// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bench/measure.h"
#include "lstm/v1/prediction.grpc.pb.h"

namespace lstm::bench {

// Sessions that offer turns at a rate, whatever becomes of them (an open loop), by the bare protocol: no library that waits where the server
// refuses. A session has one turn under way at most; one that is refused is offered again under the same seq when the session's turn comes.
class Swarm {
 public:
  struct Options {
    std::string model;
    uint32_t sessions = 64, streams = 4, steps = 1, window = 8;
  };
  struct Figures {
    uint64_t due = 0, unsent = 0;            // unsent: no session was free
    uint64_t answered = 0, refused = 0;
    double seconds = 0;
    Sample answers, refusals;                // from when a turn was due; from when it was sent
    Sample inside;                           // of the answers: from the turn's receipt by the shard, as the server says
    double rate() const { return static_cast<double>(answered) / seconds; }
  };
  Swarm(const std::shared_ptr<grpc::Channel>& channel, const v1::ModelInfo& model, const Options& options);
  ~Swarm();

  // Turns a second, all sessions together; 0: as fast as they are answered.
  Figures Run(double rate, double seconds);

 private:
  struct Session {
    uint32_t stream = 0, lane = 0;
    uint64_t seq = 0;  // applied
    v1::Step turn;
    Clock::time_point due, sent;
  };
  struct Line {  // a stream
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> call;
    std::vector<Session*> by_lane;
    v1::StreamRequest message;
    std::thread reader;
  };
  void Read(Line& line);

  const Options options_;
  std::unique_ptr<v1::Prediction::Stub> stub_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::mutex mutex_;
  std::vector<Session*> free_;  // guarded by mutex_, as below; a session that is not in it is the reader's, or on its way
  size_t opened_ = 0;
  Figures figures_;
};

// One session that sends turns at a rate without a look at what comes back, as far as its stream is read.
class Hog {
 public:
  Hog(const std::shared_ptr<grpc::Channel>& channel, const v1::ModelInfo& model, uint32_t steps);
  ~Hog();
  void Begin(double rate);
  // Turns that were sent, and answered.
  uint64_t sent() const { return sent_; }
  uint64_t answered() const { return answered_; }

 private:
  std::unique_ptr<v1::Prediction::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamRequest, v1::StreamResponse>> call_;
  v1::Step turn_;
  std::thread writer_, reader_;
  std::atomic<bool> ending_{false};
  std::atomic<uint64_t> sent_{0}, answered_{0}, applied_{0}, next_{1};
};

}  // namespace lstm::bench
