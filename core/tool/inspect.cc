// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/tool/tool.h"

namespace lstm::core {
namespace {

std::string Ports(const std::vector<StepProgram::Port>& ports, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) {
    absl::StrAppend(&out, i ? ", " : "", ports[i].name, " ", ports[i].dtype == DType::kI32 ? "INT32" : "FLOAT32", ShapeString(ports[i].shape));
    if (ports[i].limit > 0) absl::StrAppend(&out, " below ", ports[i].limit);
  }
  return out;
}

std::string Ports(const std::vector<SequencePort>& ports, const SequenceModel& model) {
  std::string out;
  for (const SequencePort& port : ports) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", port.name, " ", port.dtype == DType::kI32 ? "INT32" : "FLOAT32", ShapeString(port.shape), port.once ? " once" : "",
                    port.optional ? " (optional)" : "");
    if (port.length >= 0) absl::StrAppend(&out, " of ", model.lengths[static_cast<size_t>(port.length)].Text(), " frames for T steps");
    if (port.limit > 0) absl::StrAppend(&out, " below ", port.limit);
  }
  return out;
}

nlohmann::ordered_json Json(const SequenceProgram& program) {
  nlohmann::ordered_json out = {{"in", Ports(program.sequence().inputs, program.sequence())}, {"out", Ports(program.sequence().outputs, program.sequence())}};
  for (const auto& stage : program.stages()) out["passes"].push_back(stage->engines());
  return out;
}

void Print(const SequenceProgram& program) {
  const auto length = [&](const SequenceStage& stage) {
    const SequenceLength& of = program.sequence().lengths[static_cast<size_t>(stage.length)];
    return of.stride > 0 ? absl::StrCat(of.Text(), " frames") : std::string("the length that is given");
  };
  std::cout << "whole sequences (Predict)\n  in     " << Ports(program.sequence().inputs, program.sequence()) << "\n  out    " << Ports(program.sequence().outputs, program.sequence()) << "\n";
  for (size_t s = 0; s < program.stages().size(); ++s) {
    const SequenceStage& stage = program.sequence().stages[s];
    std::cout << "  pass " << s + 1 << (stage.once ? ", one step" : stage.length < 0 ? "" : absl::StrCat(", over ", length(stage))) << "\n";
    for (const std::string& line : program.stages()[s]->engines()) std::cout << "    " << line << "\n";
  }
}

// A model of whole sequences alone.
absl::Status PrintWhole(const Loaded& loaded, const ImportNotes& notes, bool json) {
  const Model& model = *loaded.model;
  if (json) {
    nlohmann::ordered_json out = {{"description", model.description}, {"hash", absl::BytesToHexString(model.hash)}, {"parameters", model.parameters},
                                  {"not_streamable", model.not_streamable}, {"numerics_id", loaded.sequence->numerics_id()}, {"sequence", Json(*loaded.sequence)}};
    std::cout << out.dump(1) << "\n";
    return absl::OkStatus();
  }
  std::cout << model.description << "\n\nno sessions: " << model.not_streamable << "\n\n";
  Print(*loaded.sequence);
  std::cout << "\n" << model.parameters << " parameters, numerics " << loaded.sequence->numerics_id() << "\nhash " << absl::BytesToHexString(model.hash) << "\n";
  for (const std::string& line : notes.onnx.lines) std::cout << "\ngraph: " << line;
  std::cout << "\n\nmanifest in use\n" << notes.manifest;
  return absl::OkStatus();
}

absl::Status Run(const std::string& directory, Engine engine, bool json) {
  ImportNotes notes;
  LSTM_ASSIGN_OR_RETURN(const Loaded loaded, LoadProgram(directory, {.max_batch = 64, .engine = engine}, &notes));
  if (!loaded.steps) return PrintWhole(loaded, notes, json);
  const auto& program = loaded.steps;
  const Model& model = program->model();
  uint64_t state = 0;
  for (const StateTensor& tensor : model.state) state += static_cast<uint64_t>(CheckedElementCount(tensor.shape)) * sizeof(float);
  if (json) {
    nlohmann::ordered_json out = {{"description", model.description}, {"hash", absl::BytesToHexString(model.hash)}, {"parameters", model.parameters},
                                  {"state_bytes", state}, {"numerics_id", program->numerics_id()}, {"layers", program->engines()},
                                  {"unused_tensors", notes.unused}};
    if (loaded.sequence) out["sequence"] = Json(*loaded.sequence);
    std::cout << out.dump(1) << "\n";
    return absl::OkStatus();
  }
  std::cout << model.description << "\n\nper step\n  in     " << Ports(program->inputs(), program->inputs().size()) << "\n  out    "
            << Ports(program->outputs(), program->declared_outputs()) << "\n\nlayers\n";
  for (size_t i = 0; i < model.nodes.size(); ++i) {
    std::cout << "  " << program->engines()[i] << "\n      -> " << ShapeString(model.values[static_cast<size_t>(model.nodes[i].output)].shape) << "\n";
  }
  if (loaded.sequence) std::cout << "\n", Print(*loaded.sequence);
  std::cout << "\nstate of a session: " << state << " bytes\n";
  for (const StateTensor& tensor : model.state) {
    std::cout << "  " << tensor.name << " " << ShapeString(tensor.shape) << (tensor.initial.empty() ? ", from zeros" : ", from trained values") << "\n";
  }
  std::cout << "\n" << model.parameters << " parameters, numerics " << program->numerics_id() << "\nhash " << absl::BytesToHexString(model.hash) << "\n";
  for (const std::string& line : notes.onnx.lines) std::cout << "\ngraph: " << line;
  if (notes.is_onnx) std::cout << "\n";
  for (const std::string& name : notes.unused) std::cout << "not used by any layer: tensor '" << name << "'\n";
  std::cout << "\nmanifest in use\n" << (notes.manifest.size() > 4000 ? notes.manifest.substr(0, 4000) + "...\n" : notes.manifest);
  return absl::OkStatus();
}

}  // namespace

namespace {

absl::StatusOr<Loaded> Compiled(Model model, const StepProgram::Options& options) {
  Loaded out;
  out.model = std::make_shared<const Model>(std::move(model));
  if (out.model->not_streamable.empty()) {
    LSTM_ASSIGN_OR_RETURN(out.steps, StepProgram::Compile(out.model, options));
  }
  if (out.model->sequence) {
    LSTM_ASSIGN_OR_RETURN(out.sequence, SequenceProgram::Compile(out.model, options));
  }
  return out;
}

}  // namespace

absl::StatusOr<Loaded> LoadProgram(const std::string& directory, const StepProgram::Options& options, ImportNotes* notes, const std::map<std::string, onnx::Tensor>& given, bool exact) {
  const auto path = std::filesystem::absolute(directory).lexically_normal();
  if (path.extension() == ".onnx" && !std::filesystem::is_directory(path)) {
    LSTM_ASSIGN_OR_RETURN(Model graph, LoadOnnxFile(path.string(), "", {}, given, notes));
    graph.name = path.stem().string();
    graph.version = "1";
    return Compiled(std::move(graph), options);
  }
  LSTM_ASSIGN_OR_RETURN(Model model, LoadModelDirectory(path.string(), path.parent_path().filename().string(), path.filename().string(), notes, given, exact));
  return Compiled(std::move(model), options);
}

void AddEngineOption(CLI::App& command, Engine& engine) {
  command
      .add_option_function<std::string>("--engine", [&engine](const std::string& name) { engine = *EngineFromName(name); },
                                        "What computes the layers: fused, onednn, or auto: what the server would take on this machine")
      ->check(CLI::IsMember({"auto", "fused", "onednn"}))
      ->default_str("auto");
}

void AddInspectCommand(CLI::App& app, absl::Status& result) {
  CLI::App* command = app.add_subcommand("inspect", "What a model is: layers, engines, sizes, state, the manifest in use");
  auto directory = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  auto engine = std::make_shared<Engine>(Engine::kAuto);
  command->add_option("DIR", *directory, "Directory with model.textproto and the weights, or an ONNX file")->required();
  command->add_flag("--json", *json, "As JSON");
  AddEngineOption(*command, *engine);
  command->callback([&result, directory, json, engine] { result = Run(*directory, *engine, *json); });
}

}  // namespace lstm::core
