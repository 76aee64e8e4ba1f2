// SPDX-License-Identifier: MIT
#include "server/inference/sequences.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/inference/infer_codec.h"
#include "server/shard/reject.h"

namespace lstm::server {
namespace {

constexpr size_t kRemembered = 8192;
constexpr uint32_t kMostAttempts = 3;
constexpr uint64_t kMicros = 1000;  // nanoseconds

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace

// The lanes of one principal's sequences, and what the shard has answered on them.
struct Sequences::Face : ResponseSink {
  explicit Face(bool* host_dirty) : dirty(host_dirty) {}
  v1::Response* Next(size_t) override {
    *dirty = true;
    return &responses.emplace_back();
  }
  bool* const dirty;
  Stream* stream = nullptr;
  std::deque<v1::Response> responses;
  std::unordered_map<uint32_t, Sequence*> lanes;
  uint32_t last_lane = 0;
};

Sequences::Sequences(Shard* shard, const ShardServices& services, Deliver deliver)
    : shard_(shard), services_(services), deliver_(std::move(deliver)) {}

Sequences::~Sequences() {
  for (const auto& [principal, face] : faces_) shard_->Detach(face->stream);
}

size_t Sequences::live() const {
  return static_cast<size_t>(std::count_if(sequences_.begin(), sequences_.end(), [](const auto& entry) { return entry.second->lane != 0; }));
}

Sequences::Face* Sequences::FaceOf(const std::string& principal) {
  std::unique_ptr<Face>& face = faces_[principal];
  if (face == nullptr) {
    face = std::make_unique<Face>(&dirty_);
    face->stream = shard_->Attach(face.get(), principal);
  }
  return face.get();
}

void Sequences::Send(Face* face, v1::Request request) {
  message_.Clear();
  message_.add_requests()->Swap(&request);
  shard_->OnMessage(face->stream, message_);
}

void Sequences::Take(const InferJobPtr& job) {
  if (job->parameters.sequence.empty()) return TakeWhole(job);
  const uint64_t bytes = job->request.ByteSizeLong();
  if (!services_.budget->TakeBytes(bytes)) {
    return Give(job, absl::ResourceExhaustedError("no memory for this request now; nothing was applied, send it again"));
  }
  job->charged_bytes = bytes;
  std::unique_ptr<Sequence>& entry = sequences_[job->key];
  if (entry == nullptr) {
    entry = std::make_unique<Sequence>();
    entry->key = job->key;
    entry->face = FaceOf(job->principal);
  }
  entry->waiting.push_back(job);
  if (!entry->busy) Next(entry.get());
}

// Begins the next request that can be; those that can not are answered. `sequence` is gone after this where nothing is left of it.
void Sequences::Next(Sequence* sequence) {
  while (!sequence->busy && !sequence->waiting.empty()) {
    const InferJobPtr job = sequence->waiting.front();
    const absl::Status begun = job->cancelled.load(std::memory_order_relaxed) ? absl::CancelledError("the client has gone") : Begin(sequence, job);
    sequence->busy = begun.ok();
    if (begun.ok()) return;
    sequence->waiting.pop_front();
    Refuse(sequence, job, begun);
  }
  if (!sequence->busy && sequence->lane == 0) sequences_.erase(std::string(sequence->key));
}

absl::Status Sequences::Begin(Sequence* sequence, const InferJobPtr& job) {
  const InferParameters& p = job->parameters;
  const std::string name = absl::StrCat("sequence ", p.SequenceName(), " of model '", Shown(job->request.model_name()), "'");
  if (p.timeout_us > 0 && services_.clock() - job->received_us >= p.timeout_us) {
    return absl::DeadlineExceededError("the timeout passed before the request began; nothing was applied, send it again");
  }
  if (p.start) {
    if (sequence->lane != 0 && !p.take_over && !sequence->holder->gone()) {
      return absl::AlreadyExistsError(absl::StrCat(name, " lives, and who holds it is connected: end it, take another id, or say sequence_take_over"));
    }
    return Open(sequence, job);
  }
  if (sequence->lane == 0) {
    const auto gone = gone_.find(sequence->key);
    return absl::NotFoundError(absl::StrCat(name, gone == gone_.end() ? " is not known; its first request needs sequence_start" : absl::StrCat(": ", gone->second, "; sequence_start begins it anew")));
  }
  const std::string& version = job->request.model_version();
  if (!version.empty() && version != sequence->model->version) {
    return absl::InvalidArgumentError(absl::StrCat("model_version is '", Shown(version), "', but ", name, " began on version ", sequence->model->version, " and stays there"));
  }
  return Step(sequence, job, sequence->lane, *sequence->model);
}

namespace {

// What this face can compute with: all but models of whole sequences alone.
absl::StatusOr<ServedModelPtr> FindWithSteps(const ModelRepository& models, const inference::ModelInferRequest& request) {
  LSTM_ASSIGN_OR_RETURN(ServedModelPtr model, models.Find(request.model_name(), request.model_version()));
  if (model->program != nullptr) return model;
  return absl::UnimplementedError(absl::StrCat("model '", model->name, "' has no steps: ", model->info.not_streamable(),
                                               ". Predict of lstm.v1.Prediction computes whole sequences with it"));
}

}  // namespace

// A session of its own, on a lane of its own: the one that lives ends when the first step of the new one is applied.
absl::Status Sequences::Open(Sequence* sequence, const InferJobPtr& job) {
  LSTM_ASSIGN_OR_RETURN(sequence->next_model, FindWithSteps(*services_.models, job->request));
  sequence->next_counts = CountsOf(*sequence->next_model);
  Face* face = sequence->face;
  do {
    ++face->last_lane;
  } while (face->last_lane == 0 || face->lanes.contains(face->last_lane));
  sequence->opening = face->last_lane;
  face->lanes[sequence->opening] = sequence;
  v1::Request request;
  v1::Open* open = request.mutable_open();
  open->set_lane(sequence->opening);
  open->set_model(sequence->next_model->name);
  open->set_version(sequence->next_model->version);
  open->set_simple(true);
  open->mutable_options()->set_timings(true);
  Send(face, std::move(request));
  return absl::OkStatus();
}

absl::Status Sequences::Step(Sequence* sequence, const InferJobPtr& job, uint32_t lane, const ServedModel& model) {
  const uint64_t begin = NowNs();
  LSTM_ASSIGN_OR_RETURN(sequence->wanted, WantedOutputs(*model.program, job->request));
  v1::Request request;
  v1::Step* step = request.mutable_step();
  step->set_lane(lane);
  LSTM_ASSIGN_OR_RETURN(const uint32_t steps, TakeInputs(*model.program, job->request, step->mutable_inputs()));
  step->set_steps(steps);
  if (job->parameters.timeout_us > 0) {
    const uint64_t waited = services_.clock() - job->received_us;
    step->set_deadline_us(std::max<uint64_t>(1, job->parameters.timeout_us - std::min(waited, job->parameters.timeout_us)));
  }
  sequence->input_ns = NowNs() - begin;
  Send(sequence->face, std::move(request));
  return absl::OkStatus();
}

void Sequences::Flush() {
  while (std::exchange(dirty_, false)) {
    for (const auto& [principal, face] : faces_) {
      while (!face->responses.empty()) {
        v1::Response response;
        response.Swap(&face->responses.front());
        face->responses.pop_front();
        Handle(face.get(), response);
      }
    }
  }
}

void Sequences::Handle(Face* face, v1::Response& response) {
  uint32_t lane = 0;
  switch (response.kind_case()) {
    case v1::Response::kOpened: lane = response.opened().lane(); break;
    case v1::Response::kResult: lane = response.result().lane(); break;
    case v1::Response::kReject: lane = response.reject().lane(); break;
    case v1::Response::kEnded: lane = response.ended().lane(); break;
    default: return;  // what is said of a session that was closed, and what these clients can not be told
  }
  const auto found = face->lanes.find(lane);
  if (found == face->lanes.end()) return;
  Sequence* sequence = found->second;
  switch (response.kind_case()) {
    case v1::Response::kOpened: {
      const absl::Status begun = Step(sequence, sequence->waiting.front(), lane, *sequence->next_model);
      if (!begun.ok()) Finish(sequence, begun);
      return;
    }
    case v1::Response::kResult: return OnResult(sequence, *response.mutable_result());
    case v1::Response::kReject: return OnReject(sequence, response.reject());
    default: return OnEnded(sequence, lane, response.ended());
  }
}

void Sequences::OnResult(Sequence* sequence, v1::Result& result) {
  const InferJobPtr job = sequence->waiting.front();
  if (sequence->opening != 0) {
    if (sequence->lane != 0) Close(sequence, sequence->lane);
    sequence->lane = std::exchange(sequence->opening, 0);
    sequence->model = std::move(sequence->next_model);
    sequence->counts = std::exchange(sequence->next_counts, nullptr);
  }
  sequence->holder = job->holder;
  const uint64_t begin = NowNs();
  const auto steps = static_cast<uint64_t>(result.outputs_size() > 0 ? result.outputs(0).shape(0) : 0);
  job->response.set_model_version(sequence->model->version);
  GiveOutputs(sequence->wanted, *result.mutable_outputs(), &job->response);
  ModelCounts& counts = *sequence->counts;
  counts.steps += steps;
  counts.input.Add(sequence->input_ns);
  counts.output.Add(NowNs() - begin);
  counts.queue.Add(result.timings().queue_us() * kMicros);
  counts.infer.Add(result.timings().compute_us() * kMicros);
  ModelCounts::Batch& batch = counts.batches[std::max(1u, result.timings().batch_rows())];
  batch.rows += steps;
  batch.ns += result.timings().compute_us() * kMicros;
  if (job->parameters.end) {
    Close(sequence, std::exchange(sequence->lane, 0));
    Remember(sequence->key, "it was ended by its client");
  }
  Finish(sequence, absl::OkStatus());
}

void Sequences::OnReject(Sequence* sequence, const v1::Reject& reject) {
  const InferJobPtr job = sequence->waiting.front();
  if (reject.seq() == 0 && sequence->opening != 0) {  // the Open: that lane is none
    sequence->face->lanes.erase(std::exchange(sequence->opening, 0));
    // Between the look at the repository and the Open another version was published.
    const bool again = reject.reason() == v1::NOT_FOUND && job->request.model_version().empty() && ++job->attempts < kMostAttempts;
    if (again) {
      sequence->busy = false;
      return Next(sequence);
    }
  }
  Finish(sequence, absl::Status(static_cast<absl::StatusCode>(reject.code()), reject.message()));
}

void Sequences::OnEnded(Sequence* sequence, uint32_t lane, const v1::Ended& ended) {
  sequence->face->lanes.erase(lane);
  const bool under_way = sequence->busy && lane == (sequence->opening != 0 ? sequence->opening : sequence->lane);
  if (lane == sequence->opening) sequence->opening = 0;
  if (lane == sequence->lane) {
    sequence->lane = 0;
    Remember(sequence->key, ended.message());
  }
  if (under_way) return Finish(sequence, absl::Status(CodeOf(ended.reason()), ended.message()));
  if (!sequence->busy) Next(sequence);
}

void Sequences::Finish(Sequence* sequence, const absl::Status& status) {
  const InferJobPtr job = std::move(sequence->waiting.front());
  sequence->waiting.pop_front();
  sequence->busy = false;
  if (sequence->opening != 0) Close(sequence, std::exchange(sequence->opening, 0));  // its first step was refused
  ModelCounts* const counts = sequence->next_counts != nullptr ? std::exchange(sequence->next_counts, nullptr) : sequence->counts;
  Count(counts, *job, status);
  sequence->next_model = nullptr;
  Give(job, status);
  Next(sequence);
}

void Sequences::Refuse(Sequence* sequence, const InferJobPtr& job, const absl::Status& status) {
  Count(sequence->counts, *job, status);
  Give(job, status);
}

void Sequences::Close(Sequence* sequence, uint32_t lane) {
  sequence->face->lanes.erase(lane);
  v1::Request request;
  request.mutable_close()->set_lane(lane);
  Send(sequence->face, std::move(request));
}

void Sequences::Remember(const std::string& key, const std::string& why) {
  if (gone_.insert_or_assign(key, why).second) gone_order_.push_back(key);
  while (gone_order_.size() > kRemembered) {
    gone_.erase(gone_order_.front());
    gone_order_.pop_front();
  }
}

void Sequences::Count(ModelCounts* counts, const InferJob& job, const absl::Status& status) const {
  if (counts == nullptr) return;
  (status.ok() ? counts->success : counts->fail).Add((services_.clock() - job.received_us) * kMicros);
  if (status.ok()) counts->last_ms = services_.unix_clock() / 1000;
}

ModelCounts* Sequences::CountsOf(const ServedModel& model) {
  std::unique_ptr<Counted>& entry = counts_[&model];
  if (entry == nullptr) entry = std::make_unique<Counted>(Counted{{model.name, model.version}, {}});
  return &entry->counts;
}

void Sequences::AddCounts(CountsByModel* to) const {
  for (const auto& [model, counted] : counts_) (*to)[counted->model].Add(counted->counts);
}

void Sequences::Give(const InferJobPtr& job, const absl::Status& status) {
  services_.budget->GiveBytes(std::exchange(job->charged_bytes, 0));
  if (status.ok()) {
    job->response.set_model_name(job->request.model_name());
    job->response.set_id(job->request.id());
    if (job->parameters.final_flag) (*job->response.mutable_parameters())["triton_final_response"].set_bool_param(true);
  } else {
    job->response.Clear();
  }
  deliver_(job, status);
}

void Sequences::TakeWhole(const InferJobPtr& job) {
  auto whole = std::make_unique<Whole>();
  const absl::Status begun = [&]() -> absl::Status {
    LSTM_ASSIGN_OR_RETURN(whole->model, FindWithSteps(*services_.models, job->request));
    whole->counts = CountsOf(*whole->model);
    v1::PredictRequest request;
    request.set_model(whole->model->name);
    request.set_version(whole->model->version);
    LSTM_ASSIGN_OR_RETURN(const std::vector<std::string> wanted, WantedOutputs(*whole->model->program, job->request));
    for (const std::string& name : wanted) request.mutable_options()->add_outputs(name);
    LSTM_ASSIGN_OR_RETURN(const uint32_t steps, TakeInputs(*whole->model->program, job->request, request.mutable_inputs()));
    request.set_steps(steps);
    whole->job = job;
    v1::PredictResponse* response = &whole->response;
    wholes_.emplace(job.get(), std::move(whole));
    shard_->Predict(request, response, [this, key = job.get()](const absl::Status& status) { OnWhole(key, status); }, job->principal);
    return absl::OkStatus();
  }();
  if (begun.ok()) return;
  Count(whole->counts, *job, begun);
  Give(job, begun);
}

void Sequences::OnWhole(const InferJob* key, const absl::Status& status) {
  const auto node = wholes_.extract(key);
  const std::unique_ptr<Whole> whole = std::move(node.mapped());
  InferJob& job = *whole->job;
  if (status.ok()) {
    const uint64_t begin = NowNs();
    std::vector<std::string> names;
    for (const v1::Tensor& tensor : whole->response.outputs()) names.push_back(tensor.name());
    ModelCounts& counts = *whole->counts;
    counts.steps += static_cast<uint64_t>(whole->response.outputs_size() > 0 ? whole->response.outputs(0).shape(0) : 0);
    counts.infer.Add((services_.clock() - job.received_us) * kMicros);
    GiveOutputs(names, *whole->response.mutable_outputs(), &job.response);
    counts.output.Add(NowNs() - begin);
    job.response.set_model_version(whole->model->version);
  }
  Count(whole->counts, job, status);
  Give(whole->job, status);
}

void Sequences::GiveUp(const InferJobPtr& job) {
  const auto it = wholes_.find(job.get());
  if (it == wholes_.end()) return;  // it is done, or it waits in its sequence, where it will be found cancelled
  shard_->ForgetPredict(&it->second->response);
  wholes_.erase(it);
}

}  // namespace lstm::server
