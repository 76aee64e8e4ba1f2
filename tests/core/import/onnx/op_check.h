// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/shape.h"
#include "core/model/model.h"
#include "tests/core/import/onnx/onnx_writer.h"

// An op of ONNX against its definition, written over arrays of doubles.
namespace lstm::testing {

using core::Shape;
using Index = std::vector<int64_t>;

struct Array {
  Shape shape;
  std::vector<double> values;

  // The element at `index`, counted from the last axis, axes of one item spread.
  double operator()(const Index& index) const {
    int64_t at = 0;
    const size_t skip = index.size() - shape.size();
    for (size_t a = 0; a < shape.size(); ++a) at = at * shape[a] + (shape[a] == 1 ? 0 : index[a + skip]);
    return values[static_cast<size_t>(at)];
  }
};

Array Make(const Shape& shape, const std::function<double(const Index&)>& value);
Array Each(const Array& x, const std::function<double(double)>& f);
// All elements of x along `axes`, for each place of the rest.
Array Along(const Array& x, const std::vector<size_t>& axes, bool keep, const std::function<double(const std::vector<double>&)>& f);
double Sum(const std::vector<double>& v);
double Mean(const std::vector<double>& v);

struct Options {
  int64_t opset = 17;
  double low = -2, high = 2, bar = 2e-6;
  std::set<std::string> booleans = {};  // inputs that are 0 or 1
};

// `file` with `inputs` that come with each step.
absl::StatusOr<core::Model> Import(const std::string& file, const std::vector<std::string>& inputs);

// `nodes` read x, and y where it has a shape, and give z: three rounds of random numbers.
void Check(const std::string& what, const std::vector<Shape>& shapes, const std::function<void(OnnxWriter&)>& nodes,
           const std::function<Array(const std::vector<Array>&)>& expected, const Options& options = {});
// An op of one input.
void CheckEach(const std::string& op, const std::string& attributes, const std::function<double(double)>& f, const Options& options = {});

}  // namespace lstm::testing
