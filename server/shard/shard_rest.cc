// SPDX-License-Identifier: MIT
#include <string.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/session/expiry.h"
#include "server/session/mutant.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"

// Idle volatile sessions rest: what they hold is packed into one block of memory, and unpacked when somebody wants them. Both are
// done at once, so that nobody ever sees a session between the two.
namespace lstm::server {
namespace {

constexpr uint64_t kMicros = 1'000'000;
// A session that has less time left does not rest: it would not be told of its end in time.
constexpr uint64_t kLeastLeftUs = kWarnBeforeUs + 2 * PartedMap<std::unique_ptr<Rest>>::kParts * Shard::kSweepEveryUs;
constexpr uint64_t kRestOverheadBytes = sizeof(Rest) + 256;  // entries of the index, the directory and the lane

struct AnswerHead {
  InputDigest digest;
  uint64_t state_digest;
  uint64_t charged_bytes;
  uint32_t steps;
  uint32_t bytes;
};

class Writer {
 public:
  explicit Writer(std::byte* to) : to_(to) {}
  void Put(const void* from, size_t n) {
    if (n > 0) std::memcpy(to_, from, n);
    to_ += n;
  }

 private:
  std::byte* to_;
};

class Reader {
 public:
  explicit Reader(const std::byte* from) : from_(from) {}
  void Get(void* to, size_t n) {
    if (n > 0) std::memcpy(to, from_, n);
    from_ += n;
  }

 private:
  const std::byte* from_;
};

}  // namespace

Rest::~Rest() { explicit_bzero(bytes.get(), size); }

std::shared_ptr<const RestTerms> RestingIndex::Share(RestTerms terms) {
  auto shared = std::make_shared<const RestTerms>(std::move(terms));
  return *terms_.insert(std::move(shared)).first;
}

std::unique_ptr<Rest> RestingIndex::Take(const SessionId& id) {
  auto* found = rests_.Find(id);
  if (found == nullptr) return nullptr;
  std::unique_ptr<Rest> rest = std::move(*found);
  rests_.Remove(id);
  if (rest->terms.use_count() == 2) terms_.erase(rest->terms);  // its own and this one
  return rest;
}

bool Shard::MayRest(const Session& session) const {
  return !session.stored() && !session.closing && !session.syncing && session.waiting.empty() && !session.machine.computing() && session.machine.waiting() == 0 &&
         session.last_used_us + session.ttl_us > services_.clock() + kLeastLeftUs;
}

void Shard::LayToRest(Session* session) {
  Trim(session);
  const SessionMachine& machine = session->machine;
  if (session->nonce && !machine.nonce_valid()) services_.directory->ForgetNonce(*std::exchange(session->nonce, std::nullopt));
  const auto nobody = std::find_if(session->holders.begin(), session->holders.end(), [](const Session::Holder& h) { return h.id == 0; });
  const auto holders = static_cast<uint8_t>(nobody - session->holders.begin());
  size_t bytes = (session->memory.size() + session->initial.size()) * sizeof(float) + holders * sizeof(Session::Holder) + (session->nonce ? sizeof(Nonce) : 0);
  for (size_t i = 0; i < session->records.size(); ++i) bytes += sizeof(AnswerHead) + session->records[i]->answer.size();

  auto rest = std::make_unique<Rest>(bytes);
  Writer out(rest->bytes.get());
  out.Put(session->memory.data(), session->memory.size() * sizeof(float));
  out.Put(session->initial.data(), session->initial.size() * sizeof(float));
  uint64_t charged = session->charged_bytes;
  for (size_t i = 0; i < session->records.size(); ++i) {
    const TurnRecord& record = *session->records[i];
    const AnswerHead head{record.digest, record.state_digest, record.charged_bytes, record.answer_steps, static_cast<uint32_t>(record.answer.size())};
    out.Put(&head, sizeof(head));
    out.Put(record.answer.data(), record.answer.size());
    charged += record.charged_bytes;
  }
  out.Put(session->holders.data(), holders * sizeof(Session::Holder));
  if (session->nonce) out.Put(session->nonce->data(), sizeof(Nonce));
  rest->epoch = machine.epoch();
  rest->base = session->base_seq;
  rest->applied = machine.applied();
  rest->acked = machine.acked();
  rest->steps = session->steps;
  rest->state_digest = session->state_digest;
  rest->last_used_us = session->last_used_us;
  rest->ttl_us = session->ttl_us;
  rest->token_hash = session->token_hash;
  rest->own_initial = !session->initial.empty();
  rest->has_nonce = session->nonce.has_value();
  rest->holders = holders;
  rest->stream = session->stream;
  rest->lane = session->lane;
  rest->terms = resting_.Share({session->model, machine.options(), session->principal, session->account, session->selected, session->last_step_only, session->timings,
                                session->accept_value_equal, session->own_ttl, session->max_turn_answer_bytes});
  const SessionId id = session->id;
  if (rest->stream != nullptr) rest->stream->lanes_[rest->lane] = {.session = nullptr, .parked = id, .waiting = {}};

  rest->charged_bytes = kRestOverheadBytes + bytes;
  if (session->account != nullptr) {
    session->account->GiveSession(session->charged_bytes);
    session->account->ForceSession(rest->charged_bytes);
  }
  budget_->GiveBytes(charged);
  budget_->ForceBytes(rest->charged_bytes);
  BeginSweeping();
  const std::unique_ptr<Session> out_of_table = table_.Extract(session);
  explicit_bzero(out_of_table->memory.data(), out_of_table->memory.size() * sizeof(float));
  explicit_bzero(out_of_table->initial.data(), out_of_table->initial.size() * sizeof(float));
  for (size_t i = 0; i < out_of_table->records.size(); ++i) {
    out_of_table->records[i]->charged_bytes = 0;  // given back above
    RecycleRecord(std::move(out_of_table->records[i]));
  }
  resting_.Add(id, std::move(rest));
}

Session* Shard::Find(const SessionId& id) {
  if (Session* session = table_.Find(id); session != nullptr) return session;
  return resting_.Find(id) != nullptr ? Wake(id) : nullptr;
}

Session* Shard::Wake(const SessionId& id) {
  const std::unique_ptr<Rest> rest = resting_.Take(id);
  const RestTerms& terms = *rest->terms;
  auto made = std::make_unique<Session>(id, terms.model, terms.options);
  Session* const session = made.get();
  const core::StepProgram& program = session->program();
  session->principal = terms.principal;
  session->account = terms.account;
  session->selected = terms.selected;
  session->last_step_only = terms.last_step_only;
  session->timings = terms.timings;
  session->accept_value_equal = terms.accept_value_equal;
  session->own_ttl = terms.own_ttl;
  session->max_turn_answer_bytes = terms.max_turn_answer_bytes;
  session->answer_step_bytes = AnswerStepBytes(program, terms.selected);
  session->base_seq = rest->base;
  session->steps = rest->steps;
  session->state_digest = rest->state_digest;
  session->last_used_us = rest->last_used_us;
  session->ttl_us = rest->ttl_us;
  session->token_hash = rest->token_hash;

  Reader in(rest->bytes.get());
  session->memory = core::AlignedBuffer<float>(program.state_floats());
  in.Get(session->memory.data(), session->memory.size() * sizeof(float));
  if (rest->own_initial) session->initial = core::AlignedBuffer<float>(program.state_floats());
  in.Get(session->initial.data(), session->initial.size() * sizeof(float));
  std::vector<InputDigest> answered;
  uint64_t charged = 0;
  for (uint64_t seq = rest->acked; seq < rest->applied; ++seq) {
    AnswerHead head;
    in.Get(&head, sizeof(head));
    TurnRecordPtr record = TakeRecord();
    record->session = session;
    record->digest = head.digest;
    record->state_digest = head.state_digest;
    record->answer_steps = head.steps;
    record->charged_bytes = head.charged_bytes;
    record->answer_memory.resize(head.bytes);
    record->answer = record->answer_memory;
    in.Get(record->answer.data(), head.bytes);
    answered.push_back(head.digest);
    charged += head.charged_bytes;
    session->records.push_back(std::move(record));
  }
  in.Get(session->holders.data(), rest->holders * sizeof(Session::Holder));
  if (rest->has_nonce) in.Get(session->nonce.emplace().data(), sizeof(Nonce));
  session->first_record = rest->acked;
  session->machine.Restore(rest->epoch, rest->base, rest->applied, Mutant(44) ? rest->applied : rest->acked, answered);

  // It was let in before: it is not refused now.
  session->charged_bytes = SessionTable::BytesOf((session->memory.size() + session->initial.size()) * sizeof(float));
  budget_->ForceBytes(session->charged_bytes + charged);
  budget_->GiveBytes(rest->charged_bytes);
  if (session->account != nullptr) {
    session->account->ForceSession(session->charged_bytes);
    session->account->GiveSession(rest->charged_bytes);
  }
  table_.Insert(std::move(made));
  if (rest->stream != nullptr) {
    Stream::Lane& lane = rest->stream->lanes_[rest->lane];
    lane.session = session;
    lane.parked.reset();
    session->stream = rest->stream;  // which has held it all the time
    session->lane = rest->lane;
  }
  SetAlarm(session);
  return session;
}

// A stream is gone that has held it.
void Shard::Orphan(Rest* rest) {
  rest->stream = nullptr;
  --attached_;
  if (!rest->terms->own_ttl) rest->ttl_us = std::min(rest->ttl_us, options_.orphan_ttl_s * kMicros);
  rest->last_used_us = services_.clock();
}

void Shard::SweepResting(uint64_t now) {
  const auto ids = resting_.all().NextDue([&](const std::unique_ptr<Rest>& rest) { return rest->end_us() <= now + (rest->stream != nullptr ? kLeastLeftUs / 2 : 0); });
  for (const SessionId& id : ids) Wake(id);  // its alarm sees to the rest: its client is to be told before it ends
}

}  // namespace lstm::server
