// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/program/step_program.h"

namespace lstm::core {

// Steps of one session that were computed when a version was packed; they are computed again before it is served. On
// disk safetensors in f32, ids too: "input.<name>" [T, numbers of a step], "output.<name>" the same.
class Recording {
 public:
  static constexpr char kName[] = "self_check.safetensors";

  // What `program` makes of noise, always the same noise, from its initial state: at most `steps` steps, and none from
  // the first on that gives numbers that are not finite.
  static absl::StatusOr<Recording> Make(const StepProgram& program, int steps);

  // What lies in the directory of a version; nothing where there is none.
  static absl::StatusOr<std::optional<Recording>> Read(const std::string& directory);
  static absl::StatusOr<Recording> Parse(std::span<const std::byte> file);

  std::string Format() const;
  int64_t steps() const { return steps_; }

  // INTERNAL where an output is off by more than a thousandth of what was recorded, or of 1 where that is less: engines
  // and machines differ by a thousandth of that. INVALID_ARGUMENT where it is no recording of this model.
  absl::Status Replay(const StepProgram& program) const;

 private:
  int64_t steps_ = 0;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace lstm::core
