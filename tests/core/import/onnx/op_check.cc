// SPDX-License-Identifier: MIT
#include "tests/core/import/onnx/op_check.h"

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/import/onnx/onnx_import.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::testing {

Array Make(const Shape& shape, const std::function<double(const Index&)>& value) {
  Array out{shape, {}};
  Index at(shape.size(), 0);
  for (int64_t n = core::CheckedElementCount(shape); n > 0; --n) {
    out.values.push_back(value(at));
    for (size_t a = shape.size(); a-- > 0;) {
      if (++at[a] < shape[a]) break;
      at[a] = 0;
    }
  }
  return out;
}

Array Each(const Array& x, const std::function<double(double)>& f) {
  return Make(x.shape, [&](const Index& i) { return f(x(i)); });
}

Array Along(const Array& x, const std::vector<size_t>& axes, bool keep, const std::function<double(const std::vector<double>&)>& f) {
  std::vector<bool> gone(x.shape.size(), axes.empty());
  for (size_t a : axes) gone[a] = true;
  Shape kept, out;
  for (size_t a = 0; a < gone.size(); ++a) {
    kept.push_back(gone[a] ? 1 : x.shape[a]);
    if (!gone[a] || keep) out.push_back(kept.back());
  }
  Array y = Make(kept, [&](const Index& at) {
    std::vector<double> column;
    const Array over = Make(x.shape, [&](const Index& i) {
      bool same = true;
      for (size_t a = 0; a < gone.size(); ++a) same = same && (gone[a] || i[a] == at[a]);
      if (same) column.push_back(x(i));
      return 0;
    });
    return f(column);
  });
  y.shape = out;
  return y;
}

double Sum(const std::vector<double>& v) {
  double s = 0;
  for (double a : v) s += a;
  return s;
}
double Mean(const std::vector<double>& v) { return Sum(v) / static_cast<double>(v.size()); }

absl::StatusOr<core::Model> Import(const std::string& file, const std::vector<std::string>& inputs) {
  std::string text = "onnx {";
  for (const std::string& in : inputs) absl::StrAppend(&text, " input { name: '", in, "' time: -1 state: '' }");
  manifest::v1::Manifest parsed;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text + " }", &parsed));
  return core::ImportOnnx(std::as_bytes(std::span(file)), parsed);
}

void Check(const std::string& what, const std::vector<Shape>& shapes, const std::function<void(OnnxWriter&)>& nodes,
           const std::function<Array(const std::vector<Array>&)>& expected, const Options& options) {
  OnnxWriter file;
  std::vector<std::string> names = {"x", "y"};
  names.resize(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) file.Input(OnnxWriter::Declared(names[i], shapes[i], options.booleans.contains(names[i]) ? 9 : 1));
  nodes(file);
  file.Node("Neg", {"z"}, {"out"});  // a graph that moves elements alone is no model
  auto model = Import(file.Output("out").File(options.opset), names);
  ASSERT_TRUE(model.ok()) << what << ": " << model.status();
  ASSERT_EQ(model->not_streamable, "") << what;
  const auto program = MustCompile(*std::move(model), 4);
  ASSERT_EQ(program->inputs().size(), shapes.size()) << what;
  const auto scratch = program->MakeScratch();
  Row row(*program);
  Random random(17);
  for (int round = 0; round < 3; ++round) {
    std::vector<Array> in;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const bool truth = options.booleans.contains(names[i]);
      in.push_back(Make(shapes[i], [&](const Index&) {
        const double u = 0.5 + 0.5 * static_cast<double>(random.Uniform());
        return truth ? (u > 0.5 ? 1.0 : 0.0) : static_cast<double>(static_cast<float>(options.low + (options.high - options.low) * u));
      }));
      for (size_t k = 0; k < in[i].values.size(); ++k) row.input[i][k] = static_cast<float>(in[i].values[k]);
    }
    const core::StepRow one = row.row();
    ASSERT_TRUE(program->Run({&one, 1}, *scratch).ok()) << what;
    row.Accept();
    const Array want = Each(expected(in), [](double v) { return -v; });
    ASSERT_EQ(row.output[0].size(), want.values.size()) << what << ": " << core::ShapeString(want.shape);
    for (size_t k = 0; k < want.values.size(); ++k) {
      ASSERT_NEAR(static_cast<double>(row.output[0][k]), want.values[k], options.bar * std::max(1.0, std::fabs(want.values[k]))) << what << " element " << k;
    }
  }
}

void CheckEach(const std::string& op, const std::string& attributes, const std::function<double(double)>& f, const Options& options) {
  Check(absl::StrCat(op, " opset ", options.opset), {{1, 3, 5}}, [&](OnnxWriter& w) { w.Node(op, {"x"}, {"z"}, attributes); }, [&](const std::vector<Array>& in) { return Each(in[0], f); }, options);
}

}  // namespace lstm::testing
