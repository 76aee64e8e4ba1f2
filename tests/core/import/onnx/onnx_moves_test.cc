// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/random_model.h"

// Ops that put elements elsewhere, with their attributes and as opsets before and after write them, against their definitions in ONNX.
namespace lstm::core {
namespace {

using testing::Array;
using testing::Check;
using testing::Each;
using testing::Index;
using testing::Make;
using W = testing::OnnxWriter;
using testing::OnnxWriter;

TEST(OnnxMovesTest, ElementsInOtherPlaces) {
  const Shape shape = {1, 2, 3, 4};
  const auto same = [](Shape to) { return [to](const std::vector<Array>& in) { return Array{to, in[0].values}; }; };
  const auto ints = [](OnnxWriter& w, const char* name, std::vector<int64_t> v) { w.Initializer(W::IntTensor(name, {static_cast<int64_t>(v.size())}, v)); };
  Check("Reshape with 0 and -1", {shape}, [&](OnnxWriter& w) { ints(w, "s", {0, -1, 3}), w.Node("Reshape", {"x", "s"}, {"z"}); }, same({1, 8, 3}));
  for (const int64_t axis : {0, 2, 4, -1}) Check("Flatten", {shape}, [&](OnnxWriter& w) { w.Node("Flatten", {"x"}, {"z"}, W::Int("axis", axis)); }, same({24}));
  Check("Squeeze by attribute", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { w.Node("Squeeze", {"x"}, {"z"}, W::Ints("axes", {0, 2})); }, same({2, 3}), {.opset = 11});
  Check("Squeeze by input", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { ints(w, "a", {-2}), w.Node("Squeeze", {"x", "a"}, {"z"}); }, same({1, 2, 3}), {.opset = 13});
  Check("Squeeze of all", {{1, 2, 1, 3}}, [&](OnnxWriter& w) { w.Node("Squeeze", {"x"}, {"z"}); }, same({2, 3}), {.opset = 13});
  // Which axis an Unsqueeze makes shows where the next op counts from.
  for (const bool input : {false, true}) {
    Check("Unsqueeze", {{2, 3}}, [&](OnnxWriter& w) {
      if (input) ints(w, "a", {0, -1});
      w.Node("Unsqueeze", input ? std::vector<std::string>{"x", "a"} : std::vector<std::string>{"x"}, {"u"}, input ? "" : W::Ints("axes", {0, 3}));
      w.Node("Transpose", {"u"}, {"z"}, W::Ints("perm", {2, 1, 0, 3}));
    }, [](const std::vector<Array>& in) { return Make({3, 2, 1, 1}, [&](const Index& i) { return in[0]({i[1], i[0]}); }); }, {.opset = input ? 13 : 11});
  }
  Check("Transpose", {shape}, [&](OnnxWriter& w) { w.Node("Transpose", {"x"}, {"z"}, W::Ints("perm", {0, 3, 1, 2})); }, [](const std::vector<Array>& in) { return Make({1, 4, 2, 3}, [&](const Index& i) { return in[0]({i[0], i[2], i[3], i[1]}); }); });
  Check("Transpose of all", {shape}, [&](OnnxWriter& w) { w.Node("Transpose", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({4, 3, 2, 1}, [&](const Index& i) { return in[0]({i[3], i[2], i[1], i[0]}); }); });
  Check("Slice by attributes", {shape}, [&](OnnxWriter& w) { w.Node("Slice", {"x"}, {"z"}, W::Ints("starts", {1, -3}) + W::Ints("ends", {9, -1}) + W::Ints("axes", {2, 3})); }, [](const std::vector<Array>& in) { return Make({1, 2, 2, 2}, [&](const Index& i) { return in[0]({i[0], i[1], i[2] + 1, i[3] + 1}); }); }, {.opset = 9});
  Check("Slice backwards, and every second", {shape}, [&](OnnxWriter& w) { ints(w, "b", {-1, 0}), ints(w, "e", {INT64_MIN, INT64_MAX}), ints(w, "a", {2, -1}), ints(w, "s", {-1, 2}), w.Node("Slice", {"x", "b", "e", "a", "s"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 2, 3, 2}, [&](const Index& i) { return in[0]({i[0], i[1], 2 - i[2], 2 * i[3]}); }); });
  for (const int form : {0, 1, 2, 3}) {  // by attribute, by input, equal parts, num_outputs of 18, whose last part is smaller
    Check(absl::StrCat("Split ", form), {{1, 5, 2}}, [&](OnnxWriter& w) {
      if (form == 1) ints(w, "p", {3, 2});
      if (form == 2) w.Node("Identity", {"x"}, {"q"});
      w.Node("Split", form == 1 ? std::vector<std::string>{"x", "p"} : std::vector<std::string>{"x"}, form == 2 ? std::vector<std::string>{"p0", "p1"} : std::vector<std::string>{"p0", "p1"},
             W::Int("axis", form == 2 ? 2 : 1) + (form == 0 ? W::Ints("split", {3, 2}) : form == 3 ? W::Int("num_outputs", 2) : ""));
      w.Node("Neg", {"p0"}, {"n"}).Node("Concat", {"p1", "n"}, {"z"}, W::Int("axis", form == 2 ? 2 : 1));
    }, [&](const std::vector<Array>& in) {
      if (form == 2) return Make({1, 5, 2}, [&](const Index& i) { return i[2] == 0 ? in[0]({0, i[1], 1}) : -in[0]({0, i[1], 0}); });
      return Make({1, 5, 2}, [&](const Index& i) { return i[1] < 2 ? in[0]({0, i[1] + 3, i[2]}) : -in[0]({0, i[1] - 2, i[2]}); });
    }, {.opset = form == 0 ? 11 : form == 3 ? 18 : 13});
  }
  Check("Concat with a constant", {{1, 2, 3}, {1, 2, 1}}, [&](OnnxWriter& w) { w.Initializer(W::Tensor("c", {1, 2, 2}, {1, 2, 3, 4})).Node("Concat", {"x", "c", "y"}, {"z"}, W::Int("axis", -1)); }, [](const std::vector<Array>& in) {
    return Make({1, 2, 6}, [&](const Index& i) { return i[2] < 3 ? in[0](i) : i[2] < 5 ? static_cast<double>(2 * i[1] + i[2] - 2) : in[1]({0, i[1], 0}); });
  });
  Check("Gather of several items", {shape}, [&](OnnxWriter& w) { w.Initializer(W::IntTensor("i", {2, 2}, {2, 0, -1, 1})).Node("Gather", {"x", "i"}, {"z"}, W::Int("axis", 2)); }, [](const std::vector<Array>& in) {
    const int64_t index[2][2] = {{2, 0}, {2, 1}};
    return Make({1, 2, 2, 2, 4}, [&](const Index& i) { return in[0]({i[0], i[1], index[i[2]][i[3]], i[4]}); });
  });
  Check("Expand", {{1, 3, 1}}, [&](OnnxWriter& w) { ints(w, "s", {2, 1, 4}), w.Node("Expand", {"x", "s"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({2, 3, 4}, [&](const Index& i) { return in[0]({0, i[1], 0}); }); });
  Check("Tile", {{1, 2, 3}}, [&](OnnxWriter& w) { ints(w, "r", {1, 2, 3}), w.Node("Tile", {"x", "r"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 4, 9}, [&](const Index& i) { return in[0]({0, i[1] % 2, i[2] % 3}); }); });
  struct Pads { const char* mode; int form; };
  for (const Pads& p : {Pads{"constant", 0}, {"constant", 1}, {"constant", 2}, {"reflect", 1}, {"edge", 1}}) {  // attributes of opset 2, inputs of 11, axes of 18
    Check(absl::StrCat("Pad ", p.mode, " ", p.form), {{1, 3, 4}}, [&](OnnxWriter& w) {
      const std::string mode = std::string(p.mode) == "constant" ? "" : W::Text("mode", p.mode);
      if (p.form == 0) w.Node("Pad", {"x"}, {"z"}, W::Ints("pads", {0, 1, 2, 0, 2, 1}) + W::Real("value", 3));
      if (p.form == 1) ints(w, "p", {0, 1, 2, 0, 2, 1}), w.Initializer(W::Tensor("v", {}, {3})).Node("Pad", {"x", "p", "v"}, {"z"}, mode);
      if (p.form == 2) ints(w, "p", {2, 1, 1, 2}), ints(w, "a", {-1, 1}), w.Initializer(W::Tensor("v", {}, {3})).Node("Pad", {"x", "p", "v", "a"}, {"z"});
    }, [&](const std::vector<Array>& in) {
      return Make({1, 6, 7}, [&](const Index& i) {
        int64_t r = i[1] - 1, c = i[2] - 2;
        const auto reflect = [](int64_t v, int64_t n) { return v < 0 ? -v : v >= n ? 2 * n - 2 - v : v; };
        if (*p.mode == 'r') r = reflect(r, 3), c = reflect(c, 4);
        if (*p.mode == 'e') r = std::clamp<int64_t>(r, 0, 2), c = std::clamp<int64_t>(c, 0, 3);
        return r < 0 || r > 2 || c < 0 || c > 3 ? 3 : in[0]({0, r, c});
      });
    }, {.opset = p.form == 0 ? 10 : p.form == 1 ? 13 : 18});
  }
}

TEST(OnnxMovesTest, ElementsByOtherRules) {
  const auto ints = [](OnnxWriter& w, const char* name, const Shape& shape, std::vector<int64_t> v) { w.Initializer(W::IntTensor(name, shape, v)); };
  Check("GatherElements", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {1, 2, 3}, {2, 0, -1, 1, 1, 0}), w.Node("GatherElements", {"x", "i"}, {"z"}, W::Int("axis", 1)); }, [](const std::vector<Array>& in) {
    const int64_t index[2][3] = {{2, 0, 2}, {1, 1, 0}};
    return Make({1, 2, 3}, [&](const Index& i) { return in[0]({0, index[i[1]][i[2]], i[2]}); });
  });
  Check("GatherND of elements", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {2, 3}, {0, 1, -1, 0, 2, 0}), w.Node("GatherND", {"x", "i"}, {"z"}); }, [](const std::vector<Array>& in) { return Array{{2}, {in[0]({0, 1, 3}), in[0]({0, 2, 0})}}; });
  Check("GatherND of rows", {{1, 3, 4}}, [&](OnnxWriter& w) { ints(w, "i", {2, 1, 2}, {0, 2, 0, 0}), w.Node("GatherND", {"x", "i"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({2, 1, 4}, [&](const Index& i) { return in[0]({0, i[0] == 0 ? 2 : 0, i[2]}); }); });
  for (const bool crd : {false, true}) {
    Check("DepthToSpace", {{1, 8, 2, 3}}, [&](OnnxWriter& w) { w.Node("DepthToSpace", {"x"}, {"z"}, W::Int("blocksize", 2) + (crd ? W::Text("mode", "CRD") : "")); }, [&](const std::vector<Array>& in) {
      return Make({1, 2, 4, 6}, [&](const Index& i) {
        const int64_t part = i[2] % 2 * 2 + i[3] % 2;
        return in[0]({0, crd ? i[1] * 4 + part : part * 2 + i[1], i[2] / 2, i[3] / 2});
      });
    });
  }
  Check("SpaceToDepth", {{1, 2, 4, 6}}, [&](OnnxWriter& w) { w.Node("SpaceToDepth", {"x"}, {"z"}, W::Int("blocksize", 2)); }, [](const std::vector<Array>& in) {
    return Make({1, 8, 2, 3}, [&](const Index& i) { return in[0]({0, i[1] % 2, i[2] * 2 + i[1] / 4, i[3] * 2 + i[1] / 2 % 2}); });
  });
  for (const bool upper : {true, false}) {
    for (const int64_t k : {0, 1, -2}) {
      Check("Trilu", {{2, 3, 4}}, [&](OnnxWriter& w) { ints(w, "k", {}, {k}), w.Node("Trilu", {"x", "k"}, {"z"}, W::Int("upper", upper)); }, [&](const std::vector<Array>& in) {
        return Make({2, 3, 4}, [&](const Index& i) { return (upper ? i[2] - i[1] >= k : i[2] - i[1] <= k) ? in[0](i) : 0; });
      });
    }
  }
  Check("EyeLike", {{3, 4}}, [](OnnxWriter& w) { w.Node("EyeLike", {"x"}, {"e"}, W::Int("k", 1)).Node("Mul", {"x", "e"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({3, 4}, [&](const Index& i) { return i[1] - i[0] == 1 ? in[0](i) : 0; }); });
  Check("Mean", {{1, 4}, {1, 4}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("c", {1}, {3})).Node("Mean", {"x", "y", "c"}, {"z"}); }, [](const std::vector<Array>& in) { return Make({1, 4}, [&](const Index& i) { return (in[0](i) + in[1](i) + 3) / 3; }); });
}

// Resize by the formulas of its definition, and as it was called before.
TEST(OnnxMovesTest, OtherSizes) {
  const auto original = [](const std::string& mode, double i, double n, double size, double scale) {
    if (mode == "asymmetric") return i / scale;
    if (mode == "align_corners") return size == 1 ? 0 : i * (n - 1) / (size - 1);
    if (mode == "pytorch_half_pixel" && size == 1) return 0.0;
    if (mode == "half_pixel_symmetric") return n / 2 * (1 - size / (scale * n)) + (i + 0.5) / scale - 0.5;
    return (i + 0.5) / scale - 0.5;
  };
  struct Case { std::string coordinates, nearest; std::vector<float> scales; std::vector<int64_t> sizes; };
  for (const Case& c : {Case{"half_pixel", "round_prefer_floor", {1, 1, 2, 3}, {}}, {"asymmetric", "floor", {1, 1, 2, 2}, {}}, {"align_corners", "round_prefer_ceil", {}, {1, 2, 5, 7}}, {"pytorch_half_pixel", "ceil", {}, {1, 2, 1, 2}},
                        {"half_pixel_symmetric", "round_prefer_floor", {1, 1, 1.7f, 0.6f}, {}}, {"half_pixel", "floor", {1, 1, 0.5f, 0.75f}, {}}}) {
    for (const bool linear : {false, true}) {
      const Shape in_shape = {1, 2, 3, 4};
      Shape shape = in_shape;
      double scale[4];
      for (size_t a = 0; a < 4; ++a) {
        shape[a] = c.sizes.empty() ? static_cast<int64_t>(std::floor(static_cast<double>(in_shape[a]) * static_cast<double>(c.scales[a]))) : c.sizes[a];
        scale[a] = c.sizes.empty() ? static_cast<double>(c.scales[a]) : static_cast<double>(shape[a]) / static_cast<double>(in_shape[a]);
      }
      Check(absl::StrCat("Resize ", c.coordinates, " ", c.nearest, linear), {in_shape}, [&](OnnxWriter& w) {
        w.Initializer(W::Tensor("roi", {0}, {}));
        if (!c.scales.empty()) w.Initializer(W::Tensor("s", {4}, c.scales));
        if (!c.sizes.empty()) w.Initializer(W::IntTensor("n", {4}, c.sizes));
        w.Node("Resize", c.sizes.empty() ? std::vector<std::string>{"x", "roi", "s"} : std::vector<std::string>{"x", "", "", "n"}, {"z"},
               W::Text("coordinate_transformation_mode", c.coordinates) + (linear ? W::Text("mode", "linear") : W::Text("nearest_mode", c.nearest)));
      }, [&](const std::vector<Array>& in) {
        const std::function<double(Index, size_t)> at = [&](Index i, size_t a) -> double {
          if (a == 4) return in[0](i);
          const double place = original(c.coordinates, static_cast<double>(i[a]), static_cast<double>(in_shape[a]), static_cast<double>(shape[a]), scale[a]);
          const auto put = [&](double p) { i[a] = static_cast<int64_t>(std::clamp(p, 0.0, static_cast<double>(in_shape[a] - 1))); return at(i, a + 1); };
          if (shape[a] == in_shape[a] && scale[a] == 1) return at(i, a + 1);
          if (linear) return (1 - (place - std::floor(place))) * put(std::floor(place)) + (place - std::floor(place)) * put(std::floor(place) + 1);
          return put(c.nearest == "floor" ? std::floor(place) : c.nearest == "ceil" ? std::ceil(place) : c.nearest == "round_prefer_ceil" ? std::floor(place + 0.5) : std::ceil(place - 0.5));
        };
        return Make(shape, [&](const Index& i) { return at(i, 0); });
      });
    }
  }
  const auto twice = [](const std::vector<Array>& in) { return Make({1, 1, 4, 6}, [&](const Index& i) { return in[0]({0, 0, i[2] / 2, i[3] / 2}); }); };
  Check("Upsample by attribute", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Node("Upsample", {"x"}, {"z"}, W::Reals("scales", {1, 1, 2, 2}) + W::Text("mode", "nearest")); }, twice, {.opset = 7});
  Check("Upsample by input", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {4}, {1, 1, 2, 2})).Node("Upsample", {"x", "s"}, {"z"}); }, twice, {.opset = 9});
  Check("Resize as it began", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::Tensor("s", {4}, {1, 1, 2, 2})).Node("Resize", {"x", "s"}, {"z"}); }, twice, {.opset = 10});
  Check("Resize of some axes", {{1, 1, 2, 3}}, [](OnnxWriter& w) { w.Initializer(W::IntTensor("n", {2}, {6, 4})).Node("Resize", {"x", "", "", "n"}, {"z"}, W::Ints("axes", {-1, 2}) + W::Text("coordinate_transformation_mode", "asymmetric") + W::Text("nearest_mode", "floor")); }, twice, {.opset = 18});
}

// x[:, 1, :2] = y and the like.
TEST(OnnxMovesTest, ElementsThatAreWrittenOver) {
  const auto written = [](const Array& x, const std::function<const double*(const Index&)>& with) { return Make(x.shape, [&](const Index& i) { const double* v = with(i); return v == nullptr ? x(i) : *v; }); };
  Check("ScatterND of items", {{1, 3, 4}, {1, 2}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("i", {1, 2, 3}, {0, 1, 0, 0, -2, 1})).Node("ScatterND", {"x", "i", "y"}, {"z"});
  }, [&](const std::vector<Array>& in) { return written(in[0], [&](const Index& i) { return i[1] == 1 && i[2] < 2 ? &in[1].values[static_cast<size_t>(i[2])] : nullptr; }); });
  Check("ScatterND of rows", {{1, 3, 4}, {2, 4}}, [](OnnxWriter& w) {
    w.Initializer(W::IntTensor("i", {2, 2}, {0, 2, 0, 0})).Node("ScatterND", {"x", "i", "y"}, {"z"}, W::Text("reduction", "none"));
  }, [&](const std::vector<Array>& in) { return written(in[0], [&](const Index& i) { return i[1] == 1 ? nullptr : &in[1].values[static_cast<size_t>((i[1] == 2 ? 0 : 4) + i[2])]; }); });
  Check("ScatterND into a constant", {{1, 4}}, [](OnnxWriter& w) {
    w.Initializer(W::Tensor("d", {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8})).Initializer(W::IntTensor("i", {1, 1}, {1})).Node("ScatterND", {"d", "i", "x"}, {"z"});
  }, [](const std::vector<Array>& in) { return Make({2, 4}, [&](const Index& i) { return i[0] == 1 ? in[0]({0, i[1]}) : static_cast<double>(1 + i[1]); }); });
  for (const std::string op : {"ScatterElements", "Scatter"}) {
    Check(op, {{1, 2, 4}, {1, 2, 2}}, [&](OnnxWriter& w) {
      w.Initializer(W::IntTensor("i", {1, 2, 2}, {3, 0, -1, 1})).Node(op, {"x", "i", "y"}, {"z"}, W::Int("axis", 2));
    }, [&](const std::vector<Array>& in) {
      return written(in[0], [&](const Index& i) -> const double* {
        const int64_t k = i[2] == 3 ? 0 : i[2] == (i[1] == 0 ? 0 : 1) ? 1 : -1;
        return k < 0 ? nullptr : &in[1].values[static_cast<size_t>(i[1] * 2 + k)];
      });
    });
  }
}

}  // namespace
}  // namespace lstm::core
