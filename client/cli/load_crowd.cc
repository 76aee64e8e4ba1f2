// SPDX-License-Identifier: MIT
#include "client/cli/load_crowd.h"

#include <dirent.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/input.h"
#include "client/cpp/session.h"
#include "client/cpp/stream.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

constexpr uint32_t kWindow = 64;
constexpr size_t kOpeners = 16;
constexpr size_t kMostAlone = 32;  // each has two threads here
constexpr size_t kTurns = 64;
constexpr std::chrono::seconds kHopeless(2);  // that the client is behind, where a bar below that is to be kept

v1::Step RandomTurn(const v1::ModelInfo& model, uint32_t steps, std::minstd_rand& random) {
  v1::Step step;
  step.set_steps(steps);
  for (const v1::TensorSpec& spec : model.inputs()) {
    v1::Tensor* tensor = step.add_inputs();
    tensor->set_name(spec.name());
    if (spec.type() == v1::INT16 || spec.type() == v1::UINT8) {  // as bytes, as a program that has audio sends it
      std::string data(static_cast<size_t>(steps * ElementsOf(spec)) * (spec.type() == v1::INT16 ? 2 : 1), '\0');
      for (char& byte : data) byte = static_cast<char>(random() >> 8);  // the low bits of an engine like this one repeat soon
      tensor->set_type(spec.type());
      tensor->set_data(std::move(data));
      continue;
    }
    for (int64_t i = 0; i < steps * ElementsOf(spec); ++i) {
      if (spec.type() == v1::FLOAT32) {
        tensor->add_floats(std::uniform_real_distribution<float>(-1, 1)(random));
      } else {
        tensor->add_ints(static_cast<int64_t>(random()) % std::max<int64_t>(spec.limit(), 1));
      }
    }
  }
  return step;
}

// This process's connections: descriptor and inode, since a number is used again.
std::map<int, ino_t> Connections() {
  std::map<int, ino_t> out;
  DIR* const directory = opendir("/proc/self/fd");
  if (directory == nullptr) return out;
  while (const dirent* const entry = readdir(directory)) {
    const int fd = std::atoi(entry->d_name);
    int type = 0;
    socklen_t size = sizeof(type);
    sockaddr_storage peer;
    socklen_t peer_size = sizeof(peer);
    struct stat about;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) continue;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0 && fstat(fd, &about) == 0) out.emplace(fd, about.st_ino);
  }
  closedir(directory);
  return out;
}

}  // namespace

struct Crowd::Live {
  std::unique_ptr<Client> client;  // null: on a stream of the crowd
  std::map<int, ino_t> sockets;    // of this client
  std::unique_ptr<Stream> stream;
  std::atomic<uint64_t> waiting{0};  // turns without an answer
  std::unique_ptr<Session> session;  // no callback comes after its end
};

struct Crowd::Slot {
  std::mutex mutex;  // held while a turn is queued, and while the session is exchanged
  std::unique_ptr<Live> live;
};

Crowd::Crowd(const Connection& connection, const CrowdOptions& options) : connection_(connection), options_(options) {}

Crowd::~Crowd() = default;

absl::StatusOr<std::unique_ptr<Crowd>> Crowd::Make(const Connection& connection, const CrowdOptions& options) {
  std::unique_ptr<Crowd> crowd(new Crowd(connection, options));
  LSTM_ASSIGN_OR_RETURN(crowd->client_, connection.Connect());
  LSTM_ASSIGN_OR_RETURN(const v1::ModelInfo model, crowd->client_->GetModel(options.model, options.version));
  for (uint32_t i = 0; i < options.streams; ++i) {
    LSTM_ASSIGN_OR_RETURN(auto stream, crowd->client_->OpenStream());
    crowd->streams_.push_back(std::move(stream));
  }
  std::minstd_rand random(1);
  for (size_t i = 0; i < kTurns; ++i) crowd->turns_.push_back(RandomTurn(model, options.steps_per_turn, random));
  return crowd;
}

size_t Crowd::Alone(size_t sessions) const {
  if (options_.churn <= 0 || options_.abrupt <= 0) return 0;
  return std::min({sessions, kMostAlone, static_cast<size_t>(std::ceil(options_.abrupt * static_cast<double>(sessions)))});
}

absl::StatusOr<std::unique_ptr<Crowd::Live>> Crowd::Open(size_t slot, bool alone) {
  auto live = std::make_unique<Live>();
  Stream* stream = streams_[slot % streams_.size()].get();
  if (alone) {
    Connection own = connection_;
    own.reconnect_s = 0;  // what is cut stays cut
    const auto before = Connections();
    LSTM_ASSIGN_OR_RETURN(live->client, own.Connect());
    for (const auto& one : Connections()) {
      if (!before.contains(one.first) || before.at(one.first) != one.second) live->sockets.insert(one);
    }
    LSTM_ASSIGN_OR_RETURN(live->stream, live->client->OpenStream());
    stream = live->stream.get();
  }
  v1::Open open;
  open.set_model(options_.model);
  open.set_version(options_.version);
  open.set_durability(options_.durability);
  open.set_window(kWindow);
  LSTM_ASSIGN_OR_RETURN(live->session, stream->Open(std::move(open), connection_.patience()));
  return live;
}

absl::Status Crowd::Resize(size_t sessions) {
  const size_t alone = Alone(sessions);
  if (sessions < slots_.size()) slots_.resize(sessions);
  alone_ = std::min(alone_, slots_.size());
  // One after the other: only so it is known whose sockets the new ones are.
  for (; alone_ < alone; ++alone_) {
    LSTM_ASSIGN_OR_RETURN(auto live, Open(alone_, true));
    if (alone_ == slots_.size()) slots_.push_back(std::make_unique<Slot>());
    slots_[alone_]->live = std::move(live);
  }
  return Fill(slots_.size(), sessions);
}

absl::Status Crowd::Fill(size_t begin, size_t sessions) {
  slots_.resize(std::max(sessions, begin));
  std::vector<absl::Status> results(std::min(kOpeners, streams_.size()));
  std::vector<std::thread> openers;
  for (size_t w = 0; w < results.size(); ++w) {
    openers.emplace_back([&, w] {
      for (size_t i = begin; i < sessions && results[w].ok(); ++i) {
        if (i % streams_.size() % results.size() != w) continue;
        auto live = Open(i, false);
        results[w] = live.status();
        if (!live.ok()) break;
        slots_[i] = std::make_unique<Slot>();
        slots_[i]->live = *std::move(live);
      }
    });
  }
  for (std::thread& opener : openers) opener.join();
  slots_.erase(std::remove(slots_.begin(), slots_.end(), nullptr), slots_.end());
  for (const absl::Status& result : results) {
    if (!result.ok()) return absl::Status(result.code(), absl::StrCat("after ", slots_.size(), " sessions: ", result.message()));
  }
  return absl::OkStatus();
}

// The turns whose answers nobody waits for any more.
uint64_t Crowd::End(std::unique_ptr<Live> live) {
  if (live->client == nullptr) {
    if (const absl::Status closed = live->session->Close(connection_.patience()); !closed.ok()) tally_.Failed(closed);
    return 0;
  }
  live->session->Release();  // as a device that dies: without a Close
  live->session.reset();     // first, so that the cut is no error of its turns
  tally_.Abandoned(live->waiting);
  for (const auto& [fd, inode] : live->sockets) {
    struct stat about;
    if (fstat(fd, &about) == 0 && about.st_ino == inode) shutdown(fd, SHUT_RDWR);
  }
  return live->waiting;
}

void Crowd::Churn(const std::atomic<bool>& stop, Paced& paced) {
  std::minstd_rand random(2);
  const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1 / options_.churn));
  for (auto due = Clock::now() + period; true; due += period) {
    while (!stop && Clock::now() < due) std::this_thread::sleep_until(std::min(due, Clock::now() + std::chrono::milliseconds(50)));
    if (stop) return;
    const bool alone = alone_ == slots_.size() || (alone_ > 0 && std::uniform_real_distribution<double>(0, 1)(random) < options_.abrupt);
    const size_t from = alone ? 0 : alone_, to = alone ? alone_ : slots_.size();
    const size_t i = std::uniform_int_distribution<size_t>(from, to - 1)(random);
    auto live = Open(i, alone);
    if (!live.ok()) {
      tally_.Failed(live.status());
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(slots_[i]->mutex);
      std::swap(slots_[i]->live, *live);
    }
    ++((*live)->client != nullptr ? paced.cut : paced.closed);
    paced.abandoned += End(*std::move(live));
  }
}

absl::Status Crowd::Send(Slot& slot, Clock::time_point due, bool counts) {
  const std::lock_guard<std::mutex> lock(slot.mutex);
  Live* const live = slot.live.get();
  ++live->waiting;
  tally_.Sent();
  const absl::Status sent = live->session->Send(
      turns_[next_turn_++ % kTurns],
      [tally = &tally_, live, due, counts](absl::StatusOr<v1::Result> result) {
        --live->waiting;
        tally->Answered(due, result.status(), counts);
      },
      connection_.patience());
  if (!sent.ok()) {
    --live->waiting;
    tally_.Answered(due, sent, counts);
  }
  return sent;
}

absl::StatusOr<Paced> Crowd::Run(const Pace& pace) {
  prctl(PR_SET_TIMERSLACK, 1000UL);  // of 50 us unless told, by which every turn would be late
  const double each = 1 / (options_.rate * static_cast<double>(slots_.size()));
  const auto after = [&](double seconds) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)); };
  const auto warm = static_cast<uint64_t>(pace.warm_up_s / each), total = warm + static_cast<uint64_t>(pace.seconds / each);
  tally_.Reset(total - warm, pace.p99_bar_us);
  Paced paced;
  paced.sessions = slots_.size();
  paced.late_us.reserve(total - warm);
  std::atomic<bool> stop{false};
  std::thread churner;
  const auto begin = Clock::now() + std::chrono::milliseconds(50);
  if (options_.churn > 0) churner = std::thread([&] { Churn(stop, paced); });
  const Clock::duration behind = std::max<Clock::duration>(kHopeless, after(pace.p99_bar_us * 1e-6));
  auto shown = begin;
  uint64_t answered = 0;
  for (uint64_t n = 0; n < total && (pace.p99_bar_us <= 0 || tally_.errors() == 0); ++n) {
    const auto due = begin + after(static_cast<double>(n) * each);
    std::this_thread::sleep_until(due);
    if (n == warm) {
      answered = tally_.answered();
      if (pace.measured) pace.measured();
    }
    if (n >= warm) paced.late_us.push_back(std::chrono::duration<float, std::micro>(Clock::now() - due).count());
    if (!Send(*slots_[n % slots_.size()], due, n >= warm).ok()) break;
    const bool hopeless = pace.p99_bar_us > 0 && (tally_.beyond_bar() * 100 > total - warm || Clock::now() - due > behind);
    if (hopeless) {
      paced.stopped = true;
      break;
    }
    if (pace.progress && Clock::now() - shown > std::chrono::seconds(1)) {
      shown = Clock::now();
      pace.progress(tally_.answered(), total);
    }
  }
  stop = true;
  if (churner.joinable()) churner.join();
  const auto patience = Clock::now() + absl::ToChronoMilliseconds(connection_.patience());
  while (tally_.unanswered() > 0 && Clock::now() < patience) std::this_thread::sleep_for(std::chrono::microseconds(200));
  if (tally_.unanswered() > 0) return absl::DeadlineExceededError(absl::StrCat(tally_.unanswered(), " turns were not answered in time"));
  paced.seconds = std::chrono::duration<double>(Clock::now() - begin).count() - pace.warm_up_s;
  paced.answered = tally_.answered() - answered;
  tally_.Take(paced);
  std::sort(paced.late_us.begin(), paced.late_us.end());
  return paced;
}

}  // namespace lstm::client
