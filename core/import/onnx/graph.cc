// SPDX-License-Identifier: MIT
#include "core/import/onnx/graph.h"

#include <bit>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/wire.h"

namespace lstm::core::onnx {
namespace {

constexpr size_t kMaxParts = 100'000;
constexpr int kMaxDepth = 8;
constexpr size_t kMaxRank = 16;
constexpr size_t kMaxListed = 100'000;  // names, numbers or attributes of one node

absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("ONNX file: ", what)); }

// What the first walk counts.
struct Counts {
  size_t nodes = 0, parts = 0;
};

absl::Status ScanGraph(std::string_view message, int depth, Counts& counts);

absl::Status ScanAttribute(std::string_view message, int depth, Counts& counts) {
  Fields fields(message);
  Field f;
  while (fields.Next(f)) {
    if (f.wire == 2 && (f.number == 6 || f.number == 11)) LSTM_RETURN_IF_ERROR(ScanGraph(f.bytes, depth + 1, counts));
    if (f.wire == 2 && (f.number == 5 || f.number == 10)) LSTM_RETURN_IF_ERROR(ReadTensor(f.bytes).status());
  }
  return fields.ok() ? absl::OkStatus() : Bad("an attribute is cut off or damaged");
}

absl::Status ScanGraph(std::string_view message, int depth, Counts& counts) {
  if (depth > kMaxDepth) return Bad(absl::StrCat("graphs lie in one another deeper than ", kMaxDepth));
  Fields fields(message);
  Field f;
  while (fields.Next(f)) {
    if (f.wire != 2) continue;
    if (f.number == 1 || f.number == 5 || f.number == 11 || f.number == 12) {
      if (++counts.parts > 2 * kMaxParts) return Bad(absl::StrCat("more than ", 2 * kMaxParts, " nodes, tensors, inputs and outputs"));
    }
    if (f.number == 15) return Bad("it has sparse initializers, expected dense ones");
    if (f.number != 1) continue;
    if (++counts.nodes > kMaxParts) return Bad(absl::StrCat("more than ", kMaxParts, " nodes"));
    Fields node(f.bytes);
    Field n;
    size_t listed = 0;
    while (node.Next(n)) {
      if (++listed > kMaxListed) return Bad(absl::StrCat("a node has more than ", kMaxListed, " fields"));
      if (n.wire == 2 && n.number == 5) LSTM_RETURN_IF_ERROR(ScanAttribute(n.bytes, depth, counts));
    }
    if (!node.ok()) return Bad(absl::StrCat("node ", counts.nodes, " is cut off or damaged"));
  }
  return fields.ok() ? absl::OkStatus() : Bad("its graph is cut off or damaged");
}

absl::StatusOr<Declared> ReadDeclared(std::string_view message) {
  Declared out;
  const auto damaged = [&] { return Bad(absl::StrCat("the declaration of value ", Shown(out.name), " is damaged")); };
  Fields fields(message);
  Field f;
  std::string_view type, tensor, shape;
  while (fields.Next(f)) {
    if (f.number == 1) out.name = f.bytes;
    if (f.number == 2) type = f.bytes;
  }
  Fields types(type);
  while (types.Next(f)) {
    if (f.number == 1 && f.wire == 2) tensor = f.bytes;
    if (f.number != 1 && f.number != 4 && f.number != 6) return Bad(absl::StrCat("value ", Shown(out.name), " is neither a tensor nor a sequence of them"));
  }
  Fields parts(tensor);
  while (parts.Next(f)) {
    if (f.number == 1 && f.wire == 0) out.type = static_cast<int64_t>(f.value);
    if (f.number == 2 && f.wire == 2) shape = f.bytes, out.has_shape = true;
  }
  Fields dims(shape);
  while (dims.Next(f)) {
    if (f.number != 1 || f.wire != 2) continue;
    if (out.shape.size() == kMaxRank) return Bad(absl::StrCat("value ", Shown(out.name), " has more than ", kMaxRank, " dimensions"));
    Dimension& dim = out.shape.emplace_back();
    Fields one(f.bytes);
    Field d;
    while (one.Next(d)) {
      if (d.number == 1 && d.wire == 0) dim.size = static_cast<int64_t>(d.value);
      if (d.number == 2) dim.symbol = d.bytes;
    }
    if (!one.ok()) return damaged();
    if (dim.size <= 0 || !dim.symbol.empty()) dim.size = -1;  // 0 and negative sizes are how some exporters say "any"
    if (dim.size > kMaxElements) return Bad(absl::StrCat("value ", Shown(out.name), " has a dimension of ", dim.size));
  }
  if (!fields.ok() || !types.ok() || !parts.ok() || !dims.ok()) return damaged();
  return out;
}

}  // namespace

std::string Shown(std::string_view text) {
  std::string out = "'";
  for (char c : text.substr(0, 100)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  return out + (text.size() > 100 ? "...'" : "'");
}

absl::StatusOr<StoredTensor> ReadTensor(std::string_view message) {
  StoredTensor out;
  out.message = message;
  Fields fields(message);
  Field f;
  bool external = false;
  while (fields.Next(f)) {
    if (f.number == 1 && (!AppendInts(f, out.shape) || out.shape.size() > kMaxRank)) return Bad("a tensor's dimensions are damaged or too many");
    if (f.number == 2) out.type = static_cast<int64_t>(f.value);
    if (f.number == 8) out.name = f.bytes;
    if (f.number == 13 || (f.number == 14 && f.value == 1)) external = true;
  }
  const std::string what = absl::StrCat("tensor ", Shown(out.name));
  if (!fields.ok()) return Bad(absl::StrCat(what, " is cut off or damaged"));
  if (external) return Bad(absl::StrCat(what, " keeps its data in another file (external data), expected it inside the model"));
  if (auto count = ElementCount(out.shape); !count.ok()) return Bad(absl::StrCat(what, ": ", count.status().message()));
  return out;
}

const Attribute* NodeView::Find(std::string_view attribute) const {
  for (const Attribute& a : attributes) {
    if (a.name == attribute) return &a;
  }
  return nullptr;
}

int64_t NodeView::Int(std::string_view attribute, int64_t otherwise) const {
  const Attribute* a = Find(attribute);
  return a != nullptr ? a->i : otherwise;
}

float NodeView::Float(std::string_view attribute, float otherwise) const {
  const Attribute* a = Find(attribute);
  return a != nullptr ? a->f : otherwise;
}

std::string_view NodeView::Text(std::string_view attribute, std::string_view otherwise) const {
  const Attribute* a = Find(attribute);
  return a != nullptr ? a->s : otherwise;
}

std::string NodeView::Described() const {
  std::string out = Shown(op);
  out = absl::StrCat(out.substr(1, out.size() - 2), " node ");
  if (!name.empty()) return out + Shown(name);
  for (std::string_view o : outputs) {
    if (!o.empty()) return absl::StrCat(out, "that gives ", Shown(o));
  }
  return out + "without a name";
}

absl::StatusOr<NodeView> ReadNode(std::string_view message) {
  NodeView out;
  Fields fields(message);
  Field f;
  while (fields.Next(f)) {
    switch (f.number) {
      case 1: out.inputs.push_back(f.bytes); break;
      case 2: out.outputs.push_back(f.bytes); break;
      case 3: out.name = f.bytes; break;
      case 4: out.op = f.bytes; break;
      case 7: out.domain = f.bytes; break;
      case 5: {
        Attribute& a = out.attributes.emplace_back();
        Fields parts(f.bytes);
        Field p;
        bool good = true;
        while (good && parts.Next(p)) {
          switch (p.number) {
            case 1: a.name = p.bytes; break;
            case 2: a.f = std::bit_cast<float>(static_cast<uint32_t>(p.value)); break;
            case 3: a.i = static_cast<int64_t>(p.value); break;
            case 4: a.s = p.bytes; break;
            case 5: a.tensor = p.bytes; break;
            case 6: a.graph = p.bytes; break;
            case 7: good = AppendFloats(p, a.floats) && a.floats.size() <= kMaxListed; break;
            case 8: good = AppendInts(p, a.ints) && a.ints.size() <= kMaxListed; break;
            case 9: a.strings.push_back(p.bytes); break;
            default: break;
          }
        }
        if (!good || !parts.ok()) return Bad(absl::StrCat(out.Described(), " has an attribute ", Shown(a.name), " that is damaged or too long"));
        break;
      }
      default: break;
    }
  }
  if (!fields.ok()) return Bad(absl::StrCat(out.Described(), " is damaged"));
  return out;
}

absl::StatusOr<GraphView> ReadGraph(std::string_view message) {
  GraphView out;
  Fields fields(message);
  Field f;
  while (fields.Next(f)) {
    if (f.wire != 2) continue;
    if (f.number == 1) out.nodes.push_back(f.bytes);
    if (f.number == 5) out.initializers.push_back(f.bytes);
    if (f.number == 11 || f.number == 12) {
      LSTM_ASSIGN_OR_RETURN(Declared declared, ReadDeclared(f.bytes));
      (f.number == 11 ? out.inputs : out.outputs).push_back(std::move(declared));
    }
  }
  return out;
}

absl::StatusOr<FileView> ReadFile(std::span<const std::byte> file) {
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  FileView out;
  out.bytes = file.size();
  std::string_view graph;
  Fields fields(bytes);
  Field f;
  while (fields.Next(f)) {
    if (f.number == 2 && f.wire == 2) out.producer = f.bytes;
    if (f.number == 7 && f.wire == 2) graph = f.bytes;
    if (f.number == 25) return Bad("it defines functions of its own, expected a graph of operators: export with them inlined");
    if (f.number == 8 && f.wire == 2) {
      Fields parts(f.bytes);
      Field p;
      std::string_view domain;
      int64_t version = 0;
      while (parts.Next(p)) {
        if (p.number == 1) domain = p.bytes;
        if (p.number == 2) version = static_cast<int64_t>(p.value);
      }
      if (domain.empty() || domain == "ai.onnx") out.opset = version;
    }
  }
  if (!fields.ok()) return Bad("it is cut off or damaged, or no ONNX file at all");
  if (graph.empty()) return Bad("it has no graph");
  if (out.opset < 7 || out.opset > 24) return Bad(absl::StrCat("its opset is ", out.opset, ", expected 7 to 24"));
  Counts counts;
  LSTM_RETURN_IF_ERROR(ScanGraph(graph, 0, counts));
  out.nodes = counts.nodes;
  LSTM_ASSIGN_OR_RETURN(out.graph, ReadGraph(graph));
  for (std::string_view initializer : out.graph.initializers) LSTM_RETURN_IF_ERROR(ReadTensor(initializer).status());
  return out;
}

}  // namespace lstm::core::onnx
