// SPDX-License-Identifier: MIT
#include "server/inference/infer_parameters.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::server {
namespace {

using inference::InferParameter;

constexpr size_t kMostIdBytes = 256;

const char* KindOf(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam: return "bool_param";
    case InferParameter::kInt64Param: return "int64_param";
    case InferParameter::kStringParam: return "string_param";
    case InferParameter::kDoubleParam: return "double_param";
    case InferParameter::kUint64Param: return "uint64_param";
    case InferParameter::PARAMETER_CHOICE_NOT_SET: break;
  }
  return "none";
}

absl::Status Expected(const std::string& name, const char* expected, const std::string& came) {
  return absl::InvalidArgumentError(absl::StrCat("parameter '", name, "': ", came, ", expected ", expected));
}

absl::StatusOr<bool> Bool(const std::string& name, const InferParameter& parameter) {
  if (!parameter.has_bool_param()) return Expected(name, "bool_param", KindOf(parameter));
  return parameter.bool_param();
}

absl::StatusOr<uint64_t> Number(const std::string& name, const InferParameter& parameter) {
  if (parameter.has_uint64_param()) return parameter.uint64_param();
  if (!parameter.has_int64_param()) return Expected(name, "int64_param or uint64_param", KindOf(parameter));
  if (parameter.int64_param() < 0) return Expected(name, "0 or more", absl::StrCat(parameter.int64_param()));
  return static_cast<uint64_t>(parameter.int64_param());
}

// 0 and "" are none.
absl::StatusOr<std::string> Sequence(const InferParameter& parameter) {
  if (parameter.has_int64_param()) {
    return parameter.int64_param() == 0 ? std::string() : absl::StrCat("i", parameter.int64_param());
  }
  if (!parameter.has_string_param()) return Expected("sequence_id", "int64_param or string_param", KindOf(parameter));
  const std::string& text = parameter.string_param();
  if (text.size() > kMostIdBytes) return Expected("sequence_id", "at most 256", absl::StrCat(text.size(), " bytes"));
  return text.empty() ? std::string() : absl::StrCat("s", text);
}

}  // namespace

std::string Shown(const std::string& text) {
  std::string out;
  for (const char c : text.substr(0, 64)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  if (text.size() > 64) out += "...";
  return out;
}

std::string InferParameters::SequenceName() const {
  if (sequence.empty()) return "none";
  return sequence[0] == 'i' ? sequence.substr(1) : absl::StrCat("'", Shown(sequence.substr(1)), "'");
}

absl::StatusOr<InferParameters> ReadParameters(const inference::ModelInferRequest& request) {
  InferParameters out;
  for (const auto& [name, value] : request.parameters()) {
    if (name == "sequence_id") {
      LSTM_ASSIGN_OR_RETURN(out.sequence, Sequence(value));
    } else if (name == "sequence_start") {
      LSTM_ASSIGN_OR_RETURN(out.start, Bool(name, value));
    } else if (name == "sequence_end") {
      LSTM_ASSIGN_OR_RETURN(out.end, Bool(name, value));
    } else if (name == "sequence_take_over") {
      LSTM_ASSIGN_OR_RETURN(out.take_over, Bool(name, value));
    } else if (name == "timeout") {
      LSTM_ASSIGN_OR_RETURN(out.timeout_us, Number(name, value));
    } else if (name == "priority") {  // steps of all sequences share batches: there is no queue to be first in
      LSTM_RETURN_IF_ERROR(Number(name, value).status());
    } else if (name == "triton_enable_empty_final_response") {
      LSTM_ASSIGN_OR_RETURN(out.final_flag, Bool(name, value));
    } else if (absl::StartsWith(name, "triton_") || absl::StartsWith(name, "sequence_") || name == "headers" || name == "binary_data_output") {
      return absl::InvalidArgumentError(absl::StrCat("parameter '", Shown(name), "' is reserved and means nothing here; leave it out"));
    }
  }
  if (out.sequence.empty() && (out.start || out.end || out.take_over)) {
    return absl::InvalidArgumentError("sequence_start, sequence_end and sequence_take_over need a sequence_id that is not 0 or empty");
  }
  if (out.take_over && !out.start) return absl::InvalidArgumentError("sequence_take_over goes with sequence_start alone");
  return out;
}

}  // namespace lstm::server
