// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/engine.h"
#include "core/import/manifest_import.h"
#include "core/program/sequence_program.h"
#include "core/program/step_program.h"

namespace CLI {
class App;
}

// Private to lstm-model: looks at models before they are served.
namespace lstm::core {

// A model as the server would compile it: steps, whole sequences, or both.
struct Loaded {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const StepProgram> steps;         // null: it is of whole sequences alone
  std::shared_ptr<const SequenceProgram> sequence;  // null: it is its steps
};

// A model directory, DIR/<model>/<version> or any other, or an ONNX file. `given`, `exact`: as of LoadModelDirectory.
absl::StatusOr<Loaded> LoadProgram(const std::string& directory, const StepProgram::Options& options, ImportNotes* notes,
                                   const std::map<std::string, onnx::Tensor>& given = {}, bool exact = false);

// --engine, as the server has it.
void AddEngineOption(CLI::App& command, Engine& engine);

// Recorded steps of one session.
struct Recorded {
  uint64_t steps = 0;
  std::vector<std::vector<std::byte>> inputs;   // per input of the program: steps times one step
  std::vector<std::vector<float>> expected;     // per declared output: each step, or the last step alone, or nothing
};

// The recordings in the files of --input, FILE or NAME=FILE: the first file of each input is of the first recording, and so on.
absl::StatusOr<std::vector<Recorded>> ReadRecordings(const StepProgram& program, const std::vector<std::string>& inputs);

// Runs them alone and in a batch of others of the same, which must give the same bits, and raises `worst` per output: the
// difference, relative where the expected number is above 1.
absl::Status Replay(const StepProgram& program, const Recorded& recorded, std::vector<double>& worst);

// The same of a whole sequence; `expected` is then all that an output gives, or nothing.
absl::Status ReplayWhole(const std::shared_ptr<const SequenceProgram>& program, const Recorded& recorded, std::vector<double>& worst);

// Says how each output compares. FAILED_PRECONDITION where one is further off than `tolerance`.
absl::Status Judge(const std::vector<std::string>& names, const std::vector<double>& worst, const std::vector<bool>& compared, double tolerance);

// The test data that ONNX keeps beside a model: DIR/input_0.pb ... and output_0.pb ..., in DIR or in DIR/test_data_set_0.
absl::Status VerifyOnnxData(const std::string& model, const std::string& data, const StepProgram::Options& options, double tolerance);

struct VerifyOptions {
  std::vector<std::string> inputs, expected;  // .npy, FILE or NAME=FILE
  double tolerance = 1e-4;
};
void AddRecordedOptions(CLI::App& command, VerifyOptions& options);
// Replays what was recorded and judges it.
absl::Status VerifyRecorded(const Loaded& loaded, const VerifyOptions& options);

// Writes a file that is not there yet, and waits until the disk has it.
absl::Status WriteNewFile(const std::filesystem::path& path, std::span<const std::byte> bytes);

void AddInspectCommand(CLI::App& app, absl::Status& result);
void AddVerifyCommand(CLI::App& app, absl::Status& result);
void AddBenchCommand(CLI::App& app, absl::Status& result);
void AddPackCommand(CLI::App& app, absl::Status& result);
void AddCalibrateCommand(CLI::App& app, absl::Status& result);

}  // namespace lstm::core
