// SPDX-License-Identifier: MIT
#include "core/import/onnx/lowering.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/wire.h"

namespace lstm::core::onnx {

absl::Status Lowering::Bind(std::string_view name, ValPtr value) {
  if (name.empty()) return absl::OkStatus();
  if (!values_.emplace(name, std::move(value)).second) return absl::InvalidArgumentError(absl::StrCat("value ", Shown(name), " is given twice"));
  return absl::OkStatus();
}

// How often each name is read, in all graphs: a value is let go after its last use.
absl::Status Lowering::CountUses(std::string_view graph, int depth) {
  Fields fields(graph);
  Field f;
  while (fields.Next(f)) {
    if (f.number != 1 || f.wire != 2) continue;
    Fields node(f.bytes);
    Field n;
    while (node.Next(n)) {
      if (n.number == 1) ++uses_[n.bytes];
      if (n.number != 5 || n.wire != 2 || depth > 8) continue;
      Fields attribute(n.bytes);
      Field a;
      while (attribute.Next(a)) {
        if (a.number != 6 || a.wire != 2) continue;
        LSTM_RETURN_IF_ERROR(CountUses(a.bytes, depth + 1));
        Fields inner(a.bytes);
        Field i;
        while (inner.Next(i)) {
          if (i.number != 12 || i.wire != 2) continue;
          Fields output(i.bytes);
          Field o;
          while (output.Next(o)) {
            if (o.number == 1) ++uses_[o.bytes];
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Lowering::AddInputs() {
  parents_.resize(inputs_.size() * 16);
  for (size_t l = 0; l < parents_.size(); ++l) parents_[l] = static_cast<int>(l);
  for (size_t i = 0; i < inputs_.size(); ++i) {  // axes of one symbol are one
    for (size_t j = 0; j < i; ++j) {
      for (size_t a = 0; a < inputs_[i].declared.shape.size(); ++a) {
        for (size_t b = 0; b < inputs_[j].declared.shape.size(); ++b) {
          const std::string_view symbol = inputs_[i].declared.shape[a].symbol;
          if (!symbol.empty() && symbol == inputs_[j].declared.shape[b].symbol) Unite(static_cast<int>(i * 16 + a), static_cast<int>(j * 16 + b));
        }
      }
    }
  }
  input_source_.assign(inputs_.size(), -1);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    GraphInput& in = inputs_[i];
    auto val = std::make_shared<Val>();
    val->is_float = IsFloatType(in.declared.type) || reading_.floats.contains(static_cast<int>(i));
    if (reading_.constants.contains(static_cast<int>(i))) {
      Tensor tensor = *in.constant;
      LSTM_RETURN_IF_ERROR(Bind(in.declared.name, MakeConstantVal(std::move(tensor))));
      input_value_.push_back(nullptr);
      port_of_input_.push_back(-1);
      continue;
    }
    val->shape = in.shape;
    val->time = in.time;
    if (const auto it = reading_.time.find(static_cast<int>(i)); it != reading_.time.end()) val->time = it->second;
    if (val->time >= 0) val->shape[static_cast<size_t>(val->time)] = 1;
    for (size_t a = 0; a < val->shape.size(); ++a) {
      if (reading_.single.contains({static_cast<int>(i), static_cast<int>(a)})) val->shape[a] = 1;
      val->labels.push_back(static_cast<int>(i * 16 + a));
    }
    const bool state = reading_.states.contains(static_cast<int>(i));
    Source source{Source::kInput, -1, static_cast<int>(i), nullptr, val->shape};
    if (whole_) source.stage = -1;
    const std::string name(in.declared.name);
    if (auto count = ElementCount(val->shape); !count.ok()) return absl::InvalidArgumentError(absl::StrCat("input ", Shown(name), ": ", count.status().message()));
    port_of_input_.push_back(-1);
    if (whole_) {
      if (in.look_back > 0) return absl::InvalidArgumentError(absl::StrCat("input ", Shown(name), ": look_back is for steps, not for whole sequences"));
      SequencePort port{.name = "", .dtype = val->is_float ? DType::kF32 : DType::kI32, .once = val->time < 0, .optional = val->time < 0};
      std::copy_if(val->shape.begin(), val->shape.end(), std::back_inserter(port.shape), [](int64_t n) { return n != 1; });
      if (val->is_float || (!port.once && port.shape.empty())) {  // a length becomes a port where it is one
        port.name = FreshName(name);
        port_of_input_.back() = static_cast<int>(ports_.size());
        ports_.push_back(std::move(port));
      }
    } else if (!state) {
      // Sessions see neither time nor batch: axes of one item go.
      Shape shape;
      for (int64_t n : val->shape) {
        if (n != 1) shape.push_back(n);
      }
      const auto within = [&](const absl::Status& s) { return absl::InvalidArgumentError(absl::StrCat("input ", Shown(name), ": ", s.message())); };
      if (val->is_float) {
        if (shape.empty()) shape = {1};
        const int64_t look_back = in.look_back;
        if (look_back > 0) shape.back() -= look_back;
        if (look_back < 0 || shape.back() < 1) return within(absl::InvalidArgumentError(absl::StrCat("look_back ", look_back, " leaves nothing of shape ", ShapeString(val->shape))));
        auto id = builder().AddInput({.name = FreshName(name)}, DType::kF32, shape);
        if (!id.ok()) return within(id.status());
        source.value = *id;
        if (look_back > 0) {
          Shape back = shape, all = shape;
          back.back() = look_back;
          all.back() += look_back;
          LSTM_ASSIGN_OR_RETURN(const StateId kept, AddState(absl::StrCat(name, ".look_back"), back, {}));
          LSTM_ASSIGN_OR_RETURN(const ValueId before, builder().AddNode(FreshName(absl::StrCat(name, ".before")), StateReadOp{kept}, {}));
          LSTM_ASSIGN_OR_RETURN(const ValueId whole, builder().AddNode(FreshName(absl::StrCat(name, ".whole")), ConcatOp{}, {before, *id}));
          LSTM_ASSIGN_OR_RETURN(const ValueId tail, builder().AddNode(FreshName(absl::StrCat(name, ".tail")), SliceOp{all.back() - look_back, all.back()}, {whole}));
          LSTM_RETURN_IF_ERROR(builder().AddNode(FreshName(absl::StrCat(name, ".kept")), StateWriteOp{kept}, {tail}).status());
          source.value = whole;
        }
      } else if (shape.empty()) {  // larger ones are refused where they are read: lengths and shapes never are
        auto id = builder().AddInput({.name = FreshName(name)}, DType::kI32, {});
        if (!id.ok()) return within(id.status());
        source.value = *id;
      }
    }
    val->source = input_source_[i] = NewSource(std::move(source));
    input_value_.push_back(val);
    LSTM_RETURN_IF_ERROR(Bind(in.declared.name, val));
  }
  return absl::OkStatus();
}

// The first input of the graph of one number that a computed value depends on; -1: none.
int Lowering::NumberBehind(const Val& val) {
  const Model& model = builder().model();
  std::vector<bool> behind(model.values.size(), false);
  for (int64_t i = 0; i < val.count(); ++i) {
    const Source& source = sources_[static_cast<size_t>(val.at(i).source)];
    if (source.value >= 0) behind[static_cast<size_t>(source.value)] = true;
  }
  for (size_t n = model.nodes.size(); n-- > 0;) {
    if (!behind[static_cast<size_t>(model.nodes[n].output)]) continue;
    for (ValueId id : model.nodes[n].inputs) behind[static_cast<size_t>(id)] = true;
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const ValPtr& in = input_value_[i];
    if (in == nullptr || in->constant() || in->count() != 1) continue;
    const Source& source = sources_[static_cast<size_t>(in->at(0).source)];
    if (source.value >= 0 && behind[static_cast<size_t>(source.value)]) return static_cast<int>(i);
  }
  return -1;
}

absl::Status Lowering::RunIf(Call& call) {
  if (call.has(0) && !call[0].constant() && (call[0].elements || sources_[static_cast<size_t>(call[0].source)].kind == Source::kValue)) {
    const int number = NumberBehind(call[0]);
    if (number >= 0) {
      const std::string_view name = inputs_[static_cast<size_t>(number)].declared.name;
      return Refuse(absl::StrCat("its condition is computed from the input ", Shown(name), " in every step, expected a constant; the manifest can say what it is: ", ManifestLine(name, "constant: ...")));
    }
  }
  LSTM_ASSIGN_OR_RETURN(const TensorPtr condition, ConstantOf(call, 0, "condition"));
  if (condition->size() != 1) return Refuse("its condition is not one truth value");
  const Attribute* branch = call.node.Find(condition->At(0) != 0 ? "then_branch" : "else_branch");
  if (branch == nullptr) return Refuse("its branch is missing");
  LSTM_ASSIGN_OR_RETURN(const GraphView graph, ReadGraph(branch->graph));
  LSTM_RETURN_IF_ERROR(RunNodes(graph));
  if (graph.outputs.size() < call.out.size()) return Refuse(absl::StrCat("its branch gives ", graph.outputs.size(), " values, expected ", call.out.size()));
  for (size_t i = 0; i < call.out.size(); ++i) {
    const auto it = values_.find(graph.outputs[i].name);
    if (it == values_.end()) return Refuse(absl::StrCat("its branch gives ", Shown(graph.outputs[i].name), ", which no node before gives"));
    call.out[i] = it->second;
  }
  return absl::OkStatus();
}

absl::Status Lowering::RunNode(std::string_view message) {
  LSTM_ASSIGN_OR_RETURN(const NodeView node, ReadNode(message));
  if (--budget_ < 0) return absl::ResourceExhaustedError(absl::StrCat(node.Described(), ": the graph, or the constants that it computes, are too large to be tried in so many readings: the manifest can say where time flows, onnx { input { name: ... time: ... } }"));
  Call call{node, {}, std::vector<ValPtr>(node.outputs.size())};
  for (std::string_view name : node.inputs) {
    if (name.empty()) {
      call.in.push_back(nullptr);
      continue;
    }
    const auto it = values_.find(name);
    if (it == values_.end()) {
      return Refuse(absl::StrCat(node.Described(), " reads ", Shown(name), ", which nothing before it gives: a tensor is missing, or the graph has a cycle"));
    }
    call.in.push_back(it->second);
  }
  for (std::string_view name : node.inputs) {
    if (bodies_ > 0) break;  // it may run again
    if (const auto uses = uses_.find(name); uses != uses_.end() && --uses->second == 0) values_.erase(name);
  }
  node_name_ = std::string(!node.name.empty() ? node.name : !node.outputs.empty() && !node.outputs[0].empty() ? node.outputs[0] : node.op).substr(0, 120);
  const auto within = [&](const absl::Status& status) {
    if (absl::IsAborted(status)) return status;
    const std::string described = node.Described();
    return absl::Status(status.code(), status.message().find(described) != std::string::npos ? std::string(status.message()) : absl::StrCat(described, ": ", status.message()));
  };
  const bool quantized = node.domain == "com.microsoft";  // QuantizedOps alone knows operators of that
  if (!node.domain.empty() && node.domain != "ai.onnx" && !quantized) return within(absl::InvalidArgumentError(absl::StrCat("operators of domain ", Shown(node.domain), " are not known here")));
  if (call.out.empty()) return within(absl::InvalidArgumentError("it has no output"));  // every op below has a place for one
  if (whole_) {
    if (const absl::Status settled = Settle(call); !settled.ok()) return within(settled);
  }
  absl::Status status = absl::UnimplementedError("");
  if (!quantized && (node.op == "If" || node.op == "Scan" || node.op == "Loop")) {
    const std::string outer = node_name_;
    status = node.op == "If" ? RunIf(call) : node.op == "Scan" ? RunScan(call) : RunLoop(call);
    node_name_ = outer;
  } else if (std::any_of(call.in.begin(), call.in.end(), [](const ValPtr& in) { return in && in->number; })) {
    status = WithNumber(call);
  } else if (status = Sequences(call); !absl::IsUnimplemented(status)) {
  } else if (std::any_of(call.in.begin(), call.in.end(), [](const ValPtr& in) { return in && in->list; })) {
    status = Refuse("reads a sequence of values");
  } else {
    using Part = absl::Status (Lowering::*)(Call&);
    for (Part part : {&Lowering::Structure, &Lowering::Math, &Lowering::Windows, &Lowering::Recurrent, &Lowering::QuantizedOps}) {
      if (quantized && part != &Lowering::QuantizedOps) continue;
      status = (this->*part)(call);
      if (!absl::IsUnimplemented(status)) break;
    }
  }
  if (absl::IsUnimplemented(status) && quantized) return within(absl::InvalidArgumentError(absl::StrCat("this operator of domain ", Shown(node.domain), " is not known here")));
  if (absl::IsUnimplemented(status)) return within(absl::InvalidArgumentError("this operator is not supported"));
  if (!status.ok()) return within(status);
  if (const absl::Status counted = CountFolded(call); !counted.ok()) return within(counted);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    if (!call.out[i]) return within(absl::InvalidArgumentError(absl::StrCat("it has no output ", i, ", which is called ", Shown(node.outputs[i]))));
    LSTM_RETURN_IF_ERROR(Bind(node.outputs[i], std::move(call.out[i])));
  }
  return absl::OkStatus();
}

absl::Status Lowering::RunNodes(const GraphView& graph) {
  for (std::string_view message : graph.initializers) {
    LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor(message));
    auto val = std::make_shared<Val>();
    val->stored = stored;
    val->is_float = IsFloatType(stored.type) || IsQuantized(stored.type);
    if (IsQuantized(stored.type) && bodies_ == 0) quantized_weights_ += CheckedElementCount(stored.shape);
    val->shape = stored.shape;
    val->labels.assign(val->shape.size(), -1);
    if (!val->is_float) {
      LSTM_ASSIGN_OR_RETURN(val->tensor, LoadTensor(stored));
    }
    LSTM_RETURN_IF_ERROR(Bind(stored.name, std::move(val)));
  }
  for (std::string_view message : graph.nodes) {
    const bool knew = undecided_.ok(), sure = within_.ok();
    LSTM_RETURN_IF_ERROR(RunNode(message));
    for (absl::Status* const open : {knew && !undecided_.ok() ? &undecided_ : nullptr, sure && !within_.ok() ? &within_ : nullptr}) {
      if (open == nullptr || open->message().find("node '") != std::string::npos) continue;
      LSTM_ASSIGN_OR_RETURN(const NodeView node, ReadNode(message));
      *open = absl::InvalidArgumentError(absl::StrCat(node.Described(), ": ", open->message()));
    }
  }
  return absl::OkStatus();
}

absl::Status Lowering::Run() {
  for (std::string_view node : file_.graph.nodes) {
    Fields fields(node);
    Field f;
    while (fields.Next(f)) {
      if (f.number == 1) ++uses_[f.bytes];
      if (f.number != 5 || f.wire != 2) continue;
      Fields attribute(f.bytes);
      Field a;
      while (attribute.Next(a)) {
        if (a.number == 6 && a.wire == 2) LSTM_RETURN_IF_ERROR(CountUses(a.bytes, 0));
      }
    }
  }
  for (const Declared& output : file_.graph.outputs) ++uses_[output.name];
  LSTM_RETURN_IF_ERROR(AddInputs());
  LSTM_RETURN_IF_ERROR(RunNodes(file_.graph));
  for (const Declared& output : file_.graph.outputs) {
    const auto it = values_.find(output.name);
    if (it == values_.end()) return Refuse(absl::StrCat("output ", Shown(output.name), " is given by no node"));
    outputs_.push_back({std::string(output.name), it->second, -1});
  }
  // An axis that nobody gave a size, and that no op asked about: it is time, unless it is the first, the batch.
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const GraphInput& in = inputs_[i];
    if (input_value_[i] == nullptr || in.decided || input_value_[i]->time >= 0 || reading_.states.contains(static_cast<int>(i))) continue;
    for (size_t a = 1; a < in.open.size(); ++a) {
      if (in.open[a] && in.declared.shape.size() > 1 && in.open[0] && !reading_.single.contains({static_cast<int>(i), static_cast<int>(a)})) {
        reading_.time[static_cast<int>(i)] = static_cast<int>(a);
        return absl::AbortedError("time was found");
      }
    }
  }
  bool timed = false;
  for (size_t i = 0; i < inputs_.size(); ++i) timed = timed || inputs_[i].decided || (input_value_[i] != nullptr && input_value_[i]->time >= 0);
  if (!undecided_.ok()) return undecided_;
  if (whole_) return timed ? absl::OkStatus() : within_;
  LSTM_RETURN_IF_ERROR(PairStates());
  if (!timed && reading_.states.empty()) LSTM_RETURN_IF_ERROR(within_);
  return FinishStates();
}

}  // namespace lstm::core::onnx
