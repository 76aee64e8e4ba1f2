// SPDX-License-Identifier: MIT
#include "server/models/model_keeper.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/fail_point.h"
#include "core/base/status_macros.h"
#include "core/check/self_check.h"
#include "core/import/manifest_import.h"

namespace lstm::server {
namespace {

std::string Title(const ServedModel& model) { return absl::StrCat("model ", model.name, " version ", model.version); }

std::string Loaded(const ServedModel& model) {
  std::string text = absl::StrCat(Title(model), ": ", model.info.parameters(), " parameters, ", model.info.state_bytes(), " bytes of state a session");
  for (const std::string& line : model.info.engines()) absl::StrAppend(&text, "\n  ", line);
  return text;
}

struct Files {
  core::Model model;
  std::optional<core::Recording> recording;
};

// The model in the files as they are; ABORTED where they change meanwhile.
absl::StatusOr<Files> Read(const std::string& directory, const std::string& name, uint32_t number, const FileStamp& stamp) {
  Files files;
  LSTM_RETURN_IF_ERROR(WithVersion(directory, name, number, stamp, [&](const std::string& path) -> absl::Status {
    LSTM_ASSIGN_OR_RETURN(files.model, core::LoadModelDirectory(path, name, absl::StrCat(number)));
    LSTM_ASSIGN_OR_RETURN(files.recording, core::Recording::Read(path));
    core::FailPoint("reload.read");
    return absl::OkStatus();
  }));
  return files;
}

}  // namespace

ModelKeeper::ModelKeeper(const Options& options) : options_(options) {}

absl::Status ModelKeeper::LoadAtStart(Notes& notes) {
  LSTM_ASSIGN_OR_RETURN(const VersionTree tree, ScanVersions(options_.directory));
  See(tree);
  for (auto& [name, versions] : known_) {
    for (auto& [number, version] : versions) version.settled = true;
  }
  Take(notes);
  return absl::OkStatus();
}

bool ModelKeeper::Look(Notes& notes) {
  const absl::StatusOr<VersionTree> tree = ScanVersions(options_.directory);
  if (!tree.ok()) {
    if (!std::exchange(unreadable_, true)) notes.push_back({true, absl::StrCat(tree.status().message(), "; all models stay as they are")});
    return false;
  }
  unreadable_ = false;
  bool changes = See(*tree);
  Take(notes);
  for (const auto& [name, versions] : known_) {
    for (const auto& [number, version] : versions) changes |= !version.settled;
  }
  return changes;
}

bool ModelKeeper::See(const VersionTree& tree) {
  for (const auto& [name, versions] : tree) {
    for (const auto& [number, stamp] : versions) known_[name].try_emplace(number);
  }
  bool changes = false;
  for (auto& [name, versions] : known_) {
    const auto now = tree.find(name);
    for (auto it = versions.begin(); it != versions.end();) {
      auto& [number, version] = *it;
      std::optional<FileStamp> seen;
      if (now != tree.end() && now->second.contains(number)) seen = now->second.at(number);
      version.settled = version.seen == seen;
      if (!version.settled) version.refused = false;
      changes |= !version.settled;
      version.seen = std::move(seen);
      const bool gone = !version.seen && version.settled && !version.open && version.model.expired();
      it = gone ? versions.erase(it) : std::next(it);
    }
  }
  std::erase_if(known_, [](const auto& model) { return model.second.empty(); });
  return changes;
}

void ModelKeeper::Take(Notes& notes) {
  std::vector<ServedModelPtr> chosen;
  for (auto& [name, versions] : known_) {
    for (ServedModelPtr& model : Choose(name, versions, notes)) chosen.push_back(std::move(model));
  }
  Publish(std::move(chosen), notes);
}

std::vector<ServedModelPtr> ModelKeeper::Choose(const std::string& name, Versions& versions, Notes& notes) {
  const VersionPolicy& policy = options_.policies.For(name);
  const bool allowed = !forbidden_.contains(name);
  std::vector<ServedModelPtr> chosen;
  for (auto it = versions.rbegin(); it != versions.rend(); ++it) {
    auto& [number, version] = *it;
    const bool wanted = policy.specific.empty() ? chosen.size() < policy.latest : policy.specific.contains(number);
    const bool there = version.seen || !version.settled;  // one look that does not find it says nothing yet
    ServedModelPtr model;
    if (allowed && wanted && there) {
      const bool is_new = version.seen && version.settled && (version.tried != version.seen || (!version.failed && version.model.expired()));
      if (is_new) model = Load(name, number, version, notes);
      const bool good = version.open || (version.seen && version.tried == version.seen && !version.failed);
      if (model == nullptr && good) model = version.model.lock();
    }
    version.open = model != nullptr;
    if (model != nullptr) chosen.push_back(std::move(model));
  }
  return chosen;
}

// Null: it did not load, or not yet; what `version` has stays.
ServedModelPtr ModelKeeper::Load(const std::string& name, uint32_t number, Version& version, Notes& notes) {
  const std::string title = absl::StrCat("model ", name, " version ", number);
  if (version.refused && !Room(name).ok()) return nullptr;
  absl::StatusOr<Files> files = Read(options_.directory, name, number, *version.seen);
  if (absl::IsAborted(files.status())) {
    version.settled = false;
    return nullptr;
  }
  const ServedModelPtr before = version.model.lock();
  if (files.ok() && before != nullptr && before->info.model_hash() == files->model.hash) {  // touched, not changed
    version.tried = version.seen;
    version.failed = false;
    return before;
  }
  absl::StatusOr<ServedModelPtr> made = files.ok() ? Make(std::move(files->model), files->recording, true) : files.status();
  if (absl::IsUnavailable(made.status())) {
    version.why = std::string(made.status().message());
    if (!std::exchange(version.refused, true)) notes.push_back({true, absl::StrCat(title, " is not loaded: ", made.status().message())});
    return nullptr;
  }
  version.tried = version.seen;
  version.failed = !made.ok();
  version.refused = false;
  repository_->CountLoad(made.ok());
  if (!made.ok()) {
    version.why = std::string(made.status().message());
    notes.push_back({true, absl::StrCat(title, " was not loaded", version.open ? ", the one before it stays: " : ": ", made.status().message())});
    return nullptr;
  }
  core::FailPoint("reload.loaded");
  version.model = *made;
  notes.push_back({false, Loaded(**made)});
  return *made;
}

// UNAVAILABLE: the limit, where `limited`.
absl::StatusOr<ServedModelPtr> ModelKeeper::Make(core::Model model, const std::optional<core::Recording>& recording, bool limited) const {
  auto served = std::make_shared<ServedModel>();
  served->name = model.name;
  served->version = model.version;
  if (const ServedModelPtr same = SameBytes(model.hash)) {
    served->program = same->program;
    served->sequence = same->sequence;
  } else {
    if (limited) LSTM_RETURN_IF_ERROR(Room(served->name));
    const auto shared = std::make_shared<const core::Model>(std::move(model));
    const core::StepProgram::Options options{.max_batch = options_.max_batch, .engine = options_.engine};
    if (shared->not_streamable.empty()) {
      LSTM_ASSIGN_OR_RETURN(served->program, core::StepProgram::Compile(shared, options));
      LSTM_RETURN_IF_ERROR(core::SelfCheck(*served->program));
      if (recording) LSTM_RETURN_IF_ERROR(recording->Replay(*served->program));
    }
    if (shared->sequence) {
      LSTM_ASSIGN_OR_RETURN(served->sequence, core::SequenceProgram::Compile(shared, options));
      for (const auto& stage : served->sequence->stages()) LSTM_RETURN_IF_ERROR(core::SelfCheck(*stage, /*any_state=*/true));
    }
  }
  served->info = MakeModelInfo(served->program.get(), served->sequence.get());
  served->info.set_name(served->name);
  served->info.set_version(served->version);
  return ServedModelPtr(std::move(served));
}

ServedModelPtr ModelKeeper::SameBytes(const std::string& hash) const {
  for (const auto& models : {repository_->open(), repository_->pinned()}) {
    for (const ServedModelPtr& model : models) {
      if (model->info.model_hash() == hash) return model;
    }
  }
  return nullptr;
}

absl::Status ModelKeeper::Room(const std::string& name) const {
  std::set<std::string> live;  // by their bytes
  size_t pinned = 0;
  for (const ServedModelPtr& model : repository_->open()) {
    if (model->name == name) live.insert(model->info.model_hash());
  }
  const auto add = [&](const std::vector<ServedModelPtr>& models) {
    for (const ServedModelPtr& model : models) {
      if (model->name == name && live.insert(model->info.model_hash()).second) ++pinned;
    }
  };
  add(repository_->pinned());
  add(leaving_);
  if (live.size() < options_.max_live_versions) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(live.size(), " versions of it are live, ", pinned, " of them pinned by sessions that began on them; at most ",
                                             options_.max_live_versions, " may be (--max-live-versions)"));
}

void ModelKeeper::Publish(std::vector<ServedModelPtr> chosen, Notes& notes) {
  std::set<ServedModelPtr> now(chosen.begin(), chosen.end());
  std::vector<ServedModelPtr> before = repository_->open();
  if (std::set<ServedModelPtr>(before.begin(), before.end()) == now) return;
  core::FailPoint("reload.publishing");
  repository_->Publish(std::move(chosen));
  for (const ServedModelPtr& model : before) {
    if (!now.contains(model)) notes.push_back({false, absl::StrCat(Title(*model), ": no session begins on it any more; it stays loaded for those that did")});
  }
}

void ModelKeeper::TryAgain(Versions& versions) {
  for (auto& [number, version] : versions) {
    version.refused = false;
    if (std::exchange(version.failed, false)) version.tried.reset();
  }
}

void ModelKeeper::TryAgain() {
  for (auto& [name, versions] : known_) TryAgain(versions);
}

void ModelKeeper::Allow(const std::string& name) {
  forbidden_.erase(name);
  if (const auto known = known_.find(name); known != known_.end()) TryAgain(known->second);
}

absl::Status ModelKeeper::Forbid(const std::string& name, Notes& notes) {
  LSTM_RETURN_IF_ERROR(repository_->Find(name, "").status());
  forbidden_.insert(name);
  Take(notes);
  return absl::OkStatus();
}

absl::Status ModelKeeper::StateOf(const std::string& name) const {
  const auto known = known_.find(name);
  if (known == known_.end()) return absl::NotFoundError("the model repository has no model of that name; its files must be there first");
  std::vector<std::string> refused, open;
  for (const auto& [number, version] : known->second) {
    if (version.open) open.push_back(absl::StrCat(number));
    if (version.seen && (version.failed || version.refused)) refused.push_back(absl::StrCat("version ", number, " was not loaded: ", version.why));
  }
  if (!refused.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(absl::StrJoin(refused, "; "), open.empty() ? "" : absl::StrCat("; what serves is version ", absl::StrJoin(open, ", "))));
  }
  if (open.empty()) return absl::NotFoundError("the model has no version that --version-policy wants, or its files keep changing");
  return absl::OkStatus();
}

void ModelKeeper::LoadMarked(const std::vector<ModelMark>& marks, Notes& notes) {
  const std::set<ModelMark> wanted(marks.begin(), marks.end());
  constexpr size_t kNameAndVersion = 8;
  const auto asks_for = [&](const std::string& name, uint32_t number) {
    const ModelMark any = MarkOf(name, absl::StrCat(number), "");
    return std::any_of(wanted.begin(), wanted.end(), [&](const ModelMark& mark) {
      return std::equal(any.begin(), any.begin() + kNameAndVersion, mark.begin()) && repository_->FindMark(mark) == nullptr;
    });
  };
  for (auto& [name, versions] : known_) {
    for (auto& [number, version] : versions) {
      if (!version.seen || version.failed || !asks_for(name, number)) continue;
      absl::StatusOr<Files> files = Read(options_.directory, name, number, *version.seen);
      if (files.ok() && !wanted.contains(MarkOf(name, absl::StrCat(number), files->model.hash))) continue;  // other bytes
      const absl::StatusOr<ServedModelPtr> made = files.ok() ? Make(std::move(files->model), files->recording, false) : files.status();
      repository_->CountLoad(made.ok());
      if (!made.ok()) {
        notes.push_back({true, absl::StrCat("model ", name, " version ", number, ", of which there are sessions, was not loaded: ", made.status().message())});
        continue;
      }
      version.tried = version.seen;
      version.model = *made;
      repository_->Pin(*made);
      notes.push_back({false, absl::StrCat(Loaded(**made), "\n  for sessions that began on it")});
    }
  }
}

bool ModelKeeper::Collect(const Forget& forget, Notes& notes) {
  for (ServedModelPtr& model : repository_->TakeUnused()) {
    const ServedModelPtr same = SameBytes(model->info.model_hash());
    if (same && same->program == model->program && same->sequence == model->sequence) continue;
    forget(model);
    leaving_.push_back(std::move(model));
  }
  std::erase_if(leaving_, [&](const ServedModelPtr& model) {
    if (model.use_count() > 1) return false;
    core::FailPoint("reload.freeing");
    notes.push_back({false, absl::StrCat(Title(*model), ": its last session is gone, its memory is freed")});
    return true;
  });
  return !leaving_.empty() || !repository_->pinned().empty();
}

absl::StatusOr<std::shared_ptr<const ModelRepository>> LoadAllModels(const std::string& directory, int max_batch) {
  ModelKeeper keeper({.directory = directory, .max_batch = max_batch, .policies = {.common = {.latest = VersionPolicy::kAll, .specific = {}}, .by_model = {}}, .max_live_versions = UINT32_MAX});
  ModelKeeper::Notes notes;
  LSTM_RETURN_IF_ERROR(keeper.LoadAtStart(notes));
  for (const ModelKeeper::Note& note : notes) {
    if (note.bad) return absl::InvalidArgumentError(note.text);
  }
  return std::shared_ptr<const ModelRepository>(keeper.repository());
}

}  // namespace lstm::server
