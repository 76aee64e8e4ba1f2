// SPDX-License-Identifier: MIT
// Values of the step while a graph is lowered, and how they become values of the model.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

constexpr int64_t kFreeElements = int64_t{1} << 20;  // of all values of a step, beyond what the file itself pays for

constexpr int64_t kFreeBytes = int64_t{6} << 20;    // of constants that are computed, beyond twice the file
constexpr int64_t kSharedPerNode = 1024;           // numbers of a weight that one more node names
constexpr int64_t kFoldedPerNode = 64;             // as many of their elements count as one more node

}  // namespace

std::string ManifestLine(std::string_view input, absl::string_view rest) {
  return absl::StrCat("onnx { input { name: ", Shown(input), " ", rest, " } }");
}

absl::StatusOr<size_t> Axis(int64_t axis, size_t rank) {
  const auto n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n) return absl::InvalidArgumentError(absl::StrCat("axis is ", axis, ", expected ", -n, " to ", n - 1));
  return static_cast<size_t>(axis < 0 ? axis + n : axis);
}

std::shared_ptr<Constant> NewConstant(Shape shape) {
  auto constant = std::make_shared<Constant>();
  constant->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(shape)));
  constant->shape = std::move(shape);
  return constant;
}

absl::Status Lowering::Spend(int64_t elements) {
  elements_ += elements;
  const int64_t most = kFreeElements + static_cast<int64_t>(file_.bytes / 4);
  if (elements <= most && elements_ <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("has ", elements, " elements a step, and all values before it ", elements_ - elements, ": expected at most ", most,
                                                 " together, one for every four bytes of the file and ", kFreeElements, " more"));
}

absl::Status Lowering::Affordable(int64_t elements) const {
  const int64_t most = kFreeElements + static_cast<int64_t>(file_.bytes / 4);
  if (elements <= most - elements_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("has ", elements, " elements a step, and all values before it ", elements_, ": expected at most ", most, " together"));
}

absl::StatusOr<ConstantPtr> Lowering::Shared(const ValPtr& val, std::string how, Shape shape, const std::function<ConstantPtr(const Tensor&)>& make) {
  const void* id = val->quantized ? static_cast<const void*>(val->quantized.get()) : val->stored ? static_cast<const void*>(val->stored->message.data()) : val->tensor.get();
  std::pair key(id, std::move(how));
  if (const auto it = shared_.find(key); it != shared_.end()) {
    budget_ -= static_cast<int64_t>(it->second.second->values.size()) / kSharedPerNode;  // every op that has it looks at it
    return it->second.second;
  }
  LSTM_RETURN_IF_ERROR(Bear(CheckedElementCount(shape)));
  ConstantPtr made;
  if (trial_ && val->quantized) {
    budget_ -= val->count() / kFoldedPerNode;
    auto zeros = NewConstant(std::move(shape));
    zeros->untouched = zeros_ = true;
    made = std::move(zeros);
  } else {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(*val));
    made = make(*tensor);
  }
  shared_.emplace(std::move(key), std::pair(val, made));
  return made;
}

absl::Status Lowering::Bear(int64_t weights) {
  weights_ += weights;
  const int64_t most = kFreeElements + static_cast<int64_t>(file_.bytes / 2) + quantized_weights_ + quantized_weights_ / 2;
  if (weights_ <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("has ", weights, " weights, and all nodes before it ", weights_ - weights, ": expected at most ", most, " together, one for every two bytes of the file, two for each weight of 8 bits, and ", kFreeElements, " more"));
}

absl::Status Lowering::CountFolded(const Call& call) {
  for (const ValPtr& out : call.out) {
    if (!out || !out->tensor || std::any_of(call.in.begin(), call.in.end(), [&](const ValPtr& in) { return in && in->tensor == out->tensor; })) continue;
    const auto size = static_cast<int64_t>(out->tensor->size());
    const int64_t bytes = size * static_cast<int64_t>(out->is_float ? sizeof(float) : sizeof(int64_t));
    budget_ -= size / kFoldedPerNode;
    if (bytes < 4096) continue;
    folded_.emplace_back(out->tensor, bytes);
    folded_bytes_ += bytes;
  }
  const int64_t most = 2 * static_cast<int64_t>(file_.bytes) + kFreeBytes;
  if (folded_bytes_ <= most) return absl::OkStatus();
  std::erase_if(folded_, [](const auto& f) { return f.first.expired(); });
  folded_bytes_ = 0;
  for (const auto& [tensor, bytes] : folded_) folded_bytes_ += bytes;
  if (folded_bytes_ <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the constants that are computed up to here take ", folded_bytes_, " bytes, expected at most ", most));
}

absl::StatusOr<ValPtr> Lowering::AsComputed(const ValPtr& val) {
  if (!val->constant()) return val;
  LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(*val));
  if (!tensor->is_float) return absl::InvalidArgumentError("joins integers to computed values");
  auto made = std::make_shared<Val>();
  made->source = NewSource({Source::kConstant, -1, -1, tensor, tensor->shape});
  made->shape = val->shape;
  made->labels.assign(val->shape.size(), -1);
  return ValPtr(made);
}

int Lowering::Root(int label) {
  while (label >= 0 && parents_[static_cast<size_t>(label)] != label) label = parents_[static_cast<size_t>(label)];
  return label;
}

void Lowering::Unite(int a, int b) {
  if (a >= 0 && b >= 0) parents_[static_cast<size_t>(Root(a))] = Root(b);
}

bool Lowering::MakeTime(int label) {
  bool learnt = false;
  for (size_t l = 0; label >= 0 && l < parents_.size(); ++l) {
    const int input = static_cast<int>(l) / 16, axis = static_cast<int>(l) % 16;
    if (Root(static_cast<int>(l)) != Root(label)) continue;
    if (inputs_[l / 16].decided || reading_.time.contains(input)) continue;
    reading_.time[input] = axis;
    learnt = true;
  }
  return learnt;
}

bool Lowering::IsOpen(int label) {
  for (size_t l = 0; label >= 0 && l < parents_.size(); ++l) {
    if (Root(static_cast<int>(l)) == Root(label) && l % 16 < inputs_[l / 16].open.size() && inputs_[l / 16].open[l % 16]) return true;
  }
  return false;
}

Shape Lowering::FullShape(const Val& val) const {
  Shape out = val.shape;
  if (val.time >= 0) out[static_cast<size_t>(val.time)] = TimeOf(RateOf(val)) + val.head + val.tail;
  return out;
}

absl::StatusOr<TensorPtr> Lowering::Constant(const Val& val) {
  if (val.number || val.list) return absl::InvalidArgumentError(val.list ? "is a sequence of values, expected a constant" : "is the number of the step, expected a constant");
  if (val.tensor) return val.tensor;
  if (val.stored) {
    budget_ -= val.count() / kFoldedPerNode;
    if (!val.quantized) return LoadTensor(*val.stored);
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, LoadTensor(*val.stored));
    Tensor out = *from;
    out.shape = val.shape;
    out.type = 0;
    val.quantized->Apply(out.floats);
    return std::make_shared<const Tensor>(std::move(out));
  }
  const Source* source = val.elements ? nullptr : &sources_[static_cast<size_t>(val.source)];
  if (source != nullptr && source->kind == Source::kImport) source = &sources_[static_cast<size_t>(source->origin.source)];
  if (source != nullptr && source->kind == Source::kInput) {
    const int input = source->input;
    GraphInput& declared = inputs_[static_cast<size_t>(input)];
    if (declared.constant && reading_.constants.insert(input).second) return absl::AbortedError("a constant was found");
    return absl::InvalidArgumentError(absl::StrCat("is the input ", Shown(declared.declared.name), " of the graph, expected a constant (an initializer); the manifest can say what it is: ",
                                                   ManifestLine(declared.declared.name, "constant: ...")));
  }
  return absl::InvalidArgumentError("is computed in every step, expected a constant");
}

absl::StatusOr<TensorPtr> Lowering::ConstantOf(const Call& call, size_t i, const char* what) {
  if (!call.has(i)) return absl::InvalidArgumentError(absl::StrCat("its ", what, " is missing"));
  auto tensor = Constant(*call.in[i]);
  if (!tensor.ok() && !absl::IsAborted(tensor.status())) return absl::InvalidArgumentError(absl::StrCat("its ", what, " ", tensor.status().message()));
  return tensor;
}

absl::StatusOr<std::vector<int64_t>> Lowering::IntsOf(const Call& call, size_t i, const char* what) {
  LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, ConstantOf(call, i, what));
  if (tensor->is_float) return absl::InvalidArgumentError(absl::StrCat("its ", what, " has floats, expected integers"));
  return tensor->ints;
}

ValPtr Lowering::MakeConstantVal(Tensor tensor) {
  auto val = std::make_shared<Val>();
  val->is_float = tensor.is_float;
  val->shape = tensor.shape;
  val->labels.assign(val->shape.size(), -1);
  val->tensor = std::make_shared<const Tensor>(std::move(tensor));
  return val;
}

ValPtr Lowering::Computed(ValueId id, Shape shape, const Val& like) {
  auto val = std::make_shared<Val>();
  val->source = NewSource({Source::kValue, id, -1, nullptr, shape});
  val->labels = like.labels;
  val->labels.resize(shape.size(), -1);
  val->shape = std::move(shape);
  val->time = like.time;
  val->head = like.head;
  val->tail = like.tail;
  val->last = like.last;
  return val;
}

ValPtr Lowering::Reshaped(const Val& val, Shape shape) {
  auto out = std::make_shared<Val>(val);
  if (out->tensor) {
    auto tensor = std::make_shared<Tensor>(*out->tensor);
    tensor->shape = shape;
    out->tensor = std::move(tensor);
  }
  if (out->stored) out->stored->shape = shape;
  out->labels.assign(shape.size(), -1);
  out->shape = std::move(shape);
  return out;
}

absl::StatusOr<ValPtr> Lowering::Arranged(const Val& val, const Arrangement& arrangement, Shape shape, double fill) {
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(arrangement.shape()));
  if (val.constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, Constant(val));
    Tensor out;
    out.is_float = from->is_float;
    out.shape = std::move(shape);
    if (!from->is_float && count > kMaxInts) return absl::InvalidArgumentError(absl::StrCat("gives ", count, " integers, expected at most ", kMaxInts));
    // A few bytes can ask for any size: what is larger than its source pays from the same purse as computed values.
    if (count > static_cast<int64_t>(from->size())) LSTM_RETURN_IF_ERROR(Spend(count));
    arrangement.ForEach([&](int64_t i) {
      if (out.is_float) {
        out.floats.push_back(i < 0 ? static_cast<float>(fill) : from->floats[static_cast<size_t>(i)]);
      } else {
        out.ints.push_back(i < 0 ? static_cast<int64_t>(fill) : from->ints[static_cast<size_t>(i)]);
      }
    });
    return MakeConstantVal(std::move(out));
  }
  LSTM_RETURN_IF_ERROR(Spend(count));
  auto elements = std::make_shared<std::vector<Element>>();
  elements->reserve(static_cast<size_t>(count));
  int filler = -1;
  arrangement.ForEach([&](int64_t i) {
    if (i >= 0) {
      elements->push_back(val.at(i));
      return;
    }
    if (filler < 0) {
      filler = NewSource({Source::kConstant, -1, -1, MakeConstantVal({true, {1}, {static_cast<float>(fill)}, {}})->tensor, {1}});
    }
    elements->push_back({filler, 0});
  });
  auto out = std::make_shared<Val>(val);
  out->source = -1;
  out->elements = std::move(elements);
  out->labels.assign(shape.size(), -1);
  out->shape = std::move(shape);
  return ValPtr(out);
}

std::string Lowering::FreshName(absl::string_view wanted) {
  std::string base;
  for (char c : wanted.substr(0, 160)) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '/' || c == ':' || c == '-';
    base.push_back(good ? c : '_');
  }
  if (base.empty()) base = "value";
  std::string name = base;
  for (size_t i = names_.size(); !names_.insert(name).second; ++i) name = absl::StrCat(base, ".", i);
  return name;
}

absl::StatusOr<ValueId> Lowering::Add(absl::string_view what, Op op, std::vector<ValueId> inputs) {
  const std::string name = FreshName(what.empty() ? node_name_ : absl::StrCat(node_name_, ".", what));
  return builder().AddNode(name, std::move(op), std::move(inputs));
}

absl::StatusOr<StateId> Lowering::AddState(absl::string_view wanted, Shape shape, std::vector<float> initial) {
  return builder().AddState(FreshName(wanted), std::move(shape), std::move(initial));
}

absl::StatusOr<ValueId> Lowering::ValueOf(int index) {
  Source& source = sources_[static_cast<size_t>(index)];
  if (source.value >= 0) return source.value;
  if (source.kind == Source::kImport) {
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Materialize(index));
    return sources_[static_cast<size_t>(index)].value = id;
  }
  if (source.kind == Source::kConstant) {
    auto constant = NewConstant(source.constant->shape.empty() ? Shape{1} : source.constant->shape);
    for (size_t i = 0; i < source.constant->size(); ++i) constant->values[i] = static_cast<float>(source.constant->At(i));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Add("constant", ConstantOp{constant}, {}));
    return sources_[static_cast<size_t>(index)].value = id;
  }
  if (source.kind == Source::kCell) {
    reading_.plain_cells.insert(source.cell);
    return absl::AbortedError("a cell state is read");
  }
  // An input that the session carries, read by itself.
  const int input = source.input;
  const GraphInput& in = inputs_[static_cast<size_t>(input)];
  if (!IsFloatType(in.declared.type) && !reading_.floats.contains(input)) {
    return absl::InvalidArgumentError(absl::StrCat("reads input ", Shown(in.declared.name), ", which has integers of shape ", ShapeString(source.shape),
                                                   " a step, expected one id; if it never changes, the manifest can say what it is: ", ManifestLine(in.declared.name, "constant: ...")));
  }
  std::vector<float> initial;
  for (size_t i = 0; in.initial && i < in.initial->size(); ++i) initial.push_back(static_cast<float>(in.initial->At(i)));
  LSTM_ASSIGN_OR_RETURN(const StateId state, AddState(std::string(in.declared.name), source.shape, std::move(initial)));
  read_states_[input] = state;
  LSTM_ASSIGN_OR_RETURN(const ValueId id, builder().AddNode(FreshName(absl::StrCat(std::string(in.declared.name), ".before")), StateReadOp{state}, {}));
  return sources_[static_cast<size_t>(index)].value = id;
}

absl::StatusOr<ValueId> Lowering::Use(const Val& val, const Shape& shape) {
  if (val.head != 0) return absl::InvalidArgumentError("reads a sequence that was padded in front, which only a convolution or a pool over time can take");
  if (val.constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(val));
    if (!tensor->is_float) return absl::InvalidArgumentError("computes with integers, which are for shapes alone");
    auto constant = NewConstant(shape);
    std::copy(tensor->floats.begin(), tensor->floats.end(), constant->values.data());
    return Add("constant", ConstantOp{constant}, {});
  }
  int source = val.source;
  if (val.elements) {  // all of one source in order after all?
    const auto& elements = *val.elements;
    source = elements[0].source;
    bool whole = CheckedElementCount(sources_[static_cast<size_t>(source)].shape) == static_cast<int64_t>(elements.size());
    for (size_t i = 0; whole && i < elements.size(); ++i) whole = elements[i] == Element{source, static_cast<int32_t>(i)};
    if (!whole) source = -1;
  }
  if (source >= 0) {
    LSTM_ASSIGN_OR_RETURN(const ValueId id, ValueOf(source));
    if (builder().value(id).shape == shape) return id;
    const auto [it, fresh] = reshaped_.try_emplace({source, shape}, -1);
    if (fresh) {
      LSTM_ASSIGN_OR_RETURN(it->second, Add("shaped", ReshapeOp{shape}, {id}));
    }
    return it->second;
  }
  const auto [it, fresh] = selected_.try_emplace({val.elements.get(), shape}, -1);
  if (!fresh) return it->second;
  kept_.push_back(std::make_shared<Val>(val));
  std::map<int, int32_t> offsets;
  std::vector<ValueId> inputs;
  int32_t end = 0;
  for (const Element& e : *val.elements) {
    if (!offsets.try_emplace(e.source, end).second) continue;
    LSTM_ASSIGN_OR_RETURN(const ValueId id, ValueOf(e.source));
    inputs.push_back(id);
    end += static_cast<int32_t>(CheckedElementCount(sources_[static_cast<size_t>(e.source)].shape));
  }
  auto index = std::make_shared<std::vector<int32_t>>();
  index->reserve(val.elements->size());
  for (const Element& e : *val.elements) index->push_back(offsets[e.source] + e.index);
  LSTM_ASSIGN_OR_RETURN(const ValueId id, Add("select", SelectOp{index, shape}, std::move(inputs)));
  return selected_[{val.elements.get(), shape}] = id;
}

}  // namespace lstm::core::onnx
