// SPDX-License-Identifier: MIT
// holder ADDRESS SEED process|host: a client in a process of its own. Streams the turns of SEED through a session of "french"
// until the session ends, and writes what it gets: "handle BASE64" once, "answer SEQ BASE64" for each, "ended CODE fenced|other TURNS-SENT".
#include <iostream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/client.h"
#include "client/cpp/error.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "tests/chaos/plan.h"

namespace {

absl::Status Hold(const std::string& address, uint64_t seed, bool host, uint64_t& sent_turns) {
  lstm::client::ConnectOptions options;
  options.address = address;
  options.timeout = absl::Seconds(60);
  auto client = lstm::client::Client::Connect(options);
  if (!client.ok()) return client.status();
  const auto model = (*client)->GetModel("french");
  if (!model.ok()) return model.status();
  auto stream = *(*client)->OpenStream();
  lstm::v1::Open open;
  open.set_model("french");
  open.set_durability(host ? lstm::v1::HOST : lstm::v1::PROCESS);
  auto opened = stream->Open(std::move(open), absl::Seconds(60));
  if (!opened.ok()) return opened.status();
  auto session = *std::move(opened);
  std::cout << "handle " << absl::WebSafeBase64Escape(*session->Save()) << "\n" << std::flush;
  lstm::testing::Turns turns(*model, seed);
  while (true) {
    const absl::Status sent = session->Send(turns.Next(), [](absl::StatusOr<lstm::v1::Result> result) {
      if (result.ok()) std::cout << "answer " << result->seq() << " " << absl::WebSafeBase64Escape(lstm::testing::BitsOf(*result)) << "\n" << std::flush;
    });
    if (!sent.ok()) return sent;
    ++sent_turns;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  uint64_t sent = 0;
  const absl::Status status = Hold(argv[1], std::stoull(argv[2]), std::string(argv[3]) == "host", sent);
  const char* const why = lstm::client::IsFenced(status) ? " fenced " : " other ";
  std::cout << "ended " << absl::StatusCodeToString(status.code()) << why << sent << " " << status.message() << "\n" << std::flush;
  return 0;
}
