// SPDX-License-Identifier: MIT
#include "client/cli/input.h"

#include <sndfile.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/npy.h"
#include "core/base/status_macros.h"

namespace lstm::client {
namespace {

bool IsIds(const v1::TensorSpec& spec) { return spec.type() == v1::INT32 || spec.type() == v1::INT64; }

absl::Status AtLine(size_t line, const std::string& what) { return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", what)); }

v1::Tensor OneId(const std::string& name, int64_t id) {
  v1::Tensor tensor;
  tensor.set_name(name);
  tensor.add_ints(id);
  return tensor;
}

v1::Tensor FloatsOf(const std::string& name, const float* values, size_t n) {
  v1::Tensor tensor;
  tensor.set_name(name);
  tensor.set_type(v1::FLOAT32);  // also where the model would take integers for them
  tensor.set_data(values, n * sizeof(float));
  return tensor;
}

// Keeps a file open for as long as its reader.
class Source {
 public:
  absl::Status Open(const std::string& path) {
    if (path == "-") return absl::OkStatus();
    file_ = std::make_unique<std::ifstream>(path, std::ios::binary);
    return *file_ ? absl::OkStatus() : absl::NotFoundError(absl::StrCat("'", path, "' cannot be read"));
  }
  std::istream& stream() { return file_ ? *file_ : std::cin; }

 private:
  std::unique_ptr<std::ifstream> file_;
};

class TextReader : public InputReader {
 public:
  TextReader(Source source, const v1::ModelInfo& model)
      : source_(std::move(source)), name_(model.inputs(0).name()), tokens_(model.vocabulary()) {}

  absl::StatusOr<std::optional<InputStep>> Next() override {
    while (next_ == waiting_.size()) {
      std::string line;
      if (!std::getline(source_.stream(), line)) return std::nullopt;
      ++line_;
      if (!source_.stream().eof()) line.push_back('\n');
      waiting_ = tokens_.Split(line);
      next_ = 0;
    }
    const std::string token = waiting_[next_++];
    const auto id = tokens_.Id(token);
    if (!id.ok()) return AtLine(line_, std::string(id.status().message()));
    return InputStep{{OneId(name_, *id)}, token};
  }

 private:
  Source source_;
  const std::string name_;
  const Tokens tokens_;
  std::vector<std::string> waiting_;
  size_t next_ = 0, line_ = 0;
};

class CsvReader : public InputReader {
 public:
  CsvReader(Source source, const v1::ModelInfo& model) : source_(std::move(source)), spec_(model.inputs(0)) {}

  absl::StatusOr<std::optional<InputStep>> Next() override {
    std::string line;
    while (std::getline(source_.stream(), line)) {
      ++line_;
      const std::vector<std::string> cells = absl::StrSplit(absl::StripAsciiWhitespace(line), ',');
      if (cells.size() == 1 && cells[0].empty()) continue;
      std::vector<float> values;
      std::string bad;
      for (const std::string& cell : cells) {
        float value = 0;
        if (!absl::SimpleAtof(absl::StripAsciiWhitespace(cell), &value) && bad.empty()) bad = cell;
        values.push_back(value);
      }
      if (!bad.empty() && line_ == 1) continue;  // names of the columns
      if (!bad.empty()) return AtLine(line_, absl::StrCat("'", absl::Utf8SafeCEscape(bad.substr(0, 40)), "' is no number"));
      if (static_cast<int64_t>(values.size()) != ElementsOf(spec_)) {
        return AtLine(line_, absl::StrCat(values.size(), " numbers, expected ", ElementsOf(spec_)));
      }
      if (IsIds(spec_)) return InputStep{{OneId(spec_.name(), static_cast<int64_t>(values[0]))}, ""};
      return InputStep{{FloatsOf(spec_.name(), values.data(), values.size())}, ""};
    }
    return std::nullopt;
  }

 private:
  Source source_;
  const v1::TensorSpec spec_;
  size_t line_ = 0;
};

class NdjsonReader : public InputReader {
 public:
  NdjsonReader(Source source, const v1::ModelInfo& model) : source_(std::move(source)), model_(model) {}

  absl::StatusOr<std::optional<InputStep>> Next() override {
    std::string line;
    while (std::getline(source_.stream(), line)) {
      ++line_;
      if (absl::StripAsciiWhitespace(line).empty()) continue;
      const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_discarded()) return AtLine(line_, "is not JSON");
      InputStep step;
      for (const v1::TensorSpec& spec : model_.inputs()) {
        const nlohmann::json* values = json.is_object() && json.contains(spec.name()) ? &json[spec.name()]
                                       : model_.inputs_size() == 1 && !json.is_object() ? &json
                                                                                        : nullptr;
        if (values == nullptr) return AtLine(line_, absl::StrCat("has no '", spec.name(), "'"));
        v1::Tensor tensor;
        tensor.set_name(spec.name());
        if (!IsIds(spec)) tensor.set_type(v1::FLOAT32);
        if (!Collect(*values, IsIds(spec), tensor)) return AtLine(line_, absl::StrCat("'", spec.name(), "' holds what is no number"));
        const int count = tensor.floats_size() + tensor.ints_size();
        if (count != ElementsOf(spec)) {
          return AtLine(line_, absl::StrCat("'", spec.name(), "' has ", count, " numbers, expected ", ElementsOf(spec)));
        }
        step.tensors.push_back(std::move(tensor));
      }
      return step;
    }
    return std::nullopt;
  }

 private:
  static bool Collect(const nlohmann::json& json, bool ids, v1::Tensor& tensor) {
    if (json.is_array()) return std::all_of(json.begin(), json.end(), [&](const auto& e) { return Collect(e, ids, tensor); });
    if (ids ? !json.is_number_integer() : !json.is_number()) return false;
    if (ids) {
      tensor.add_ints(json.get<int64_t>());
    } else {
      tensor.add_floats(json.get<float>());
    }
    return true;
  }
  Source source_;
  const v1::ModelInfo model_;
  size_t line_ = 0;
};

// Rows of a whole array: .npy, and the frames of a WAV file.
class RowsReader : public InputReader {
 public:
  RowsReader(const v1::TensorSpec& spec, std::vector<float> values) : spec_(spec), floats_(std::move(values)) {}
  RowsReader(const v1::TensorSpec& spec, std::vector<int64_t> ids) : spec_(spec), ids_(std::move(ids)) {}

  absl::StatusOr<std::optional<InputStep>> Next() override {
    const auto width = static_cast<size_t>(ElementsOf(spec_));
    if (IsIds(spec_)) {
      if (at_ == ids_.size()) return std::nullopt;
      return InputStep{{OneId(spec_.name(), ids_[at_++])}, ""};
    }
    if (at_ + width > floats_.size()) return std::nullopt;
    at_ += width;
    return InputStep{{FloatsOf(spec_.name(), floats_.data() + at_ - width, width)}, ""};
  }

 private:
  const v1::TensorSpec spec_;
  std::vector<float> floats_;
  std::vector<int64_t> ids_;
  size_t at_ = 0;
};

// Samples of 16 bits as they are.
class PcmReader : public InputReader {
 public:
  PcmReader(const v1::TensorSpec& spec, std::vector<int16_t> samples) : spec_(spec), samples_(std::move(samples)) {}

  absl::StatusOr<std::optional<InputStep>> Next() override {
    const auto width = static_cast<size_t>(ElementsOf(spec_));
    if (at_ + width > samples_.size()) return std::nullopt;
    v1::Tensor tensor;
    tensor.set_name(spec_.name());
    tensor.set_type(v1::INT16);
    tensor.set_data(samples_.data() + at_, width * sizeof(int16_t));
    at_ += width;
    return InputStep{{std::move(tensor)}, ""};
  }

 private:
  const v1::TensorSpec spec_;
  const std::vector<int16_t> samples_;
  size_t at_ = 0;
};

absl::StatusOr<std::unique_ptr<InputReader>> OpenNpy(const std::string& path, const v1::TensorSpec& spec) {
  LSTM_ASSIGN_OR_RETURN(const core::NpyArray array, core::ReadNpy(path));
  const int64_t width = ElementsOf(spec), count = core::CheckedElementCount(array.shape);
  const bool fits = array.shape.size() == 1 ? width == 1 || count == width : !array.shape.empty() && array.shape[0] > 0 && count / array.shape[0] == width;
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' has shape ", core::ShapeString(array.shape), ", expected [T, ", width, "]"));
  }
  if (IsIds(spec)) return std::make_unique<RowsReader>(spec, array.ToInts());
  return std::make_unique<RowsReader>(spec, array.ToFloats());
}

absl::StatusOr<std::unique_ptr<InputReader>> OpenWav(const std::string& path, const v1::TensorSpec& spec) {
  SF_INFO info{};
  SNDFILE* file = path == "-" ? sf_open_fd(0, SFM_READ, &info, 0) : sf_open(path.c_str(), SFM_READ, &info);
  if (file == nullptr) return absl::InvalidArgumentError(absl::StrCat("'", path, "': ", sf_strerror(nullptr)));
  const std::unique_ptr<SNDFILE, decltype(&sf_close)> guard(file, sf_close);
  if (info.channels != 1) return absl::InvalidArgumentError(absl::StrCat("'", path, "' has ", info.channels, " channels, expected 1"));
  // The last frame is filled up with silence.
  const auto width = static_cast<size_t>(ElementsOf(spec)), frames = static_cast<size_t>(std::max<sf_count_t>(info.frames, 0));
  if (spec.type() == v1::INT16) {
    sf_command(file, SFC_SET_SCALE_FLOAT_INT_READ, nullptr, SF_TRUE);  // of a file of floats, too
    std::vector<int16_t> samples(frames);
    samples.resize(static_cast<size_t>(sf_readf_short(file, samples.data(), static_cast<sf_count_t>(frames))));
    samples.resize((samples.size() + width - 1) / width * width);
    return std::make_unique<PcmReader>(spec, std::move(samples));
  }
  std::vector<float> samples(frames);
  const sf_count_t read = sf_readf_float(file, samples.data(), static_cast<sf_count_t>(samples.size()));
  samples.resize(static_cast<size_t>(read));
  samples.resize((samples.size() + width - 1) / width * width);
  return std::make_unique<RowsReader>(spec, std::move(samples));
}

}  // namespace

Tokens::Tokens(const v1::Vocabulary& vocabulary)
    : tokens_(vocabulary.tokens().begin(), vocabulary.tokens().end()), words_(vocabulary.unit() == v1::Vocabulary::WORD) {
  for (size_t i = 0; i < tokens_.size(); ++i) ids_.emplace(tokens_[i], static_cast<int64_t>(i));
  if (vocabulary.has_unknown()) unknown_ = vocabulary.unknown();
}

absl::StatusOr<int64_t> Tokens::Id(const std::string& token) const {
  const auto it = ids_.find(token);
  if (it != ids_.end()) return it->second;
  if (unknown_) return *unknown_;
  return absl::InvalidArgumentError(absl::StrCat("'", absl::Utf8SafeCEscape(token), "' is not in the model's vocabulary of ", tokens_.size(), " tokens"));
}

std::vector<std::string> Tokens::Split(const std::string& text) const {
  if (words_) return absl::StrSplit(text, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
  std::vector<std::string> out;
  for (char c : text) {
    const bool continues = (static_cast<unsigned char>(c) & 0xc0u) == 0x80u;
    if (continues && !out.empty()) {
      out.back().push_back(c);
    } else {
      out.emplace_back(1, c);
    }
  }
  return out;
}

int64_t ElementsOf(const v1::TensorSpec& spec) {
  int64_t n = 1;
  for (int64_t dim : spec.shape()) n *= dim;
  return n;
}

absl::StatusOr<std::unique_ptr<InputReader>> OpenInput(const std::string& path, std::string format, const v1::ModelInfo& model) {
  const bool text = model.inputs_size() == 1 && model.inputs(0).uses_vocabulary();
  if (format.empty()) {
    const size_t dot = path.rfind('.');
    const std::string ending = dot == std::string::npos ? "" : path.substr(dot + 1);
    format = ending == "npy" || ending == "wav" || ending == "csv" || ending == "ndjson" ? ending
             : ending == "jsonl"                                                         ? "ndjson"
             : text                                                                      ? "text"
                                                                                         : "csv";
  }
  if (model.inputs_size() != 1 && format != "ndjson") {
    return absl::InvalidArgumentError(absl::StrCat("the model has ", model.inputs_size(), " inputs: only --format ndjson can name them"));
  }
  if (format == "npy") return OpenNpy(path, model.inputs(0));
  if (format == "wav") return OpenWav(path, model.inputs(0));
  Source source;
  LSTM_RETURN_IF_ERROR(source.Open(path));
  if (format == "csv") return std::make_unique<CsvReader>(std::move(source), model);
  if (format == "ndjson") return std::make_unique<NdjsonReader>(std::move(source), model);
  if (format != "text") return absl::InvalidArgumentError(absl::StrCat("format '", format, "', expected text, csv, ndjson, npy or wav"));
  if (!text) return absl::InvalidArgumentError("the model has no vocabulary: text cannot be its input");
  return std::make_unique<TextReader>(std::move(source), model);
}

}  // namespace lstm::client
