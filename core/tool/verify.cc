// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/npy.h"
#include "core/base/status_macros.h"
#include "core/engine/sequence_run.h"
#include "core/tool/tool.h"

namespace lstm::core {
namespace {

struct Options {
  std::string directory;
  VerifyOptions recorded;
  std::string data;  // directory of ONNX test data
  Engine engine = Engine::kAuto;
};

// Index of the port and the file of "NAME=FILE"; FILE alone is that of port `otherwise`.
absl::StatusOr<std::pair<size_t, std::string>> Parse(const std::string& text, const std::vector<StepProgram::Port>& ports, size_t n, size_t otherwise) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return std::pair(otherwise, text);
  for (size_t i = 0; i < n; ++i) {
    if (ports[i].name == text.substr(0, equals)) return std::pair(i, text.substr(equals + 1));
  }
  return absl::InvalidArgumentError(absl::StrCat("the model has no '", text.substr(0, equals), "'"));
}

// The rows of a file for one port, [T, one step] as bytes.
absl::StatusOr<std::vector<std::byte>> Rows(const std::string& file, const StepProgram::Port& port, uint64_t& steps) {
  LSTM_ASSIGN_OR_RETURN(const NpyArray array, ReadNpy(file));
  const int64_t width = static_cast<int64_t>(port.step_bytes / sizeof(float)), count = CheckedElementCount(array.shape);
  if (array.shape.empty() || count == 0 || count % width != 0 || (array.shape.size() > 1 && array.shape[0] * width != count)) {
    return absl::InvalidArgumentError(absl::StrCat("'", file, "' has shape ", ShapeString(array.shape), ", expected [T, ", width, "] for '", port.name, "'"));
  }
  const auto t = static_cast<uint64_t>(count / width);
  if (steps != 0 && t != steps) return absl::InvalidArgumentError(absl::StrCat("'", file, "' has ", t, " steps, expected ", steps));
  steps = t;
  std::vector<std::byte> out(static_cast<size_t>(count) * sizeof(float));
  if (port.dtype == DType::kF32) {
    const std::vector<float> values = array.ToFloats();
    std::memcpy(out.data(), values.data(), out.size());
    return out;
  }
  std::vector<int32_t> ids;
  for (int64_t id : array.ToInts()) {
    if (id < 0 || (port.limit > 0 && id >= port.limit)) return absl::InvalidArgumentError(absl::StrCat("'", file, "' has id ", id, ", expected 0 to ", port.limit - 1));
    ids.push_back(static_cast<int32_t>(id));
  }
  std::memcpy(out.data(), ids.data(), out.size());
  return out;
}

// As a port of steps, for reading files.
std::vector<StepProgram::Port> AsPorts(const std::vector<SequencePort>& ports) {
  std::vector<StepProgram::Port> out;
  for (const SequencePort& port : ports) {
    out.push_back({port.name, port.dtype, port.shape, static_cast<size_t>(CheckedElementCount(port.shape)) * sizeof(float), port.limit});
  }
  return out;
}

absl::StatusOr<std::vector<std::byte>> RowsOrOnce(const std::string& file, const StepProgram::Port& port, bool once, uint64_t& steps) {
  if (!once) return Rows(file, port, steps);
  LSTM_ASSIGN_OR_RETURN(const NpyArray array, ReadNpy(file));
  if (CheckedElementCount(array.shape) * static_cast<int64_t>(sizeof(float)) != static_cast<int64_t>(port.step_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("'", file, "' has shape ", ShapeString(array.shape), ", expected ", ShapeString(port.shape), " for '", port.name, "'"));
  }
  std::vector<std::byte> out;
  if (port.dtype == DType::kF32) {
    const std::vector<float> values = array.ToFloats();
    out.resize(port.step_bytes);
    std::memcpy(out.data(), values.data(), out.size());
    return out;
  }
  for (int64_t v : array.ToInts()) {
    const auto id = static_cast<int32_t>(v);
    const auto* bytes = reinterpret_cast<const std::byte*>(&id);
    out.insert(out.end(), bytes, bytes + sizeof(id));
  }
  return out;
}

absl::Status RunWhole(const Loaded& loaded, const VerifyOptions& options) {
  const SequenceModel& sequence = *loaded.model->sequence;
  const std::vector<StepProgram::Port> in = AsPorts(sequence.inputs), out = AsPorts(sequence.outputs);
  Recorded recorded;
  recorded.inputs.resize(in.size());
  for (size_t k = 0; k < options.inputs.size(); ++k) {
    LSTM_ASSIGN_OR_RETURN(const auto named, Parse(options.inputs[k], in, in.size(), std::min(k, in.size() - 1)));
    LSTM_ASSIGN_OR_RETURN(recorded.inputs[named.first], RowsOrOnce(named.second, in[named.first], sequence.inputs[named.first].once, recorded.steps));
  }
  recorded.expected.resize(out.size());
  std::vector<bool> compared(out.size(), false);
  std::vector<std::string> names;
  for (const auto& port : out) names.push_back(port.name);
  for (size_t k = 0; k < options.expected.size(); ++k) {
    LSTM_ASSIGN_OR_RETURN(const auto named, Parse(options.expected[k], out, out.size(), std::min(k, out.size() - 1)));
    uint64_t frames = SequenceRun::Frames(sequence, sequence.outputs[named.first], static_cast<uint32_t>(recorded.steps));
    LSTM_ASSIGN_OR_RETURN(const auto rows, RowsOrOnce(named.second, out[named.first], sequence.outputs[named.first].once, frames));
    recorded.expected[named.first].resize(rows.size() / sizeof(float));
    std::memcpy(recorded.expected[named.first].data(), rows.data(), rows.size());
    compared[named.first] = true;
  }
  std::vector<double> worst(out.size(), 0);
  LSTM_RETURN_IF_ERROR(ReplayWhole(loaded.sequence, recorded, worst));
  std::cout << "a sequence of " << recorded.steps << " steps, whole; alone and in a batch: the same bits\n";
  return Judge(names, worst, compared, options.tolerance);
}

absl::Status Run(const Options& options) {
  const StepProgram::Options compile = {.max_batch = 8, .engine = options.engine};
  if (!options.data.empty()) return VerifyOnnxData(options.directory, options.data, compile, options.recorded.tolerance);
  if (options.recorded.inputs.empty()) return absl::InvalidArgumentError("--input or --data is missing");
  LSTM_ASSIGN_OR_RETURN(const Loaded loaded, LoadProgram(options.directory, compile, nullptr));
  return VerifyRecorded(loaded, options.recorded);
}

}  // namespace

absl::Status VerifyRecorded(const Loaded& loaded, const VerifyOptions& options) {
  if (options.inputs.empty()) return absl::InvalidArgumentError("--input is missing");
  if (loaded.sequence) return RunWhole(loaded, options);
  const StepProgram& program = *loaded.steps;
  const auto& out = program.outputs();
  LSTM_ASSIGN_OR_RETURN(std::vector<Recorded> recordings, ReadRecordings(program, options.inputs));
  if (recordings.size() != 1) return absl::InvalidArgumentError(absl::StrCat("--input has files of ", recordings.size(), " recordings, expected one"));
  Recorded& recorded = recordings[0];
  recorded.expected.resize(program.declared_outputs());
  std::vector<bool> compared(program.declared_outputs(), false);
  for (size_t k = 0; k < options.expected.size(); ++k) {
    LSTM_ASSIGN_OR_RETURN(const auto named, Parse(options.expected[k], out, program.declared_outputs(), std::min(k, program.declared_outputs() - 1)));
    LSTM_ASSIGN_OR_RETURN(const auto rows, Rows(named.second, out[named.first], recorded.steps));
    recorded.expected[named.first].resize(rows.size() / sizeof(float));
    std::memcpy(recorded.expected[named.first].data(), rows.data(), rows.size());
    compared[named.first] = true;
  }
  std::vector<double> worst(program.declared_outputs(), 0);
  LSTM_RETURN_IF_ERROR(Replay(program, recorded, worst));
  std::cout << recorded.steps << " steps; alone and in a batch: the same bits\n";
  std::vector<std::string> names;
  for (size_t o = 0; o < program.declared_outputs(); ++o) names.push_back(out[o].name);
  return Judge(names, worst, compared, options.tolerance);
}

absl::StatusOr<std::vector<Recorded>> ReadRecordings(const StepProgram& program, const std::vector<std::string>& inputs) {
  const auto& in = program.inputs();
  std::vector<size_t> files(in.size(), 0);
  std::vector<Recorded> out;
  for (size_t k = 0; k < inputs.size(); ++k) {
    LSTM_ASSIGN_OR_RETURN(const auto named, Parse(inputs[k], in, in.size(), std::min(k, in.size() - 1)));
    const size_t r = files[named.first]++;
    if (r == out.size()) out.emplace_back().inputs.resize(in.size());
    LSTM_ASSIGN_OR_RETURN(out[r].inputs[named.first], Rows(named.second, in[named.first], out[r].steps));
  }
  for (size_t i = 0; i < in.size(); ++i) {
    if (files[i] < out.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--input ", in[i].name, "=FILE is missing", out.size() > 1 ? absl::StrCat(", of recording ", files[i] + 1) : ""));
    }
  }
  return out;
}

absl::Status Replay(const StepProgram& program, const Recorded& recorded, std::vector<double>& worst) {
  constexpr size_t kBeside = 7;  // the same session this many times in one batch must give the same bits
  const auto& in = program.inputs();
  const auto& out = program.outputs();
  const auto scratch = program.MakeScratch();
  struct Session {
    AlignedBuffer<float> state, next;
    std::vector<std::vector<float>> answer;
    std::vector<std::byte*> outputs;
  };
  std::vector<Session> sessions(1 + kBeside);
  for (Session& s : sessions) {
    s.state = AlignedBuffer<float>(program.state_floats());
    s.next = AlignedBuffer<float>(program.state_floats());
    std::copy(program.initial_state().begin(), program.initial_state().end(), s.state.data());
    s.outputs.assign(out.size(), nullptr);
    for (size_t o = 0; o < program.declared_outputs(); ++o) {
      s.answer.emplace_back(out[o].step_bytes / sizeof(float));
      s.outputs[o] = reinterpret_cast<std::byte*>(s.answer.back().data());
    }
  }
  for (uint64_t t = 0; t < recorded.steps; ++t) {
    std::vector<const std::byte*> row_inputs;
    for (size_t i = 0; i < in.size(); ++i) row_inputs.push_back(recorded.inputs[i].data() + t * in[i].step_bytes);
    std::vector<StepRow> rows;
    for (Session& s : sessions) rows.push_back({s.state.data(), s.next.data(), row_inputs.data(), s.outputs.data()});
    LSTM_RETURN_IF_ERROR(program.Run(std::span(rows).first(1), *scratch));
    LSTM_RETURN_IF_ERROR(program.Run(std::span(rows).subspan(1), *scratch));
    for (Session& s : sessions) {
      if (s.answer != sessions[0].answer) return absl::InternalError(absl::StrCat("step ", t, ": a batch of ", kBeside, " gives other bits than one session alone"));
      std::swap(s.state, s.next);
    }
    for (size_t o = 0; o < recorded.expected.size(); ++o) {
      const std::vector<float>& expected = recorded.expected[o];
      const size_t width = sessions[0].answer[o].size();
      const bool each = expected.size() == width * recorded.steps;
      if (expected.empty() || (!each && t + 1 < recorded.steps)) continue;
      for (size_t i = 0; i < width; ++i) {
        const auto right = static_cast<double>(expected[(each ? t * width : 0) + i]);
        const double error = std::fabs(static_cast<double>(sessions[0].answer[o][i]) - right) / std::max(1.0, std::fabs(right));
        worst[o] = std::isnan(error) ? INFINITY : std::max(worst[o], error);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Judge(const std::vector<std::string>& names, const std::vector<double>& worst, const std::vector<bool>& compared, double tolerance) {
  bool good = true;
  for (size_t o = 0; o < worst.size(); ++o) {
    if (!compared[o]) continue;
    good = good && worst[o] <= tolerance;
    std::cout << absl::StrFormat("%s: largest difference %.3g, tolerance %.3g: %s\n", names[o], worst[o], tolerance, worst[o] <= tolerance ? "ok" : "TOO LARGE");
  }
  return good ? absl::OkStatus() : absl::FailedPreconditionError("the model does not give what was expected");
}

void AddRecordedOptions(CLI::App& command, VerifyOptions& options) {
  command.add_option("--input", options.inputs, "Recorded input, .npy [T, ...]; NAME=FILE where the model has several");
  command.add_option("--expect", options.expected, "Recorded output, .npy [T, ...]; NAME=FILE where the model has several");
  command.add_option("--tolerance", options.tolerance, "Largest difference that is accepted, relative where the expected number is above 1")->capture_default_str();
}

void AddVerifyCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command = app.add_subcommand("verify", "Run recorded inputs step by step and compare with recorded outputs");
  auto o = std::make_shared<Options>();
  command->add_option("DIR", o->directory, "Directory with model.textproto and the weights, or an ONNX file")->required();
  AddRecordedOptions(*command, o->recorded);
  command->add_option("--data", o->data, "ONNX test data, input_0.pb ... and output_0.pb ..., instead of --input and --expect");
  AddEngineOption(*command, o->engine);
  command->callback([&result, o] { result = Run(*o); });
}

}  // namespace lstm::core
