// SPDX-License-Identifier: MIT
#include "server/inference/infer_codec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "server/inference/infer_parameters.h"
#include "server/shard/tensor_codec.h"

namespace lstm::server {
namespace {

using core::DType;
using core::StepProgram;
using core::Wire;
using inference::InferTensorContents;
using InputTensor = inference::ModelInferRequest::InferInputTensor;

constexpr int kMostDims = 8;

std::string Names(const std::vector<StepProgram::Port>& ports, size_t n) {
  return absl::StrJoin(ports.begin(), ports.begin() + static_cast<std::ptrdiff_t>(n), ", ",
                       [](std::string* out, const StepProgram::Port& port) { absl::StrAppend(out, "'", port.name, "'"); });
}

absl::Status Bad(const InputTensor& input, const std::string& came, const std::string& expected) {
  return absl::InvalidArgumentError(absl::StrCat("input '", Shown(input.name()), "': ", came, ", expected ", expected));
}

// As it would be written: [-1, 6].
std::string ShapeText(const google::protobuf::RepeatedField<int64_t>& shape) {
  const std::vector<int64_t> shown(shape.begin(), shape.begin() + std::min(shape.size(), kMostDims));
  return absl::StrCat("[", absl::StrJoin(shown, ", "), shape.size() > kMostDims ? ", ...]" : "]");
}

std::string ShapeOf(const StepProgram::Port& port) {
  return absl::StrCat("[steps", port.shape.empty() ? "" : ", ", absl::StrJoin(port.shape, ", "), "] with 1 to ", kMaxStepsPerTurn, " steps");
}

// Elements in each typed field, in the order of their numbers.
std::vector<int> Counts(const InferTensorContents& c) {
  return {c.bool_contents_size(), c.int_contents_size(), c.int64_contents_size(), c.uint_contents_size(),
          c.uint64_contents_size(), c.fp32_contents_size(), c.fp64_contents_size(), c.bytes_contents_size()};
}

struct Form {
  v1::DataType type;
  size_t width;
  const char* field;
  size_t place;  // of the field in Counts
};

absl::StatusOr<Form> FormOf(const StepProgram::Port& port, const InputTensor& input) {
  if (port.dtype == DType::kF32 && input.datatype() == "FP32") return Form{v1::FLOAT32, 4, "fp32_contents", 5};
  if (port.dtype == DType::kI32 && input.datatype() == "INT32") return Form{v1::INT32, 4, "int_contents", 1};
  if (port.dtype == DType::kI32 && input.datatype() == "INT64") return Form{v1::INT64, 8, "int64_contents", 2};
  if (port.wire.type == Wire::kInt16 && input.datatype() == "INT16") return Form{v1::INT16, 2, "int_contents", 1};
  if (port.wire.type == Wire::kUint8 && input.datatype() == "UINT8") return Form{v1::UINT8, 1, "uint_contents", 3};
  const char* const expected = port.dtype == DType::kI32 ? "INT32 or INT64" : port.wire.type == Wire::kInt16 ? "INT16 or FP32" : port.wire.type == Wire::kUint8 ? "UINT8 or FP32" : "FP32";
  return Bad(input, absl::StrCat("datatype '", Shown(input.datatype()), "'"), expected);
}

absl::StatusOr<uint32_t> StepsOf(const StepProgram::Port& port, const InputTensor& input) {
  const auto& shape = input.shape();
  const bool fits = shape.size() == static_cast<int>(port.shape.size()) + 1 && shape[0] >= 1 && shape[0] <= kMaxStepsPerTurn &&
                    std::equal(port.shape.begin(), port.shape.end(), shape.begin() + 1);
  if (!fits) return Bad(input, absl::StrCat("shape ", ShapeText(shape)), ShapeOf(port));
  return static_cast<uint32_t>(shape[0]);
}

absl::Status TakeRaw(const InputTensor& input, const Form& form, size_t count, std::string& raw, v1::Tensor* tensor) {
  if (raw.size() != count * form.width) {
    return Bad(input, absl::StrCat(raw.size(), " bytes in raw_input_contents"), absl::StrCat(count * form.width, ": ", count, " values of ", input.datatype()));
  }
  tensor->mutable_data()->swap(raw);
  return absl::OkStatus();
}

absl::Status TakeTyped(InputTensor& input, const Form& form, size_t count, v1::Tensor* tensor) {
  InferTensorContents& contents = *input.mutable_contents();
  const std::vector<int> counts = Counts(contents);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (i != form.place && counts[i] > 0) return Bad(input, "values in another field of contents", absl::StrCat(form.field, " for ", input.datatype()));
  }
  const auto n = static_cast<size_t>(counts[form.place]);
  if (n != count) return Bad(input, absl::StrCat(n, " values in ", form.field), absl::StrCat(count, ", as the shape says"));
  switch (form.type) {
    case v1::FLOAT32: tensor->mutable_floats()->Swap(contents.mutable_fp32_contents()); break;
    case v1::INT64: tensor->mutable_ints()->Swap(contents.mutable_int64_contents()); break;
    case v1::INT16: tensor->mutable_ints()->Add(contents.int_contents().begin(), contents.int_contents().end()); break;
    case v1::UINT8: tensor->mutable_ints()->Add(contents.uint_contents().begin(), contents.uint_contents().end()); break;
    default: tensor->set_data(contents.int_contents().data(), n * form.width);
  }
  return absl::OkStatus();
}

absl::Status RefuseSharedMemory(const google::protobuf::Map<std::string, inference::InferParameter>& parameters) {
  for (const auto& [name, value] : parameters) {
    if (absl::StartsWith(name, "shared_memory_")) return absl::UnimplementedError("shared memory is not offered; send the values themselves");
    if (name == "classification") return absl::UnimplementedError("parameter 'classification' is not offered; ask for the output itself");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> TakeInputs(const StepProgram& program, inference::ModelInferRequest& request, Tensors* tensors) {
  const auto& ports = program.inputs();
  const bool raw = request.raw_input_contents_size() > 0;
  if (raw && request.raw_input_contents_size() != request.inputs_size()) {
    return absl::InvalidArgumentError(absl::StrCat("raw_input_contents has ", request.raw_input_contents_size(), " entries, expected ",
                                                   request.inputs_size(), ": one for each of inputs, in their order"));
  }
  if (static_cast<size_t>(request.inputs_size()) != ports.size()) {
    return absl::InvalidArgumentError(absl::StrCat(request.inputs_size(), " inputs, expected ", ports.size(), ": ", Names(ports, ports.size())));
  }
  tensors->Clear();
  std::vector<bool> seen(ports.size(), false);
  uint32_t steps = 0;
  for (int i = 0; i < request.inputs_size(); ++i) {
    InputTensor& input = *request.mutable_inputs(i);
    const auto port = std::find_if(ports.begin(), ports.end(), [&](const auto& p) { return p.name == input.name(); });
    if (port == ports.end()) {
      return absl::InvalidArgumentError(absl::StrCat("no input is called '", Shown(input.name()), "', expected ", Names(ports, ports.size())));
    }
    const auto place = static_cast<size_t>(port - ports.begin());
    if (seen[place]) return absl::InvalidArgumentError(absl::StrCat("input '", port->name, "' was sent twice"));
    seen[place] = true;
    LSTM_RETURN_IF_ERROR(RefuseSharedMemory(input.parameters()));
    LSTM_ASSIGN_OR_RETURN(const Form form, FormOf(*port, input));
    LSTM_ASSIGN_OR_RETURN(const uint32_t own_steps, StepsOf(*port, input));
    if (steps != 0 && own_steps != steps) return Bad(input, absl::StrCat(own_steps, " steps"), absl::StrCat(steps, ", as the inputs before it have"));
    steps = own_steps;
    const size_t count = steps * (port->step_bytes / sizeof(float));
    v1::Tensor* tensor = tensors->Add();
    tensor->set_name(port->name);
    tensor->set_type(form.type);
    if (raw) {
      const std::vector<int> counts = Counts(input.contents());
      if (std::any_of(counts.begin(), counts.end(), [](int n) { return n > 0; })) {
        return Bad(input, "values in contents and in raw_input_contents", "them in one of the two");
      }
      LSTM_RETURN_IF_ERROR(TakeRaw(input, form, count, *request.mutable_raw_input_contents(i), tensor));
    } else {
      LSTM_RETURN_IF_ERROR(TakeTyped(input, form, count, tensor));
    }
  }
  return steps;
}

absl::StatusOr<std::vector<std::string>> WantedOutputs(const StepProgram& program, const inference::ModelInferRequest& request) {
  const auto& ports = program.outputs();
  const size_t declared = program.declared_outputs();
  std::vector<std::string> wanted;
  for (const auto& output : request.outputs()) {
    LSTM_RETURN_IF_ERROR(RefuseSharedMemory(output.parameters()));
    const auto end = ports.begin() + static_cast<std::ptrdiff_t>(declared);
    if (std::none_of(ports.begin(), end, [&](const auto& port) { return port.name == output.name(); })) {
      return absl::InvalidArgumentError(absl::StrCat("no output is called '", Shown(output.name()), "', expected one of ", Names(ports, declared)));
    }
    if (std::find(wanted.begin(), wanted.end(), output.name()) != wanted.end()) {
      return absl::InvalidArgumentError(absl::StrCat("output '", output.name(), "' is asked for twice"));
    }
    wanted.push_back(output.name());
  }
  if (wanted.empty()) {
    for (size_t o = 0; o < declared; ++o) wanted.push_back(ports[o].name);
  }
  return wanted;
}

void GiveOutputs(const std::vector<std::string>& wanted, Tensors& tensors, inference::ModelInferResponse* response) {
  for (const std::string& name : wanted) {
    const auto tensor = std::find_if(tensors.begin(), tensors.end(), [&](const v1::Tensor& t) { return t.name() == name; });
    if (tensor == tensors.end()) continue;
    auto* output = response->add_outputs();
    output->set_name(name);
    output->set_datatype(tensor->type() == v1::INT32 ? "INT32" : "FP32");
    *output->mutable_shape() = tensor->shape();
    response->add_raw_output_contents()->swap(*tensor->mutable_data());
  }
}

}  // namespace lstm::server
