// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "server/session/session_machine.h"

// The promise of docs/protocol.md end to end: whatever happens between an honest client and the machine (pipelining,
// repeats, changed order, lost connections, deadlines, failed and refused turns), the client gets the answer of every turn,
// each Step exactly one, in order, and with the values of an undisturbed run. A seed replays exactly.
#ifndef LSTM_HISTORIES
#define LSTM_HISTORIES 20000
#endif

namespace lstm::server {
namespace {

// Stands for the recurrent step: no two orders or choices of inputs give the same state.
uint64_t Mix(uint64_t state, uint64_t input) {
  uint64_t x = (state ^ (input + 0x9e3779b97f4a7c15u)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
  return x ^ (x >> 32);
}

struct Step {
  uint64_t id;  // not on a real wire: tells every Step from every other
  uint64_t seq, input, ack, deadline;
  bool spoilt;  // arrives with content that is refused
};

struct Reply {
  uint64_t id, seq;
  bool ok, replayed;
  uint64_t answer;  // where ok
  Refusal why;      // where not
};

// What a shard does around the machine, with hashes for states.
class Owner {
 public:
  explicit Owner(const SessionMachine::Options& options) : machine(options) {}

  void Receive(const Step& step) {
    const auto place = machine.Classify(step.seq, step.ack);
    Trim();
    const auto reject = [&](Refusal why) { replies.push_back({step.id, place.seq, false, false, 0, why}); };
    if (place.position == SessionMachine::Position::kRefused) return reject(place.why);
    if (place.position == SessionMachine::Position::kFresh) {
      if (step.spoilt) return reject(Refusal::kInvalid);
      machine.Admit(place.seq, {step.input, 0}, step.deadline);
      records_.push_back({step.input, 0, {step.id}});
      return;
    }
    Record* record = Find(place.seq);
    if (record == nullptr) return Fail("R3: a duplicate of a turn that is not kept");
    switch (machine.MatchDuplicate(place.seq, {step.input, 0})) {
      case SessionMachine::Match::kReplay: return replies.push_back({step.id, place.seq, true, true, record->answer, {}});
      case SessionMachine::Match::kJoined: return record->asked.push_back(step.id);
      case SessionMachine::Match::kReused: return reject(Refusal::kSeqReused);
    }
  }

  void Begin(uint64_t now) {
    std::vector<Refused> refused;
    if (const auto seq = machine.Begin(now, refused)) {
      Record* record = Find(*seq);
      if (record == nullptr) return Fail("R2: a turn is computed that does not wait");
      scratch_ = Mix(state_, record->input);
    }
    SendRefused(refused);
  }

  void Commit() {
    const uint64_t seq = machine.applied() + 1;
    Record* record = Find(seq);
    if (record == nullptr) return Fail("R2: a turn is committed that does not wait");
    state_ = scratch_;
    record->answer = Mix(state_, 0);
    committed.push_back(record->input);
    if (machine.Commit() != record->asked.size()) Fail("R0: the copies of an answer are not the Steps that asked for it");
    bool replayed = false;
    for (const uint64_t id : std::exchange(record->asked, {})) {
      replies.push_back({id, seq, true, replayed, record->answer, {}});
      replayed = true;
    }
    if (machine.options().simple) machine.Acknowledge(seq);
    Trim();
  }

  void Abort(Refusal why) {
    std::vector<Refused> refused;
    machine.Abort(why, refused);
    SendRefused(refused);
  }

  void Detach() {
    machine.Detach();
    for (Record& record : records_) record.asked.clear();
    replies.clear();
    Trim();
  }

  // Resume: the answers after `have` once more. False where one is no longer kept.
  bool Replay(uint64_t have, std::vector<uint64_t>& answers) {
    for (uint64_t seq = have + 1; seq <= machine.applied(); ++seq) {
      const Record* record = Find(seq);
      if (record == nullptr) return false;
      answers.push_back(record->answer);
    }
    return true;
  }

  size_t kept() const { return records_.size(); }

  SessionMachine machine;
  std::deque<Reply> replies;
  std::vector<uint64_t> committed;  // the inputs that were applied, in order
  std::string error;

 private:
  struct Record {
    uint64_t input, answer;
    std::vector<uint64_t> asked;  // Steps whose answer is due
  };

  void Fail(const char* what) {
    if (error.empty()) error = what;
  }
  Record* Find(uint64_t seq) {
    return seq > first_ && seq - first_ <= records_.size() ? &records_[seq - first_ - 1] : nullptr;
  }
  void SendRefused(const std::vector<Refused>& refused) {
    for (const Refused& r : refused) {
      Record* record = Find(r.seq);
      if (record == nullptr || record->asked.size() != r.copies) return Fail("R0: a refusal is not for the Steps that asked");
      for (const uint64_t id : std::exchange(record->asked, {})) replies.push_back({id, r.seq, false, false, 0, r.why});
    }
    Trim();
  }
  void Trim() {
    while (!records_.empty() && first_ + records_.size() > machine.last()) records_.pop_back();
    for (; first_ < machine.acked() && !records_.empty(); ++first_) records_.pop_front();
  }

  std::deque<Record> records_;  // of seqs (first_, ...]
  uint64_t first_ = 0;
  uint64_t state_ = 0, scratch_ = 0;
};

class History {
 public:
  History(uint64_t seed, bool simple)
      : random_(seed), owner_({.window = 1 + static_cast<uint32_t>(Below(8)), .simple = simple}), turns_(10 + Below(15)) {}

  ::testing::AssertionResult Run() {
    for (int i = 0; i < 150 && ok(); ++i) {
      now_ += Below(3);
      switch (Below(12)) {
        case 0: case 1: case 2: case 3: Send(); break;
        case 4: case 5: Arrive(); break;
        case 6: case 7: owner_.Begin(now_); break;
        case 8: Finish(true); break;
        case 9: case 10: Receive(); break;
        default: Disturb(); break;
      }
      Check();
    }
    // Nothing goes wrong any more: the client gets all that is left.
    calm_ = true;
    for (int i = 0; i < 600 && ok() && !Done(); ++i) {
      Send();
      Arrive();
      owner_.Begin(now_);
      Finish(false);
      while (!owner_.replies.empty() && ok()) Receive();
      Check();
    }
    if (ok() && !Done()) error_ = "the client waits for ever";
    if (ok() && simple() && owner_.kept() > 0) error_ = "a simple session keeps answers that were handed over";
    if (error_.empty()) error_ = owner_.error;
    return error_.empty() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << error_;
  }

 private:
  bool ok() const { return error_.empty() && owner_.error.empty(); }
  bool simple() const { return owner_.machine.options().simple; }
  bool Done() const { return simple() ? next_ > turns_ && outstanding_.empty() : have_ == turns_; }
  uint64_t Below(uint64_t n) { return random_() % n; }
  void Fail(const char* what) {
    if (error_.empty()) error_ = what;
  }
  static uint64_t Input(uint64_t seq) { return seq * 977; }

  // The client: sends ahead, waits after a refusal until all that it sent is answered, then sends again from there.
  void Send() {
    if (draining_ && !outstanding_.empty()) return;
    if (draining_) next_ = have_ + 1;
    draining_ = false;
    if (next_ > turns_) return;
    if (!calm_ && !simple() && Below(12) == 0 && next_ < turns_) {  // changed order
      Put(next_ + 1);
      Put(next_);
      next_ += 2;
      return;
    }
    Put(next_++);
    if (!calm_ && !simple() && Below(6) == 0) Put(1 + Below(next_ - 1));  // a repeat
  }
  void Put(uint64_t seq) {
    const bool acks = calm_ || Below(3) != 0;
    if (acks && !simple()) acked_ = have_;
    outstanding_.insert(++last_id_);
    wire_.push_back({last_id_, simple() ? 0 : seq, Input(seq), acks ? acked_ : 0, !calm_ && Below(8) == 0 ? now_ + Below(6) : 0,
                     !calm_ && Below(25) == 0});
  }
  void Arrive() {
    if (wire_.empty()) return;
    owner_.Receive(wire_.front());
    wire_.pop_front();
  }
  void Finish(bool may_fail) {
    if (!owner_.machine.computing()) return;
    if (may_fail && Below(6) == 0) return owner_.Abort(Below(2) == 0 ? Refusal::kRetry : Refusal::kNonFinite);
    const uint64_t seq = owner_.machine.applied() + 1;
    owner_.Commit();
    if (!simple() && !owner_.committed.empty() && owner_.committed.back() != Input(seq)) {
      Fail("R5a: a turn was computed in the place of one that was refused");
    }
  }

  void Receive() {
    if (owner_.replies.empty()) return;
    const Reply reply = owner_.replies.front();
    owner_.replies.pop_front();
    if (outstanding_.erase(reply.id) == 0) return Fail("R0: a Step was answered twice");
    if (!reply.ok) {
      if (reply.why == Refusal::kSeqReused) return Fail("R3: what was sent before is called another input");
      if (reply.why == Refusal::kAlreadyAcked) {
        if (reply.seq > acked_) Fail("R4: refused as acknowledged, which it was not");
        return;
      }
      draining_ = !simple();
      return;
    }
    if (!reply.replayed) {
      if (reply.seq <= newest_) return Fail("R2: answers came out of order");
      newest_ = reply.seq;
    }
    if (reply.answer != Answer(reply.seq)) return Fail("an answer is not that of an undisturbed run");
    Take(reply.seq);
  }
  void Take(uint64_t seq) {
    early_.insert(seq);
    while (early_.contains(have_ + 1)) ++have_;
  }
  // The undisturbed run: the client's inputs in order; in a simple session those that were accepted.
  uint64_t Answer(uint64_t seq) {
    while (undisturbed_.size() <= seq) {
      const uint64_t at = undisturbed_.size();
      if (simple() && at > owner_.committed.size()) return 0;
      undisturbed_.push_back(Mix(undisturbed_.back(), simple() ? owner_.committed[at - 1] : Input(at)));
    }
    return Mix(undisturbed_[seq], 0);
  }

  void Disturb() {
    if (simple() || Below(3) != 0) return;
    // The connection is lost, with all that is on it; the client comes back and says what it has.
    wire_.clear();
    outstanding_.clear();
    owner_.Detach();
    newest_ = owner_.machine.applied();
    std::vector<uint64_t> answers;
    if (!owner_.Replay(have_, answers)) return Fail("R7: an answer that the client has not acknowledged is gone");
    for (uint64_t seq = have_ + 1; const uint64_t answer : answers) {
      if (answer != Answer(seq)) return Fail("a kept answer is not that of an undisturbed run");
      Take(seq++);
    }
    if (have_ < owner_.machine.applied()) return Fail("the client lacks an answer after it came back");
    next_ = owner_.machine.applied() + 1;
    draining_ = false;
  }

  void Check() {
    const SessionMachine& m = owner_.machine;
    if (m.acked() > m.applied() || m.applied() > m.last()) Fail("K <= A <= last does not hold");
    if (!simple() && m.last() > m.acked() + m.options().window) Fail("R6: more than the window is kept");
    if (m.applied() != owner_.committed.size()) Fail("R2, R9: applied() is not what was committed");
    if (owner_.kept() != m.last() - m.acked()) Fail("the records that the contract asks for are not those that are kept");
  }

  std::mt19937_64 random_;
  Owner owner_;
  const uint64_t turns_;
  uint64_t now_ = 1, last_id_ = 0;
  std::deque<Step> wire_;
  std::set<uint64_t> outstanding_;  // ids of Steps without an answer
  std::set<uint64_t> early_;
  std::vector<uint64_t> undisturbed_{0};  // states by seq
  uint64_t next_ = 1, have_ = 0, acked_ = 0, newest_ = 0;
  bool draining_ = false, calm_ = false;
  std::string error_;
};

TEST(SessionPromiseTest, TheClientGetsEveryAnswerOnceInOrderAsIfUndisturbed) {
  for (uint64_t seed = 1; seed <= LSTM_HISTORIES; ++seed) ASSERT_TRUE(History(seed, false).Run()) << "seed " << seed;
}

TEST(SessionPromiseTest, ASimpleSessionAnswersWhatItAcceptsInOrder) {
  for (uint64_t seed = 1; seed <= LSTM_HISTORIES / 4; ++seed) ASSERT_TRUE(History(seed, true).Run()) << "seed " << seed;
}

}  // namespace
}  // namespace lstm::server
