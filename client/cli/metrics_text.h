// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lstm::client {

// What a server counts, out of Prometheus' text format. Text of anybody: labels may be anything.
class Metrics {
 public:
  // INVALID_ARGUMENT names the line.
  static absl::StatusOr<Metrics> Parse(const std::string& text);

  bool Has(const std::string& name) const { return samples_.contains(name); }
  // The sum over all labels; 0: there is none.
  double Sum(const std::string& name) const;
  // The sums for each value of one label.
  std::map<std::string, double> By(const std::string& name, const std::string& label) const;

 private:
  struct Sample {
    std::map<std::string, std::string> labels;
    double value = 0;
  };
  std::map<std::string, std::vector<Sample>> samples_;  // by name
};

// What came to a histogram between two looks at it.
class Histogram {
 public:
  Histogram(const Metrics& before, const Metrics& now, const std::string& name);
  double count() const { return count_; }
  double mean() const { return count_ > 0 ? sum_ / count_ : 0; }
  // As Prometheus' histogram_quantile has it: linear between the bounds of a bucket; above the last bound that bound.
  double Quantile(double q) const;

 private:
  std::vector<std::pair<double, double>> buckets_;  // upper bound, how many are not above it; by bound
  double count_ = 0, sum_ = 0;
};

}  // namespace lstm::client
