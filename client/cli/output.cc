// SPDX-License-Identifier: MIT
#include "client/cli/output.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/npy.h"

namespace lstm::client {
namespace {

constexpr float kAnomalous = 0.5f;

absl::Status Broken() { return absl::AbortedError("the output cannot be written"); }

const v1::Tensor* Named(const v1::Result& result, const std::string& name) {
  for (const v1::Tensor& tensor : result.outputs()) {
    if (tensor.name() == name) return &tensor;
  }
  return nullptr;
}

// The shortest decimals that give each float back.
std::vector<double> Shortest(const std::vector<float>& values) {
  std::vector<double> out;
  for (float value : values) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
    double shortest = 0;
    std::from_chars(text, end, shortest);
    out.push_back(shortest);
  }
  return out;
}

class NdjsonWriter : public OutputWriter {
 public:
  NdjsonWriter(std::unique_ptr<std::ofstream> file, bool timing) : file_(std::move(file)), timing_(timing) {}

  absl::Status Write(const OutputStep& step) override {
    nlohmann::ordered_json json;
    if (!step.label.empty()) json["session"] = step.label;
    json["step"] = step.step;
    for (const v1::Tensor& tensor : step.result->outputs()) json[tensor.name()] = Shortest(RowOf(tensor, step.row));
    if (timing_) {
      json["turn"] = step.result->seq();
      json["round_trip_us"] = step.round_trip_us;
      json["queue_us"] = step.result->timings().queue_us();
      json["compute_us"] = step.result->timings().compute_us();
      json["batch_rows"] = step.result->timings().batch_rows();
    }
    std::ostream& out = file_ ? *file_ : std::cout;
    out << json.dump() << "\n" << std::flush;
    return out ? absl::OkStatus() : Broken();
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  std::unique_ptr<std::ofstream> file_;
  const bool timing_;
};

class CsvWriter : public OutputWriter {
 public:
  explicit CsvWriter(std::unique_ptr<std::ofstream> file) : file_(std::move(file)) {}

  absl::Status Write(const OutputStep& step) override {
    if (!std::exchange(begun_, true)) {
      *file_ << "step";
      for (const v1::Tensor& tensor : step.result->outputs()) {
        const size_t n = RowOf(tensor, step.row).size();
        for (size_t i = 0; i < n; ++i) *file_ << "," << tensor.name() << (n > 1 ? absl::StrCat("[", i, "]") : "");
      }
      *file_ << "\n";
    }
    *file_ << step.step;
    for (const v1::Tensor& tensor : step.result->outputs()) {
      for (float value : RowOf(tensor, step.row)) *file_ << "," << absl::StrFormat("%.9g", value);
    }
    *file_ << "\n" << std::flush;
    return *file_ ? absl::OkStatus() : Broken();
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  std::unique_ptr<std::ofstream> file_;
  bool begun_ = false;
};

class NpyWriter : public OutputWriter {
 public:
  NpyWriter(std::unique_ptr<std::ofstream> file, const v1::TensorSpec& spec)
      : file_(std::move(file)), name_(spec.name()), shape_(spec.shape().begin(), spec.shape().end()) {}

  absl::Status Write(const OutputStep& step) override {
    const v1::Tensor* tensor = Named(*step.result, name_);
    if (tensor == nullptr) return absl::InternalError(absl::StrCat("the answer has no output '", name_, "'"));
    const std::vector<float> row = RowOf(*tensor, step.row);
    values_.insert(values_.end(), row.begin(), row.end());
    ++rows_;
    return absl::OkStatus();
  }
  absl::Status Finish() override {
    core::Shape shape = shape_;
    shape.insert(shape.begin(), rows_);
    *file_ << core::FormatNpy(shape, values_) << std::flush;
    return *file_ ? absl::OkStatus() : Broken();
  }

 private:
  std::unique_ptr<std::ofstream> file_;
  const std::string name_;
  const core::Shape shape_;
  std::vector<float> values_;
  int64_t rows_ = 0;
};

// For a person: the likeliest tokens of a vocabulary output with bars; numbers with their labels; what is anomalous in red.
class TerminalWriter : public OutputWriter {
 public:
  explicit TerminalWriter(const v1::ModelInfo& model) : model_(model), tokens_(model.vocabulary()), colour_(ColourWanted()) {}

  absl::Status Write(const OutputStep& step) override {
    std::string line = absl::StrFormat("%s%6d%s ", Code("\033[2m"), step.step, Code("\033[0m"));
    if (!step.label.empty()) absl::StrAppend(&line, Code("\033[36m"), absl::StrFormat("%-12s", step.label), Code("\033[0m"), " ");
    if (!step.shown.empty()) absl::StrAppend(&line, absl::StrFormat("%-12s", Printable(step.shown)));
    for (const v1::Tensor& tensor : step.result->outputs()) absl::StrAppend(&line, " ", Show(tensor, step.row));
    std::cout << line << "\n" << std::flush;
    return std::cout ? absl::OkStatus() : Broken();
  }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  const char* Code(const char* code) const { return colour_ ? code : ""; }

  static std::string Printable(const std::string& token) {
    return token == "\n" ? "\\n" : token == " " ? "' '" : token;
  }

  std::string Show(const v1::Tensor& tensor, uint32_t row) const {
    const std::vector<float> values = RowOf(tensor, row);
    const v1::TensorSpec* spec = nullptr;
    for (const v1::TensorSpec& s : model_.outputs()) spec = s.name() == tensor.name() ? &s : spec;
    if (spec != nullptr && spec->uses_vocabulary() && values.size() == tokens_.size()) return ShowTokens(values);
    std::string out = absl::StrCat(tensor.name(), "=");
    if (tensor.name() == "anomaly" && values.size() == 1) {
      const bool bad = values[0] > kAnomalous;
      return absl::StrCat(Code(bad ? "\033[1;31m" : "\033[32m"), out, absl::StrFormat("%.3f", values[0]), bad ? " <-- fault" : "", Code("\033[0m"));
    }
    const size_t shown = std::min<size_t>(values.size(), 6);
    for (size_t i = 0; i < shown; ++i) {
      if (spec != nullptr && spec->labels_size() == static_cast<int>(values.size())) absl::StrAppend(&out, i ? " " : "", spec->labels(static_cast<int>(i)), ":");
      absl::StrAppend(&out, absl::StrFormat("%s%.4g", spec != nullptr && spec->labels_size() > 0 ? "" : i ? " " : "", values[i]));
    }
    if (shown < values.size()) absl::StrAppend(&out, " ... (", values.size(), ")");
    return out;
  }

  std::string ShowTokens(const std::vector<float>& values) const {
    constexpr size_t kBest = 3, kBar = 8;
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const size_t n = std::min(kBest, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n), order.end(),
                      [&](size_t a, size_t b) { return values[a] > values[b]; });
    std::string out = "-> ";
    for (size_t i = 0; i < n; ++i) {
      const float p = values[order[i]];
      std::string bar;
      for (size_t k = 0; k < kBar; ++k) bar += static_cast<float>(k) + 0.5f < p * static_cast<float>(kBar) ? "#" : ".";
      absl::StrAppend(&out, Code(i == 0 ? "\033[1m" : "\033[2m"), absl::StrFormat("%-11s", Printable(tokens_.Text(order[i]))), bar,
                      absl::StrFormat(" %3.0f%%  ", p * 100), Code("\033[0m"));
    }
    return out;
  }

  const v1::ModelInfo model_;
  const Tokens tokens_;
  const bool colour_;
};

}  // namespace

std::vector<float> RowOf(const v1::Tensor& tensor, uint32_t row) {
  const auto rows = static_cast<size_t>(tensor.shape_size() > 0 ? tensor.shape(0) : 1);
  const size_t width = rows > 0 ? tensor.data().size() / sizeof(float) / rows : 0;
  std::vector<float> out(width);
  if (row < rows) std::memcpy(out.data(), tensor.data().data() + row * width * sizeof(float), width * sizeof(float));
  return out;
}

bool ColourWanted() {
  const char* no = std::getenv("NO_COLOR");
  return isatty(STDOUT_FILENO) != 0 && (no == nullptr || *no == '\0');
}

absl::StatusOr<std::unique_ptr<OutputWriter>> OpenOutput(const OutputOptions& options, const v1::ModelInfo& model) {
  const auto selected = std::find_if(model.outputs().begin(), model.outputs().end(), [&](const v1::TensorSpec& spec) {
    return options.select.empty() || spec.name() == options.select;
  });
  if (selected == model.outputs().end()) {
    return absl::InvalidArgumentError(absl::StrCat("the model has no output '", options.select, "', expected one of ",
                                                   absl::StrJoin(model.outputs(), ", ", [](std::string* out, const v1::TensorSpec& s) {
                                                     absl::StrAppend(out, s.name());
                                                   })));
  }
  if (options.path.empty()) {
    if (isatty(STDOUT_FILENO) != 0 && !options.timing) return std::make_unique<TerminalWriter>(model);
    return std::make_unique<NdjsonWriter>(nullptr, options.timing);
  }
  const bool ndjson = absl::EndsWith(options.path, ".ndjson") || absl::EndsWith(options.path, ".jsonl");
  const bool csv = absl::EndsWith(options.path, ".csv");
  if (!ndjson && !csv && !absl::EndsWith(options.path, ".npy")) {
    return absl::InvalidArgumentError(absl::StrCat("'", options.path, "' must end in .npy, .ndjson or .csv"));
  }
  auto file = std::make_unique<std::ofstream>(options.path, std::ios::binary);
  if (!*file) return absl::FailedPreconditionError(absl::StrCat("'", options.path, "' cannot be written"));
  if (ndjson) return std::make_unique<NdjsonWriter>(std::move(file), options.timing);
  if (csv) return std::make_unique<CsvWriter>(std::move(file));
  return std::make_unique<NpyWriter>(std::move(file), *selected);
}

}  // namespace lstm::client
