// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace lstm::server {

// What the files of a version look like from outside: names, sizes, times, inodes. Two that are equal are taken for the same bytes.
using FileStamp = std::string;

// By model name, by version.
using VersionTree = std::map<std::string, std::map<uint32_t, FileStamp>>;

// The versions under `directory`: DIR/<model>/<version>/. Names and numbers that are none are left alone, and so are links,
// empty folders, and what lies beyond the first 10,000 entries of one. An error: the directory itself can not be read; nothing is known then.
absl::StatusOr<VersionTree> ScanVersions(const std::string& directory);

// Calls `use` with a path to this one version, opened step by step without following a link, and kept open meanwhile: whatever
// happens to the directories, that is what `use` reads. ABORTED where its files are not those of `stamp`, before or after.
absl::Status WithVersion(const std::string& directory, const std::string& name, uint32_t version, const FileStamp& stamp,
                         const std::function<absl::Status(const std::string& path)>& use);

}  // namespace lstm::server
