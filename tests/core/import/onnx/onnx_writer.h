// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/base/shape.h"

namespace lstm::testing {

// Writes ONNX files for tests, field by field: what it writes may be as wrong as a test wants it to be.
struct OnnxWriter {
  static std::string Varint(uint64_t v) {
    std::string out;
    for (; v >= 128; v >>= 7) out.push_back(static_cast<char>((v & 127) | 128));
    out.push_back(static_cast<char>(v));
    return out;
  }
  static std::string Number(uint32_t field, int64_t v) { return Varint(field << 3) + Varint(static_cast<uint64_t>(v)); }
  static std::string Bytes(uint32_t field, const std::string& b) { return Varint(field << 3 | 2) + Varint(b.size()) + b; }
  static std::string Float(uint32_t field, float v) {
    return Varint(field << 3 | 5) + std::string(reinterpret_cast<const char*>(&v), 4);
  }

  static std::string Tensor(const std::string& name, const core::Shape& shape, const std::vector<float>& values) {
    std::string out;
    for (int64_t n : shape) out += Number(1, n);
    return out + Number(2, 1) + Bytes(8, name) + Bytes(9, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }
  static std::string IntTensor(const std::string& name, const core::Shape& shape, const std::vector<int64_t>& values) {
    std::string out;
    for (int64_t n : shape) out += Number(1, n);
    return out + Number(2, 7) + Bytes(8, name) + Bytes(9, std::string(reinterpret_cast<const char*>(values.data()), values.size() * 8));
  }
  // Integers of another type, TensorProto.DataType: 2 UINT8, 3 INT8, 4 UINT16, 5 INT16, 6 INT32, 9 BOOL.
  static std::string SmallTensor(const std::string& name, const core::Shape& shape, const std::vector<int64_t>& values, int64_t type) {
    std::string out, raw;
    for (int64_t n : shape) out += Number(1, n);
    for (int64_t v : values) raw += std::string(reinterpret_cast<const char*>(&v), type <= 3 || type == 9 ? 1 : type <= 5 ? 2 : 4);
    return out + Number(2, type) + Bytes(8, name) + Bytes(9, raw);
  }
  // A negative size is an axis without one: -1 is called "N", -2 "T", others are nameless.
  static std::string Declared(const std::string& name, const core::Shape& shape, int64_t type = 1) {
    std::string dims;
    for (int64_t n : shape) dims += Bytes(1, n >= 0 ? Number(1, n) : n == -1 ? Bytes(2, "N") : n == -2 ? Bytes(2, "T") : "");
    return Bytes(1, name) + Bytes(2, Bytes(1, Number(1, type) + Bytes(2, dims)));
  }

  static std::string Int(const std::string& name, int64_t v) { return Bytes(5, Bytes(1, name) + Number(3, v) + Number(20, 2)); }
  static std::string Domain(const std::string& name) { return Bytes(7, name); }
  static std::string Graph(const std::string& name, const OnnxWriter& graph) { return Bytes(5, Bytes(1, name) + Bytes(6, graph.nodes + graph.rest) + Number(20, 5)); }
  static std::string Real(const std::string& name, float v) { return Bytes(5, Bytes(1, name) + Float(2, v) + Number(20, 1)); }
  static std::string Text(const std::string& name, const std::string& v) { return Bytes(5, Bytes(1, name) + Bytes(4, v) + Number(20, 3)); }
  static std::string Ints(const std::string& name, const std::vector<int64_t>& v) {
    std::string out = Bytes(1, name);
    for (int64_t i : v) out += Number(8, i);
    return Bytes(5, out + Number(20, 7));
  }
  static std::string Reals(const std::string& name, const std::vector<float>& v) {
    std::string out = Bytes(1, name);
    for (float f : v) out += Float(7, f);
    return Bytes(5, out + Number(20, 6));
  }
  static std::string Texts(const std::string& name, const std::vector<std::string>& v) {
    std::string out = Bytes(1, name);
    for (const std::string& s : v) out += Bytes(9, s);
    return Bytes(5, out + Number(20, 8));
  }

  OnnxWriter& Node(const std::string& op, const std::vector<std::string>& in, const std::vector<std::string>& out, const std::string& attributes = "") {
    std::string node;
    for (const std::string& i : in) node += Bytes(1, i);
    for (const std::string& o : out) node += Bytes(2, o);
    nodes += Bytes(1, node + Bytes(3, op + "_" + std::to_string(count++)) + Bytes(4, op) + attributes);
    return *this;
  }
  OnnxWriter& Initializer(const std::string& tensor) { return rest += Bytes(5, tensor), *this; }
  OnnxWriter& Input(const std::string& declared) { return rest += Bytes(11, declared), *this; }
  OnnxWriter& Output(const std::string& name) { return rest += Bytes(12, Bytes(1, name)), *this; }
  std::string File(int64_t opset = 17) const { return Number(1, 8) + Bytes(7, nodes + rest) + Bytes(8, Number(2, opset)); }

  std::string nodes, rest;
  int count = 0;
};

}  // namespace lstm::testing
