// SPDX-License-Identifier: MIT
#include "core/import/onnx/onnx_import.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core {
namespace {

namespace pb = manifest::v1;
using onnx::GraphInput;
using onnx::Shown;

constexpr int64_t kBudget = 400'000;  // nodes of all readings that are tried

absl::Status Answer(const pb::OnnxInput& answer, GraphInput& in) {
  const auto wrong = [&](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat("manifest: onnx input ", Shown(answer.name()), ": ", what)); };
  const size_t rank = in.shape.size();
  if (answer.shape_size() > 0) {
    if (answer.shape_size() != static_cast<int>(rank)) return wrong(absl::StrCat("shape has ", answer.shape_size(), " sizes, the graph says ", rank));
    for (size_t a = 0; a < rank; ++a) {
      if (answer.shape(static_cast<int>(a)) < 1) return wrong("shape has a size below 1");
      in.shape[a] = answer.shape(static_cast<int>(a));
      in.open[a] = false;
    }
    LSTM_RETURN_IF_ERROR(ElementCount(in.shape).status());
  }
  if (answer.has_time()) {
    if (answer.time() < -1 || answer.time() >= static_cast<int>(rank)) return wrong(absl::StrCat("time is axis ", answer.time(), " of ", rank));
    in.time = answer.time();
    in.decided = true;
  }
  in.look_back = answer.look_back();
  if (answer.constant_size() > 0) {
    LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(in.shape));
    if (answer.constant_size() != 1 && answer.constant_size() != count) return wrong(absl::StrCat("constant has ", answer.constant_size(), " numbers, expected 1 or ", count));
    if (count > onnx::kMaxInts) return wrong("is too large for a constant");
    onnx::Tensor tensor{onnx::IsFloatType(in.declared.type), in.shape, {}, {}};
    for (int64_t i = 0; i < count; ++i) {
      const double v = answer.constant(answer.constant_size() == 1 ? 0 : static_cast<int>(i));
      if (!(v > -9e18 && v < 9e18)) return wrong("constant is not finite");
      if (tensor.is_float) tensor.floats.push_back(static_cast<float>(v));
      if (!tensor.is_float) tensor.ints.push_back(static_cast<int64_t>(v));
    }
    in.constant = std::make_shared<const onnx::Tensor>(std::move(tensor));
  }
  if (answer.has_state() && answer.state().empty()) in.no_state = true;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GraphInput>> ReadInputs(const onnx::FileView& file, const pb::Manifest& manifest, const std::map<std::string, onnx::Tensor>& given,
                                                   onnx::Reading& reading) {
  std::set<std::string_view> initialized;
  for (std::string_view message : file.graph.initializers) {
    LSTM_ASSIGN_OR_RETURN(const onnx::StoredTensor tensor, onnx::ReadTensor(message));
    initialized.insert(tensor.name);
  }
  std::vector<GraphInput> inputs;
  for (const onnx::Declared& declared : file.graph.inputs) {
    if (initialized.contains(declared.name)) continue;  // files of IR 3 name initializers as inputs
    if (inputs.size() == 1000) return absl::InvalidArgumentError("ONNX file: more than 1000 inputs");
    GraphInput& in = inputs.emplace_back();
    in.declared = declared;
    for (const onnx::Dimension& dim : declared.shape) {
      in.shape.push_back(dim.size < 0 ? 1 : dim.size);
      in.open.push_back(dim.size < 0);
    }
    if (!declared.has_shape) return absl::InvalidArgumentError(absl::StrCat("input ", Shown(declared.name), " has no shape in the file, not even its number of axes"));
    if (const auto it = given.find(std::string(declared.name)); it != given.end()) {
      in.constant = std::make_shared<const onnx::Tensor>(it->second);
      in.initial = in.constant;
    }
  }
  for (const pb::OnnxInput& answer : manifest.onnx().input()) {
    const auto in = std::find_if(inputs.begin(), inputs.end(), [&](const GraphInput& i) { return i.declared.name == answer.name(); });
    if (in == inputs.end()) return absl::InvalidArgumentError(absl::StrCat("manifest: the graph has no input ", Shown(answer.name())));
    LSTM_RETURN_IF_ERROR(Answer(answer, *in));
    const auto index = static_cast<int>(in - inputs.begin());
    if (answer.constant_size() > 0) reading.constants.insert(index);
    if (!answer.has_state() || answer.state().empty()) continue;
    const auto& outputs = file.graph.outputs;
    const auto output = std::find_if(outputs.begin(), outputs.end(), [&](const onnx::Declared& o) { return o.name == answer.state(); });
    if (output == outputs.end()) return absl::InvalidArgumentError(absl::StrCat("manifest: the graph has no output ", Shown(answer.state())));
    reading.states.insert(index);
    reading.next[index] = static_cast<int>(output - outputs.begin());
  }
  return inputs;
}

// A manifest beside a graph names inputs and outputs that it wants to describe.
absl::Status Describe(ModelBuilder& builder, const pb::Manifest& manifest) {
  Model& model = builder.model();
  for (const pb::Input& input : manifest.input()) {
    const auto port = std::find_if(model.inputs.begin(), model.inputs.end(), [&](const Port& p) { return p.name == input.name(); });
    if (port == model.inputs.end()) return absl::InvalidArgumentError(absl::StrCat("manifest: the model has no input ", Shown(input.name())));
    const Value& value = builder.value(port->value);
    if (input.mean_size() > 0 || input.scale_size() > 0) return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), ": mean and scale are for layers, not for graphs"));
    if (input.shape_size() > 0 && !std::equal(value.shape.begin(), value.shape.end(), input.shape().begin(), input.shape().end())) {
      return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), " has shape ", ShapeString(value.shape), " a step"));
    }
    if (input.labels_size() > 0 && (value.shape.empty() || value.shape.back() != input.labels_size())) {
      return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), " has ", input.labels_size(), " labels for shape ", ShapeString(value.shape)));
    }
    port->labels.assign(input.labels().begin(), input.labels().end());
    port->uses_vocabulary = input.uses_vocabulary();
  }
  for (const pb::Output& output : manifest.output()) {
    const auto port = std::find_if(model.outputs.begin(), model.outputs.end(), [&](const Port& p) { return p.name == output.name(); });
    if (port == model.outputs.end()) return absl::InvalidArgumentError(absl::StrCat("manifest: the model has no output ", Shown(output.name())));
    const Shape& shape = builder.value(port->value).shape;
    if (output.labels_size() > 0 && (shape.empty() || shape.back() != output.labels_size())) {
      return absl::InvalidArgumentError(absl::StrCat("manifest: output ", Shown(output.name()), " has ", output.labels_size(), " labels for shape ", ShapeString(shape)));
    }
    port->labels.assign(output.labels().begin(), output.labels().end());
    port->uses_vocabulary = output.uses_vocabulary();
  }
  return absl::OkStatus();
}

void Note(const std::vector<GraphInput>& inputs, const onnx::Reading& reading, const onnx::FileView& file, OnnxNotes& notes) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string name = Shown(inputs[i].declared.name);
    const int input = static_cast<int>(i);
    const auto time = reading.time.find(input);
    const int axis = time != reading.time.end() ? time->second : inputs[i].time;
    if (reading.constants.contains(input)) {
      notes.lines.push_back(absl::StrCat("input ", name, ": a constant"));
    } else if (reading.states.contains(input)) {
      notes.states.push_back(std::string(inputs[i].declared.name));
      const auto next = reading.next.find(input);
      notes.lines.push_back(absl::StrCat("input ", name, ": state that the session carries", next == reading.next.end() ? "" : absl::StrCat(", next value ", Shown(file.graph.outputs[static_cast<size_t>(next->second)].name))));
    } else {
      notes.lines.push_back(absl::StrCat("input ", name, ": ", axis >= 0 ? absl::StrCat("axis ", axis, " is time") : "one step, whole"));
      notes.data.push_back(std::string(inputs[i].declared.name));
      if (axis >= 0) notes.time[std::string(inputs[i].declared.name)] = axis;
    }
  }
}

}  // namespace

absl::StatusOr<Model> ImportOnnx(std::span<const std::byte> bytes, const pb::Manifest& manifest, const std::map<std::string, onnx::Tensor>& given, OnnxNotes* notes) {
  if (manifest.layer_size() > 0 || !manifest.weights().empty()) return absl::InvalidArgumentError("manifest: a graph has layers and weights of its own, expected neither `layer` nor `weights` beside `onnx`");
  LSTM_ASSIGN_OR_RETURN(const onnx::FileView file, onnx::ReadFile(bytes));
  onnx::Reading reading;
  LSTM_ASSIGN_OR_RETURN(std::vector<GraphInput> inputs, ReadInputs(file, manifest, given, reading));
  int64_t budget = kBudget;
  for (int tries = 0;; ++tries) {
    ModelBuilder builder;
    onnx::Lowering lowering(file, inputs, reading, builder, budget);
    const absl::Status status = lowering.Run();
    if (absl::IsAborted(status) && tries < 64) continue;
    if (!status.ok()) {
      std::string hint;
      for (size_t i = 0; i < inputs.size(); ++i) {
        const bool open = std::find(inputs[i].open.begin(), inputs[i].open.end(), true) != inputs[i].open.end();
        if (!open || reading.time.contains(static_cast<int>(i)) || reading.constants.contains(static_cast<int>(i)) || !hint.empty()) continue;
        hint = absl::StrCat(". Input ", Shown(inputs[i].declared.name), " has axes without a size, taken as 1; the manifest can say its shape and its time: ",
                            onnx::ManifestLine(inputs[i].declared.name, "shape: [...] time: ..."));
      }
      return absl::InvalidArgumentError(absl::StrCat(absl::IsAborted(status) ? "ONNX file: its readings contradict each other" : status.message(), hint));
    }
    LSTM_RETURN_IF_ERROR(Describe(builder, manifest));
    Model& model = builder.model();
    model.description = manifest.description();
    if (manifest.has_vocabulary()) {
      model.vocabulary.emplace();
      model.vocabulary->words = manifest.vocabulary().unit() == pb::Vocabulary::WORD;
      model.vocabulary->tokens.assign(manifest.vocabulary().token().begin(), manifest.vocabulary().token().end());
      if (manifest.vocabulary().has_unknown()) model.vocabulary->unknown = manifest.vocabulary().unknown();
    }
    if (notes != nullptr) Note(inputs, reading, file, *notes);
    return std::move(builder).Build();
  }
}

}  // namespace lstm::core
