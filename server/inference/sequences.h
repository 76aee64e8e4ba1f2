// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/inference/infer_job.h"
#include "server/inference/model_counts.h"
#include "server/shard/shard.h"

namespace lstm::server {

// The sequences of the Open Inference Protocol that live on one shard. A sequence is a simple session on a lane of a stream
// that this object holds for its principal, so that it outlives the calls which carry its steps. Confined to the shard's
// thread, which calls Flush once in each of its rounds, after the computing.
//
// A sequence takes one request at a time, in the order of their arrival; the others wait here. Nothing is rejected for a full
// window, and a request that is refused takes none of those behind it along.
class Sequences {
 public:
  // `deliver` is called once for each job that was taken and not given up, and must not call back.
  using Deliver = std::function<void(const InferJobPtr&, const absl::Status&)>;
  Sequences(Shard* shard, const ShardServices& services, Deliver deliver);
  ~Sequences();
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  // A request whose parameters were read. Without a sequence it is computed whole, from the initial state.
  void Take(const InferJobPtr& job);
  // The client of a whole sequence has gone.
  void GiveUp(const InferJobPtr& job);

  // Looks at what the shard has answered.
  void Flush();

  void AddCounts(CountsByModel* to) const;
  // What was counted of a model that nothing here uses and nothing ever will again.
  void Forget(const ServedModel& model) { counts_.erase(&model); }
  size_t live() const;

 private:
  struct Face;
  struct Sequence {
    std::string key;
    Face* face = nullptr;
    ServedModelPtr model;      // of the session; of the one that opens, while one does
    uint32_t lane = 0;         // of its session; 0: there is none
    uint32_t opening = 0;      // of the session that a START is about to begin
    ServedModelPtr next_model;
    ModelCounts *counts = nullptr, *next_counts = nullptr;  // of the two
    std::shared_ptr<const Holder> holder;
    std::deque<InferJobPtr> waiting;  // the first is under way where `busy`
    bool busy = false;
    std::vector<std::string> wanted;  // outputs of the one under way
    uint64_t input_ns = 0;
  };
  struct Whole {
    InferJobPtr job;
    ServedModelPtr model;
    ModelCounts* counts = nullptr;
    v1::PredictResponse response;
  };

  void Next(Sequence* sequence);
  absl::Status Begin(Sequence* sequence, const InferJobPtr& job);  // OK: it is under way
  absl::Status Open(Sequence* sequence, const InferJobPtr& job);
  absl::Status Step(Sequence* sequence, const InferJobPtr& job, uint32_t lane, const ServedModel& model);
  void Handle(Face* face, v1::Response& response);
  void OnResult(Sequence* sequence, v1::Result& result);
  void OnReject(Sequence* sequence, const v1::Reject& reject);
  void OnEnded(Sequence* sequence, uint32_t lane, const v1::Ended& ended);
  void Finish(Sequence* sequence, const absl::Status& status);  // the job under way
  void Refuse(Sequence* sequence, const InferJobPtr& job, const absl::Status& status);
  void Close(Sequence* sequence, uint32_t lane);
  void Remember(const std::string& key, const std::string& why);
  void Send(Face* face, v1::Request request);
  void TakeWhole(const InferJobPtr& job);
  void OnWhole(const InferJob* job, const absl::Status& status);
  void Count(ModelCounts* counts, const InferJob& job, const absl::Status& status) const;
  ModelCounts* CountsOf(const ServedModel& model);  // stays where it is as long as somebody holds the model
  void Give(const InferJobPtr& job, const absl::Status& status);
  Face* FaceOf(const std::string& principal);

  Shard* const shard_;
  const ShardServices services_;
  const Deliver deliver_;
  std::map<std::string, std::unique_ptr<Face>> faces_;  // by principal
  // Clients choose the keys: a tree does not degenerate.
  std::map<std::string, std::unique_ptr<Sequence>> sequences_;
  std::map<std::string, std::string> gone_;  // key to the reason; bounded, the oldest leave first
  std::deque<std::string> gone_order_;
  std::unordered_map<const InferJob*, std::unique_ptr<Whole>> wholes_;
  struct Counted {
    ModelVersion model;
    ModelCounts counts;
  };
  std::unordered_map<const ServedModel*, std::unique_ptr<Counted>> counts_;
  v1::StreamRequest message_;  // reused
  bool dirty_ = false;
};

}  // namespace lstm::server
