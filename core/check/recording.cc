// SPDX-License-Identifier: MIT
#include "core/check/recording.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <span>

#include "absl/strings/str_cat.h"
#include "core/base/aligned_buffer.h"
#include "core/base/status_macros.h"
#include "core/import/mapped_file.h"
#include "core/import/safetensors.h"

namespace lstm::core {
namespace {

constexpr size_t kMaxBytes = 64 << 20;
constexpr double kTolerance = 1e-3;

// One session from its initial state, a step at a time.
class Session {
 public:
  explicit Session(const StepProgram& program)
      : program_(program),
        scratch_(program.MakeScratch()),
        state_(program.state_floats()),
        next_(program.state_floats()),
        inputs_(program.inputs().size()),
        outputs_(program.outputs().size()) {
    std::copy(program.initial_state().begin(), program.initial_state().end(), state_.data());
    for (size_t o = 0; o < program.declared_outputs(); ++o) {
      answers_.emplace_back(program.outputs()[o].step_bytes / sizeof(float));
      outputs_[o] = reinterpret_cast<std::byte*>(answers_[o].data());
    }
  }

  // `step`: for each input the numbers of one step, ids as numbers.
  absl::Status Step(const std::vector<std::span<const float>>& step) {
    std::vector<std::vector<std::byte>> bytes;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      bytes.emplace_back(program_.inputs()[i].step_bytes);
      for (size_t k = 0; k < step[i].size(); ++k) {
        const float value = step[i][k];
        const auto id = static_cast<int32_t>(std::clamp(value, -1.0f, 1e9f));
        std::memcpy(bytes[i].data() + k * sizeof(float),
                    program_.inputs()[i].dtype == DType::kI32 ? static_cast<const void*>(&id) : &value, sizeof(float));
      }
      inputs_[i] = bytes[i].data();
    }
    const StepRow row = {state_.data(), next_.data(), inputs_.data(), outputs_.data()};
    LSTM_RETURN_IF_ERROR(program_.Run({&row, 1}, *scratch_));
    std::swap(state_, next_);
    return absl::OkStatus();
  }

  const std::vector<float>& answer(size_t o) const { return answers_[o]; }
  bool Finite() const {
    const auto finite = [](float v) { return std::isfinite(v); };
    return std::all_of(state_.span().begin(), state_.span().end(), finite) &&
           std::all_of(answers_.begin(), answers_.end(),
                       [&](const auto& a) { return std::all_of(a.begin(), a.end(), finite); });
  }

 private:
  const StepProgram& program_;
  const std::unique_ptr<StepProgram::Scratch> scratch_;
  AlignedBuffer<float> state_, next_;
  std::vector<const std::byte*> inputs_;
  std::vector<std::byte*> outputs_;
  std::vector<std::vector<float>> answers_;
};

std::string InputName(const StepProgram::Port& port) { return absl::StrCat("input.", port.name); }
std::string OutputName(const StepProgram::Port& port) { return absl::StrCat("output.", port.name); }

}  // namespace

absl::StatusOr<Recording> Recording::Make(const StepProgram& program, int steps) {
  std::mt19937 random(20);
  // Of a recipe of our own: the standard's distributions differ between libraries.
  const auto unit = [&random] { return static_cast<float>(random() >> 8) * 0x1p-24f; };
  Recording recording;
  Session session(program);
  for (int t = 0; t < steps; ++t) {
    std::vector<std::vector<float>> step;
    for (const auto& port : program.inputs()) {
      auto& values = step.emplace_back(port.step_bytes / sizeof(float));
      const auto limit =
          static_cast<float>(std::clamp<int64_t>(port.limit, 1, 1 << 24));  // ids that f32 can tell apart
      for (float& v : values)
        v = port.dtype == DType::kI32 ? std::min(std::floor(unit() * limit), limit - 1)
                                      : 2 * (unit() + unit() + unit()) - 3;
    }
    LSTM_RETURN_IF_ERROR(session.Step({step.begin(), step.end()}));
    if (!session.Finite()) break;
    for (size_t i = 0; i < step.size(); ++i) {
      auto& all = recording.tensors_[InputName(program.inputs()[i])];
      all.insert(all.end(), step[i].begin(), step[i].end());
    }
    for (size_t o = 0; o < program.declared_outputs(); ++o) {
      auto& all = recording.tensors_[OutputName(program.outputs()[o])];
      all.insert(all.end(), session.answer(o).begin(), session.answer(o).end());
    }
    recording.steps_ = t + 1;
  }
  return recording;
}

absl::StatusOr<std::optional<Recording>> Recording::Read(const std::string& directory) {
  const auto file = MappedFile::Open(absl::StrCat(directory, "/", kName), kMaxBytes);
  if (absl::IsNotFound(file.status())) return std::nullopt;
  if (!file.ok()) return file.status();
  LSTM_ASSIGN_OR_RETURN(Recording recording, Parse(file->bytes()));
  return std::optional<Recording>(std::move(recording));
}

absl::StatusOr<Recording> Recording::Parse(std::span<const std::byte> file) {
  auto tensors = Safetensors::Parse(file);
  if (!tensors.ok()) return absl::InvalidArgumentError(absl::StrCat(kName, ": ", tensors.status().message()));
  Recording recording;
  for (const auto& [name, entry] : tensors->entries()) {
    if (entry.shape.size() != 2 || entry.shape[0] < 1 || entry.shape[1] < 1 ||
        (recording.steps_ != 0 && entry.shape[0] != recording.steps_)) {
      return absl::InvalidArgumentError(absl::StrCat(kName, ": '", name, "' has shape ", ShapeString(entry.shape),
                                                     ", expected steps, as many in each, and their numbers"));
    }
    recording.steps_ = entry.shape[0];
    LSTM_ASSIGN_OR_RETURN(const ConstantPtr values, tensors->Load(name));
    recording.tensors_[name].assign(values->values.span().begin(), values->values.span().end());
  }
  return recording;
}

std::string Recording::Format() const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string data;
  for (const auto& [name, values] : tensors_) {
    const size_t bytes = values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"},
                    {"shape", {steps_, static_cast<int64_t>(values.size()) / steps_}},
                    {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(reinterpret_cast<const char*>(values.data()), bytes);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
}

absl::Status Recording::Replay(const StepProgram& program) const {
  const auto tensor = [&](const std::string& name,
                          const StepProgram::Port& port) -> absl::StatusOr<std::span<const float>> {
    const auto it = tensors_.find(name);
    const size_t expected = static_cast<size_t>(steps_) * port.step_bytes / sizeof(float);
    if (it != tensors_.end() && it->second.size() == expected) return std::span<const float>(it->second);
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": '", name, "' has ", it == tensors_.end() ? 0 : it->second.size(), " numbers, expected ", expected));
  };
  std::vector<std::span<const float>> inputs, outputs;
  for (const auto& port : program.inputs()) {
    LSTM_ASSIGN_OR_RETURN(inputs.emplace_back(), tensor(InputName(port), port));
    if (port.dtype != DType::kI32) continue;
    for (const float id : inputs.back()) {
      if (!(id >= 0 && id == std::floor(id) && (port.limit == 0 || id < static_cast<float>(port.limit)))) {
        return absl::InvalidArgumentError(
            absl::StrCat(kName, ": '", port.name, "' has ", id, ", expected an id below ", port.limit));
      }
    }
  }
  for (size_t o = 0; o < program.declared_outputs(); ++o) {
    LSTM_ASSIGN_OR_RETURN(outputs.emplace_back(), tensor(OutputName(program.outputs()[o]), program.outputs()[o]));
  }
  Session session(program);
  for (size_t t = 0; t < static_cast<size_t>(steps_); ++t) {
    std::vector<std::span<const float>> step;
    for (const auto& all : inputs)
      step.push_back(
          all.subspan(t * (all.size() / static_cast<size_t>(steps_)), all.size() / static_cast<size_t>(steps_)));
    LSTM_RETURN_IF_ERROR(session.Step(step));
    for (size_t o = 0; o < outputs.size(); ++o) {
      const std::vector<float>& answer = session.answer(o);
      for (size_t k = 0; k < answer.size(); ++k) {
        const double found = static_cast<double>(answer[k]),
                     recorded = static_cast<double>(outputs[o][t * answer.size() + k]);
        if (!(std::fabs(found - recorded) <= kTolerance * std::max(1.0, std::fabs(recorded)))) {
          return absl::InternalError(absl::StrCat("self-check: in step ", t, " output '", program.outputs()[o].name,
                                                  "' is ", found, ", and ", recorded,
                                                  " was recorded when the version was packed"));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
