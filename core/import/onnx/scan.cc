// SPDX-License-Identifier: MIT
// Scan nodes: a graph of their own that runs once for each item of a sequence and hands its states on. Along time it is the
// step itself and the session carries the states; along an axis of the step it runs item after item within each step.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/cell.h"

namespace lstm::core::onnx {
namespace {

constexpr int64_t kMostSteps = 1024;

// The same elements without one axis, which has one item, or with one more.
ValPtr WithoutAxis(const Val& val, const ValPtr& same, size_t axis) {
  auto out = std::make_shared<Val>(*same);
  const auto at = static_cast<long>(axis);
  out->labels = val.labels;
  out->labels.erase(out->labels.begin() + at);
  out->time = val.time == static_cast<int>(axis) ? -1 : val.time > static_cast<int>(axis) ? val.time - 1 : val.time;
  out->last = val.last;
  return out;
}

Shape Without(Shape shape, size_t axis) {
  shape.erase(shape.begin() + static_cast<long>(axis));
  return shape;
}

}  // namespace

struct Lowering::Scanned {
  GraphView body;
  size_t states = 0;
  std::vector<size_t> axes, out_axes;       // of what is read and of what is given
  std::vector<bool> reversed, out_reversed;
  int64_t steps = -1;                       // within a step; -1: time flows along all axes
};

absl::StatusOr<Lowering::Scanned> Lowering::ReadScan(const Call& call) {
  if (file_.opset < 9) return Refuse("is of opset 8, which had another meaning: export it with 9 or later");
  Scanned scan;
  const Attribute* body = call.node.Find("body");
  if (body == nullptr) return Refuse("its body is missing");
  LSTM_ASSIGN_OR_RETURN(scan.body, ReadGraph(body->graph));
  const int64_t inputs = call.node.Int("num_scan_inputs", 0);
  if (inputs < 1 || inputs > static_cast<int64_t>(call.in.size())) return Refuse(absl::StrCat("num_scan_inputs is ", inputs, ", expected 1 to ", call.in.size()));
  const auto m = static_cast<size_t>(inputs);
  scan.states = call.in.size() - m;
  if (call.out.size() < scan.states || scan.body.inputs.size() != call.in.size() || scan.body.outputs.size() < call.out.size()) {
    return Refuse(absl::StrCat("has ", call.in.size(), " inputs and ", call.out.size(), " outputs, ", scan.states, " of each are states; its body has ", scan.body.inputs.size(), " and ", scan.body.outputs.size()));
  }
  const size_t k = call.out.size() - scan.states;
  const auto list = [&](const char* name, size_t n, std::vector<int64_t>& out) -> absl::Status {
    const Attribute* a = call.node.Find(name);
    out = a != nullptr ? a->ints : std::vector<int64_t>(n, 0);
    out.resize(std::max(out.size(), n), 0);  // outputs that nobody reads may be left out
    return a != nullptr && a->ints.size() < n ? absl::InvalidArgumentError(absl::StrCat(name, " has ", a->ints.size(), " numbers, expected ", n)) : absl::OkStatus();
  };
  std::vector<int64_t> axes, directions, out_axes, out_directions;
  LSTM_RETURN_IF_ERROR(list("scan_input_axes", m, axes));
  LSTM_RETURN_IF_ERROR(list("scan_input_directions", m, directions));
  LSTM_RETURN_IF_ERROR(list("scan_output_axes", k, out_axes));
  LSTM_RETURN_IF_ERROR(list("scan_output_directions", k, out_directions));
  bool carried = false;
  for (size_t i = 0; i < call.in.size(); ++i) {
    if (!call.has(i)) return Refuse(absl::StrCat("its input ", i, " is missing"));
    if (i >= scan.states || call[i].constant() || call[i].count() == 0) continue;
    const Source* source = &sources_[static_cast<size_t>(call[i].at(0).source)];
    if (source->kind == Source::kImport) source = &sources_[static_cast<size_t>(source->origin.source)];
    carried = carried || source->kind == Source::kInput;
  }
  for (size_t i = 0; i < m; ++i) {
    const Val& x = call[scan.states + i];
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(axes[i], x.shape.size()));
    scan.axes.push_back(axis);
    scan.reversed.push_back(directions[i] != 0);
    const int label = x.labels[axis];
    if (!x.constant() && x.time < 0 && label >= 0 && (whole_ || IsOpen(label) || x.shape[axis] > 1 || !carried) && MakeTime(label)) return absl::AbortedError("time was found");
  }
  const auto along = [&](size_t i) { return call[scan.states + i].time == static_cast<int>(scan.axes[i]); };
  for (size_t i = 0; i < m; ++i) {
    const Val& x = call[scan.states + i];
    if (along(i) != along(0)) return Refuse(absl::StrCat("time flows along its input ", scan.states + (along(0) ? 0 : i), " and not along input ", scan.states + (along(0) ? i : 0)));
    if (x.head != 0 || x.tail != 0) return LooksAhead("reads a sequence that was padded");
    if (along(i)) continue;
    const int64_t n = x.shape[scan.axes[i]];
    if (scan.steps >= 0 && scan.steps != n) return Refuse(absl::StrCat("reads ", scan.steps, " and ", n, " items side by side"));
    scan.steps = n;
    if (n < 1 || n > kMostSteps) return Refuse(absl::StrCat("runs ", n, " steps in one: expected 1 to ", kMostSteps));
    if (x.time < 0 && !carried && within_.ok()) {
      within_ = absl::InvalidArgumentError(absl::StrCat("begins anew in every step: time flows along none of its inputs, and no input of the graph carries its state. The manifest can say which axis is time, -1 for none: ",
                                                        ManifestLine(inputs_.empty() ? "x" : inputs_[0].declared.name, "time: 0")));
    }
  }
  for (size_t i = 0; i < k; ++i) {
    if (out_axes[i] < -16 || out_axes[i] > 16) return Refuse(absl::StrCat("scan_output_axes has ", out_axes[i]));
    scan.out_axes.push_back(static_cast<size_t>(out_axes[i] + 16));  // counted from the end once the rank is known
    scan.out_reversed.push_back(out_directions[i] != 0);
  }
  return scan;
}

absl::Status Lowering::RunScan(Call& call) {
  LSTM_ASSIGN_OR_RETURN(Scanned scan, ReadScan(call));
  return scan.steps >= 0 ? ScanWithin(call, scan) : ScanOverTime(call, scan);
}

// The axis of output i that has the steps.
absl::StatusOr<size_t> Lowering::OutAxis(const Scanned& scan, size_t i, const Val& item) {
  return Axis(static_cast<int64_t>(scan.out_axes[i]) - 16, item.shape.size() + 1);
}

absl::Status Lowering::ScanOverTime(Call& call, Scanned& scan) {
  const size_t n = scan.states, m = scan.axes.size();
  const bool turned = scan.reversed[0];
  for (const std::vector<bool>* list : {&scan.reversed, &scan.out_reversed}) {
    if (std::any_of(list->begin(), list->end(), [&](bool r) { return r != turned; })) return LooksAhead("runs in both directions at once");
  }
  if (turned && !whole_) return LooksAhead("reads the sequence from its end, which no step knows");
  const Val& first = call[n];
  const int label = first.labels[scan.axes[0]];
  if (whole_) {
    bool fresh = stages_[static_cast<size_t>(stage_)]->length >= 0;
    for (size_t i = 0; i < n; ++i) {
      if (call[i].time >= 0) return Refuse(absl::StrCat("its initial state ", i, " changes over time"));
      fresh = fresh || (!call[i].constant() && !CanBring(call[i], {-1, SequenceRead::kAfter}));
    }
    for (size_t i = 0; i < m; ++i) fresh = fresh || !CanBring(call[n + i], {-1, SequenceRead::kEach, 0, turned});
    if (fresh) NewStage(-1);
    stages_[static_cast<size_t>(stage_)]->timed = true;
  }
  Carried carried;
  const std::vector<ValPtr> initial(call.in.begin(), call.in.begin() + static_cast<long>(n));
  LSTM_RETURN_IF_ERROR(BeginStates(initial, turned, carried));
  std::vector<ValPtr> in = carried.before;
  for (size_t i = 0; i < m; ++i) {
    const Val& x = call[n + i];
    const Shape shape = Without(x.shape, scan.axes[i]);
    if (whole_) {  // a value of this stage: what the body reads has no time of its own that could say how it is brought
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*Bring(x, {-1, SequenceRead::kEach, 0, turned}), {x.count()}));
      in.push_back(Computed(id, shape, Val{}));
      continue;
    }
    in.push_back(WithoutAxis(x, Reshaped(x, shape), scan.axes[i]));
  }
  LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> out, RunStep(scan.body, in));
  LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> next, EndStates(carried, {out.begin(), out.begin() + static_cast<long>(n)}));
  if (turned) NewStage(-1);  // in the order of time once all of it is there
  for (size_t i = 0; i < n && i < call.out.size(); ++i) {
    auto end = std::make_shared<Val>(turned ? *Bring(*next[i], {-1, SequenceRead::kAfter}) : *next[i]);
    end->last = !turned;
    call.out[i] = std::move(end);
  }
  for (size_t i = n; i < call.out.size(); ++i) {
    LSTM_ASSIGN_OR_RETURN(ValPtr item, AsComputed(out[i]));
    if (turned) item = Bring(*item, {-1, SequenceRead::kEach, 0, true});
    LSTM_ASSIGN_OR_RETURN(const size_t axis, OutAxis(scan, i - n, *item));
    call.out[i] = EachStep(*item, axis, label);
  }
  return absl::OkStatus();
}

absl::Status Lowering::ScanWithin(Call& call, Scanned& scan) {
  const size_t n = scan.states, m = scan.axes.size();
  std::vector<ValPtr> state;
  for (size_t i = 0; i < n; ++i) {
    LSTM_ASSIGN_OR_RETURN(state.emplace_back(), AsComputed(call.in[i]));
  }
  std::vector<std::vector<ValPtr>> given(call.out.size() - n);
  for (int64_t t = 0; t < scan.steps; ++t) {
    std::vector<ValPtr> in = state;
    for (size_t i = 0; i < m; ++i) {
      const Val& x = call[n + i];
      LSTM_ASSIGN_OR_RETURN(const ValPtr item, Cut(x, scan.axes[i], scan.reversed[i] ? scan.steps - 1 - t : t, 1, 1));
      in.push_back(WithoutAxis(x, Reshaped(*item, Without(x.shape, scan.axes[i])), scan.axes[i]));
    }
    LSTM_ASSIGN_OR_RETURN(const std::vector<ValPtr> out, RunBody(scan.body, in));
    for (size_t i = 0; i < n; ++i) {
      if (out[i]->shape != state[i]->shape) return Refuse(absl::StrCat("its state ", i, " has shape ", ShapeString(state[i]->shape), " before a step and ", ShapeString(out[i]->shape), " after it"));
      LSTM_ASSIGN_OR_RETURN(state[i], AsComputed(out[i]));
    }
    for (size_t i = 0; i < given.size(); ++i) {
      LSTM_ASSIGN_OR_RETURN(given[i].emplace_back(), AsComputed(out[n + i]));
      if (given[i].back()->shape != given[i][0]->shape) return Refuse(absl::StrCat("its output ", n + i, " changes its shape"));
    }
  }
  for (size_t i = 0; i < n; ++i) call.out[i] = state[i];
  for (size_t i = 0; i < given.size(); ++i) {
    if (scan.out_reversed[i]) std::reverse(given[i].begin(), given[i].end());
    LSTM_ASSIGN_OR_RETURN(const size_t axis, OutAxis(scan, i, *given[i][0]));
    LSTM_ASSIGN_OR_RETURN(call.out[n + i], Stacked(given[i], axis));
  }
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
