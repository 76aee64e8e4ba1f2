// SPDX-License-Identifier: MIT
// LSTM, GRU and RNN nodes of whole sequences: in both directions, of a length, from states that are computed.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {

absl::StatusOr<int> Lowering::LengthOf(const Call& call) {
  if (!call.has(4)) return -1;
  const Val& lengths = call[4];
  SequenceLength length;
  if (lengths.constant()) {
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> ends, IntsOf(call, 4, "sequence_lens"));
    if (ends.empty()) return absl::InvalidArgumentError("its sequence_lens is empty");
    for (int64_t end : ends) {
      if (end != ends[0]) return absl::InvalidArgumentError(absl::StrCat("its sequence_lens is ", ends[0], " and ", end, ", fixed by the graph for each item of a batch: a sequence is one item, and which it is nobody says"));
    }
    if (IsTimeLength(ends[0]) || ends[0] == TimeOf(stages_[static_cast<size_t>(stage_)]->rate)) return -1;
    if (ends[0] < 1) return absl::InvalidArgumentError(absl::StrCat("its sequence_lens is ", ends[0], ", expected at least 1"));
    length.constant = ends[0];
  } else {
    const Source* source = &sources_[static_cast<size_t>(lengths.at(0).source)];
    if (source->kind == Source::kImport) source = &sources_[static_cast<size_t>(source->origin.source)];
    if (source->kind != Source::kInput || lengths.is_float || lengths.time >= 0) return absl::InvalidArgumentError("its sequence_lens is computed, expected a constant or an input of the graph");
    if (lengths.count() != 1) {
      const int label = lengths.labels.size() == 1 ? lengths.labels[0] : -1;
      if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
      return absl::InvalidArgumentError(absl::StrCat("its sequence_lens has shape ", ShapeString(lengths.shape), ", expected one number for a sequence"));
    }
    const int input = source->input;
    int& port = port_of_input_[static_cast<size_t>(input)];
    if (port < 0) {
      port = static_cast<int>(ports_.size());
      ports_.push_back({.name = FreshName(std::string(inputs_[static_cast<size_t>(input)].declared.name)), .dtype = DType::kI32, .once = true, .optional = true});
    }
    length.input = port;
  }
  for (size_t l = 0; l < lengths_.size(); ++l) {
    if (lengths_[l].stride == 0 && lengths_[l].input == length.input && lengths_[l].constant == length.constant) return static_cast<int>(l);
  }
  lengths_.push_back(length);
  return static_cast<int>(lengths_.size()) - 1;
}

// Zeros, a constant, or what another stage or an input says.
absl::StatusOr<StateId> Lowering::GivenState(const Cell& cell, const ValPtr& initial, const char* part) {
  const std::string name = absl::StrCat(cell.name, cell.reversed ? ".reverse." : ".", part);
  std::vector<float> values;
  if (initial && initial->constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, Constant(*initial));
    if (std::any_of(tensor->floats.begin(), tensor->floats.end(), [](float v) { return v != 0; })) values = tensor->floats;
  }
  LSTM_ASSIGN_OR_RETURN(const StateId state, AddState(name, {cell.items * cell.hidden}, std::move(values)));
  if (initial && !initial->constant()) {
    LSTM_ASSIGN_OR_RETURN(const SequenceRead read, ReadAfter(*initial));
    stages_[static_cast<size_t>(stage_)]->states.emplace_back(state, read);
  }
  return state;
}

// The part of an initial state, [D, 1, H] or [1, D, H], that is direction d's.
absl::StatusOr<ValPtr> Lowering::InitialPart(const Call& call, size_t i, size_t directions, size_t d, const Cell& cell, const char* part) {
  if (!call.has(i)) return ValPtr();
  const size_t batch = cell.batch_first ? 0 : 1;
  LSTM_ASSIGN_OR_RETURN(const ValPtr initial, OfOneItem(call.in[i], batch, cell.items));
  const Val& all = *initial;
  if (!all.is_float || all.time >= 0) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " changes over time, or has integers"));
  if (all.shape.size() == 3 && all.shape[batch] > cell.items) {
    const int label = all.labels[batch];
    if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
  }
  const int64_t size = cell.items * cell.hidden;
  if (all.count() != static_cast<int64_t>(directions) * size) {
    return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " has shape ", ShapeString(all.shape), ", expected ", directions, " times ", size, " numbers"));
  }
  if (cell.batch_first && directions > 1 && cell.items > 1) return Refuse("has layout 1, two directions and a batch within a step");
  const ValPtr flat = Reshaped(all, {all.count()});
  LSTM_ASSIGN_OR_RETURN(ValPtr own, Cut(*flat, 0, static_cast<int64_t>(d) * size, size, 1));
  if (own->constant()) return own;
  for (int64_t k = 0; k < own->count(); ++k) {
    if (own->at(k) == Element{own->at(0).source, own->at(0).index + static_cast<int32_t>(k)}) continue;
    // Put together from several places: as one value of a stage before.
    LSTM_ASSIGN_OR_RETURN(own, Anew(own, {-1, SequenceRead::kAfter}));
    LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*own, {own->count()}));
    own = Computed(id, {own->count()}, Val{});
    break;
  }
  return own;
}

absl::Status Lowering::RecurrentWhole(Call& call, const std::vector<Cell>& cells) {
  const size_t directions = cells.size();
  const bool lstm = cells[0].kind == Cell::kLstm;
  const bool turned = cells.back().reversed;
  LSTM_ASSIGN_OR_RETURN(const int length, LengthOf(call));
  if (call[0].tail != 0 || call[0].head != 0) return LooksAhead("reads a sequence that was padded");
  if (stages_[static_cast<size_t>(stage_)]->length >= 0 && stages_[static_cast<size_t>(stage_)]->length != length) NewStage(-1);
  std::vector<ValPtr> h0, c0;
  for (size_t d = 0; d < directions; ++d) {
    LSTM_ASSIGN_OR_RETURN(h0.emplace_back(), InitialPart(call, 5, directions, d, cells[d], "h"));
    LSTM_ASSIGN_OR_RETURN(c0.emplace_back(), lstm ? InitialPart(call, 6, directions, d, cells[d], "c") : ValPtr());
  }
  const auto computed_here = [&](const ValPtr& v) { return v && !v->constant() && !CanBring(*v, {-1, SequenceRead::kAfter}); };
  if (length >= 0 && stages_[static_cast<size_t>(stage_)]->rate >= 0) return Refuse(absl::StrCat("its sequence_lens counts frames of a sequence that has ", RateText(stages_[static_cast<size_t>(stage_)]->rate), " of them for T steps"));
  bool fresh = stages_[static_cast<size_t>(stage_)]->length != length || std::any_of(h0.begin(), h0.end(), computed_here) || std::any_of(c0.begin(), c0.end(), computed_here);
  for (const Cell& cell : cells) fresh = fresh || !CanBring(call[0], {-1, SequenceRead::kEach, 0, cell.reversed});
  if (fresh) NewStage(length);
  stages_[static_cast<size_t>(stage_)]->timed = true;
  std::vector<ValPtr> ys, cs;
  for (size_t d = 0; d < directions; ++d) {
    const Cell& cell = cells[d];
    node_name_ = absl::StrCat(cell.name, d == 1 ? ".reverse" : "");
    const ValPtr x = Bring(call[0], {-1, SequenceRead::kEach, 0, cell.reversed});
    const Shape rows = cell.items == 1 ? Shape{cell.hidden} : Shape{cell.items, cell.hidden};
    Val flat = *Reshaped(*x, cell.items == 1 ? Shape{cell.width} : Shape{cell.items, cell.width});
    flat.time = -1;
    LSTM_ASSIGN_OR_RETURN(const StateId h_state, GivenState(cell, h0[d], "h"));
    StateId c_state = -1;
    if (lstm) {
      LSTM_ASSIGN_OR_RETURN(c_state, GivenState(cell, c0[d], "c"));
    }
    if (cell.usual) {
      LSTM_ASSIGN_OR_RETURN(ys.emplace_back(), Native(cell, flat, h_state, c_state));
      if (!lstm) continue;
      auto c = std::make_shared<Val>(*ys.back());
      Source source{Source::kCell, -1, -1, nullptr, {cell.hidden}, cell.name};
      source.state = c_state;
      c->source = NewSource(std::move(source));
      cs.push_back(std::move(c));
      continue;
    }
    ValPtr h, c;
    for (const auto& [state, value, part] : {std::tuple{h_state, &h, "h.before"}, {c_state, &c, "c.before"}}) {
      if (state < 0) continue;
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Add(part, StateReadOp{state}, {}));
      *value = Computed(id, rows, Val{});
    }
    LSTM_RETURN_IF_ERROR(PlainStep(cell, flat, h, c));
    for (const auto& [state, value, part] : {std::tuple{h_state, h, "h.after"}, {c_state, c, "c.after"}}) {
      if (state < 0) continue;
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*value, {cell.items * cell.hidden}));
      LSTM_RETURN_IF_ERROR(Add(part, StateWriteOp{state}, {id}).status());
    }
    ys.push_back(h);
    if (lstm) cs.push_back(c);
  }
  node_name_ = cells[0].name;
  const bool apart = turned || length >= 0;  // what it gives is in the order of time once all of it is there
  if (apart) NewStage(-1);
  const Val& x = call[0];
  const size_t seq = cells[0].batch_first ? 1 : 0, batch = 1 - seq;
  const auto joined = [&](const std::vector<ValPtr>& parts, bool sequence) {
    std::vector<std::vector<ValPtr>> brought;
    for (size_t d = 0; d < parts.size(); ++d) {
      brought.push_back({!apart ? parts[d] : Bring(*parts[d], sequence ? Origin{-1, SequenceRead::kEach, 0, cells[d].reversed} : Origin{-1, SequenceRead::kAfter})});
    }
    auto out = std::make_shared<Val>(*JoinedSteps(brought, cells[0].items, cells[0].hidden, batch == 0, sequence));
    out->labels[batch == 0 ? 0 : sequence ? 2 : 1] = x.labels[batch];
    if (sequence) {
      out->time = static_cast<int>(seq);
      out->labels[seq] = x.labels[seq];
    }
    out->last = !sequence && !apart;
    return ValPtr(out);
  };
  const auto wanted = [&](size_t o) { return call.out.size() > o && !call.node.outputs[o].empty(); };
  if (wanted(0)) call.out[0] = joined(ys, true);
  if (wanted(1)) call.out[1] = joined(ys, false);
  if (wanted(2) && lstm) call.out[2] = joined(cs, false);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
