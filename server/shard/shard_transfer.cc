// SPDX-License-Identifier: MIT
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/session/digest.h"
#include "server/shard/shard.h"
#include "server/shard/tensor_codec.h"
#include "server/shard/wanted.h"

// Fork, export and import: sessions made of others.
namespace lstm::server {
namespace {

constexpr char kBlobMagic[] = "LSTMSES1";  // docs/state_format.md
constexpr size_t kMagicBytes = 8;

template <size_t N>
absl::StatusOr<std::array<uint8_t, N>> Exactly(const std::string& bytes, const char* field) {
  if (bytes.size() != N) return absl::InvalidArgumentError(absl::StrCat(field, " has ", bytes.size(), " bytes, expected ", N));
  std::array<uint8_t, N> out;
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}

std::string FloatBytes(std::span<const float> values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

absl::StatusOr<core::AlignedBuffer<float>> Floats(const std::string& bytes, size_t count, const char* what) {
  if (bytes.size() != count * sizeof(float)) {
    return absl::InvalidArgumentError(absl::StrCat("blob: its ", what, " has ", bytes.size(), " bytes, the model's ", count * sizeof(float)));
  }
  core::AlignedBuffer<float> out(count);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  if (!std::all_of(out.span().begin(), out.span().end(), [](float v) { return std::isfinite(v); })) {
    return absl::InvalidArgumentError(absl::StrCat("blob: its ", what, " has numbers that are not finite"));
  }
  return out;
}

absl::StatusOr<store::v1::SessionBlob> ReadBlob(const std::string& blob) {
  constexpr size_t kAround = kMagicBytes + SHA256_DIGEST_LENGTH;
  if (blob.size() < kAround || blob.compare(0, kMagicBytes, kBlobMagic) != 0) {
    return absl::InvalidArgumentError("blob: this is no exported session, or of another version of the format; export it again, with this version of the server");
  }
  Sha256 sum;
  SHA256(reinterpret_cast<const unsigned char*>(blob.data()), blob.size() - sum.size(), sum.data());
  if (std::memcmp(sum.data(), blob.data() + blob.size() - sum.size(), sum.size()) != 0) {
    return absl::DataLossError("blob: its checksum does not fit its bytes; export the session again");
  }
  store::v1::SessionBlob out;
  if (!out.ParseFromArray(blob.data() + kMagicBytes, static_cast<int>(blob.size() - kAround))) {
    return absl::InvalidArgumentError("blob: its content can not be read; export the session again");
  }
  return out;
}

absl::Status Ended(const SessionDirectory::Absent& gone) {
  if (gone.reason == v1::RETRY) return absl::UnavailableError(gone.why);
  return absl::AbortedError(absl::StrCat("the session has ended meanwhile: ", gone.why));
}
absl::Status Moving() { return absl::UnavailableError("the session is changing hands; ask again in a moment"); }

}  // namespace

// While the disk works for a session, its slot is ahead of what was answered; one that is parked is read first.
bool Shard::Waits(const std::string& id_bytes, std::function<void()> again, const Done& done) {
  const auto id = Exactly<sizeof(SessionId)>(id_bytes, "session_id");
  Session* session = id.ok() ? Find(*id) : nullptr;
  const auto then = [again = std::move(again), done](const auto* gone) { gone != nullptr ? done(Ended(*gone)) : again(); };
  if (session != nullptr && session->syncing) {
    session->waiting.push_back(then);
  } else if (id.ok() && parked_.Find(*id) != nullptr) {
    Unpark(*id, then);
  } else {
    return false;
  }
  return true;
}

absl::StatusOr<Session*> Shard::Owned(const std::string& id_bytes, const std::string& token, const std::string& principal, uint64_t at_seq) {
  LSTM_ASSIGN_OR_RETURN(const auto id, Exactly<sizeof(SessionId)>(id_bytes, "session_id"));
  Sha256 hash;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), hash.data());
  Session* session = Find(id);
  if (session == nullptr && services_.directory->ShardOf(id)) return Moving();
  if (session == nullptr) return absl::NotFoundError(services_.directory->WhyAbsent(id).why);
  if (session->principal != principal || CRYPTO_memcmp(hash.data(), session->token_hash.data(), hash.size()) != 0) {
    return absl::NotFoundError(SessionDirectory::kUnknown);
  }
  LSTM_RETURN_IF_ERROR(Verify(session));
  const uint64_t applied = session->machine.applied();
  if (at_seq != applied) {
    return absl::FailedPreconditionError(absl::StrCat("at_seq is ", at_seq, ", but the session's applied_seq is ", applied, "; ask with that, or take the session up first"));
  }
  return session;
}

store::v1::SessionIdentity Shard::IdentityOf(const Session& session) const {
  store::v1::SessionIdentity id;
  id.set_durability(session.durability);
  id.set_window(session.machine.options().window);
  id.set_own_ttl(session.own_ttl);
  id.set_ttl_seconds(static_cast<uint32_t>(session.own_ttl ? session.ttl_us / 1'000'000 : options_.ttl_s));
  id.set_last_step_only(session.last_step_only);
  id.set_timings(session.timings);
  id.set_accept_value_equal(session.accept_value_equal);
  id.set_ring_bytes(static_cast<uint32_t>(session.stored() ? session.slot->ring_bytes() : 1u << 16));
  return id;
}

void Shard::Fork(const v1::ForkSessionRequest& request, const std::string& principal, v1::ForkSessionResponse* response, Done done) {
  if (Waits(request.session_id(), [=, this, &request] { Fork(request, principal, response, done); }, done)) return;
  const absl::StatusOr<Session*> owned = Owned(request.session_id(), request.resume_token(), principal, request.at_seq());
  if (!owned.ok()) return done(owned.status());
  const auto nonce = Exactly<sizeof(Nonce)>(request.client_nonce(), "client_nonce");
  if (!nonce.ok()) return done(nonce.status());
  const Session& session = **owned;
  if (session.machine.options().simple) return done(absl::FailedPreconditionError("a simple session can not be forked: nobody could take up the other"));
  auto wanted = std::make_shared<Wanted>();
  wanted->model = session.model;
  wanted->selected = session.selected;
  wanted->identity = IdentityOf(session);
  wanted->identity.set_principal(principal);
  wanted->nonce = *nonce;
  wanted->applied = session.machine.applied();
  wanted->steps = session.steps;
  wanted->state = core::AlignedBuffer<float>(session.state().size());
  std::copy(session.state().begin(), session.state().end(), wanted->state.data());
  if (!session.initial.empty()) {
    wanted->initial = core::AlignedBuffer<float>(session.initial.size());
    std::copy(session.initial.span().begin(), session.initial.span().end(), wanted->initial.data());
  }
  MakeDetached(wanted, response, std::move(done));
}

void Shard::Export(const v1::ExportSessionRequest& request, const std::string& principal, v1::ExportSessionResponse* response, Done done) {
  if (!Waits(request.session_id(), [=, this, &request] { Export(request, principal, response, done); }, done)) done(Seal(request, principal, response));
}

absl::Status Shard::Seal(const v1::ExportSessionRequest& request, const std::string& principal, v1::ExportSessionResponse* response) {
  LSTM_ASSIGN_OR_RETURN(const Session* session, Owned(request.session_id(), request.resume_token(), principal, request.at_seq()));
  store::v1::SessionBlob blob;
  *blob.mutable_identity() = IdentityOf(*session);
  blob.mutable_identity()->set_model(session->model->name);
  blob.mutable_identity()->set_version(session->model->version);
  blob.mutable_identity()->set_model_hash(session->program().model().hash);
  blob.mutable_identity()->set_numerics_id(session->program().numerics_id());
  for (const uint32_t o : session->selected) blob.mutable_identity()->add_outputs(session->program().outputs()[o].name);
  blob.set_applied_seq(session->machine.applied());
  blob.set_steps(session->steps);
  blob.set_state(FloatBytes(session->state()));
  blob.set_initial_state(FloatBytes(session->initial.span()));
  std::string* bytes = response->mutable_blob();
  *bytes = absl::StrCat(kBlobMagic, blob.SerializeAsString());
  Sha256 sum;
  SHA256(reinterpret_cast<const unsigned char*>(bytes->data()), bytes->size(), sum.data());
  bytes->append(sum.begin(), sum.end());
  response->set_applied_seq(blob.applied_seq());
  return absl::OkStatus();
}

absl::Status Shard::ReadImport(const v1::ImportSessionRequest& request, Wanted& wanted) const {
  LSTM_RETURN_IF_ERROR(Exactly<sizeof(Nonce)>(request.client_nonce(), "client_nonce").status());
  LSTM_ASSIGN_OR_RETURN(const store::v1::SessionBlob blob, ReadBlob(request.blob()));
  const store::v1::SessionIdentity& from = blob.identity();
  const absl::StatusOr<ServedModelPtr> model = services_.models->FindHash(from.model(), from.version(), from.model_hash());
  if (!model.ok()) return absl::FailedPreconditionError(absl::StrCat("blob: ", model.status().message()));
  if ((*model)->program == nullptr) return absl::FailedPreconditionError("blob: its model has no sessions");
  const core::StepProgram& program = *(*model)->program;
  if (from.numerics_id() != program.numerics_id() && !from.accept_value_equal() && !request.accept_value_equal()) {
    return absl::FailedPreconditionError("blob: this server's engine gives other bits than the one that it comes from; accept_value_equal takes it all the same");
  }
  // The blob may have been made by anybody: it is understood as an Open with its wishes, and checked like one.
  wanted.model = *model;  // pinned ones too: a session may follow those that began on the same bytes
  v1::Open open;
  open.set_model((*model)->name);
  open.set_version((*model)->version);
  open.set_client_nonce(request.client_nonce());
  open.set_durability(request.durability());
  open.set_window(from.window());
  open.set_ttl_seconds(from.own_ttl() ? std::min(from.ttl_seconds(), options_.max_ttl_s) : 0);
  open.set_accept_value_equal(from.accept_value_equal() || request.accept_value_equal());
  open.set_answer_bytes(from.ring_bytes());
  open.mutable_options()->set_last_step_only(from.last_step_only());
  open.mutable_options()->set_timings(from.timings());
  v1::Reason reason;
  LSTM_RETURN_IF_ERROR(Understand(open, wanted, reason));
  wanted.selected.clear();
  for (const std::string& name : from.outputs()) {
    const auto it = std::find_if(program.outputs().begin(), program.outputs().end(), [&](const auto& port) { return port.name == name; });
    if (it == program.outputs().end()) return absl::InvalidArgumentError("blob: it asks for an output that the model has not");
    wanted.selected.push_back(static_cast<uint32_t>(it - program.outputs().begin()));
  }
  if (wanted.selected.size() > program.outputs().size() || AnswerStepBytes(program, wanted.selected) > wanted.identity.ring_bytes()) {
    return absl::InvalidArgumentError("blob: its outputs do not fit the room that it asks for");
  }
  wanted.applied = blob.applied_seq();
  wanted.steps = blob.steps();
  LSTM_ASSIGN_OR_RETURN(wanted.state, Floats(blob.state(), program.state_floats(), "state"));
  if (!blob.initial_state().empty()) {
    LSTM_ASSIGN_OR_RETURN(wanted.initial, Floats(blob.initial_state(), program.state_floats(), "initial state"));
  }
  return absl::OkStatus();
}

void Shard::Import(const v1::ImportSessionRequest& request, const std::string& principal, v1::ImportSessionResponse* response, Done done) {
  auto wanted = std::make_shared<Wanted>();
  const absl::Status read = ReadImport(request, *wanted);
  if (!read.ok()) return done(read);
  wanted->identity.set_principal(principal);
  MakeDetached(wanted, response, std::move(done));
}

template <typename Response>
void Shard::MakeDetached(const std::shared_ptr<Wanted>& wanted, Response* response, Done done) {
  if (draining_) return done(absl::UnavailableError("the server is going away; ask again in a moment"));
  if (const auto id = services_.directory->OpenedWith(*wanted->nonce)) {  // the call is repeated: its session, with a new token
    const auto renew = [id = *id, principal = wanted->identity.principal(), response, done](Shard& s) { s.Renew(id, principal, response, done); };
    const auto shard = services_.directory->ShardOf(*id);
    if (!shard || !services_.peers->Send(*shard, renew)) done(Moving());
    return;
  }
  const absl::StatusOr<Session*> made = MakeSession(*wanted);
  if (absl::IsUnavailable(made.status())) {
    store_->Grow(wanted->slot_bytes, [peers = services_.peers, shard = index_, wanted, response, done](const absl::Status& grown) {
      if (!grown.ok()) return done(grown);
      if (!peers->Send(shard, [wanted, response, done](Shard& s) { s.MakeDetached(wanted, response, done); })) done(absl::UnavailableError("the server is going away; ask again in a moment"));
    });
    return;
  }
  if (!made.ok()) return done(made.status());
  Session* session = *made;
  Orphan(session, services_.clock());
  AnswerMade(session, wanted->token, response, done);
}

template <typename Response>
void Shard::AnswerMade(Session* session, const std::string& token, Response* response, const Done& done) {
  const auto answer = [session, token, response, done](const SessionDirectory::Absent* gone) {
    if (gone != nullptr) return done(Ended(*gone));
    response->set_session_id(session->id.data(), session->id.size());
    response->set_resume_token(token);
    response->set_applied_seq(session->machine.applied());
    response->set_state_digest(&session->state_digest, sizeof(session->state_digest));
    done(absl::OkStatus());
  };
  session->durability == v1::HOST ? Sync(session, answer) : answer(nullptr);
}

template <typename Response>
void Shard::Renew(const SessionId& id, const std::string& principal, Response* response, const Done& done) {
  const std::string id_bytes(id.begin(), id.end());
  if (Waits(id_bytes, [=, this] { Renew(id, principal, response, done); }, done)) return;
  Session* session = Find(id);
  if (session == nullptr) return done(Moving());
  if (session->principal != principal || !session->machine.nonce_valid() || session->stream != nullptr || session->machine.computing()) {
    return done(absl::FailedPreconditionError("client_nonce belongs to a session that has gone on; use another"));
  }
  if (const absl::Status verified = Verify(session); !verified.ok()) return done(verified);
  const std::string token = NewToken(session);
  if (session->stored()) session->slot->Commit(PositionOf(*session));
  AnswerMade(session, token, response, done);
}

}  // namespace lstm::server
