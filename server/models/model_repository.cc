// SPDX-License-Identifier: MIT
#include "server/models/model_repository.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/import/manifest_import.h"

namespace lstm::server {
namespace {

namespace fs = std::filesystem;

bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

// 0 for what is not a version.
uint32_t VersionNumber(const std::string& text) {
  uint32_t number = 0;
  if (text.empty() || text.size() > 9 || text[0] == '0' || !std::all_of(text.begin(), text.end(), [](char c) {
        return c >= '0' && c <= '9';
      })) {
    return 0;
  }
  return absl::SimpleAtoi(text, &number) ? number : 0;
}

std::vector<std::string> Directories(const fs::path& parent) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    if (it->symlink_status(error).type() == fs::file_type::directory) names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::shared_ptr<ServedModel>> LoadVersion(const fs::path& directory, const std::string& name,
                                                         const std::string& version, int max_batch) {
  LSTM_ASSIGN_OR_RETURN(core::Model model, core::LoadModelDirectory((directory / name / version).string(), name, version));
  LSTM_ASSIGN_OR_RETURN(auto program, core::StepProgram::Compile(std::make_shared<const core::Model>(std::move(model)),
                                                                 {.max_batch = max_batch}));
  auto served = std::make_shared<ServedModel>();
  served->name = name;
  served->version = version;
  served->info = MakeModelInfo(*program);
  served->program = std::move(program);
  return served;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelRepository>> ModelRepository::Load(const std::string& directory, int max_batch,
                                                                             std::vector<Failure>& failures) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat("model repository '", directory, "' is not a directory"));
  }
  auto repository = std::make_shared<ModelRepository>();
  for (const std::string& name : Directories(directory)) {
    if (!IsName(name)) continue;
    std::vector<std::string> versions = Directories(fs::path(directory) / name);
    std::erase_if(versions, [](const std::string& v) { return VersionNumber(v) == 0; });
    std::sort(versions.begin(), versions.end(),
              [](const std::string& a, const std::string& b) { return VersionNumber(a) > VersionNumber(b); });
    std::vector<std::shared_ptr<ServedModel>> loaded;
    for (const std::string& version : versions) {
      auto served = LoadVersion(directory, name, version, max_batch);
      if (served.ok()) {
        loaded.push_back(*std::move(served));
      } else {
        failures.push_back({name, version, served.status()});
      }
    }
    for (const auto& served : loaded) {
      for (const auto& other : loaded) served->info.add_versions(other->version);
    }
    repository->models_.insert(repository->models_.end(), loaded.begin(), loaded.end());
  }
  return repository;
}

absl::StatusOr<ServedModelPtr> ModelRepository::Find(const std::string& name, const std::string& version) const {
  std::vector<std::string> known;
  for (const ServedModelPtr& model : models_) {
    if (model->name == name && (version.empty() || model->version == version)) return model;
    known.push_back(absl::StrCat(model->name, ":", model->version));
  }
  if (known.size() > 20) {
    known.resize(20);
    known.push_back("...");
  }
  // The client's text is quoted only where it is a name: it may hold anything.
  const std::string asked = IsName(name) ? absl::StrCat("'", name, "'") : "of that name";
  const std::string asked_version = version.empty() || VersionNumber(version) == 0 ? "" : absl::StrCat(" version ", version);
  return absl::NotFoundError(absl::StrCat("no model ", asked, asked_version, "; there is: ", absl::StrJoin(known, ", ")));
}

}  // namespace lstm::server
