// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/program/sequence_program.h"
#include "core/program/step_program.h"
#include "lstm/v1/model.pb.h"

namespace lstm::server {

// A model version that is loaded: its programs and how it presents itself. Immutable. Versions with the same bytes share
// the programs.
struct ServedModel {
  std::string name;
  std::string version;
  std::shared_ptr<const core::StepProgram> program;      // null: no session can be opened, it is of whole sequences alone
  std::shared_ptr<const core::SequenceProgram> sequence;  // what Predict computes; null: the program, step by step
  v1::ModelInfo info;  // whole, with the vocabulary; what other versions there are is left out
};
using ServedModelPtr = std::shared_ptr<const ServedModel>;

// Names a version and its bytes in 16 bytes, for where there is no room for more. All zero: none.
using ModelMark = std::array<uint8_t, 16>;
ModelMark MarkOf(const std::string& name, const std::string& version, const std::string& hash);

// The models that are loaded. Some can be opened; others are pinned: no new session begins on them, and they stay for those that
// did. Names are looked up here, never joined to a path. Asked when a session is opened or comes back, never for a step.
// Thread-safe.
class ModelRepository {
 public:
  ModelRepository() = default;
  explicit ModelRepository(std::vector<ServedModelPtr> models) : open_(std::move(models)) {}

  // One that can be opened; `version` empty: the highest. NOT_FOUND names what there is.
  absl::StatusOr<ServedModelPtr> Find(const std::string& name, const std::string& version) const;

  // R11: the model with these bytes: that version, or another of the same bytes, pinned or not. NOT_FOUND says what is there
  // instead.
  absl::StatusOr<ServedModelPtr> FindHash(const std::string& name, const std::string& version, const std::string& hash) const;
  // Null: it is not loaded.
  ServedModelPtr FindMark(const ModelMark& mark) const;

  // How a version presents itself, pinned or not, with what other versions there are.
  absl::StatusOr<v1::ModelInfo> Describe(const std::string& name, const std::string& version) const;
  // The newest of each model, without its vocabulary; of one that can not be opened any more the newest that is pinned.
  std::vector<v1::ModelInfo> DescribeAll() const;

  // By name, then by version, highest first. Who keeps one keeps it loaded.
  std::vector<ServedModelPtr> open() const;
  std::vector<ServedModelPtr> pinned() const;

  // From now on these can be opened, in the order of open(). What could be before is pinned, in one step for all who ask.
  void Publish(std::vector<ServedModelPtr> models);
  void Pin(ServedModelPtr model);
  // Takes out those that are pinned and that nobody else holds: nobody can get at them any more.
  std::vector<ServedModelPtr> TakeUnused();

  // How often a version was loaded, or was to be and did not.
  void CountLoad(bool good) { (good ? loaded_ : not_loaded_).fetch_add(1, std::memory_order_relaxed); }
  uint64_t loads(bool good) const { return (good ? loaded_ : not_loaded_).load(std::memory_order_relaxed); }

 private:
  v1::ModelInfo Filled(const ServedModel& model) const;  // with the lock held, as the next
  std::string Known() const;

  mutable std::mutex mutex_;
  std::vector<ServedModelPtr> open_, pinned_;
  std::atomic<uint64_t> loaded_{0}, not_loaded_{0};
};

// How what is loaded of a model presents itself to clients; one of the two may be null.
v1::ModelInfo MakeModelInfo(const core::StepProgram* program, const core::SequenceProgram* sequence);

// [A-Za-z0-9_-]{1,64}
bool IsModelName(const std::string& text);
// A whole number from 1, without leading zeros, below 10^9; 0 for what is none.
uint32_t VersionNumber(const std::string& text);

}  // namespace lstm::server
