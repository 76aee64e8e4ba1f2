// SPDX-License-Identifier: MIT
#include "server/http/json_codec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/inference/infer_parameters.h"

namespace lstm::server {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kMostDepth = 64;  // of arrays in objects in arrays: each level costs memory, and none needs many

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

// Texts nested without end are small themselves and large when they are parsed.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMostDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

absl::StatusOr<json> Parse(std::string_view text) {
  if (TooDeep(text)) return Bad(absl::StrCat("the JSON is nested deeper than ", kMostDepth, " levels"));
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return Bad(absl::StrCat("the first ", text.size(), " bytes of the body are no JSON"));
  if (!parsed.is_object()) return Bad(absl::StrCat("the body is a JSON ", parsed.type_name(), ", expected an object"));
  return parsed;
}

// The member `name` of `object`, or null; INVALID_ARGUMENT where it is of another type.
absl::StatusOr<const json*> Member(const json& object, const char* name, bool (json::*is)() const noexcept, const char* expected, const std::string& of) {
  const auto it = object.find(name);
  if (it == object.end()) return nullptr;
  if (!((*it).*is)()) return Bad(absl::StrCat(of, name, " is a JSON ", it->type_name(), ", expected ", expected));
  return &*it;
}

absl::StatusOr<std::string> Text(const json& object, const char* name, const std::string& of) {
  LSTM_ASSIGN_OR_RETURN(const json* text, Member(object, name, &json::is_string, "a text", of));
  return text == nullptr ? std::string() : text->get<std::string>();
}

absl::Status ReadParameter(const std::string& name, const json& value, inference::InferParameter* out) {
  if (value.is_boolean()) {
    out->set_bool_param(value.get<bool>());
  } else if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    out->set_uint64_param(value.get<uint64_t>());
  } else if (value.is_number_integer()) {
    out->set_int64_param(value.get<int64_t>());
  } else if (value.is_number_float()) {
    out->set_double_param(value.get<double>());
  } else if (value.is_string()) {
    out->set_string_param(value.get<std::string>());
  } else {
    return Bad(absl::StrCat("parameter '", Shown(name), "' is a JSON ", value.type_name(), ", expected a text, a number or a truth value"));
  }
  return absl::OkStatus();
}

template <typename T>
void Append(T value, std::string& out) {
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  out.append(bytes, sizeof(value));
}

// A whole number in the bytes of a T.
template <typename T>
absl::Status AppendWhole(const json& data, const std::string& datatype, const std::string& of, std::string& out) {
  const bool whole = data.is_number_integer() && (!data.is_number_unsigned() || data.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!whole) return Bad(absl::StrCat(of, "data holds a JSON ", data.type_name(), " that is no ", datatype, ", expected whole numbers"));
  const auto value = data.get<int64_t>();
  if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max()) {
    return Bad(absl::StrCat(of, "data holds ", value, ", which ", datatype, " has not, expected ", std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max()));
  }
  Append(static_cast<T>(value), out);
  return absl::OkStatus();
}

// Values of `data`, flat or in nested arrays, in the bytes of `datatype`. What that is not is for the model to refuse.
absl::Status AppendValues(const json& data, const std::string& datatype, const std::string& of, std::string& out) {
  if (data.is_array()) {
    for (const json& value : data) LSTM_RETURN_IF_ERROR(AppendValues(value, datatype, of, out));
    return absl::OkStatus();
  }
  if (datatype == "FP32") {
    if (!data.is_number()) return Bad(absl::StrCat(of, "data holds a JSON ", data.type_name(), ", expected numbers"));
    const double value = data.get<double>();
    if (std::abs(value) > std::numeric_limits<float>::max()) return Bad(absl::StrCat(of, "data holds ", value, ", which is too large for FP32"));
    Append(static_cast<float>(value), out);
    return absl::OkStatus();
  }
  if (datatype == "INT64") return AppendWhole<int64_t>(data, datatype, of, out);
  if (datatype == "INT32") return AppendWhole<int32_t>(data, datatype, of, out);
  if (datatype == "INT16") return AppendWhole<int16_t>(data, datatype, of, out);
  if (datatype == "UINT8") return AppendWhole<uint8_t>(data, datatype, of, out);
  return absl::OkStatus();
}

// Takes the tensor's bytes off the front of `binary`, where it has some there.
absl::Status ReadInput(const json& input, std::string_view& binary, inference::ModelInferRequest* request) {
  if (!input.is_object()) return Bad(absl::StrCat("inputs holds a JSON ", input.type_name(), ", expected objects"));
  auto* tensor = request->add_inputs();
  LSTM_ASSIGN_OR_RETURN(*tensor->mutable_name(), Text(input, "name", "an input's "));
  const std::string of = absl::StrCat("input '", Shown(tensor->name()), "': ");
  LSTM_ASSIGN_OR_RETURN(*tensor->mutable_datatype(), Text(input, "datatype", of));
  LSTM_ASSIGN_OR_RETURN(const json* shape, Member(input, "shape", &json::is_array, "an array", of));
  for (size_t i = 0; shape != nullptr && i < shape->size(); ++i) {
    const json& dim = (*shape)[i];
    if (!dim.is_number_integer() || (dim.is_number_unsigned() && dim.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      return Bad(absl::StrCat(of, "shape holds what is no whole number"));
    }
    tensor->add_shape(dim.get<int64_t>());
  }
  LSTM_ASSIGN_OR_RETURN(const json* parameters, Member(input, "parameters", &json::is_object, "an object", of));
  const json* binary_size = nullptr;
  if (parameters != nullptr) {
    for (const auto& [name, value] : parameters->items()) {
      if (name == "binary_data_size") {
        binary_size = &value;
      } else {
        LSTM_RETURN_IF_ERROR(ReadParameter(name, value, &(*tensor->mutable_parameters())[name]));
      }
    }
  }
  LSTM_ASSIGN_OR_RETURN(const json* data, Member(input, "data", &json::is_array, "an array", of));
  if ((data != nullptr) == (binary_size != nullptr)) {
    return Bad(absl::StrCat(of, data != nullptr ? "data and binary_data_size" : "neither data nor binary_data_size", ", expected one of the two"));
  }
  std::string* raw = request->add_raw_input_contents();
  if (data != nullptr) return AppendValues(*data, tensor->datatype(), of, *raw);
  if (!binary_size->is_number_unsigned() || binary_size->get<uint64_t>() > binary.size()) {
    return Bad(absl::StrCat(of, "binary_data_size is ", Shown(binary_size->dump()), ", expected a number of the ", binary.size(), " bytes that are left behind the JSON"));
  }
  const auto size = static_cast<size_t>(binary_size->get<uint64_t>());
  raw->assign(binary.substr(0, size));
  binary.remove_prefix(size);
  return absl::OkStatus();
}

absl::Status ReadOutput(const json& output, inference::ModelInferRequest* request, BinaryOutputs* binary) {
  if (!output.is_object()) return Bad(absl::StrCat("outputs holds a JSON ", output.type_name(), ", expected objects"));
  auto* wanted = request->add_outputs();
  LSTM_ASSIGN_OR_RETURN(*wanted->mutable_name(), Text(output, "name", "an output's "));
  const std::string of = absl::StrCat("output '", Shown(wanted->name()), "': ");
  LSTM_ASSIGN_OR_RETURN(const json* parameters, Member(output, "parameters", &json::is_object, "an object", of));
  if (parameters == nullptr) return absl::OkStatus();
  for (const auto& [name, value] : parameters->items()) {
    if (name != "binary_data") {
      LSTM_RETURN_IF_ERROR(ReadParameter(name, value, &(*wanted->mutable_parameters())[name]));
    } else if (value.is_boolean()) {
      binary->named.emplace_back(wanted->name(), value.get<bool>());
    } else {
      return Bad(absl::StrCat(of, "binary_data is a JSON ", value.type_name(), ", expected a truth value"));
    }
  }
  return absl::OkStatus();
}

// The shortest digits that give the same float.
void AppendFloat(float value, std::string& out) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out.append(digits, end);
}

void AppendData(const std::string& datatype, const std::string& raw, std::string& out) {
  out += '[';
  for (size_t i = 0; i + 4 <= raw.size(); i += 4) {
    if (i > 0) out += ',';
    if (datatype == "FP32") {
      float value;
      std::memcpy(&value, raw.data() + i, sizeof(value));
      AppendFloat(value, out);
    } else {
      int32_t value;
      std::memcpy(&value, raw.data() + i, sizeof(value));
      absl::StrAppend(&out, value);
    }
  }
  out += ']';
}

ordered_json ToJson(const google::protobuf::Message& message);

using google::protobuf::FieldDescriptor;

// `index` < 0: the field is not repeated.
ordered_json Value(const google::protobuf::Message& message, const FieldDescriptor* field, int index) {
  const auto* r = message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: return one ? r->GetBool(message, field) : r->GetRepeatedBool(message, field, index);
    case FieldDescriptor::CPPTYPE_INT32: return one ? r->GetInt32(message, field) : r->GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64: return one ? r->GetInt64(message, field) : r->GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT32: return one ? r->GetUInt32(message, field) : r->GetRepeatedUInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64: return one ? r->GetUInt64(message, field) : r->GetRepeatedUInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_FLOAT: return one ? r->GetFloat(message, field) : r->GetRepeatedFloat(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE: return one ? r->GetDouble(message, field) : r->GetRepeatedDouble(message, field, index);
    case FieldDescriptor::CPPTYPE_STRING: return one ? r->GetString(message, field) : r->GetRepeatedString(message, field, index);
    case FieldDescriptor::CPPTYPE_ENUM: return (one ? r->GetEnum(message, field) : r->GetRepeatedEnum(message, field, index))->name();
    case FieldDescriptor::CPPTYPE_MESSAGE: return ToJson(one ? r->GetMessage(message, field) : r->GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

ordered_json ToJson(const google::protobuf::Message& message) {
  ordered_json out = ordered_json::object();
  const auto* descriptor = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int f = 0; f < descriptor->field_count(); ++f) {
    const FieldDescriptor* field = descriptor->field(f);
    if (field->is_map()) {
      ordered_json& map = out[field->name()] = ordered_json::object();
      for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
        const auto& entry = reflection->GetRepeatedMessage(message, field, i);
        map[Value(entry, entry.GetDescriptor()->field(0), -1).get<std::string>()] = Value(entry, entry.GetDescriptor()->field(1), -1);
      }
    } else if (field->is_repeated()) {
      ordered_json& list = out[field->name()] = ordered_json::array();
      for (int i = 0; i < reflection->FieldSize(message, field); ++i) list.push_back(Value(message, field, i));
    } else if (!field->has_presence() || reflection->HasField(message, field)) {
      out[field->name()] = Value(message, field, -1);
    }
  }
  return out;
}

std::string Dump(const ordered_json& value) { return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

}  // namespace

bool BinaryOutputs::Wants(const std::string& name) const {
  for (const auto& [known, wanted] : named) {
    if (known == name) return wanted;
  }
  return all;
}

absl::Status ReadInferRequest(std::string_view body, size_t json_bytes, inference::ModelInferRequest* request, BinaryOutputs* binary) {
  LSTM_ASSIGN_OR_RETURN(const json root, Parse(body.substr(0, json_bytes)));
  std::string_view behind = body.substr(json_bytes);
  LSTM_ASSIGN_OR_RETURN(*request->mutable_id(), Text(root, "id", ""));
  LSTM_ASSIGN_OR_RETURN(const json* parameters, Member(root, "parameters", &json::is_object, "an object", ""));
  if (parameters != nullptr) {
    for (const auto& [name, value] : parameters->items()) {
      if (name == "binary_data_output") {
        if (!value.is_boolean()) return Bad(absl::StrCat("parameter 'binary_data_output' is a JSON ", value.type_name(), ", expected a truth value"));
        binary->all = value.get<bool>();
      } else {
        LSTM_RETURN_IF_ERROR(ReadParameter(name, value, &(*request->mutable_parameters())[name]));
      }
    }
  }
  LSTM_ASSIGN_OR_RETURN(const json* inputs, Member(root, "inputs", &json::is_array, "an array", ""));
  if (inputs == nullptr) return Bad("inputs is missing");
  for (const json& input : *inputs) LSTM_RETURN_IF_ERROR(ReadInput(input, behind, request));
  LSTM_ASSIGN_OR_RETURN(const json* outputs, Member(root, "outputs", &json::is_array, "an array", ""));
  for (size_t i = 0; outputs != nullptr && i < outputs->size(); ++i) LSTM_RETURN_IF_ERROR(ReadOutput((*outputs)[i], request, binary));
  if (!behind.empty()) return Bad(absl::StrCat(behind.size(), " bytes behind the JSON belong to no input"));
  return absl::OkStatus();
}

InferBody WriteInferResponse(const inference::ModelInferResponse& response, const BinaryOutputs& binary) {
  InferBody out;
  std::string& text = out.body;
  std::string behind;
  text = "{";
  if (!response.id().empty()) absl::StrAppend(&text, "\"id\":", Dump(response.id()), ",");
  absl::StrAppend(&text, "\"model_name\":", Dump(response.model_name()), ",\"model_version\":", Dump(response.model_version()));
  if (response.parameters_size() > 0) {
    ordered_json parameters;
    for (const auto& [name, value] : response.parameters()) parameters[name] = value.bool_param();
    absl::StrAppend(&text, ",\"parameters\":", Dump(parameters));
  }
  text += ",\"outputs\":[";
  for (int i = 0; i < response.outputs_size(); ++i) {
    const auto& output = response.outputs(i);
    const std::string& raw = response.raw_output_contents(i);
    absl::StrAppend(&text, i > 0 ? "," : "", "{\"name\":", Dump(output.name()), ",\"datatype\":", Dump(output.datatype()),
                    ",\"shape\":", Dump(std::vector<int64_t>(output.shape().begin(), output.shape().end())));
    if (binary.Wants(output.name())) {
      absl::StrAppend(&text, ",\"parameters\":{\"binary_data_size\":", raw.size(), "}}");
      behind += raw;
      out.binary = true;
    } else {
      text += ",\"data\":";
      AppendData(output.datatype(), raw, text);
      text += '}';
    }
  }
  text += "]}";
  out.json_bytes = text.size();
  text += behind;
  return out;
}

std::string MessageJson(const google::protobuf::Message& message) { return Dump(ToJson(message)); }

absl::StatusOr<bool> ReadIndexRequest(std::string_view body) {
  if (body.empty()) return false;
  LSTM_ASSIGN_OR_RETURN(const json root, Parse(body));
  LSTM_ASSIGN_OR_RETURN(const json* ready, Member(root, "ready", &json::is_boolean, "a truth value", ""));
  return ready != nullptr && ready->get<bool>();
}

absl::Status ReadLoadRequest(std::string_view body, inference::RepositoryModelLoadRequest* request) {
  if (body.empty()) return absl::OkStatus();
  LSTM_ASSIGN_OR_RETURN(const json root, Parse(body));
  LSTM_ASSIGN_OR_RETURN(const json* parameters, Member(root, "parameters", &json::is_object, "an object", ""));
  for (auto it = parameters == nullptr ? json::const_iterator() : parameters->begin(); parameters != nullptr && it != parameters->end(); ++it) {
    (*request->mutable_parameters())[it.key()];
  }
  return absl::OkStatus();
}

std::string ErrorJson(const absl::Status& status) {
  ordered_json error;
  error["error"] = std::string(status.message());
  return Dump(error);
}

}  // namespace lstm::server
