// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/measure.h"

namespace lstm::bench {

// How sessions lie on streams and connections, and how many turns of each are under way.
struct Layout {
  int connections = 1, streams = 1, sessions = 1;  // connections and streams: of all; sessions: of one stream
  int window = 1;
};

// What goes over one stream: makes messages of turns, and sees in answers whose they are. Sessions count from 0.
class Talk {
 public:
  virtual ~Talk() = default;
  virtual const char* method() const = 0;
  // What opens the sessions; an empty one: nothing does.
  virtual grpc::ByteBuffer Opening() = 0;
  // True once all of them are open.
  virtual bool Opened(grpc::ByteBuffer& answer) = 0;
  // One turn of each of `sessions`.
  virtual grpc::ByteBuffer Turns(const std::vector<uint32_t>& sessions) = 0;
  virtual void Answers(grpc::ByteBuffer& answer, std::vector<uint32_t>& sessions) = 0;
};

// Sessions of lstm-server: VOLATILE, `floats` numbers a step in `steps` steps a turn.
std::unique_ptr<Talk> TalkToServer(const std::string& model, const Layout& layout, uint32_t floats, uint32_t steps, int64_t ids = 0);
// Of the echo server: messages as long as those; many sessions on a stream go as batches.
std::unique_ptr<Talk> TalkToEcho(const Layout& layout, size_t request_bytes);

struct Slice {
  uint64_t turns = 0;
  double server_cpu_us = 0;  // a turn
  double client_cpu_us = 0;
  double turns_per_second = 0;
  size_t answer_bytes = 0;   // of a turn, as a message has them
  Sample latency;            // of a turn, from when it was written
};

// A client on one thread and one completion queue: whatever is answered is sent again at once, all that was answered together in one
// message. Between two slices everything is answered and nothing is sent.
class StreamLoad {
 public:
  StreamLoad(const std::string& address, pid_t server, const Layout& layout, std::vector<std::unique_ptr<Talk>> talks);
  ~StreamLoad();

  Slice Run(double seconds);

 private:
  struct Stream;
  struct Queue;
  void Write(Stream& stream, const grpc::ByteBuffer& message);
  void SendReady(Stream& stream);
  void Handle(void* tag, bool ok);

  const pid_t server_;
  const Layout layout_;
  std::unique_ptr<Queue> queue_;
  std::vector<std::unique_ptr<Stream>> streams_;
  uint64_t answered_ = 0, outstanding_ = 0, answer_bytes_ = 0;
  size_t opened_ = 0;
  bool sending_ = false;
  Sample* latency_ = nullptr;
};

}  // namespace lstm::bench
