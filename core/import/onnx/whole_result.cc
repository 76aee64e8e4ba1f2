// SPDX-License-Identifier: MIT
// What a graph of whole sequences gives, and the stages that are needed for it.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::StatusOr<SequenceModel> Lowering::TakeSequence() {
  SequenceModel out;
  std::set<std::string> taken;
  for (const Output& output : outputs_) {
    if (output.value->constant() || !output.value->is_float) continue;
    if (output.value->tail != 0 || output.value->head != 0) return Refuse(absl::StrCat("output ", Shown(output.name), " is longer than the sequence by frames of padding"));
    node_name_ = output.name;
    const Val& val = *output.value;
    const bool each = val.time >= 0;
    const int rate = each ? RateOf(val) : -1;
    Shape shape;
    for (int64_t n : val.shape) {
      if (n != 1) shape.push_back(n);
    }
    if (shape.empty()) shape = {1};
    // All of one source in order: read where it lies. Else one more value of the last stage.
    const int first = val.at(0).source;
    bool in_order = CheckedElementCount(sources_[static_cast<size_t>(first)].shape) == val.count();
    for (int64_t i = 0; in_order && i < val.count(); ++i) in_order = val.at(i) == Element{first, static_cast<int32_t>(i)};
    Origin origin{first, each ? SequenceRead::kEach : SequenceRead::kAfter};
    const Source source = sources_[static_cast<size_t>(first)];
    const bool full = source.stage < 0 || stages_[static_cast<size_t>(source.stage)]->length < 0;
    if (in_order && source.kind == Source::kImport && full) {
      // Results are read as a stage of all steps reads them.
      const std::optional<Origin> composed = each ? (source.origin.kind == SequenceRead::kEach ? std::optional(source.origin) : std::nullopt)
                                                  : (source.origin.kind != SequenceRead::kEach ? std::optional(source.origin) : std::nullopt);
      in_order = composed.has_value() && sources_[static_cast<size_t>(composed->source)].kind != Source::kInput;
      if (in_order) origin = *composed;
    }
    if (!in_order || source.kind == Source::kInput || source.kind == Source::kConstant) {
      const Origin how{-1, each ? SequenceRead::kEach : SequenceRead::kAfter};
      const Stage& now = *stages_[static_cast<size_t>(stage_)];
      if (now.length >= 0 || (each && now.rate != rate) || !CanBring(val, how)) NewStage(-1, rate);
      const ValPtr brought = Bring(val, how);
      LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(*brought, shape));
      origin.source = Computed(id, shape, *brought)->source;
      origin.kind = how.kind;
    }
    LSTM_ASSIGN_OR_RETURN(const SequenceRead read, ReadOf(origin));
    std::string clean;
    for (char c : output.name.substr(0, 190)) {
      const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '/' || c == ':' || c == '-';
      clean.push_back(good ? c : '_');
    }
    for (int k = 2; clean.empty() || !taken.insert(clean).second; ++k) clean = absl::StrCat(clean, ".", k);
    out.results.push_back(read);
    out.outputs.push_back({.name = clean, .shape = shape, .once = !each, .length = rate});
  }
  if (out.outputs.empty()) return Refuse("none of its outputs is computed");
  // Stages that nothing needs are left out.
  std::set<int> live;
  std::vector<int> open;
  const auto need = [&](const SequenceRead& read) {
    if (read.stage >= 0 && live.insert(read.stage).second) open.push_back(read.stage);
  };
  for (const SequenceRead& read : out.results) need(read);
  while (!open.empty()) {
    const Stage& stage = *stages_[static_cast<size_t>(open.back())];
    open.pop_back();
    for (const SequenceRead& read : stage.inputs) need(read);
    for (const auto& [state, read] : stage.states) need(read);
  }
  std::map<int, int> place;
  for (int s : live) place.emplace(s, static_cast<int>(place.size()));
  const auto moved = [&](SequenceRead read) {
    if (read.stage >= 0) read.stage = place.at(read.stage);
    return read;
  };
  out.inputs = ports_;
  out.lengths = lengths_;
  for (SequenceRead& read : out.results) read = moved(read);
  for (int s : live) {
    Stage& from = *stages_[static_cast<size_t>(s)];
    SequenceStage& stage = out.stages.emplace_back();
    LSTM_ASSIGN_OR_RETURN(Model model, std::move(from.builder).BuildStage());
    for (size_t i = 0; i < from.inputs.size(); ++i) {
      const SequenceRead& read = from.inputs[i];
      if (read.stage >= 0 || model.inputs[i].limit == 0) continue;
      int64_t& limit = out.inputs[static_cast<size_t>(read.port)].limit;
      limit = limit == 0 ? model.inputs[i].limit : std::min(limit, model.inputs[i].limit);
    }
    stage.model = std::make_shared<const Model>(std::move(model));
    stage.length = from.length >= 0 ? from.length : from.rate;
    stage.once = !from.timed;
    for (const SequenceRead& read : from.inputs) stage.inputs.push_back(moved(read));
    for (const auto& [state, read] : from.states) stage.states.emplace_back(state, moved(read));
  }
  return out;
}

}  // namespace lstm::core::onnx
