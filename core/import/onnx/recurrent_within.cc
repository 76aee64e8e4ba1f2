// SPDX-License-Identifier: MIT
// LSTM, GRU and RNN nodes whose sequence lies within a step, the bands of a spectrum say, in either direction: each step of time runs all of it,
// in plain ops, from states that no session carries.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {
namespace {

constexpr int64_t kMostSteps = 1024;  // each is a dozen ops

}  // namespace

ValPtr ItemsAt(const Val& x, size_t seq, int64_t t) {
  const size_t batch = 1 - seq;
  const int64_t items = x.shape[batch], width = x.shape[2];
  const auto strides = Strides(x.shape);
  auto out = std::make_shared<Val>();
  out->shape = items == 1 ? Shape{width} : Shape{items, width};
  out->labels.assign(out->shape.size(), -1);
  out->last = x.last;
  out->source = x.source;
  if (x.elements || x.shape[seq] > 1) {
    auto elements = std::make_shared<std::vector<Element>>();
    for (int64_t b = 0; b < items; ++b) {
      for (int64_t i = 0; i < width; ++i) elements->push_back(x.at(t * strides[seq] + b * strides[batch] + i));
    }
    out->source = -1;
    out->elements = std::move(elements);
  }
  return out;
}

ValPtr JoinedSteps(const std::vector<std::vector<ValPtr>>& parts, int64_t items, int64_t hidden, bool batch_first, bool sequence) {
  const auto directions = static_cast<int64_t>(parts.size()), steps = static_cast<int64_t>(parts[0].size());
  auto out = std::make_shared<Val>();
  out->shape = batch_first ? Shape{items, steps, directions, hidden} : Shape{steps, directions, items, hidden};
  if (!sequence) out->shape.erase(out->shape.begin() + (batch_first ? 1 : 0));
  out->labels.assign(out->shape.size(), -1);
  if (directions == 1 && steps == 1) {
    out->source = parts[0][0]->source;
    out->elements = parts[0][0]->elements;
    return out;
  }
  auto elements = std::make_shared<std::vector<Element>>();
  const auto row = [&](int64_t b, int64_t t, int64_t d) {
    const Val& from = *parts[static_cast<size_t>(d)][static_cast<size_t>(t)];
    for (int64_t i = 0; i < hidden; ++i) elements->push_back(from.at(b * hidden + i));
  };
  for (int64_t outer = 0; outer < (batch_first ? items : steps); ++outer) {
    for (int64_t inner = 0; inner < (batch_first ? steps * directions : directions * items); ++inner) {
      if (batch_first) row(outer, inner / directions, inner % directions);
      if (!batch_first) row(inner % items, outer, inner / items);
    }
  }
  out->elements = std::move(elements);
  return out;
}

// ABORTED where its axis of time was found.
absl::StatusOr<bool> Lowering::RunsWithin(const Call& call) {
  const size_t seq = call.node.Int("layout", 0) != 0 ? 1 : 0, batch = 1 - seq;
  if (!call.has(0)) return false;
  const Val& x = call[0];
  if (x.shape.size() != 3 || !x.is_float || x.constant() || x.time == static_cast<int>(seq)) return false;
  bool carried = false;
  if (call.has(5) && !call[5].constant()) {
    const Source* source = &sources_[static_cast<size_t>(call[5].at(0).source)];
    if (source->kind == Source::kImport) source = &sources_[static_cast<size_t>(source->origin.source)];
    carried = source->kind == Source::kInput;
  }
  if (x.time < 0 && x.labels[seq] >= 0 && (whole_ || IsOpen(x.labels[seq]) || x.shape[seq] > 1 || !carried) && MakeTime(x.labels[seq])) return absl::AbortedError("time was found");
  return !carried && x.shape[seq] > 1 && (x.time < 0 || x.time == static_cast<int>(batch));
}

// Direction d's of [D, N, H] or [N, D, H], as [N, H]; zeros where there is none.
absl::StatusOr<ValPtr> Lowering::InitialWithin(const Call& call, size_t i, size_t directions, size_t d, const Cell& cell) {
  const size_t batch = cell.batch_first ? 0 : 1;
  const Shape shape = cell.items == 1 ? Shape{cell.hidden} : Shape{cell.items, cell.hidden};
  if (!call.has(i)) {
    const int64_t count = cell.items * cell.hidden;
    LSTM_RETURN_IF_ERROR(Spend(count));
    return AsComputed(MakeConstantVal({true, shape, std::vector<float>(static_cast<size_t>(count), 0), {}}));
  }
  LSTM_ASSIGN_OR_RETURN(const ValPtr all, OfOneItem(call.in[i], batch, cell.items));
  const Shape expected = cell.batch_first ? Shape{cell.items, static_cast<int64_t>(directions), cell.hidden} : Shape{static_cast<int64_t>(directions), cell.items, cell.hidden};
  if (!all->is_float || all->shape != expected) return Refuse(absl::StrCat("its initial state has shape ", ShapeString(all->shape), ", expected ", ShapeString(expected)));
  if (all->time >= 0 && (all->time != static_cast<int>(batch) || call[0].time != static_cast<int>(batch))) return Refuse("its initial state changes over time, and its input does not side by side");
  LSTM_ASSIGN_OR_RETURN(const ValPtr part, Cut(*all, 1 - batch, static_cast<int64_t>(d), 1, 1));
  LSTM_ASSIGN_OR_RETURN(const ValPtr own, AsComputed(part));
  auto out = std::make_shared<Val>(*Reshaped(*own, shape));
  out->time = -1;
  return ValPtr(out);
}

absl::Status Lowering::RecurrentWithin(Call& call, const std::vector<Cell>& cells) {
  const Val& x = call[0];
  const Cell& first = cells[0];
  const size_t seq = first.batch_first ? 1 : 0, batch = 1 - seq;
  const int64_t steps = x.shape[seq];
  if (x.shape[2] != first.width) return Refuse(absl::StrCat("reads shape ", ShapeString(FullShape(x)), ", its weights expect three axes with ", first.width, " in the last"));
  if (x.head != 0 || x.tail != 0) return Refuse("its batch is a sequence that is padded");
  if (steps > kMostSteps) return Refuse(absl::StrCat("runs ", steps, " steps in one: expected at most ", kMostSteps));
  if (call.has(4)) {
    LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> ends, IntsOf(call, 4, "sequence_lens"));
    if (std::any_of(ends.begin(), ends.end(), [&](int64_t end) { return end != steps; })) return Refuse(absl::StrCat("its sequence_lens is not ", steps, ", all of the sequence within a step"));
  }
  if (x.time < 0 && within_.ok()) {
    within_ = absl::InvalidArgumentError(absl::StrCat("begins anew in every step: time flows through no axis of its input, and no input of the graph carries its state. The manifest can say which axis is time, -1 for none: ",
                                                      ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
  }
  std::vector<ValPtr> xs;
  LSTM_RETURN_IF_ERROR(Spend(x.count()));
  for (int64_t t = 0; t < steps; ++t) xs.push_back(ItemsAt(x, seq, t));
  std::vector<std::vector<ValPtr>> ys, hs, cs;
  for (size_t d = 0; d < cells.size(); ++d) {
    const Cell& cell = cells[d];
    LSTM_ASSIGN_OR_RETURN(ValPtr h, InitialWithin(call, 5, cells.size(), d, cell));
    ValPtr c;
    if (cell.kind == Cell::kLstm) {
      LSTM_ASSIGN_OR_RETURN(c, InitialWithin(call, 6, cells.size(), d, cell));
    }
    auto& own = ys.emplace_back(static_cast<size_t>(steps));
    for (int64_t k = 0; k < steps; ++k) {
      const auto t = static_cast<size_t>(cell.reversed ? steps - 1 - k : k);
      LSTM_RETURN_IF_ERROR(PlainStep(cell, *xs[t], h, c));
      own[t] = h;
    }
    hs.push_back({h});
    cs.push_back({c});
  }
  const auto placed = [&](const std::vector<std::vector<ValPtr>>& parts, bool sequence) {
    auto out = std::make_shared<Val>(*JoinedSteps(parts, first.items, first.hidden, first.batch_first, sequence));
    const int items = first.batch_first ? 0 : sequence ? 2 : 1;
    out->labels[static_cast<size_t>(items)] = x.labels[batch];
    if (x.time >= 0) out->time = items;
    out->last = x.last;
    return ValPtr(out);
  };
  const auto wanted = [&](size_t o) { return call.out.size() > o && !call.node.outputs[o].empty(); };
  if (wanted(0)) call.out[0] = placed(ys, true);
  if (wanted(1)) call.out[1] = placed(hs, false);
  if (wanted(2) && first.kind == Cell::kLstm) call.out[2] = placed(cs, false);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
