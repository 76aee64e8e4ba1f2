// SPDX-License-Identifier: MIT
// LSTM, GRU and RNN nodes: where they are in time, whose their state is, what they give.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {

// Where a graph fixes how many steps there are, one value is repeated so many times: it is the same in every step.
absl::Status Lowering::RepeatedInTime(Call& call, size_t seq) {
  const Val& x = call[0];
  const int64_t n = FixedTime(-1);
  if (x.time >= 0 || x.constant() || x.shape.size() != 3 || n < 2 || x.shape[seq] != n) return absl::OkStatus();
  const int64_t inner = CheckedElementCount({x.shape.begin() + static_cast<long>(seq) + 1, x.shape.end()});
  for (int64_t i = 0; i < x.count(); ++i) {
    const int64_t first = i / (n * inner) * n * inner + i % inner;
    if (!(x.at(i) == x.at(first))) return absl::OkStatus();
  }
  if (!whole_) return LooksAhead(absl::StrCat("reads one value ", n, " times, once for each step that the graph fixes: a session has no such number of them"));
  LSTM_ASSIGN_OR_RETURN(ValPtr one, Cut(x, seq, 0, 1, 1));
  if (one->last && Here(*one)) {
    LSTM_ASSIGN_OR_RETURN(one, Anew(one, {-1, SequenceRead::kAfter}));
  }
  if (stages_[static_cast<size_t>(stage_)]->rate != -1) {
    NewStage(-1, -1);
    one = Bring(*one, {-1, SequenceRead::kAfter});
  }
  auto out = std::make_shared<Val>(*one);
  out->time = static_cast<int>(seq);
  out->last = false;
  call.in[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::PlaceInTime(Call& call, Cell& cell) {
  const size_t seq = cell.batch_first ? 1 : 0, batch = cell.batch_first ? 0 : 1;
  const Val& x = call[0];
  if (x.shape.size() != 3 || x.shape[2] != cell.width) return Refuse(absl::StrCat("reads shape ", ShapeString(FullShape(x)), ", its weights expect three axes with ", cell.width, " in the last"));
  if (!x.is_float || x.constant()) return Refuse("its input X is a constant, or has integers");
  const bool carried = call.has(5) && !call[5].constant();
  if (x.time >= 0 && x.time != static_cast<int>(seq)) return Refuse(absl::StrCat("time comes in axis ", x.time, " of its input, expected axis ", seq));
  if (x.shape[batch] != 1) {
    const int label = x.labels[batch];
    if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
    cell.usual = false;  // a session has so many rows of it, which no cell of the model knows
  }
  cell.steps = x.time >= 0;
  if (whole_ && !cell.steps) return Refuse(absl::StrCat("time flows through no axis of its input. The manifest can say which it is: ", ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
  if (call.has(4) && !whole_) {  // lengths: a session ends when its client ends it
    const Val& lengths = call[4];
    if (!lengths.constant() && !lengths.elements && sources_[static_cast<size_t>(lengths.source)].kind == Source::kInput) {
      const int input = sources_[static_cast<size_t>(lengths.source)].input;
      GraphInput& in = inputs_[static_cast<size_t>(input)];
      if (!in.constant) in.constant = std::make_shared<const Tensor>(Tensor{false, {1}, {}, {0}});
      reading_.constants.insert(input);
      reading_.lengths = true;
      return absl::AbortedError("lengths are not needed");
    }
    if (!lengths.constant()) return Refuse("its sequence_lens is computed in every step");
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> ends, IntsOf(call, 4, "sequence_lens"));
    const int label = x.labels[seq];
    const int64_t all = label < 0 ? -1 : inputs_[static_cast<size_t>(label / 16)].declared.shape[static_cast<size_t>(label % 16)].size;
    for (int64_t end : ends) {
      if (reading_.lengths || IsTimeLength(end) || end == all) continue;  // it goes on to the end of the sequence
      return LooksAhead(absl::StrCat("its sequence_lens is ", end, all > 0 ? absl::StrCat(" of ", all) : "", ": a session has no such end"));
    }
  }
  if (!cell.steps && !carried) {
    return Refuse(absl::StrCat("begins anew in every step: time flows through no axis of its input, and no input of the graph carries its state. The manifest can say which axis is time: ",
                               ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
  }
  return absl::OkStatus();
}

absl::StatusOr<ValPtr> Lowering::OfOneItem(const ValPtr& initial, size_t batch, int64_t items) {
  if (items > 1 || !initial || !initial->constant() || initial->shape.size() != 3 || initial->shape[batch] < 2) return initial;
  LSTM_ASSIGN_OR_RETURN(const TensorPtr all, Constant(*initial));
  const auto strides = Strides(initial->shape);
  for (size_t i = 0; i < all->size(); ++i) {
    const auto at = static_cast<int64_t>(i), item = at / strides[batch] % initial->shape[batch];
    if (all->At(i) != all->At(static_cast<size_t>(at - item * strides[batch]))) return initial;
  }
  return Cut(*initial, batch, 0, 1, 1);
}

absl::StatusOr<StateId> Lowering::OwnState(const Cell& cell, const ValPtr& initial, const char* part, int& input, std::vector<int32_t>& at) {
  const int64_t size = cell.items * cell.hidden;
  std::vector<float> values;
  input = -1;
  if (initial && initial->constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr t, Constant(*initial));
    if (!t->is_float || static_cast<int64_t>(t->size()) != size) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " has shape ", ShapeString(t->shape), ", expected ", size, " numbers"));
    if (std::any_of(t->floats.begin(), t->floats.end(), [](float v) { return v != 0; })) values = t->floats;
  } else if (initial) {
    const size_t batch = cell.batch_first ? 0 : 1;
    if (initial->shape.size() == 3 && initial->shape[batch] > cell.items) {
      const int label = initial->labels[batch];
      if (label >= 0 && reading_.single.insert({label / 16, label % 16}).second) return absl::AbortedError("the batch was found");
    }
    if (initial->count() != size) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " has shape ", ShapeString(initial->shape), ", expected ", size, " numbers"));
    for (int64_t i = 0; i < size; ++i) {
      const Element e = initial->at(i);
      const Source& source = sources_[static_cast<size_t>(e.source)];
      if (source.kind != Source::kInput || (input >= 0 && source.input != input)) {
        input = -1;
        break;
      }
      input = source.input;
      at.push_back(e.index);
    }
    if (input < 0 && cell.steps) return LooksAhead(absl::StrCat("its initial ", part, " is computed: a sequence that begins from another's end cannot be streamed"));
    if (input < 0) return -1;
    if (initial->time >= 0) return absl::InvalidArgumentError(absl::StrCat("its initial ", part, " changes over time"));
    GraphInput& in = inputs_[static_cast<size_t>(input)];
    if (!in.no_state && reading_.states.insert(input).second) return absl::AbortedError("a state was found");
    if (in.no_state || reading_.explicit_states.contains(input)) return -1;
    if (in.initial) {
      for (int32_t i : at) values.push_back(in.initial->floats[static_cast<size_t>(i)]);
    }
  }
  return AddState(absl::StrCat(cell.name, ".", part), {size}, std::move(values));
}

absl::Status Lowering::Recurrent(Call& call) {
  const std::string_view op = call.node.op;
  if (op != "LSTM" && op != "GRU" && op != "RNN") return absl::UnimplementedError("");
  const bool both = call.node.Text("direction", "forward") == "bidirectional";
  if (call.has(0)) LSTM_RETURN_IF_ERROR(RepeatedInTime(call, call.node.Int("layout", 0) != 0 ? 1 : 0));
  LSTM_ASSIGN_OR_RETURN(const bool within, RunsWithin(call));
  std::vector<Cell> cells(both ? 2 : 1);
  for (size_t d = 0; d < cells.size(); ++d) {
    LSTM_RETURN_IF_ERROR(ReadCell(call, d, within, cells[d]));
    if (!within) LSTM_RETURN_IF_ERROR(PlaceInTime(call, cells[d]));
    cells[d].items = call[0].shape[cells[d].batch_first ? 0 : 1];
  }
  if (within) return RecurrentWithin(call, cells);
  return whole_ ? RecurrentWhole(call, cells) : RecurrentStep(call, cells[0]);
}

absl::Status Lowering::RecurrentStep(Call& call, const Cell& cell) {
  const Val& x = call[0];
  const size_t seq = cell.batch_first ? 1 : 0, batch = cell.batch_first ? 0 : 1;
  const bool lstm = cell.kind == Cell::kLstm;
  const int64_t steps = x.shape[seq];
  if (steps > 64) return Refuse(absl::StrCat("runs ", steps, " steps in one: expected at most 64"));
  LSTM_ASSIGN_OR_RETURN(const ValPtr h0, OfOneItem(call.has(5) ? call.in[5] : nullptr, batch, cell.items));
  LSTM_ASSIGN_OR_RETURN(const ValPtr c0, OfOneItem(lstm && call.has(6) ? call.in[6] : nullptr, batch, cell.items));
  const Shape rows = cell.items == 1 ? Shape{cell.hidden} : Shape{cell.items, cell.hidden};
  int h_input = -1, c_input = -1;
  std::vector<int32_t> h_at, c_at;
  LSTM_ASSIGN_OR_RETURN(const StateId h_state, OwnState(cell, h0, "h", h_input, h_at));
  StateId c_state = -1;
  if (lstm) {
    LSTM_ASSIGN_OR_RETURN(c_state, OwnState(cell, c0, "c", c_input, c_at));
  }
  std::vector<ValPtr> ys;
  ValPtr h, c;
  if (cell.usual && steps == 1 && h_state >= 0 && (!lstm || c_state >= 0)) {
    LSTM_ASSIGN_OR_RETURN(h, Native(cell, *ItemsAt(x, seq, 0), h_state, c_state));
    ys.push_back(h);
    if (lstm) {
      auto kept = std::make_shared<Val>(*h);
      kept->source = NewSource({Source::kCell, -1, -1, nullptr, {cell.hidden}, cell.name});
      c = kept;
    }
  } else {
    const auto before = [&](StateId state, const ValPtr& initial, const char* part) -> absl::StatusOr<ValPtr> {
      if (state < 0) {
        if (initial->constant()) return absl::InvalidArgumentError("its initial states are half constants, half computed");
        auto flat = std::make_shared<Val>(*Reshaped(*initial, rows));
        flat->time = -1;
        return ValPtr(flat);
      }
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Add(absl::StrCat(part, ".before"), StateReadOp{state}, {}));
      return Computed(id, rows, Val{});
    };
    LSTM_ASSIGN_OR_RETURN(h, before(h_state, h0, "h"));
    if (lstm) {
      LSTM_ASSIGN_OR_RETURN(c, before(c_state, c0, "c"));
    }
    LSTM_RETURN_IF_ERROR(Spend(x.count()));
    for (int64_t t = 0; t < steps; ++t) {
      LSTM_RETURN_IF_ERROR(PlainStep(cell, *ItemsAt(x, seq, t), h, c));
      ys.push_back(h);
    }
    for (const auto& [state, value, part] : {std::tuple{h_state, h, "h.after"}, {c_state, c, "c.after"}}) {
      if (state < 0) continue;
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*value, {cell.items * cell.hidden}));
      LSTM_RETURN_IF_ERROR(Add(part, StateWriteOp{state}, {id}).status());
    }
  }
  if (h_input >= 0 && h_state >= 0) claims_.push_back({h_input, h_at, h->source, cell.steps ? -2 : x.labels[seq]});
  if (c_input >= 0 && c_state >= 0) claims_.push_back({c_input, c_at, c->source, cell.steps ? -2 : x.labels[seq]});

  const auto placed = [&](const std::vector<ValPtr>& values, bool sequence) {
    auto out = std::make_shared<Val>(*JoinedSteps({values}, cell.items, cell.hidden, cell.batch_first, sequence));
    if (cell.steps && sequence) {
      out->time = static_cast<int>(seq);
      out->tail = x.tail;
      out->labels[seq] = x.labels[seq];
    }
    out->last = x.last || (cell.steps && !sequence);
    out->labels[cell.batch_first ? 0 : sequence ? 2 : 1] = x.labels[batch];
    return ValPtr(out);
  };
  if (x.tail != 0 && call.out.size() > 1 && (!call.node.outputs[1].empty() || (call.out.size() > 2 && !call.node.outputs[2].empty()))) {
    return Refuse("its end is that of a sequence which was padded behind");
  }
  if (!call.out.empty() && !call.node.outputs[0].empty()) call.out[0] = placed(ys, true);
  if (call.out.size() > 1) call.out[1] = placed({h}, false);
  if (call.out.size() > 2 && lstm) call.out[2] = placed({c}, false);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
