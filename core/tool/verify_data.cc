// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/engine/sequence_run.h"
#include "core/import/mapped_file.h"
#include "core/import/onnx/graph.h"
#include "core/tool/tool.h"

// ONNX test data is of a batch over whole sequences: every item of the batch is replayed as a session of its own.
namespace lstm::core {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 30;

Shape WithoutOnes(Shape shape) {
  std::erase(shape, 1);
  return shape;
}

// Which axes of a recorded tensor are time and batch, so that the others are one step of `port`. `time_first`: where both would do.
struct Axes {
  int time = -1, batch = -1;
};
bool Find(const Shape& shape, const Shape& step, int64_t steps, int64_t batch, bool time_first, bool with_time, Axes& axes) {
  const auto rank = static_cast<int>(shape.size());
  for (const bool ordered : {true, false}) {
    for (int t = with_time ? 0 : -1; t < (with_time ? rank : 0); ++t) {
      for (int b = -1; b < rank; ++b) {
        if (b == t && b >= 0) continue;
        if ((b < 0) != (batch == 1) || (b >= 0 && shape[static_cast<size_t>(b)] != batch)) continue;
        if (t >= 0 && shape[static_cast<size_t>(t)] != steps) continue;
        if (ordered && t >= 0 && b >= 0 && (t < b) != time_first) continue;
        Shape rest;
        for (int a = 0; a < rank; ++a) {
          if (a != t && a != b) rest.push_back(shape[static_cast<size_t>(a)]);
        }
        if (WithoutOnes(rest) != WithoutOnes(step)) continue;
        axes = {t, b};
        return true;
      }
    }
  }
  return false;
}

// The elements of one item of the batch, step after step.
std::vector<double> Item(const onnx::Tensor& tensor, const Axes& axes, int64_t item, int64_t steps) {
  std::vector<std::pair<int64_t, double>> placed;  // step, value; in order of the other axes within a step
  for (size_t i = 0; i < tensor.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i), step = 0, own = 0;
    for (size_t a = tensor.shape.size(); a > 0; --a) {
      const int64_t at = rest % tensor.shape[a - 1];
      rest /= tensor.shape[a - 1];
      if (static_cast<int>(a) - 1 == axes.time) step = at;
      if (static_cast<int>(a) - 1 == axes.batch) own = at;
    }
    if (own == item || axes.batch < 0) placed.emplace_back(step, tensor.At(i));
  }
  std::stable_sort(placed.begin(), placed.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
  std::vector<double> out;
  for (const auto& [step, value] : placed) {
    if (step < steps) out.push_back(value);
  }
  return out;
}

absl::StatusOr<std::map<std::string, onnx::Tensor>> ReadSet(const std::filesystem::path& directory, const char* kind, const std::vector<std::string>& names) {
  std::map<std::string, onnx::Tensor> out;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string path = (directory / absl::StrCat(kind, "_", i, ".pb")).string();
    if (!std::filesystem::exists(path)) continue;
    LSTM_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, kMaxBytes));
    auto tensor = onnx::ParseTensorFile(file.bytes());
    if (!tensor.ok()) return absl::InvalidArgumentError(absl::StrCat("'", path, "': ", tensor.status().message()));
    out[names[i]] = *std::move(tensor);
  }
  return out;
}

// Whole sequences: every item of the batch is one, with its own length and its own begin.
absl::Status VerifyWhole(const Loaded& loaded, const ImportNotes& notes, const std::map<std::string, onnx::Tensor>& given, const std::map<std::string, onnx::Tensor>& expected, double tolerance) {
  const SequenceModel& sequence = *loaded.model->sequence;
  int64_t steps = 1, batch = 1;
  bool time_first = true;
  std::vector<Axes> axes(sequence.inputs.size());
  for (const bool once : {false, true}) {  // those of each step say what the batch is
    for (size_t i = 0; i < sequence.inputs.size(); ++i) {
      const SequencePort& port = sequence.inputs[i];
      const auto it = given.find(port.name);
      if (port.once != once || (it == given.end() && port.optional)) continue;
      if (it == given.end()) return absl::NotFoundError(absl::StrCat("there is no data for input '", port.name, "'"));
      const Shape& shape = it->second.shape;
      const auto wrong = absl::InvalidArgumentError(absl::StrCat("data of input '", port.name, "' has shape ", ShapeString(shape), once ? ", not a batch of " : ", not a batch of steps of ", ShapeString(port.shape)));
      if (!once) {
        const auto time = notes.onnx.time.find(port.name);
        if (time == notes.onnx.time.end() || time->second >= static_cast<int>(shape.size())) return wrong;
        steps = shape[static_cast<size_t>(time->second)];
        const int64_t width = CheckedElementCount(port.shape);
        const auto count = static_cast<int64_t>(it->second.size());
        if (steps < 1 || count < 1 || count % (steps * width) != 0) return wrong;
        batch = count / (steps * width);
      }
      if (!Find(shape, port.shape, once ? 1 : steps, batch, time_first, !once, axes[i])) return wrong;
      if (!once) time_first = axes[i].batch < 0 || axes[i].time < axes[i].batch;
    }
  }
  std::vector<double> worst(sequence.outputs.size(), 0);
  std::vector<bool> compared(sequence.outputs.size(), false);
  std::vector<std::string> names;
  for (const SequencePort& port : sequence.outputs) names.push_back(port.name);
  for (int64_t item = 0; item < batch; ++item) {
    Recorded recorded;
    recorded.steps = static_cast<uint64_t>(steps);
    for (size_t i = 0; i < sequence.inputs.size(); ++i) {
      auto& bytes = recorded.inputs.emplace_back();
      const auto it = given.find(sequence.inputs[i].name);
      if (it == given.end()) continue;
      for (double v : Item(it->second, axes[i], item, sequence.inputs[i].once ? 1 : steps)) {
        const auto f = static_cast<float>(v);
        const auto id = static_cast<int32_t>(v);
        const int64_t limit = sequence.inputs[i].limit;
        const bool ids = sequence.inputs[i].dtype == DType::kI32;
        if (ids && limit > 0 && (id < 0 || id >= limit)) return absl::InvalidArgumentError(absl::StrCat("data of input '", sequence.inputs[i].name, "' has id ", id));
        const auto* from = ids ? reinterpret_cast<const std::byte*>(&id) : reinterpret_cast<const std::byte*>(&f);
        bytes.insert(bytes.end(), from, from + sizeof(float));
      }
    }
    for (size_t o = 0; o < sequence.outputs.size(); ++o) {
      const SequencePort& port = sequence.outputs[o];
      auto& rows = recorded.expected.emplace_back();
      const auto it = expected.find(port.name);
      if (it == expected.end()) continue;
      Axes at;
      const auto frames = static_cast<int64_t>(SequenceRun::Frames(sequence, port, static_cast<uint32_t>(steps)));
      if (!Find(it->second.shape, port.shape, frames, batch, time_first, !port.once, at)) {
        return absl::InvalidArgumentError(absl::StrCat("data of output '", port.name, "' has shape ", ShapeString(it->second.shape), ", expected ", batch, " of ", frames, " frames of ", ShapeString(port.shape)));
      }
      for (double v : Item(it->second, at, item, port.once ? 1 : frames)) rows.push_back(static_cast<float>(v));
      compared[o] = true;
    }
    LSTM_RETURN_IF_ERROR(ReplayWhole(loaded.sequence, recorded, worst));
  }
  std::cout << batch << (batch == 1 ? " sequence of " : " sequences of ") << steps << " steps, whole; alone and in a batch: the same bits\n";
  if (std::find(compared.begin(), compared.end(), true) == compared.end()) return absl::InvalidArgumentError("the data has none of the model's outputs");
  return Judge(names, worst, compared, tolerance);
}

}  // namespace

absl::Status VerifyOnnxData(const std::string& model, const std::string& data, const StepProgram::Options& options, double tolerance) {
  std::filesystem::path set = data;
  if (std::filesystem::is_directory(set / "test_data_set_0")) set /= "test_data_set_0";
  const std::filesystem::path file = std::filesystem::is_directory(model) ? std::filesystem::path(model) / "model.onnx" : std::filesystem::path(model);
  std::vector<std::string> input_names, output_names;
  {
    LSTM_ASSIGN_OR_RETURN(const MappedFile bytes, MappedFile::Open(file.string(), kMaxBytes));
    LSTM_ASSIGN_OR_RETURN(const onnx::FileView view, onnx::ReadFile(bytes.bytes()));
    for (const auto& input : view.graph.inputs) input_names.push_back(std::string(input.name));
    for (const auto& output : view.graph.outputs) output_names.push_back(std::string(output.name));
  }
  LSTM_ASSIGN_OR_RETURN(auto given, ReadSet(set, "input", input_names));
  LSTM_ASSIGN_OR_RETURN(const auto expected, ReadSet(set, "output", output_names));
  if (given.empty() || expected.empty()) return absl::NotFoundError(absl::StrCat("'", set.string(), "' has no input_0.pb or no output_0.pb"));
  ImportNotes notes;
  LSTM_ASSIGN_OR_RETURN(const Loaded loaded, LoadProgram(model, options, &notes, given));
  if (loaded.sequence) return VerifyWhole(loaded, notes, given, expected, tolerance);
  auto program = loaded.steps;
  int64_t steps = 1, batch = 1;
  bool time_first = true, timed = false;
  std::vector<Axes> axes(notes.onnx.data.size());
  for (size_t i = 0; i < notes.onnx.data.size(); ++i) {
    const std::string& name = notes.onnx.data[i];
    const auto it = given.find(name);
    if (it == given.end()) return absl::NotFoundError(absl::StrCat("there is no data for input '", name, "'"));
    const Shape& shape = it->second.shape;
    const auto time = notes.onnx.time.find(name);
    axes[i].time = time == notes.onnx.time.end() ? -1 : time->second;
    if (axes[i].time >= static_cast<int>(shape.size())) return absl::InvalidArgumentError(absl::StrCat("data of input '", name, "' has shape ", ShapeString(shape)));
    if (axes[i].time >= 0) steps = shape[static_cast<size_t>(axes[i].time)], timed = true;
    const int64_t width = CheckedElementCount(program->inputs()[i].shape), own = axes[i].time >= 0 ? steps : 1;
    const auto count = static_cast<int64_t>(it->second.size());
    if (own < 1 || count < 1 || count % (own * width) != 0) return absl::InvalidArgumentError(absl::StrCat("data of input '", name, "' has shape ", ShapeString(shape), ", a step has ", ShapeString(program->inputs()[i].shape)));
    batch = count / (own * width);
    if (!Find(shape, program->inputs()[i].shape, own, batch, true, axes[i].time >= 0, axes[i])) return absl::InvalidArgumentError(absl::StrCat("data of input '", name, "' has shape ", ShapeString(shape), ", not a batch of steps of ", ShapeString(program->inputs()[i].shape)));
    if (const auto t = notes.onnx.time.find(name); t != notes.onnx.time.end()) axes[i].time = t->second;
    time_first = axes[i].batch < 0 || axes[i].time < axes[i].batch;
  }
  std::vector<double> worst(program->declared_outputs(), 0);
  std::vector<bool> compared(program->declared_outputs(), false);
  for (int64_t item = 0; item < batch; ++item) {
    auto own = given;  // initial states of this item
    for (const std::string& name : notes.onnx.states) {
      const auto it = own.find(name);
      if (it == own.end()) continue;
      Shape& shape = it->second.shape;
      const auto axis = std::find(shape.begin() + (shape.size() == 3 && shape[0] == batch && shape[1] == batch ? 1 : 0), shape.end(), batch);
      if (batch == 1 || axis == shape.end()) continue;
      const std::vector<double> values = Item(it->second, {-1, static_cast<int>(axis - shape.begin())}, item, 1);
      *axis = 1;
      it->second.floats.assign(values.begin(), values.end());
    }
    if (item > 0 && !notes.onnx.states.empty()) {
      LSTM_ASSIGN_OR_RETURN(const Loaded anew, LoadProgram(model, options, nullptr, own));
      program = anew.steps;
    } else if (!notes.onnx.states.empty() && batch > 1) {
      LSTM_ASSIGN_OR_RETURN(const Loaded anew, LoadProgram(model, options, nullptr, own));
      program = anew.steps;
    }
    Recorded recorded;
    recorded.steps = static_cast<uint64_t>(steps);
    for (size_t i = 0; i < notes.onnx.data.size(); ++i) {
      std::vector<double> values = Item(given[notes.onnx.data[i]], axes[i], item, steps);
      const std::vector<double> once = values;
      for (int64_t t = 1; axes[i].time < 0 && t < steps; ++t) values.insert(values.end(), once.begin(), once.end());
      auto& bytes = recorded.inputs.emplace_back(values.size() * sizeof(float));
      for (size_t k = 0; k < values.size(); ++k) {
        const auto f = static_cast<float>(values[k]);
        const auto id = static_cast<int32_t>(values[k]);
        if (program->inputs()[i].limit > 0 && (id < 0 || id >= program->inputs()[i].limit)) return absl::InvalidArgumentError(absl::StrCat("data of input '", notes.onnx.data[i], "' has id ", id));
        if (program->inputs()[i].dtype == DType::kI32) std::memcpy(bytes.data() + k * sizeof(id), &id, sizeof(id));
        if (program->inputs()[i].dtype == DType::kF32) std::memcpy(bytes.data() + k * sizeof(f), &f, sizeof(f));
      }
    }
    for (size_t o = 0; o < program->declared_outputs(); ++o) {
      auto& rows = recorded.expected.emplace_back();
      const auto& port = program->outputs()[o];
      const auto it = expected.find(port.name);
      if (it == expected.end()) continue;
      Axes at;
      const bool each = timed && Find(it->second.shape, port.shape, steps, batch, time_first, true, at);
      if (!each && !Find(it->second.shape, port.shape, steps, batch, time_first, false, at)) {
        return absl::InvalidArgumentError(absl::StrCat("data of output '", port.name, "' has shape ", ShapeString(it->second.shape), ", expected ", batch, " sessions of ", steps, " steps of ", ShapeString(port.shape), ", or of the last step"));
      }
      for (double v : Item(it->second, at, item, each ? steps : 1)) rows.push_back(static_cast<float>(v));
      compared[o] = true;
    }
    LSTM_RETURN_IF_ERROR(Replay(*program, recorded, worst));
  }
  std::cout << batch << (batch == 1 ? " session of " : " sessions of ") << steps << (steps == 1 ? " step" : " steps") << ", step by step; alone and in a batch: the same bits\n";
  if (std::find(compared.begin(), compared.end(), true) == compared.end()) return absl::InvalidArgumentError("the data has none of the model's outputs");
  std::vector<std::string> names;
  for (size_t o = 0; o < program->declared_outputs(); ++o) names.push_back(program->outputs()[o].name);
  return Judge(names, worst, compared, tolerance);
}

}  // namespace lstm::core
