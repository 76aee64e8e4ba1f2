// SPDX-License-Identifier: MIT
// Whole sequences: a graph that looks ahead is cut into stages, each of which a step at a time can compute.
#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

namespace {

constexpr size_t kMostStages = 256;
constexpr int64_t kMostVisited = int64_t{1} << 24;
constexpr int64_t kMostStride = int64_t{1} << 16;  // of all that strides over time one after the other

}  // namespace

int Lowering::NewSource(Source source) {
  if (source.kind != Source::kInput || !whole_) source.stage = stage_;
  sources_.push_back(std::move(source));
  return static_cast<int>(sources_.size()) - 1;
}

void Lowering::NewStage(int length, int rate) {
  stages_.push_back(std::make_unique<Stage>());
  stage_ = static_cast<int>(stages_.size()) - 1;
  stages_.back()->length = length;
  stages_.back()->rate = rate;
  imports_.clear();
  // Keyed by sources that belong to the stage before.
  reshaped_.clear();
  selected_.clear();
}

int Lowering::RateOf(const Val& val) const {
  if (!whole_ || val.constant() || lengths_.empty()) return -1;
  int rate = -1;  // what is the same in every frame has that of the stage in which it was spread over them
  for (int64_t i = 0; i < (val.elements ? val.count() : 1); ++i) {
    const Source& source = sources_[static_cast<size_t>(val.at(i).source)];
    if (source.kind == Source::kConstant) continue;
    rate = source.stage < 0 ? -1 : stages_[static_cast<size_t>(source.stage)]->rate;
    if (source.kind != Source::kImport || source.origin.kind == SequenceRead::kEach) break;
  }
  return rate;
}

absl::StatusOr<int> Lowering::RateAfter(int rate, int64_t stride, int64_t less) {
  SequenceLength from{.stride = 1};
  if (rate >= 0) from = lengths_[static_cast<size_t>(rate)];
  // Floors of floors: in one step from T, so that what has the same length has the same rate.
  SequenceLength to{.stride = from.stride * stride, .less = from.less + (less - 1) * from.stride};
  if (to.stride > kMostStride || to.less > kMostStride || to.less < -kMostStride) return absl::InvalidArgumentError(absl::StrCat("gives ", to.Text(), " frames of T steps: more than ", kMostStride, " in one is not supported"));
  to.least = std::max({from.least, to.less, int64_t{1}});
  if (to.stride == 1 && to.less == 1) return -1;
  for (size_t l = 0; l < lengths_.size(); ++l) {
    if (lengths_[l].stride != to.stride || lengths_[l].less != to.less) continue;
    lengths_[l].least = std::max(lengths_[l].least, to.least);
    return static_cast<int>(l);
  }
  lengths_.push_back(to);
  return static_cast<int>(lengths_.size()) - 1;
}

std::optional<int> Lowering::RateOfSize(int64_t size) const {
  for (size_t l = 0; l < lengths_.size(); ++l) {
    if (lengths_[l].stride > 0 && lengths_[l].Of(kTime) == size) return static_cast<int>(l);
  }
  return size == kTime ? std::optional(-1) : std::nullopt;
}

bool Lowering::Here(const Val& val) const {
  int last = -1;
  for (int64_t i = 0; !val.constant() && i < (val.elements ? val.count() : 1); ++i) {
    if (val.at(i).source == last) continue;
    last = val.at(i).source;
    const Source& source = sources_[static_cast<size_t>(val.at(i).source)];
    if (source.stage != stage_) continue;
    if (source.kind == Source::kValue || source.kind == Source::kCell || (source.kind == Source::kImport && source.origin.kind == SequenceRead::kEach)) return true;
  }
  return false;
}

// What an import is when it is imported once more; nothing where only its own stage can say.
std::optional<Lowering::Origin> Lowering::Composed(const Source& import, const Origin& how) const {
  const Origin& inner = import.origin;
  const Stage &there = *stages_[static_cast<size_t>(import.stage)], &here = *stages_[static_cast<size_t>(stage_)];
  const bool whole_length = there.length < 0 && here.length < 0;
  const auto rate = [&](int stage) { return stage < 0 ? -1 : stages_[static_cast<size_t>(stage)]->rate; };
  if (inner.kind != SequenceRead::kEach) {  // the same in every step
    if (how.kind == SequenceRead::kAfter || (how.kind == SequenceRead::kEach && how.shift == 0 && how.stride == 1 && whole_length)) return inner;
    return std::nullopt;
  }
  const int from = sources_[static_cast<size_t>(inner.source)].stage;
  const bool same_frames = inner.stride == 1 && rate(from) == there.rate;  // it sees all that the source has
  if (how.kind == SequenceRead::kAfter && inner.shift == 0 && same_frames && whole_length && (from < 0 || stages_[static_cast<size_t>(from)]->length < 0)) {
    return Origin{inner.source, SequenceRead::kAt, 0, false, inner.reversed ? 0 : -1};
  }
  if (how.kind != SequenceRead::kEach) return std::nullopt;
  if (how.plain() && ((whole_length && there.rate == here.rate) || import.stage == stage_)) return inner;
  if (!whole_length || !same_frames) return std::nullopt;
  Origin out = how;
  out.source = inner.source;
  if (there.rate != here.rate || how.stride != 1) return inner.plain() && !how.reversed ? std::optional(out) : std::nullopt;
  if (inner.plain()) return out;
  if (!inner.reversed || !how.reversed || inner.shift != 0 || how.shift != 0) return std::nullopt;
  out.reversed = false;
  return out;
}

// A constant needs no reading, but where frames beyond those of its stage are read: there it is zero as everything is.
bool Lowering::StaysConstant(const Source& source, const Origin& how) const {
  if (source.kind != Source::kConstant || how.shift != 0) return false;
  const auto less = [&](int stage) {
    const int rate = stages_[static_cast<size_t>(stage)]->rate;
    return rate < 0 ? 1 : lengths_[static_cast<size_t>(rate)].less;
  };
  return how.kind != SequenceRead::kEach || less(stage_) >= less(source.stage);
}

bool Lowering::CanBring(const Val& val, const Origin& how) const {
  const bool plain = how.kind != SequenceRead::kAt && how.plain();
  for (int64_t i = 0; !val.constant() && i < (val.elements ? val.count() : 1); ++i) {
    const Source& source = sources_[static_cast<size_t>(val.at(i).source)];
    if (source.stage != stage_) continue;
    if (StaysConstant(source, how) || (source.kind == Source::kImport && Composed(source, how))) continue;
    // What a step of this stage computes can be read in it as it is, and not at another step or after the last.
    if (how.kind == SequenceRead::kEach && plain && source.kind != Source::kCell) continue;
    return false;
  }
  return true;
}

ValPtr Lowering::Bring(const Val& val, const Origin& how) {
  std::map<int, int> brought;
  const auto bring = [&](int index) {
    const auto [known, fresh] = brought.try_emplace(index, index);
    if (!fresh) return known->second;
    const Source source = sources_[static_cast<size_t>(index)];
    Origin origin = how;
    origin.source = index;
    if (StaysConstant(source, how)) {
      if (source.stage != stage_) known->second = NewSource({Source::kConstant, -1, -1, source.constant, source.shape});
      return known->second;
    }
    if (source.stage == stage_ && source.kind != Source::kImport) return index;
    if (source.kind == Source::kImport) {
      const auto composed = Composed(source, how);
      if (source.stage == stage_ && (!composed || *composed == source.origin)) return index;
      if (composed) origin = *composed;
    }
    if (source.kind == Source::kInput) {  // what came once is the same in every step
      const int port = port_of_input_[static_cast<size_t>(source.input)];
      const bool once = port < 0 || ports_[static_cast<size_t>(port)].once;
      if (once && how.shift == 0) origin = {index, SequenceRead::kAfter};
      if (!once && how.kind == SequenceRead::kAfter) origin = {index, SequenceRead::kAt, 0, false, -1};
    }
    if (const auto there = imports_.find(origin); there != imports_.end()) return known->second = there->second;
    Source import{Source::kImport, -1, -1, nullptr, source.shape};
    import.origin = origin;
    known->second = NewSource(std::move(import));
    imports_.emplace(origin, known->second);
    return known->second;
  };
  if (val.constant()) return std::make_shared<const Val>(val);
  auto out = std::make_shared<Val>(val);
  if (val.elements) {
    auto elements = std::make_shared<std::vector<Element>>();
    elements->reserve(val.elements->size());
    int from = -1, to = -1;  // neighbours are mostly of one source
    for (const Element& e : *val.elements) {
      if (e.source != from) from = e.source, to = bring(e.source);
      elements->push_back({to, e.index});
    }
    if (*elements != *val.elements) out->elements = std::move(elements);
  } else {
    out->source = bring(val.source);
  }
  if (how.kind != SequenceRead::kEach && !Here(*out)) out->last = false;
  return out;
}

absl::StatusOr<ValPtr> Lowering::Anew(const ValPtr& val, const Origin& how) {
  if (!CanBring(*val, how)) NewStage(-1);
  if (how.shift != 0) {
    for (int64_t i = 0; i < (val->elements ? val->count() : 1); ++i) {
      const Source& source = sources_[static_cast<size_t>(val->at(i).source)];
      const int port = source.kind == Source::kInput ? port_of_input_[static_cast<size_t>(source.input)] : -1;
      if (port >= 0 && ports_[static_cast<size_t>(port)].once) return absl::InvalidArgumentError("moves an input that comes once along time");
    }
  }
  return Bring(*val, how);
}

absl::Status Lowering::Settle(Call& call) {
  // Moving a value costs nothing while a step is read, and a look at each element here.
  for (const ValPtr& in : call.in) visited_ += in && in->elements ? in->count() : 1;
  if (stages_.size() > kMostStages) return Refuse(absl::StrCat("takes more than ", kMostStages, " passes over the sequence"));
  if (visited_ > kMostVisited) return Refuse("moves more elements between passes than a graph of this size should");
  const Stage& stage = *stages_[static_cast<size_t>(stage_)];
  const ValPtr* lead = nullptr;
  for (const ValPtr& in : call.in) {
    if (!in || in->constant() || in->time < 0) continue;
    if (lead != nullptr && RateOf(*in) != RateOf(**lead)) return Refuse(absl::StrCat("reads sequences of two lengths side by side, of ", RateText(RateOf(**lead)), " and of ", RateText(RateOf(*in)), " frames for T steps"));
    if (lead == nullptr) lead = &in;
  }
  if (lead != nullptr && RateOf(**lead) != stage.rate) NewStage(-1, RateOf(**lead));
  const std::string_view op = call.node.op;
  if (op == "LSTM" || op == "GRU" || op == "RNN" || op == "If" || op == "Scan" || op == "Loop") return absl::OkStatus();  // those see to it themselves
  bool end = false, cell = false, any = false;
  for (const ValPtr& in : call.in) {
    if (!in || in->constant()) continue;
    any = true;
    end = end || (in->last && Here(*in));
    int last = -1;
    for (int64_t i = 0; i < (in->elements ? in->count() : 1); ++i) {
      if (in->at(i).source == last) continue;
      last = in->at(i).source;
      const Source& source = sources_[static_cast<size_t>(last)];
      cell = cell || (source.kind == Source::kCell && source.stage == stage_);
    }
  }
  // The end of a sequence is known when its stage has ended: what is computed of it is computed once, and not of what
  // was there after each step, which need not even be finite.
  if (any && (stages_[static_cast<size_t>(stage_)]->length >= 0 || cell || end)) NewStage(-1);
  for (ValPtr& in : call.in) {
    if (!in || in->constant()) continue;
    in = Bring(*in, {-1, in->time >= 0 ? SequenceRead::kEach : SequenceRead::kAfter});
  }
  return absl::OkStatus();
}

absl::StatusOr<ValueId> Lowering::ValueIn(int source) {
  const int now = std::exchange(stage_, sources_[static_cast<size_t>(source)].stage);
  auto id = ValueOf(source);
  stage_ = now;
  return id;
}

absl::StatusOr<SequenceRead> Lowering::ReadOf(const Origin& origin) {
  const Source source = sources_[static_cast<size_t>(origin.source)];
  SequenceRead read{.kind = origin.kind, .stage = source.stage, .port = 0, .shift = origin.shift, .reversed = origin.reversed, .at = origin.at, .offset = 0, .stride = origin.stride};
  if (source.kind == Source::kInput) {
    read.stage = -1;
    read.port = port_of_input_[static_cast<size_t>(source.input)];
    if (read.port < 0) return absl::InvalidArgumentError(absl::StrCat("reads input ", Shown(inputs_[static_cast<size_t>(source.input)].declared.name), ", which has integers that come once for a sequence: only a length can be that"));
    return read;
  }
  if (source.kind == Source::kCell) {
    read.port = source.state;
    return read;
  }
  LSTM_ASSIGN_OR_RETURN(const ValueId value, ValueIn(origin.source));
  Stage& stage = *stages_[static_cast<size_t>(source.stage)];
  if (origin.kind == SequenceRead::kAfter) {
    const auto [it, fresh] = stage.kept.try_emplace(value, -1);
    if (fresh) {
      LSTM_ASSIGN_OR_RETURN(it->second, stage.builder.AddState(FreshName(absl::StrCat(node_name_, ".kept")), stage.builder.value(value).shape, {}));
      LSTM_RETURN_IF_ERROR(stage.builder.AddNode(FreshName(absl::StrCat(node_name_, ".keep")), StateWriteOp{it->second}, {value}).status());
    }
    read.port = it->second;
    return read;
  }
  const auto [it, fresh] = stage.shown.try_emplace(value, static_cast<int>(stage.shown.size()));
  if (fresh) LSTM_RETURN_IF_ERROR(stage.builder.AddOutput({.name = FreshName(absl::StrCat(node_name_, ".steps")), .value = value}));
  stage.timed = true;
  read.port = it->second;
  return read;
}

absl::StatusOr<SequenceRead> Lowering::ReadAfter(const Val& val) {
  const Element first = val.at(0);
  for (int64_t i = 0; i < val.count(); ++i) {
    if (!(val.at(i) == Element{first.source, first.index + static_cast<int32_t>(i)})) return absl::InternalError("reads scattered elements");
  }
  const Source& source = sources_[static_cast<size_t>(first.source)];
  const Origin how{first.source, SequenceRead::kAfter};
  std::optional<Origin> origin = source.kind == Source::kImport ? Composed(source, how) : std::optional<Origin>();
  LSTM_ASSIGN_OR_RETURN(SequenceRead read, ReadOf(origin ? *origin : how));
  read.offset = first.index;
  return read;
}

absl::StatusOr<ValueId> Lowering::Materialize(int index) {
  const Source source = sources_[static_cast<size_t>(index)];
  LSTM_ASSIGN_OR_RETURN(const SequenceRead read, ReadOf(source.origin));
  Stage& stage = *stages_[static_cast<size_t>(source.stage)];
  if (read.kind == SequenceRead::kEach) {
    stage.timed = true;
    const bool ids = sources_[static_cast<size_t>(source.origin.source)].kind == Source::kInput && read.stage < 0 && ports_[static_cast<size_t>(read.port)].dtype == DType::kI32;
    Shape shape = source.shape;
    if (ids) shape.clear();
    LSTM_ASSIGN_OR_RETURN(const ValueId id, stage.builder.AddInput({.name = FreshName(absl::StrCat(node_name_, ".in"))}, ids ? DType::kI32 : DType::kF32, std::move(shape)));
    stage.inputs.push_back(read);
    stage.input_values.push_back(id);
    return id;
  }
  if (read.stage < 0) ports_[static_cast<size_t>(read.port)].optional = false;  // only as a state to begin from it may be left out
  LSTM_ASSIGN_OR_RETURN(const StateId state, stage.builder.AddState(FreshName(absl::StrCat(node_name_, ".given")), source.shape, {}));
  LSTM_ASSIGN_OR_RETURN(const ValueId id, stage.builder.AddNode(FreshName(absl::StrCat(node_name_, ".same")), StateReadOp{state}, {}));
  LSTM_RETURN_IF_ERROR(stage.builder.AddNode(FreshName(absl::StrCat(node_name_, ".stays")), StateWriteOp{state}, {id}).status());
  stage.states.emplace_back(state, read);
  return id;
}

absl::StatusOr<ValPtr> Lowering::Accumulated(const Val& val, ReduceKind kind) {
  using E = ElementwiseKind;
  const int64_t n = val.count();
  stages_[static_cast<size_t>(stage_)]->timed = true;
  Val flat = *Reshaped(val, {n});
  flat.time = -1;
  flat.tail = 0;
  flat.last = false;
  const auto begin = [&](const char* what, const Shape& shape, float initial) -> absl::StatusOr<std::pair<StateId, ValPtr>> {
    std::vector<float> values;
    if (initial != 0) values.assign(static_cast<size_t>(CheckedElementCount(shape)), initial);
    LSTM_ASSIGN_OR_RETURN(const StateId state, AddState(absl::StrCat(node_name_, ".", what), shape, std::move(values)));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Add(absl::StrCat(what, ".before"), StateReadOp{state}, {}));
    return std::pair(state, Computed(id, shape, Val{}));
  };
  const auto end = [&](StateId state, const Val& next) -> absl::Status {
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(next, next.shape));
    return Add("after", StateWriteOp{state}, {id}).status();
  };
  constexpr float kMost = std::numeric_limits<float>::max();
  const bool sum = kind == ReduceKind::kSum || kind == ReduceKind::kMean;
  const float initial = kind == ReduceKind::kMaximum ? -kMost : kind == ReduceKind::kMinimum ? kMost : kind == ReduceKind::kProduct ? 1 : 0;
  LSTM_ASSIGN_OR_RETURN(const auto so_far, begin("so_far", {n}, initial));
  ValPtr out;
  if (!sum) {
    LSTM_ASSIGN_OR_RETURN(out, Combine(kind == ReduceKind::kMaximum ? E::kMaximum : kind == ReduceKind::kMinimum ? E::kMinimum : E::kMultiply, *so_far.second, flat));
    LSTM_RETURN_IF_ERROR(end(so_far.first, *out));
  } else {  // what is lost to rounding is added in the next step (Kahan 1965): sequences may have a million steps
    LSTM_ASSIGN_OR_RETURN(const auto lost, begin("lost", {n}, 0));
    LSTM_ASSIGN_OR_RETURN(const ValPtr more, Combine(E::kSubtract, flat, *lost.second));
    LSTM_ASSIGN_OR_RETURN(out, Combine(E::kAdd, *so_far.second, *more));
    LSTM_ASSIGN_OR_RETURN(const ValPtr came, Combine(E::kSubtract, *out, *so_far.second));
    LSTM_ASSIGN_OR_RETURN(const ValPtr now_lost, Combine(E::kSubtract, *came, *more));
    LSTM_RETURN_IF_ERROR(end(so_far.first, *out));
    LSTM_RETURN_IF_ERROR(end(lost.first, *now_lost));
  }
  if (kind == ReduceKind::kMean) {
    LSTM_ASSIGN_OR_RETURN(const auto steps, begin("steps", {1}, 0));
    LSTM_ASSIGN_OR_RETURN(const ValPtr count, Scaled(*steps.second, 1, 1));
    LSTM_RETURN_IF_ERROR(end(steps.first, *count));
    LSTM_ASSIGN_OR_RETURN(out, Combine(E::kDivide, *out, *count));
  }
  auto named = std::make_shared<Val>(*out);
  named->last = true;
  return ValPtr(named);
}

}  // namespace lstm::core::onnx
