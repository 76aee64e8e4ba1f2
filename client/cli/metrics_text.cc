// SPDX-License-Identifier: MIT
#include "client/cli/metrics_text.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lstm::client {
namespace {

bool Number(absl::string_view text, double& value) {
  if (text == "+Inf") value = std::numeric_limits<double>::infinity();
  else if (text == "-Inf") value = -std::numeric_limits<double>::infinity();
  else if (text == "NaN") value = std::numeric_limits<double>::quiet_NaN();
  else return absl::SimpleAtod(text, &value);
  return true;
}

bool IsName(absl::string_view text) {
  return !text.empty() && !absl::ascii_isdigit(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == ':'; });
}

// From behind "{" to behind "}". False: it is not one.
bool Labels(absl::string_view& text, std::map<std::string, std::string>& labels) {
  while (true) {
    if (!text.empty() && text[0] == '}') {
      text.remove_prefix(1);
      return true;
    }
    const size_t equals = text.find("=\"");
    if (equals == absl::string_view::npos || !IsName(text.substr(0, equals))) return false;
    const std::string name(text.substr(0, equals));
    std::string value;
    size_t i = equals + 2;
    for (; i < text.size() && text[i] != '"'; ++i) {
      if (text[i] == '\\') {
        if (++i == text.size()) return false;
        value += text[i] == 'n' ? '\n' : text[i];
      } else {
        value += text[i];
      }
    }
    if (i >= text.size()) return false;
    if (!labels.emplace(name, std::move(value)).second) return false;
    text.remove_prefix(i + 1);
    if (!text.empty() && text[0] == ',') text.remove_prefix(1);
    else if (text.empty() || text[0] != '}') return false;
  }
}

}  // namespace

absl::StatusOr<Metrics> Metrics::Parse(const std::string& text) {
  Metrics out;
  size_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    absl::string_view rest = absl::StripAsciiWhitespace(line);
    if (rest.empty() || rest[0] == '#') continue;
    const size_t end = rest.find_first_of("{ ");
    const absl::string_view name = rest.substr(0, end);
    rest.remove_prefix(name.size());
    Sample sample;
    bool good = IsName(name);
    if (good && !rest.empty() && rest[0] == '{') {
      rest.remove_prefix(1);
      good = Labels(rest, sample.labels);
    }
    // A time may stand behind the value.
    const std::vector<absl::string_view> words = absl::StrSplit(rest, ' ', absl::SkipEmpty());
    int64_t time = 0;
    good = good && !rest.empty() && rest[0] == ' ' && (words.size() == 1 || (words.size() == 2 && absl::SimpleAtoi(words[1], &time))) && Number(words[0], sample.value);
    if (!good) return absl::InvalidArgumentError(absl::StrCat("line ", number, " of the metrics is none of Prometheus' text format"));
    out.samples_[std::string(name)].push_back(std::move(sample));
  }
  return out;
}

double Metrics::Sum(const std::string& name) const {
  double sum = 0;
  if (const auto found = samples_.find(name); found != samples_.end()) {
    for (const Sample& sample : found->second) sum += sample.value;
  }
  return sum;
}

std::map<std::string, double> Metrics::By(const std::string& name, const std::string& label) const {
  std::map<std::string, double> out;
  if (const auto found = samples_.find(name); found != samples_.end()) {
    for (const Sample& sample : found->second) {
      if (const auto value = sample.labels.find(label); value != sample.labels.end()) out[value->second] += sample.value;
    }
  }
  return out;
}

Histogram::Histogram(const Metrics& before, const Metrics& now, const std::string& name)
    : count_(now.Sum(name + "_count") - before.Sum(name + "_count")), sum_(now.Sum(name + "_sum") - before.Sum(name + "_sum")) {
  const auto old = before.By(name + "_bucket", "le");
  for (const auto& [text, count] : now.By(name + "_bucket", "le")) {
    double bound = 0;
    if (!Number(text, bound) || std::isnan(bound)) continue;
    const auto was = old.find(text);
    buckets_.emplace_back(bound, count - (was == old.end() ? 0 : was->second));
  }
  std::sort(buckets_.begin(), buckets_.end());
}

double Histogram::Quantile(double q) const {
  if (buckets_.empty() || !(buckets_.back().second > 0)) return 0;
  const double rank = q * buckets_.back().second;
  double lower = 0, below = 0;
  for (const auto& [bound, count] : buckets_) {
    if (count >= rank) {
      if (std::isinf(bound)) return lower;
      return count > below ? lower + (bound - lower) * (rank - below) / (count - below) : bound;
    }
    lower = bound;
    below = count;
  }
  return lower;
}

}  // namespace lstm::client
