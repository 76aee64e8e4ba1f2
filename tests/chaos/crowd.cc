// SPDX-License-Identifier: MIT
#include "tests/chaos/crowd.h"

#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/chaos/process.h"

namespace lstm::testing {
namespace {

const absl::Duration kLong = absl::FromChrono(kPatience);

}  // namespace

struct Crowd::Seat {
  const size_t number;
  std::atomic<size_t> stream;
  std::mt19937_64 random;
  std::thread thread;
  const Plan* plan = nullptr;
  std::atomic<size_t> got{0};  // answers of this session

  uint64_t Below(uint64_t n) { return random() % n; }
};

Crowd::Crowd(const Options& options, const std::vector<Plan>& plans) : options_(options), plans_(plans) {
  for (size_t c = 0; c < options.clients; ++c) {
    client::ConnectOptions connect;
    connect.address = options.address;
    connect.timeout = kLong;
    connect.reconnect_timeout = kLong;
    connect.keepalive = options.keepalive;
    connect.on_event = [this](const client::StreamEvent& event) { ++(event.kind == client::StreamEvent::Kind::kLost ? lost_ : mended_); };
    auto client = client::Client::Connect(connect);
    if (!client.ok()) {
      Violated(client.status().ToString());
      return;
    }
    for (size_t s = 0; s < options.streams; ++s) streams_.push_back(*(*client)->OpenStream());
    clients_.push_back(*std::move(client));
  }
  for (size_t i = 0; i < streams_.size() * options.seats; ++i) {
    seats_.push_back(std::unique_ptr<Seat>(new Seat{i, i % streams_.size(), std::mt19937_64(options.seed * 7919 + i), {}}));
    seats_.back()->thread = std::thread([this, seat = seats_.back().get()] { Run(*seat); });
  }
}

Crowd::~Crowd() { Finish(); }

void Crowd::Finish() {
  stopping_ = true;
  for (const auto& seat : seats_) {
    if (seat->thread.joinable()) seat->thread.join();
  }
}

bool Crowd::AllDown() const {
  std::set<size_t> used;
  for (const auto& seat : seats_) used.insert(seat->stream);
  return mended_ + used.size() <= lost_;
}

void Crowd::Violated(const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
  if (violations_.size() < 20) violations_.push_back(what);
}

std::string Crowd::violations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string all;
  for (const std::string& one : violations_) absl::StrAppend(&all, "\n  ", one);
  return all;
}

void Crowd::Run(Seat& seat) {
  while (!stopping_ && !failed_ && OneSession(seat)) ++sessions_;
}

// On a stream's thread, or in Resume: never at the same time for one seat.
void Crowd::Take(Seat& seat, uint64_t seq, const absl::StatusOr<v1::Result>& result) {
  if (failed_) return;
  const size_t at = seat.got++;
  const std::string which = absl::StrCat("seat ", seat.number, ", ", seat.plan->model, ", window ", seat.plan->window, ", turn ", at + 1, ": ");
  if (!result.ok()) return Violated(which + result.status().ToString());
  if (seq != at + 1) return Violated(absl::StrCat(which, "the answer has seq ", seq));
  const std::string bits = BitsOf(*result);
  if (at >= seat.plan->truth.size() || bits != seat.plan->truth[at]) return Violated(which + Unlike(*result, bits, *seat.plan, at));
  ++answers_;
  replayed_ += result->replayed();
}

bool Crowd::OneSession(Seat& seat) {
  seat.plan = &plans_[seat.Below(plans_.size())];
  seat.got = 0;
  const Plan& plan = *seat.plan;
  const auto failed = [&](const char* what, const absl::Status& status) {
    const std::string which = absl::StrCat("seat ", seat.number, ", ", plan.model, ": ", what, " after ", seat.got.load(), " answers: ");
    if (!failed_) Violated(which + status.ToString());
    return false;
  };
  v1::Open open;
  open.set_model(plan.model);
  open.set_window(plan.window);
  if (options_.host && seat.number % 4 == 0) open.set_durability(v1::HOST);
  // Sometimes room for no more than a turn or two: then WINDOW is refused now and then, and answers lie all over their ring.
  if (seat.Below(4) == 0) open.set_answer_bytes(9000 + seat.Below(20'000));
  if (const uint64_t room = room_.exchange(0); room > 0) open.set_answer_bytes(room);
  auto opened = streams_[seat.stream]->Open(std::move(open), kLong);
  if (!opened.ok()) return failed("Open", opened.status());
  std::unique_ptr<client::Session> session = *std::move(opened);
  const auto done = [&](absl::StatusOr<v1::Result> result) {
    const uint64_t seq = result.ok() ? result->seq() : 0;
    Take(seat, seq, result);
  };
  size_t hand_over = options_.hand_over && seat.Below(4) == 0 ? 1 + seat.Below(plan.turns.size()) : 0;
  for (size_t t = 0; t < plan.turns.size() && !failed_;) {
    if (seat.Below(16) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10 + seat.Below(30)));  // idle: it is parked meanwhile
    if (const absl::Status sent = session->Send(plan.turns[t++], done, kLong); !sent.ok()) return failed("Send", sent);
    if (t != hand_over) continue;
    hand_over = 0;
    session->Release();
    const auto handle = session->Save();
    if (!handle.ok()) return failed("Save", handle.status());
    session.reset();  // from here on `done` is not called; what it got since the handle comes once more
    v1::Resume saved;
    saved.ParseFromString(*handle);
    seat.got = saved.have_seq();
    seat.stream = seat.Below(streams_.size());
    auto resumed = streams_[seat.stream]->Resume(*handle, done, kLong);
    if (!resumed.ok()) return failed("Resume", resumed.status());
    session = *std::move(resumed);
    t = seat.got;  // turns that had not reached the server are sent again
    ++handed_over_;
  }
  if (failed_) return false;
  if (const absl::Status closed = session->Close(kLong); !closed.ok()) return failed("Close", closed);
  if (seat.got != plan.turns.size()) return failed("answers are missing", absl::InternalError(absl::StrCat(plan.turns.size(), " were due")));
  return true;
}

}  // namespace lstm::testing
