// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace lstm::testing {

// A model repository of a test's own, of copies of the bundled models; removed in the end.
class ModelDirectory {
 public:
  ModelDirectory() : path_(::testing::TempDir() + "/lstm-models-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~ModelDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ModelDirectory(const ModelDirectory&) = delete;
  ModelDirectory& operator=(const ModelDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::filesystem::path At(const std::string& name, int version) const {
    return std::filesystem::path(path_) / name / std::to_string(version);
  }

  // A bundled model as a version of `name`. Another `comment` makes other bytes with the same answers.
  void Put(const std::string& bundled, const std::string& name, int version, const std::string& comment = "") {
    const std::filesystem::path from = std::filesystem::path("models/repository") / bundled / "1", to = At(name, version);
    std::filesystem::create_directories(to);
    std::filesystem::copy_file(from / "model.safetensors", to / "model.safetensors", std::filesystem::copy_options::overwrite_existing);
    std::ifstream manifest(from / "model.textproto");
    std::ofstream(to / "model.textproto") << "# " << comment << "\n" << manifest.rdbuf();
  }
  void PutRubbish(const std::string& name, int version, const std::string& text) {
    std::filesystem::create_directories(At(name, version));
    std::ofstream(At(name, version) / "model.textproto") << text;
  }
  void Remove(const std::string& name, int version) { std::filesystem::remove_all(At(name, version)); }

 private:
  std::string path_;
};

}  // namespace lstm::testing
