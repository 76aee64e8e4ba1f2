// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace lstm::bench {

// A model repository that is made for one run: removed in the end.
class Models {
 public:
  Models();
  ~Models();
  Models(const Models&) = delete;

  // NAME/1: what it takes and gives are `floats` numbers, and a step of it costs next to nothing.
  void PutFree(const std::string& name, int64_t floats);
  // NAME/1: an LSTM of `hidden` units on as many numbers as it has units; random weights.
  void PutLstm(const std::string& name, int64_t hidden);
  // NAME/1: a copy of a bundled model, out of models/repository.
  void PutBundled(const std::string& name);
  // Takes all of them away.
  void Clear();

  std::string path() const { return path_.string(); }
  std::filesystem::path At(const std::string& name) const { return path_ / name / "1"; }

 private:
  std::filesystem::path path_;
};

}  // namespace lstm::bench
