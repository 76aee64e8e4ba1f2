// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/core/import/onnx/op_check.h"
#include "tests/support/random_model.h"

// Convolutions and pools, with their attributes and as opsets before and after write them, against their definitions in ONNX.
namespace lstm::core {
namespace {

using testing::Array;
using testing::Check;
using testing::Each;
using testing::Index;
using testing::Make;
using testing::Mean;
using W = testing::OnnxWriter;
using testing::OnnxWriter;

TEST(OnnxWindowsTest, WindowsOverTwoAxes) {
  testing::Random random(14);
  struct Case { int64_t groups; std::vector<int64_t> pads, strides, dilations; std::string mode; };
  for (const Case& c : {Case{1, {0, 0, 0, 0}, {1, 1}, {1, 1}, ""}, {2, {1, 0, 2, 1}, {2, 1}, {1, 2}, ""}, {4, {0, 1, 0, 1}, {1, 3}, {2, 1}, ""}, {1, {}, {2, 2}, {1, 1}, "SAME_UPPER"}, {1, {}, {2, 3}, {1, 1}, "SAME_LOWER"}, {1, {}, {1, 2}, {1, 1}, "VALID"}}) {
    const Shape in_shape = {1, 4, 6, 7};
    const int64_t per = 4 / c.groups, out = 4;
    const Array k = Make({out, per, 3, 2}, [&](const Index&) { return static_cast<double>(random.Uniform()); }), b = Make({out}, [&](const Index&) { return static_cast<double>(random.Uniform()); });
    const std::string attributes = (c.mode.empty() ? W::Ints("pads", c.pads) : W::Text("auto_pad", c.mode)) + W::Ints("strides", c.strides) + W::Ints("dilations", c.dilations);
    std::vector<int64_t> pads = c.pads, kernel = {3, 2};
    if (pads.empty()) pads = {0, 0, 0, 0};
    Shape shape = {1, out, 0, 0};
    for (size_t a = 0; a < 2; ++a) {
      const int64_t n = in_shape[a + 2], extent = (kernel[a] - 1) * c.dilations[a] + 1;
      if (c.mode.starts_with("SAME")) {
        const int64_t total = std::max<int64_t>(0, ((n + c.strides[a] - 1) / c.strides[a] - 1) * c.strides[a] + extent - n);
        pads[a] = c.mode == "SAME_UPPER" ? total / 2 : total - total / 2;
        pads[a + 2] = total - pads[a];
      }
      shape[a + 2] = (n + pads[a] + pads[a + 2] - extent) / c.strides[a] + 1;
    }
    const auto over = [&](const Index& o, const std::function<void(int64_t, int64_t, int64_t, int64_t, bool)>& visit) {
      for (int64_t p = 0; p < 3; ++p) {
        for (int64_t q = 0; q < 2; ++q) {
          const int64_t r = o[2] * c.strides[0] - pads[0] + p * c.dilations[0], s = o[3] * c.strides[1] - pads[1] + q * c.dilations[1];
          visit(p, q, r, s, r >= 0 && r < 6 && s >= 0 && s < 7);
        }
      }
    };
    Check(absl::StrCat("Conv ", c.mode, c.groups), {in_shape}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("k", k.shape, {k.values.begin(), k.values.end()})).Initializer(W::Tensor("b", b.shape, {b.values.begin(), b.values.end()}));
      w.Node("Conv", {"x", "k", "b"}, {"z"}, attributes + W::Int("group", c.groups));
    }, [&](const std::vector<Array>& in) {
      return Make(shape, [&](const Index& o) {
        double sum = b.values[static_cast<size_t>(o[1])];
        over(o, [&](int64_t p, int64_t q, int64_t r, int64_t s, bool inside) {
          for (int64_t i = 0; i < per && inside; ++i) sum += k({o[1], i, p, q}) * in[0]({0, o[1] / (out / c.groups) * per + i, r, s});
        });
        return sum;
      });
    });
    if (c.groups != 1) continue;
    const std::string window = W::Ints("kernel_shape", {3, 2}) + (c.mode.empty() ? W::Ints("pads", c.pads) : W::Text("auto_pad", c.mode)) + W::Ints("strides", c.strides);
    Check(absl::StrCat("MaxPool ", c.mode), {in_shape}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, window); }, [&](const std::vector<Array>& in) {
      return Make(shape, [&](const Index& o) {
        double most = -1e30;
        over(o, [&](int64_t, int64_t, int64_t r, int64_t s, bool inside) { if (inside) most = std::max(most, in[0]({0, o[1], r, s})); });
        return most;
      });
    });
    for (const bool pad : {true, false}) {
      Check(absl::StrCat("AveragePool ", c.mode, pad), {in_shape}, [&](OnnxWriter& w) { w.Node("AveragePool", {"x"}, {"z"}, window + W::Int("count_include_pad", pad)); }, [&](const std::vector<Array>& in) {
        return Make(shape, [&](const Index& o) {
          double sum = 0, count = 0;
          over(o, [&](int64_t, int64_t, int64_t r, int64_t s, bool inside) {
            if (inside) sum += in[0]({0, o[1], r, s});
            count += inside || pad ? 1 : 0;
          });
          return sum / count;
        });
      });
    }
  }
  Check("GlobalAveragePool", {{1, 3, 4, 5}}, [](OnnxWriter& w) { w.Node("GlobalAveragePool", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Along(in[0], {2, 3}, true, Mean); });
  Check("GlobalMaxPool", {{1, 3, 4, 5}}, [](OnnxWriter& w) { w.Node("GlobalMaxPool", {"x"}, {"z"}); }, [](const std::vector<Array>& in) { return Along(in[0], {2, 3}, true, [](const std::vector<double>& v) { return *std::max_element(v.begin(), v.end()); }); });
}

// A pool along one axis, as the text of ONNX has it: how many windows, and where each tap of one lies.
struct PoolAxis {
  int64_t size, kernel, stride = 1, dilation = 1, before = 0, after = 0;

  int64_t Windows(bool ceil_mode) const {
    const double span = static_cast<double>(size + before + after - dilation * (kernel - 1) - 1) / static_cast<double>(stride) + 1;
    auto n = static_cast<int64_t>(ceil_mode ? std::ceil(span) : std::floor(span));
    if (ceil_mode && (n - 1) * stride >= size + before) --n;  // one that would begin in the padding behind
    return n;
  }
  int64_t At(int64_t window, int64_t tap) const { return window * stride + tap * dilation - before; }
  bool Inside(int64_t at) const { return at >= 0 && at < size; }
  bool Padded(int64_t at) const { return at >= -before && at < size + after; }
};

// [1, channels, a, b]
Array Pooled(const Array& x, const PoolAxis& a, const PoolAxis& b, bool ceil_mode, bool mean, bool counted) {
  return Make({1, x.shape[1], a.Windows(ceil_mode), b.Windows(ceil_mode)}, [&](const Index& o) {
    double most = -1e30, sum = 0, count = 0;
    for (int64_t p = 0; p < a.kernel; ++p) {
      for (int64_t q = 0; q < b.kernel; ++q) {
        const int64_t r = a.At(o[2], p), s = b.At(o[3], q);
        const bool inside = a.Inside(r) && b.Inside(s);
        if (inside) most = std::max(most, x({0, o[1], r, s})), sum += x({0, o[1], r, s});
        count += inside || (counted && a.Padded(r) && b.Padded(s)) ? 1 : 0;
      }
    }
    return mean ? sum / count : most;
  });
}

TEST(OnnxWindowsTest, TransposedConvolutions) {
  testing::Random random(21);
  struct Case { int64_t groups; std::vector<int64_t> pads, strides, dilations, more; std::string mode; std::vector<int64_t> sizes; };
  for (const Case& c : {Case{1, {0, 0, 0, 0}, {1, 1}, {1, 1}, {}, "", {}}, {2, {1, 0, 2, 1}, {2, 1}, {1, 2}, {1, 0}, "", {}}, {4, {0, 2, 0, 3}, {1, 3}, {2, 1}, {0, 2}, "", {}}, {1, {2, 1, 2, 1}, {3, 4}, {1, 1}, {}, "", {}},
                        {1, {}, {2, 2}, {1, 1}, {}, "SAME_UPPER", {}}, {2, {}, {2, 3}, {1, 1}, {}, "SAME_LOWER", {}}, {1, {}, {2, 2}, {1, 1}, {}, "VALID", {}}, {1, {}, {3, 2}, {1, 1}, {}, "", {10, 8}}, {1, {}, {3, 2}, {1, 1}, {}, "", {14, 11}}}) {
    const Shape in_shape = {1, 4, 3, 4};
    const std::vector<int64_t> kernel = {3, 2};
    const int64_t per = 3, out = per * c.groups, each = 4 / c.groups;
    const Array k = Make({4, per, 3, 2}, [&](const Index&) { return static_cast<double>(random.Uniform()); }), b = Make({out}, [&](const Index&) { return static_cast<double>(random.Uniform()); });
    std::string attributes = W::Ints("strides", c.strides) + W::Ints("dilations", c.dilations) + W::Int("group", c.groups);
    if (!c.pads.empty()) attributes += W::Ints("pads", c.pads);
    if (!c.more.empty()) attributes += W::Ints("output_padding", c.more);
    if (!c.mode.empty()) attributes += W::Text("auto_pad", c.mode);
    if (!c.sizes.empty()) attributes += W::Ints("output_shape", c.sizes);
    std::vector<int64_t> pads = c.pads.empty() ? std::vector<int64_t>{0, 0, 0, 0} : c.pads;
    Shape shape = {1, out, 0, 0};
    for (size_t a = 0; a < 2; ++a) {
      const int64_t all = (in_shape[a + 2] - 1) * c.strides[a] + (kernel[a] - 1) * c.dilations[a] + 1 + (c.more.empty() ? 0 : c.more[a]);
      if (c.mode.starts_with("SAME") || !c.sizes.empty()) {
        const int64_t cut = all - (c.sizes.empty() ? in_shape[a + 2] * c.strides[a] : c.sizes[a]);
        pads[a] = c.mode == "SAME_UPPER" ? cut / 2 : cut - cut / 2;
        pads[a + 2] = cut - pads[a];
      }
      shape[a + 2] = all - pads[a] - pads[a + 2];
    }
    Check(absl::StrCat("ConvTranspose ", c.mode, c.groups), {in_shape}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("k", k.shape, {k.values.begin(), k.values.end()})).Initializer(W::Tensor("b", b.shape, {b.values.begin(), b.values.end()}));
      w.Node("ConvTranspose", {"x", "k", "b"}, {"z"}, attributes);
    }, [&](const std::vector<Array>& in) {
      Array y = Make(shape, [&](const Index& o) { return b.values[static_cast<size_t>(o[1])]; });
      Make(in_shape, [&](const Index& i) {  // each item of the input is spread over the output
        for (int64_t o = 0; o < per; ++o) {
          for (int64_t p = 0; p < 3; ++p) {
            for (int64_t q = 0; q < 2; ++q) {
              const int64_t r = i[2] * c.strides[0] - pads[0] + p * c.dilations[0], s = i[3] * c.strides[1] - pads[1] + q * c.dilations[1];
              if (r < 0 || r >= shape[2] || s < 0 || s >= shape[3]) continue;
              y.values[static_cast<size_t>(((i[1] / each * per + o) * shape[2] + r) * shape[3] + s)] += in[0](i) * k({i[1], o, p, q});
            }
          }
        }
        return 0;
      });
      return y;
    });
  }
}

TEST(OnnxWindowsTest, PoolsWithAndWithoutCeilMode) {
  const PoolAxis one{1, 1};
  const std::vector<std::pair<PoolAxis, PoolAxis>> planes = {
      {{6, 3, 2}, {7, 2, 2}},                              // one window more along each axis
      {{6, 3, 2, 1, 1, 1}, {7, 2, 3, 1, 0, 1}},            // behind explicit padding
      {{5, 2, 3, 1, 1, 1}, {4, 1, 2}},                     // a window that would begin in the padding, and one behind the end
      {{2, 1, 2}, {2, 1, 2}},
      {{7, 3, 3, 2, 2, 1}, {6, 2, 2, 3}},                  // dilated
      {{2, 3, 2}, {5, 4, 3, 1, 0, 2}},                     // a window that is longer than its axis
      {{6, 2, 4, 2, 1, 2}, {7, 3, 5, 1, 2, 2}},
      {{4, 2, 1, 1, 1, 1}, {4, 3, 1, 1, 1, 1}},            // nothing to round
  };
  for (const bool ceil_mode : {true, false}) {
    for (const auto& [a, b] : planes) {
      if (a.Windows(ceil_mode) < 1 || b.Windows(ceil_mode) < 1) continue;
      const std::string window = W::Ints("kernel_shape", {a.kernel, b.kernel}) + W::Ints("strides", {a.stride, b.stride}) + W::Ints("dilations", {a.dilation, b.dilation}) +
                                 W::Ints("pads", {a.before, b.before, a.after, b.after}) + W::Int("ceil_mode", ceil_mode);
      const std::string what = absl::StrCat(ceil_mode, ", ", a.size, " by ", a.kernel, ", ", b.size, " by ", b.kernel);
      Check("MaxPool " + what, {{1, 2, a.size, b.size}}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, window); }, [&, &a = a, &b = b](const std::vector<Array>& in) { return Pooled(in[0], a, b, ceil_mode, false, false); });
      for (const bool counted : {true, false}) {
        Check(absl::StrCat("AveragePool ", what, counted), {{1, 2, a.size, b.size}}, [&](OnnxWriter& w) { w.Node("AveragePool", {"x"}, {"z"}, window + W::Int("count_include_pad", counted)); },
              [&, &a = a, &b = b](const std::vector<Array>& in) { return Pooled(in[0], a, b, ceil_mode, true, counted); }, {.opset = 19});
      }
    }
    for (const PoolAxis& a : {PoolAxis{7, 3, 2, 1, 1, 0}, {8, 3, 2}, {5, 3, 4}, {3, 2, 2, 2, 1, 1}, {1, 2, 2}}) {
      if (a.Windows(ceil_mode) < 1) continue;
      const std::string window = W::Ints("kernel_shape", {a.kernel}) + W::Ints("strides", {a.stride}) + W::Ints("dilations", {a.dilation}) + W::Ints("pads", {a.before, a.after}) + W::Int("ceil_mode", ceil_mode);
      for (const bool mean : {true, false}) {
        Check(absl::StrCat("1-D ", mean, ceil_mode, ", ", a.size, " by ", a.kernel), {{1, 2, a.size}}, [&](OnnxWriter& w) { w.Node(mean ? "AveragePool" : "MaxPool", {"x"}, {"z"}, window); }, [&](const std::vector<Array>& in) {
          Array y = Pooled({{1, 2, a.size, 1}, in[0].values}, a, one, ceil_mode, mean, false);
          y.shape.pop_back();
          return y;
        });
      }
    }
  }
  // auto_pad has a size of its own.
  for (const char* mode : {"VALID", "SAME_UPPER"}) {
    const PoolAxis a{8, 3, 2, 1, 0, *mode == 'S' ? 1 : 0};
    Check(absl::StrCat("ceil_mode and ", mode), {{1, 2, 8}}, [&](OnnxWriter& w) { w.Node("MaxPool", {"x"}, {"z"}, W::Ints("kernel_shape", {3}) + W::Ints("strides", {2}) + W::Text("auto_pad", mode) + W::Int("ceil_mode", 1)); },
          [&](const std::vector<Array>& in) { return Pooled({{1, 2, 8, 1}, in[0].values}, a, one, false, false, false); });
  }
}

// Numbers of ONNX's own node tests, averagepool_2d_ceil, maxpool_2d_ceil and the window that would begin behind the end.
TEST(OnnxWindowsTest, PoolsAsOnnxItselfTestsThem) {
  const auto check = [](const char* op, const std::string& attributes, int64_t side, const std::vector<float>& x, const std::vector<double>& y, int64_t out) {
    Check(op, {{1, 1, side, side}}, [&](OnnxWriter& w) {
      w.Initializer(W::Tensor("none", {}, {0})).Initializer(W::Tensor("c", {1, 1, side, side}, x)).Node("Mul", {"x", "none"}, {"n"}).Node("Add", {"n", "c"}, {"v"}).Node(op, {"v"}, {"z"}, attributes);
    }, [&](const std::vector<Array>&) { return Array{{1, 1, out, out}, y}; });
  };
  const std::vector<float> plane = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const std::string window = W::Ints("kernel_shape", {3, 3}) + W::Ints("strides", {2, 2}) + W::Int("ceil_mode", 1);
  check("AveragePool", window, 4, plane, {6, 7.5, 12, 13.5}, 2);
  check("MaxPool", window, 4, plane, {11, 12, 15, 16}, 2);
  check("MaxPool", W::Ints("kernel_shape", {1, 1}) + W::Ints("strides", {2, 2}) + W::Int("ceil_mode", 1), 2, {1, 2, 3, 4}, {1}, 1);
  // PyTorch: avg_pool2d(x, 2, 3, padding=1, ceil_mode=True)
  check("AveragePool", W::Ints("kernel_shape", {2, 2}) + W::Ints("strides", {3, 3}) + W::Ints("pads", {1, 1, 1, 1}) + W::Int("ceil_mode", 1) + W::Int("count_include_pad", 1), 4, plane, {0.25, 1.75, 5.5, 13.5}, 2);
}

}  // namespace
}  // namespace lstm::core
