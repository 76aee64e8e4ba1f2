// SPDX-License-Identifier: MIT
#include "server/models/model_repository.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lstm::server {
namespace {

uint32_t Fnv(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return hash;
}

// By name, then the highest version first.
bool Before(const ServedModelPtr& a, const ServedModelPtr& b) {
  return a->name != b->name ? a->name < b->name : VersionNumber(a->version) > VersionNumber(b->version);
}

}  // namespace

bool IsModelName(const std::string& text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

uint32_t VersionNumber(const std::string& text) {
  uint32_t number = 0;
  if (text.empty() || text.size() > 9 || text[0] == '0' || !std::all_of(text.begin(), text.end(), [](char c) {
        return c >= '0' && c <= '9';
      })) {
    return 0;
  }
  return absl::SimpleAtoi(text, &number) ? number : 0;
}

ModelMark MarkOf(const std::string& name, const std::string& version, const std::string& hash) {
  ModelMark mark{};
  const uint32_t parts[] = {Fnv(name), VersionNumber(version)};
  std::memcpy(mark.data(), parts, sizeof(parts));
  std::memcpy(mark.data() + sizeof(parts), hash.data(), std::min(hash.size(), mark.size() - sizeof(parts)));
  return mark;
}

absl::StatusOr<ServedModelPtr> ModelRepository::Find(const std::string& name, const std::string& version) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const ServedModelPtr& model : open_) {
    if (model->name == name && (version.empty() || model->version == version)) return model;
  }
  // The client's text is quoted only where it is a name: it may hold anything.
  const std::string asked = IsModelName(name) ? absl::StrCat("'", name, "'") : "of that name";
  const std::string asked_version = version.empty() || VersionNumber(version) == 0 ? "" : absl::StrCat(" version ", version);
  return absl::NotFoundError(absl::StrCat("no model ", asked, asked_version, "; there is: ", Known()));
}

std::string ModelRepository::Known() const {
  std::vector<std::string> known;
  for (const ServedModelPtr& model : open_) {
    if (known.size() == 20) {
      known.push_back("...");
      break;
    }
    known.push_back(absl::StrCat(model->name, ":", model->version));
  }
  return known.empty() ? "none" : absl::StrJoin(known, ", ");
}

absl::StatusOr<ServedModelPtr> ModelRepository::FindHash(const std::string& name, const std::string& version,
                                                         const std::string& hash) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  ServedModelPtr found;
  bool other_bytes = false;
  for (const auto* models : {&open_, &pinned_}) {
    for (const ServedModelPtr& model : *models) {
      if (model->name != name) continue;
      const bool same = model->info.model_hash() == hash;
      if (same && (!found || (model->version == version && found->version != version))) found = model;
      other_bytes |= model->version == version && !same;
    }
  }
  if (found) return found;
  return absl::NotFoundError(absl::StrCat("the session began on model '", name, "' version ", version,
                                          other_bytes ? ", whose files are others now" : ", which is not there any more",
                                          "; open another session, or ask the operator to put them back"));
}

ServedModelPtr ModelRepository::FindMark(const ModelMark& mark) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto* models : {&open_, &pinned_}) {
    for (const ServedModelPtr& model : *models) {
      if (MarkOf(model->name, model->version, model->info.model_hash()) == mark) return model;
    }
  }
  return nullptr;
}

v1::ModelInfo ModelRepository::Filled(const ServedModel& model) const {
  v1::ModelInfo info = model.info;
  for (const ServedModelPtr& other : open_) {
    if (other->name != model.name) continue;
    if (info.latest().empty()) info.set_latest(other->version);
    info.add_versions(other->version);
  }
  for (const ServedModelPtr& other : pinned_) {
    if (other->name != model.name) continue;
    v1::PinnedVersion& pinned = *info.add_pinned();
    pinned.set_version(other->version);
    pinned.set_model_hash(other->info.model_hash());
  }
  return info;
}

absl::StatusOr<v1::ModelInfo> ModelRepository::Describe(const std::string& name, const std::string& version) const {
  auto found = Find(name, version);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; !found.ok() && i < pinned_.size(); ++i) {
    if (pinned_[i]->name == name && pinned_[i]->version == version) found = pinned_[i];
  }
  if (!found.ok()) return found.status();
  return Filled(**found);
}

std::vector<v1::ModelInfo> ModelRepository::DescribeAll() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<v1::ModelInfo> out;
  for (const auto* models : {&open_, &pinned_}) {
    for (const ServedModelPtr& model : *models) {
      const bool there = std::any_of(out.begin(), out.end(), [&](const v1::ModelInfo& info) { return info.name() == model->name; });
      if (!there) out.push_back(Filled(*model));
    }
  }
  for (v1::ModelInfo& info : out) info.clear_vocabulary();
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name() < b.name(); });
  return out;
}

std::vector<ServedModelPtr> ModelRepository::open() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return open_;
}

std::vector<ServedModelPtr> ModelRepository::pinned() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return pinned_;
}

void ModelRepository::Publish(std::vector<ServedModelPtr> models) {
  std::sort(models.begin(), models.end(), Before);
  const auto is_open = [&](const ServedModelPtr& model) { return std::find(models.begin(), models.end(), model) != models.end(); };
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(pinned_, is_open);  // one that comes back
  for (const ServedModelPtr& model : open_) {
    if (!is_open(model)) pinned_.push_back(model);
  }
  std::sort(pinned_.begin(), pinned_.end(), Before);
  open_ = std::move(models);
}

void ModelRepository::Pin(ServedModelPtr model) {
  const std::lock_guard<std::mutex> lock(mutex_);
  pinned_.push_back(std::move(model));
  std::sort(pinned_.begin(), pinned_.end(), Before);
}

std::vector<ServedModelPtr> ModelRepository::TakeUnused() {
  const std::lock_guard<std::mutex> lock(mutex_);
  // A count of one can not rise: the only other way to a pointer is through here, with the lock.
  const auto unused = std::stable_partition(pinned_.begin(), pinned_.end(), [](const ServedModelPtr& model) { return model.use_count() > 1; });
  std::vector<ServedModelPtr> out(std::make_move_iterator(unused), std::make_move_iterator(pinned_.end()));
  pinned_.erase(unused, pinned_.end());
  return out;
}

}  // namespace lstm::server
