// SPDX-License-Identifier: MIT
#include "server/shard/tensor_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"

static_assert(std::endian::native == std::endian::little, "tensors travel little-endian and are copied as they are");

namespace lstm::server {
namespace {

using core::DType;
using core::StepProgram;

using core::Wire;

v1::DataType DeclaredType(const StepProgram::Port& port) {
  if (port.dtype == DType::kI32) return v1::INT32;
  return port.wire.type == Wire::kInt16 ? v1::INT16 : port.wire.type == Wire::kUint8 ? v1::UINT8 : v1::FLOAT32;
}

// As what the values of a tensor are to be read: the declared type where it says none.
v1::DataType TypeOf(const StepProgram::Port& port, const v1::Tensor& tensor) {
  if (tensor.floats_size() > 0) return v1::FLOAT32;
  return tensor.type() == v1::DATA_TYPE_UNSPECIFIED ? DeclaredType(port) : tensor.type();
}

size_t WidthOf(v1::DataType type) { return type == v1::INT64 ? 8 : type == v1::INT16 ? 2 : type == v1::UINT8 ? 1 : 4; }

// The elements of one tensor, whichever field they came in.
size_t ElementCountOf(const StepProgram::Port& port, const v1::Tensor& tensor) {
  if (tensor.floats_size() > 0) return static_cast<size_t>(tensor.floats_size());
  if (tensor.ints_size() > 0) return static_cast<size_t>(tensor.ints_size());
  return tensor.data().size() / WidthOf(TypeOf(port, tensor));
}

absl::Status CheckForm(const StepProgram::Port& port, const v1::Tensor& tensor) {
  const int forms = !tensor.data().empty() + (tensor.floats_size() > 0) + (tensor.ints_size() > 0);
  if (forms != 1) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': values in ", forms,
                                                   " of data, floats and ints, expected exactly one"));
  }
  const v1::DataType declared = DeclaredType(port);
  const bool ids = declared == v1::INT32, wired = declared == v1::INT16 || declared == v1::UINT8;
  const auto name = [declared] { return v1::DataType_Name(declared); };
  if (ids ? tensor.floats_size() > 0 : tensor.ints_size() > 0 && !wired) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': values in ", ids ? "floats" : "ints",
                                                   ", expected ", name(), ids ? " in ints" : " in floats", " or data"));
  }
  // Floats are taken in place of integers that travel for them.
  const bool fits = tensor.type() == v1::DATA_TYPE_UNSPECIFIED || tensor.type() == declared || (ids && tensor.type() == v1::INT64) || (wired && tensor.type() == v1::FLOAT32);
  const bool agrees = tensor.type() == v1::DATA_TYPE_UNSPECIFIED || (tensor.type() == v1::FLOAT32 ? tensor.ints_size() == 0 : tensor.floats_size() == 0);
  if (!fits || !agrees) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': type ", static_cast<int>(tensor.type()), fits ? " beside other values" : "",
                                                   ", expected ", name()));
  }
  if (!tensor.data().empty()) {
    const size_t width = WidthOf(TypeOf(port, tensor));
    if (tensor.data().size() % width != 0) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': ", tensor.data().size(),
                                                     " bytes of data, expected a multiple of ", width));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const StepProgram::Port& port, const v1::Tensor& tensor, uint32_t steps, bool time_axis) {
  if (tensor.shape_size() == 0) return absl::OkStatus();
  core::Shape expected = port.shape;
  if (time_axis) expected.insert(expected.begin(), steps);
  const core::Shape came(tensor.shape().begin(), tensor.shape().begin() + std::min(tensor.shape_size(), 8));
  if (tensor.shape_size() > 8 || came != expected) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': shape ", core::ShapeString(came),
                                                   tensor.shape_size() > 8 ? "..." : "", ", expected ",
                                                   core::ShapeString(expected)));
  }
  return absl::OkStatus();
}

absl::Status CopyFloats(const StepProgram::Port& port, const v1::Tensor& tensor, float* to) {
  const size_t n = ElementCountOf(port, tensor);
  const char* from = tensor.floats_size() > 0 ? reinterpret_cast<const char*>(tensor.floats().data()) : tensor.data().data();
  std::memcpy(to, from, n * sizeof(float));
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(to[i]) & 0x7f800000u) == 0x7f800000u);
  }
  if (bad == 0) return absl::OkStatus();
  size_t i = 0;
  while (std::isfinite(to[i])) ++i;
  const size_t per_step = port.step_bytes / sizeof(float);
  return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': element ", i % per_step, " of step ",
                                                 i / per_step, " is ", std::isnan(to[i]) ? "NaN" : "infinite",
                                                 ", expected a finite number"));
}

// Integers that travel for floats.
template <typename T>
absl::Status CopyWired(const StepProgram::Port& port, const v1::Tensor& tensor, float* to) {
  const size_t n = ElementCountOf(port, tensor);
  const float scale = port.wire.scale, offset = port.wire.offset;
  if (tensor.ints_size() == 0) {
    const char* const from = tensor.data().data();  // not asked for in each turn of the loop, which then runs in vectors
    for (size_t i = 0; i < n; ++i) {
      T value;
      std::memcpy(&value, from + i * sizeof(T), sizeof(T));
      to[i] = scale * static_cast<float>(value) + offset;
    }
    return absl::OkStatus();
  }
  for (size_t i = 0; i < n; ++i) {
    const int64_t value = tensor.ints(static_cast<int>(i));
    if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': value ", value, " at step ", i / (port.step_bytes / sizeof(float)), ", expected ",
                                                     std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max()));
    }
    to[i] = scale * static_cast<float>(value) + offset;
  }
  return absl::OkStatus();
}

absl::Status CopyIds(const StepProgram::Port& port, const v1::Tensor& tensor, int32_t* to) {
  const size_t n = ElementCountOf(port, tensor);
  const int64_t limit = port.limit > 0 ? port.limit : int64_t{std::numeric_limits<int32_t>::max()} + 1;
  for (size_t i = 0; i < n; ++i) {
    int64_t value = 0;
    if (tensor.ints_size() > 0) {
      value = tensor.ints(static_cast<int>(i));
    } else if (tensor.type() == v1::INT64) {
      std::memcpy(&value, tensor.data().data() + i * sizeof(value), sizeof(value));
    } else {
      int32_t narrow = 0;
      std::memcpy(&narrow, tensor.data().data() + i * sizeof(narrow), sizeof(narrow));
      value = narrow;
    }
    if (value < 0 || value >= limit) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': value ", value, " at step ",
                                                     i / (port.step_bytes / sizeof(int32_t)), ", expected 0 to ", limit - 1));
    }
    to[i] = static_cast<int32_t>(value);
  }
  return absl::OkStatus();
}

absl::Status Copy(const StepProgram::Port& port, const v1::Tensor& tensor, std::byte* to) {
  const v1::DataType type = TypeOf(port, tensor);
  if (type == v1::INT16) return CopyWired<int16_t>(port, tensor, reinterpret_cast<float*>(to));
  if (type == v1::UINT8) return CopyWired<uint8_t>(port, tensor, reinterpret_cast<float*>(to));
  return port.dtype == DType::kI32 ? CopyIds(port, tensor, reinterpret_cast<int32_t*>(to))
                                   : CopyFloats(port, tensor, reinterpret_cast<float*>(to));
}

// Names of the client may be anything: shown cut and without what a terminal or log would act on.
std::string Shown(const std::string& name) {
  std::string out;
  for (char c : name.substr(0, 64)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  return out;
}

std::string PortNames(const std::vector<StepProgram::Port>& ports) {
  return absl::StrJoin(ports, ", ", [](std::string* out, const StepProgram::Port& p) { absl::StrAppend(out, "'", p.name, "'"); });
}

absl::StatusOr<const v1::Tensor*> TensorFor(const std::vector<StepProgram::Port>& ports, size_t index,
                                            const Tensors& tensors) {
  const v1::Tensor* found = nullptr;
  for (const v1::Tensor& tensor : tensors) {
    const bool matches = tensor.name() == ports[index].name || (tensor.name().empty() && ports.size() == 1);
    if (!matches) continue;
    if (found != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", ports[index].name, "' was sent twice"));
    }
    found = &tensor;
  }
  return found;
}

absl::Status CheckNames(const std::vector<StepProgram::Port>& ports, const Tensors& tensors) {
  size_t used = 0;
  for (size_t i = 0; i < ports.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(const v1::Tensor* tensor, TensorFor(ports, i, tensors));
    if (tensor == nullptr) continue;
    ++used;
  }
  if (used < static_cast<size_t>(tensors.size())) {
    for (const v1::Tensor& tensor : tensors) {
      bool known = tensor.name().empty() && ports.size() == 1;
      for (const auto& port : ports) known = known || port.name == tensor.name();
      if (!known) {
        return absl::InvalidArgumentError(
            absl::StrCat("no input is called '", Shown(tensor.name()), "', expected ", PortNames(ports)));
      }
    }
    return absl::InvalidArgumentError("an input tensor was sent twice");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> DecodeInputs(const StepProgram& program, const Tensors& tensors, uint32_t steps,
                                      std::vector<std::byte>& bytes) {
  const auto& ports = program.inputs();
  size_t end = 0;  // of what is decoded: all of it is written, so that what a recycled buffer holds need not be cleared
  if (steps > kMaxStepsPerTurn) {
    return absl::InvalidArgumentError(absl::StrCat("steps is ", steps, ", expected at most ", kMaxStepsPerTurn));
  }
  LSTM_RETURN_IF_ERROR(CheckNames(ports, tensors));
  for (size_t i = 0; i < ports.size(); ++i) {
    const StepProgram::Port& port = ports[i];
    LSTM_ASSIGN_OR_RETURN(const v1::Tensor* tensor, TensorFor(ports, i, tensors));
    if (tensor == nullptr) return absl::InvalidArgumentError(absl::StrCat("input tensor '", port.name, "' is missing"));
    LSTM_RETURN_IF_ERROR(CheckForm(port, *tensor));
    const size_t count = ElementCountOf(port, *tensor), per_step = port.step_bytes / sizeof(float);
    if (steps == 0) {
      if (count % per_step != 0 || count / per_step > kMaxStepsPerTurn) {
        return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': ", count,
                                                       " values, expected a multiple of ", per_step));
      }
      steps = static_cast<uint32_t>(count / per_step);
    }
    LSTM_RETURN_IF_ERROR(CheckShape(port, *tensor, steps, true));
    if (count != steps * per_step) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': ", count, " values, expected ", steps,
                                                     " steps of ", per_step));
    }
    const size_t offset = std::exchange(end, end + steps * port.step_bytes);
    if (bytes.size() < end) bytes.resize(end);
    LSTM_RETURN_IF_ERROR(Copy(port, *tensor, bytes.data() + offset));
  }
  bytes.resize(end);
  return steps;
}

absl::StatusOr<uint32_t> DecodeSequence(const core::SequenceModel& sequence, const Tensors& tensors, uint32_t steps,
                                        std::vector<std::vector<std::byte>>& inputs) {
  if (steps > kMaxStepsPerTurn) return absl::InvalidArgumentError(absl::StrCat("steps is ", steps, ", expected at most ", kMaxStepsPerTurn));
  std::vector<StepProgram::Port> ports;
  for (const core::SequencePort& port : sequence.inputs) {
    ports.push_back({port.name, port.dtype, port.shape, static_cast<size_t>(core::CheckedElementCount(port.shape)) * sizeof(float), port.limit, port.wire});
  }
  LSTM_RETURN_IF_ERROR(CheckNames(ports, tensors));
  inputs.assign(ports.size(), {});
  for (size_t i = 0; i < ports.size(); ++i) {
    const StepProgram::Port& port = ports[i];
    const bool once = sequence.inputs[i].once;
    LSTM_ASSIGN_OR_RETURN(const v1::Tensor* tensor, TensorFor(ports, i, tensors));
    if (tensor == nullptr && sequence.inputs[i].optional) continue;
    if (tensor == nullptr) return absl::InvalidArgumentError(absl::StrCat("input tensor '", port.name, "' is missing"));
    LSTM_RETURN_IF_ERROR(CheckForm(port, *tensor));
    const size_t count = ElementCountOf(port, *tensor), per_step = port.step_bytes / sizeof(float);
    if (!once && steps == 0 && count % per_step == 0 && count / per_step <= kMaxStepsPerTurn) steps = static_cast<uint32_t>(count / per_step);
    LSTM_RETURN_IF_ERROR(CheckShape(port, *tensor, steps, !once));
    const size_t expected = per_step * (once ? 1 : steps);
    if (count != expected || count == 0) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", port.name, "': ", count, " values, expected ", once ? absl::StrCat(per_step, " for the sequence") : absl::StrCat(steps, " steps of ", per_step)));
    }
    inputs[i].resize(count * sizeof(float));
    LSTM_RETURN_IF_ERROR(Copy(port, *tensor, inputs[i].data()));
  }
  return steps;
}

absl::Status DecodeState(const StepProgram& program, const Tensors& tensors, std::span<float> state) {
  const auto& model_state = program.model().state;
  for (const v1::Tensor& tensor : tensors) {
    size_t s = 0;
    while (s < model_state.size() && model_state[s].name != tensor.name()) ++s;
    if (s == model_state.size()) {
      return absl::InvalidArgumentError(absl::StrCat("initial_state: no state tensor is called '", Shown(tensor.name()), "'"));
    }
    const auto count = static_cast<size_t>(core::CheckedElementCount(model_state[s].shape));
    const StepProgram::Port port{model_state[s].name, DType::kF32, model_state[s].shape, count * sizeof(float), 0};
    LSTM_RETURN_IF_ERROR(CheckForm(port, tensor));
    LSTM_RETURN_IF_ERROR(CheckShape(port, tensor, 0, false));
    if (ElementCountOf(port, tensor) != count) {
      return absl::InvalidArgumentError(absl::StrCat("initial_state '", port.name, "': ",
                                                     ElementCountOf(port, tensor), " values, expected ", count));
    }
    LSTM_RETURN_IF_ERROR(CopyFloats(port, tensor, state.data() + program.state_offset(static_cast<core::StateId>(s))));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> SelectOutputs(const StepProgram& program, const v1::OpenOptions& options) {
  const auto& ports = program.outputs();
  std::vector<uint32_t> selected;
  auto add = [&](const std::string& name, size_t end, const char* what) -> absl::Status {
    for (size_t o = 0; o < end; ++o) {
      if (ports[o].name != name) continue;
      for (uint32_t seen : selected) {
        if (seen == o) return absl::InvalidArgumentError(absl::StrCat(what, ": '", name, "' is named twice"));
      }
      selected.push_back(static_cast<uint32_t>(o));
      return absl::OkStatus();
    }
    const std::vector<StepProgram::Port> known(ports.begin(), ports.begin() + static_cast<std::ptrdiff_t>(end));
    return absl::InvalidArgumentError(absl::StrCat(what, ": nothing is called '", Shown(name), "', expected one of ", PortNames(known)));
  };
  for (const std::string& name : options.outputs()) {
    LSTM_RETURN_IF_ERROR(add(name, program.declared_outputs(), "outputs"));
  }
  if (options.outputs().empty()) {
    for (size_t o = 0; o < program.declared_outputs(); ++o) selected.push_back(static_cast<uint32_t>(o));
  }
  for (const std::string& name : options.traces()) LSTM_RETURN_IF_ERROR(add(name, ports.size(), "traces"));
  return selected;
}

absl::StatusOr<std::vector<uint32_t>> SelectOutputs(const core::SequenceModel& sequence, const v1::OpenOptions& options) {
  if (options.traces_size() > 0) return absl::InvalidArgumentError("traces: a model of whole sequences has none");
  std::vector<uint32_t> selected;
  for (const std::string& name : options.outputs()) {
    uint32_t o = 0;
    while (o < sequence.outputs.size() && sequence.outputs[o].name != name) ++o;
    if (o == sequence.outputs.size()) return absl::InvalidArgumentError(absl::StrCat("outputs: nothing is called '", Shown(name), "'"));
    if (std::find(selected.begin(), selected.end(), o) != selected.end()) return absl::InvalidArgumentError(absl::StrCat("outputs: '", name, "' is named twice"));
    selected.push_back(o);
  }
  for (uint32_t o = 0; options.outputs().empty() && o < sequence.outputs.size(); ++o) selected.push_back(o);
  return selected;
}

uint64_t AnswerBytes(const core::SequencePort& port, uint32_t steps) {
  return static_cast<uint64_t>(core::CheckedElementCount(port.shape)) * sizeof(float) * (port.once ? 1 : steps);
}

void EncodeOutput(const core::SequencePort& port, std::span<const std::byte> values, uint32_t steps, bool last_step_only, Tensors* tensors) {
  const size_t step = AnswerBytes(port, 1);
  const bool cut = last_step_only && !port.once;
  v1::Tensor* tensor = tensors->Add();
  tensor->set_name(port.name);
  tensor->set_type(v1::FLOAT32);
  if (!port.once) tensor->add_shape(cut ? 1 : steps);
  for (int64_t dim : port.shape) tensor->add_shape(dim);
  tensor->set_data(values.data() + (cut ? values.size() - step : 0), cut ? step : values.size());
}

size_t AnswerStepBytes(const StepProgram& program, const std::vector<uint32_t>& selected) {
  size_t bytes = 0;
  for (uint32_t o : selected) bytes += program.outputs()[o].step_bytes;
  return bytes;
}

void EncodeOutputs(const StepProgram& program, const std::vector<uint32_t>& selected, uint32_t steps,
                   std::span<const std::byte> answer, Tensors* tensors) {
  const char* from = reinterpret_cast<const char*>(answer.data());
  for (uint32_t o : selected) {
    const StepProgram::Port& port = program.outputs()[o];
    v1::Tensor* tensor = tensors->Add();
    tensor->set_name(port.name);
    tensor->set_type(port.dtype == DType::kI32 ? v1::INT32 : v1::FLOAT32);
    tensor->add_shape(steps);
    for (int64_t dim : port.shape) tensor->add_shape(dim);
    tensor->set_data(from, steps * port.step_bytes);
    from += steps * port.step_bytes;
  }
}

void EncodeState(const StepProgram& program, std::span<const float> state, Tensors* tensors) {
  const auto& model_state = program.model().state;
  for (size_t s = 0; s < model_state.size(); ++s) {
    v1::Tensor* tensor = tensors->Add();
    tensor->set_name(model_state[s].name);
    tensor->set_type(v1::FLOAT32);
    for (int64_t dim : model_state[s].shape) tensor->add_shape(dim);
    tensor->set_data(state.data() + program.state_offset(static_cast<core::StateId>(s)),
                     static_cast<size_t>(core::CheckedElementCount(model_state[s].shape)) * sizeof(float));
  }
}

}  // namespace lstm::server
