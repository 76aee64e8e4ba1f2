// SPDX-License-Identifier: MIT
#include "core/import/onnx/onnx_import.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"
#include "core/model/fold_symmetry.h"
#include "core/model/fuse_cells.h"
#include "core/model/leave_out_zeros.h"

namespace lstm::core {
namespace {

namespace pb = manifest::v1;
using onnx::GraphInput;
using onnx::Shown;

constexpr int64_t kBudget = 400'000;  // nodes of all readings that are tried, beside what a large file brings along

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

// Of data for a batch, along axes that have no size: those of one item.
onnx::TensorPtr FirstItem(const onnx::Tensor& all, const std::vector<bool>& open) {
  if (!all.is_float || all.shape.size() != open.size() || all.size() == 0) return std::make_shared<const onnx::Tensor>(all);
  onnx::Tensor out{true, all.shape, {}, {}};
  const auto strides = onnx::Strides(all.shape);
  for (size_t i = 0; i < all.size(); ++i) {
    bool first = true;
    for (size_t a = 0; a < open.size(); ++a) first = first && (!open[a] || static_cast<int64_t>(i) / strides[a] % all.shape[a] == 0);
    if (first) out.floats.push_back(all.floats[i]);
  }
  for (size_t a = 0; a < open.size(); ++a) {
    if (open[a]) out.shape[a] = 1;
  }
  return std::make_shared<const onnx::Tensor>(std::move(out));
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
      in.initial = FirstItem(*in.constant, in.open);
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
template <typename AnyPort, typename ShapeOf, typename IsIds>
absl::Status DescribePorts(const pb::Manifest& manifest, std::vector<AnyPort>& inputs, std::vector<AnyPort>& outputs, ShapeOf shape_of, IsIds is_ids) {
  const auto describe = [&](const auto& said, std::vector<AnyPort>& ports, const char* what) -> absl::StatusOr<AnyPort*> {
    const auto port = std::find_if(ports.begin(), ports.end(), [&](const AnyPort& p) { return p.name == said.name(); });
    if (port == ports.end()) return absl::InvalidArgumentError(absl::StrCat("manifest: the model has no ", what, " ", Shown(said.name())));
    const Shape& shape = shape_of(*port);
    if (said.labels_size() > 0 && (shape.empty() || shape.back() != said.labels_size())) {
      return absl::InvalidArgumentError(absl::StrCat("manifest: ", what, " ", Shown(said.name()), " has ", said.labels_size(), " labels for shape ", ShapeString(shape)));
    }
    port->labels.assign(said.labels().begin(), said.labels().end());
    port->uses_vocabulary = said.uses_vocabulary();
    return &*port;
  };
  for (const pb::Input& input : manifest.input()) {
    if (input.mean_size() > 0 || input.scale_size() > 0) return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), ": mean and scale are for layers, not for graphs"));
    LSTM_ASSIGN_OR_RETURN(AnyPort* port, describe(input, inputs, "input"));
    LSTM_ASSIGN_OR_RETURN(port->wire, ReadWire(input));
    if (port->wire.type != Wire::kFloat32 && is_ids(*port)) return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), ": wire is for FLOAT32 inputs, ids travel as they are"));
    const Shape& shape = shape_of(*port);
    if (input.shape_size() > 0 && !std::equal(shape.begin(), shape.end(), input.shape().begin(), input.shape().end())) {
      return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), " has shape ", ShapeString(shape), " a step"));
    }
  }
  for (const pb::Output& output : manifest.output()) LSTM_RETURN_IF_ERROR(describe(output, outputs, "output").status());
  return absl::OkStatus();
}

void DescribeModel(const pb::Manifest& manifest, Model& model) {
  model.description = manifest.description();
  if (!manifest.has_vocabulary()) return;
  model.vocabulary.emplace();
  model.vocabulary->words = manifest.vocabulary().unit() == pb::Vocabulary::WORD;
  model.vocabulary->tokens.assign(manifest.vocabulary().token().begin(), manifest.vocabulary().token().end());
  if (manifest.vocabulary().has_unknown()) model.vocabulary->unknown = manifest.vocabulary().unknown();
}

void Note(const std::vector<GraphInput>& inputs, const onnx::Reading& reading, const onnx::FileView& file, bool whole, OnnxNotes& notes) {
  notes.whole = whole;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string name = Shown(inputs[i].declared.name);
    const int input = static_cast<int>(i);
    const auto time = reading.time.find(input);
    const int axis = time != reading.time.end() ? time->second : inputs[i].time;
    if (reading.constants.contains(input)) {
      notes.lines.push_back(absl::StrCat("input ", name, ": a constant"));
    } else if (!whole && reading.states.contains(input)) {
      notes.states.push_back(std::string(inputs[i].declared.name));
      const auto next = reading.next.find(input);
      notes.lines.push_back(absl::StrCat("input ", name, ": state that the session carries", next == reading.next.end() ? "" : absl::StrCat(", next value ", Shown(file.graph.outputs[static_cast<size_t>(next->second)].name))));
    } else {
      notes.lines.push_back(absl::StrCat("input ", name, ": ", axis >= 0 ? absl::StrCat("axis ", axis, " is time") : whole ? "once for a sequence" : "one step, whole"));
      notes.data.push_back(std::string(inputs[i].declared.name));
      if (axis >= 0) notes.time[std::string(inputs[i].declared.name)] = axis;
    }
  }
}

// Lowers the graph until its readings settle.
absl::StatusOr<std::unique_ptr<onnx::Lowering>> Lower(const onnx::FileView& file, std::vector<GraphInput>& inputs, onnx::Reading& reading, int64_t& budget, bool whole, bool trial, bool& zeros) {
  for (int tries = 0;; ++tries) {
    auto lowering = std::make_unique<onnx::Lowering>(file, inputs, reading, budget, whole, trial);
    const absl::Status status = lowering->Run();
    zeros = zeros || lowering->zeros();
    if (status.ok()) return lowering;
    if (!absl::IsAborted(status)) return status;
    if (tries >= 64) return absl::InvalidArgumentError("ONNX file: its readings contradict each other");
  }
}

std::string Hint(const std::vector<GraphInput>& inputs, const onnx::Reading& reading) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool open = std::find(inputs[i].open.begin(), inputs[i].open.end(), true) != inputs[i].open.end();
    if (!open || reading.time.contains(static_cast<int>(i)) || reading.constants.contains(static_cast<int>(i))) continue;
    return absl::StrCat(". Input ", Shown(inputs[i].declared.name), " has axes without a size, taken as 1; the manifest can say its shape and its time: ",
                        onnx::ManifestLine(inputs[i].declared.name, "shape: [...] time: ..."));
  }
  return "";
}

// One question at a time: an error that has a line for the manifest asks its own.
std::string WithHint(absl::string_view error, const std::vector<GraphInput>& inputs, const onnx::Reading& reading) {
  return absl::StrCat(error, absl::StrContains(error, "onnx { input") ? "" : Hint(inputs, reading));
}

absl::StatusOr<std::shared_ptr<const SequenceModel>> ImportWhole(const onnx::FileView& file, std::vector<GraphInput>& inputs, onnx::Reading& reading, int64_t& budget,
                                                                 const pb::Manifest& manifest, bool trial, bool& zeros) {
  LSTM_ASSIGN_OR_RETURN(const auto lowering, Lower(file, inputs, reading, budget, true, trial, zeros));
  LSTM_ASSIGN_OR_RETURN(SequenceModel sequence, lowering->TakeSequence());
  LSTM_RETURN_IF_ERROR(DescribePorts(manifest, sequence.inputs, sequence.outputs, [](const SequencePort& port) -> const Shape& { return port.shape; },
                                      [](const SequencePort& port) { return port.dtype == DType::kI32; }));
  return std::make_shared<const SequenceModel>(std::move(sequence));
}

// A trial has zeros for weights of 8 bits; `zeros` says whether there are any.
absl::StatusOr<Model> Import(const onnx::FileView& file, const pb::Manifest& manifest, const std::map<std::string, onnx::Tensor>& given, OnnxNotes& notes, bool trial, bool& zeros) {
  onnx::Reading reading;
  LSTM_ASSIGN_OR_RETURN(std::vector<GraphInput> inputs, ReadInputs(file, manifest, given, reading));
  std::vector<GraphInput> whole_inputs = inputs;
  onnx::Reading whole_reading = reading;
  int64_t budget = kBudget + static_cast<int64_t>(file.bytes / 8);
  Model model;
  {
    auto lowering = Lower(file, inputs, reading, budget, false, trial, zeros);
    const bool ahead = absl::IsFailedPrecondition(lowering.status());
    if (!lowering.ok() && !ahead) return absl::InvalidArgumentError(WithHint(lowering.status().message(), inputs, reading));
    if (ahead) {
      model.not_streamable = std::string(lowering.status().message());
    } else {
      ModelBuilder& builder = (*lowering)->builder();
      LSTM_RETURN_IF_ERROR(DescribePorts(manifest, builder.model().inputs, builder.model().outputs, [&](const Port& port) -> const Shape& { return builder.value(port.value).shape; },
                                          [&](const Port& port) { return builder.value(port.value).dtype == DType::kI32; }));
      DescribeModel(manifest, builder.model());
      LSTM_ASSIGN_OR_RETURN(model, std::move(builder).Build());
      if (!zeros) {
        LSTM_ASSIGN_OR_RETURN(model, FuseCells(std::move(model)));
        FoldSymmetry(model);
        LeaveOutZeros(model);
      }
    }
  }
  // Where steps alone do not say it all, the sequence does.
  if (!model.not_streamable.empty() || reading.lengths) {
    auto sequence = ImportWhole(file, whole_inputs, whole_reading, budget, manifest, trial, zeros);
    if (!sequence.ok() && !model.not_streamable.empty()) {
      const bool same = sequence.status().message() == model.not_streamable;
      return absl::InvalidArgumentError(WithHint(absl::StrCat(model.not_streamable, same ? "" : absl::StrCat(". Whole sequences cannot be computed either: ", sequence.status().message())), inputs, reading));
    }
    if (sequence.ok()) {
      model.sequence = *std::move(sequence);
      if (!model.not_streamable.empty()) {
        DescribeModel(manifest, model);
        for (const SequenceStage& stage : model.sequence->stages) model.parameters += stage.model->parameters;
      }
    }
  }
  const bool whole_only = !model.not_streamable.empty();
  Note(whole_only ? whole_inputs : inputs, whole_only ? whole_reading : reading, file, whole_only, notes);
  return model;
}

}  // namespace

absl::StatusOr<Wire> ReadWire(const pb::Input& input) {
  Wire wire;
  if (!input.has_wire()) return wire;
  const auto wrong = [&](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat("manifest: input ", Shown(input.name()), ": ", what)); };
  wire.type = input.wire().type() == pb::Wire::INT16 ? Wire::kInt16 : input.wire().type() == pb::Wire::UINT8 ? Wire::kUint8 : Wire::kFloat32;
  wire.scale = input.wire().has_scale() ? input.wire().scale() : 1;
  wire.offset = input.wire().offset();
  if (wire.type == Wire::kFloat32 && (wire.scale != 1 || wire.offset != 0)) return wrong("wire has a scale or an offset without a type, expected INT16 or UINT8");
  const float most = wire.type == Wire::kInt16 ? 32768.0f : 255.0f;
  if (wire.scale == 0 || !std::isfinite(wire.scale * most + wire.offset) || !std::isfinite(wire.offset - wire.scale * most)) return wrong(absl::StrCat("wire has scale ", wire.scale, " and offset ", wire.offset, ", expected finite numbers and a scale that is not 0"));
  if (wire.type != Wire::kFloat32 && input.type() != pb::Input::FLOAT32) return wrong("wire is for FLOAT32 inputs, ids travel as they are");
  return wire;
}

absl::StatusOr<Model> ImportOnnx(std::span<const std::byte> bytes, const pb::Manifest& manifest, const std::map<std::string, onnx::Tensor>& given, OnnxNotes* notes) {
  if (manifest.layer_size() > 0 || !manifest.weights().empty()) return absl::InvalidArgumentError("manifest: a graph has layers and weights of its own, expected neither `layer` nor `weights` beside `onnx`");
  LSTM_ASSIGN_OR_RETURN(const onnx::FileView file, onnx::ReadFile(bytes));
  // Weights of 8 bits become floats, four times as many bytes: whether the rest is as it should be is found out before.
  bool zeros = false;
  OnnxNotes found;
  absl::StatusOr<Model> model = Import(file, manifest, given, found, true, zeros);
  if (model.ok() && std::exchange(zeros, false)) {
    found = {};
    model = Import(file, manifest, given, found, false, zeros);
  }
  if (model.ok() && notes != nullptr) *notes = std::move(found);
  return model;
}

}  // namespace lstm::core
