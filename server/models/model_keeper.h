// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/engine.h"
#include "core/check/recording.h"
#include "server/models/model_repository.h"
#include "server/models/version_files.h"
#include "server/models/version_policy.h"

namespace lstm::server {

// Keeps a repository in line with a directory, DIR/<model>/<version>/. A version's files are taken once two looks in a row have
// seen them the same, are loaded and checked beside what serves, and only then can be opened, all of a look in one step. What
// does not load leaves what was there as it is. A version that can not be opened any more stays pinned while somebody holds it.
//
// No thread, clock or log of its own: what is worth telling is appended to `notes`, once. For one thread; the repository is for
// all.
class ModelKeeper {
 public:
  struct Options {
    std::string directory;
    int max_batch = 64;
    core::Engine engine = core::Engine::kAuto;
    VersionPolicies policies;
    uint32_t max_live_versions = 4;  // of a model, the pinned ones among them; those with the same bytes are one
  };
  struct Note {
    bool bad;
    std::string text;
  };
  using Notes = std::vector<Note>;

  explicit ModelKeeper(const Options& options);

  const std::shared_ptr<ModelRepository>& repository() const { return repository_; }

  // The first look takes what is there as it is. NOT_FOUND where the directory can not be read.
  absl::Status LoadAtStart(Notes& notes);

  // For sessions that outlived a process: loads and pins the versions that `marks` name and that are not loaded, even beyond
  // the limit. What is gone, or has other bytes now, is left out.
  void LoadMarked(const std::vector<ModelMark>& marks, Notes& notes);

  // Another look. True: files were seen to change, and another look will tell. Where the directory can not be read everything
  // stays as it is.
  bool Look(Notes& notes);

  // What did not load is tried once more at the next look, and told once more.
  void TryAgain();

  // By call. Allow: as TryAgain, for one model, and one that was forbidden is looked at again; the looks after it load what is
  // new. Forbid: no version of the model can be opened any more, whatever the directory holds; NOT_FOUND where none can be now.
  void Allow(const std::string& name);
  absl::Status Forbid(const std::string& name, Notes& notes);
  // OK where a version of the model can be opened and none that is wanted was refused when it was tried last. NOT_FOUND, or
  // FAILED_PRECONDITION with the reasons.
  absl::Status StateOf(const std::string& name) const;

  // Gives up what is pinned and held by nobody: `forget` gets the last pointer to it and sees to it that all who have scratch
  // memory for its program let go of that; when they have dropped their copies of the pointer, a later call frees it, here.
  // True: there is something to wait for.
  using Forget = std::function<void(const ServedModelPtr&)>;
  bool Collect(const Forget& forget, Notes& notes);

 private:
  struct Version {
    std::optional<FileStamp> seen;   // at the last look; none: it is not there
    bool settled = false;            // and the look before saw the same
    std::optional<FileStamp> tried;  // what was loaded last, or did not load
    bool failed = false;             // it did not
    bool refused = false;            // for the limit, and that was told
    std::string why;                 // where it failed or was refused
    bool open = false;
    std::weak_ptr<const ServedModel> model;  // as it was loaded last
  };
  using Versions = std::map<uint32_t, Version>;

  static void TryAgain(Versions& versions);
  bool See(const VersionTree& tree);
  std::vector<ServedModelPtr> Choose(const std::string& name, Versions& versions, Notes& notes);
  ServedModelPtr Load(const std::string& name, uint32_t number, Version& version, Notes& notes);
  absl::StatusOr<ServedModelPtr> Make(core::Model model, const std::optional<core::Recording>& recording, bool limited) const;
  ServedModelPtr SameBytes(const std::string& hash) const;
  absl::Status Room(const std::string& name) const;
  void Publish(std::vector<ServedModelPtr> chosen, Notes& notes);
  void Take(Notes& notes);

  const Options options_;
  const std::shared_ptr<ModelRepository> repository_ = std::make_shared<ModelRepository>();
  std::map<std::string, Versions> known_;
  std::set<std::string> forbidden_;
  std::vector<ServedModelPtr> leaving_;  // forgotten, once all have dropped their copies
  bool unreadable_ = false;              // was told
};

// Every version that loads, never to change: for tools and tests.
absl::StatusOr<std::shared_ptr<const ModelRepository>> LoadAllModels(const std::string& directory, int max_batch);

}  // namespace lstm::server
