// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace lstm::server {

// Loads and unloads models by call, beside what is found by looking at the directory. Thread-safe.
class ModelAdmin {
 public:
  virtual ~ModelAdmin() = default;
  // Once, on any thread; not after the server has stopped.
  using Done = std::function<void(const absl::Status&)>;

  // Looks at the model's directory now, takes back an Unload, and tries once more what did not load. OK where a version of it
  // can be opened afterwards and none that is wanted was refused; else NOT_FOUND, or FAILED_PRECONDITION with the reasons.
  virtual void Load(const std::string& model, Done done) = 0;
  // No session begins on the model any more, until Load is called; those that did go on. NOT_FOUND where there is none.
  virtual void Unload(const std::string& model, Done done) = 0;
};

}  // namespace lstm::server
