// SPDX-License-Identifier: MIT
// Which inputs of the graph are state that the session carries, and which outputs are its next value.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {
namespace {

// What is left of a name when the words for "before" and "after" are gone; empty where nothing says that it is a state.
// `numbers`: h1 and h2 are two.
std::string StateStem(std::string_view name, bool numbers) {
  static const std::set<std::string> kDirections = {"in", "out", "input", "output", "prev", "previous", "next", "past", "present", "new", "old", "init", "initial", "final", "updated", "cur", "current"};
  static const std::set<std::string> kStates = {"h", "c", "hx", "cx", "state", "states", "hidden", "cell", "cache", "memory", "mem", "rnn", "lstm", "gru", "carry", "hc"};
  std::vector<std::string> words;
  std::string word;
  bool state = false;
  // Exporters tell names apart that are given twice: h.1
  if (const size_t dot = name.rfind('.'); dot != std::string_view::npos && dot + 1 < name.size() && std::all_of(name.begin() + static_cast<long>(dot) + 1, name.end(), [](char c) { return c >= '0' && c <= '9'; })) name = name.substr(0, dot);
  const auto end = [&] {
    std::string digits;
    for (size_t i = word.size(); numbers && i > 1 && absl::ascii_isdigit(static_cast<unsigned char>(word[i - 1])); --i) digits.insert(0, 1, word[i - 1]);
    while (!word.empty() && absl::ascii_isdigit(static_cast<unsigned char>(word.back())) && word.size() > 1) word.pop_back();
    if (word.size() > 1 && word.back() == 'n' && kStates.contains(word.substr(0, word.size() - 1))) word.pop_back();  // hn, stateN
    if (word.size() == 2 && (word[0] == 'h' || word[0] == 'c') && (word[1] == 'x' || word[1] == 'y' || word[1] == 't')) word.pop_back();  // hx and hy, ht
    if (kDirections.contains(word)) {
      state = state || word == "past" || word == "present" || word == "prev" || word == "previous";
    } else if (!word.empty() && word != "0" && word != "n") {
      state = state || kStates.contains(word);
      words.push_back(word + (digits == "0" ? "" : digits));
    }
    word.clear();
  };
  for (char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      word.push_back(static_cast<char>(absl::ascii_tolower(static_cast<unsigned char>(c))));
    } else {
      end();
    }
  }
  end();
  return state ? absl::StrJoin(words, "_") + "." : "";
}

}  // namespace

// c' = f*c + i*g with f a sigmoid: elements of an input that meet a gate and are added to are a cell state.
void Lowering::NoteGate(std::string_view op, const Call& call) {
  const ValPtr& out = call.out[0];
  if (out->constant()) return;
  if (op == "Sigmoid") sigmoids_.insert(out->source);
  if (op != "Mul" && op != "Add") return;
  const auto all = [&](const Val& v, auto good) {
    if (v.constant()) return false;
    for (int64_t i = 0; i < v.count(); ++i) {
      if (!good(v.at(i).source)) return false;
    }
    return true;
  };
  for (size_t i = 0; i < 2; ++i) {
    const Val &a = call[i], &b = call[1 - i];
    if (a.constant() || b.constant()) continue;
    if (op == "Add" && !a.elements) {
      const auto it = gated_.find(a.source);
      if (it == gated_.end()) continue;
      const int input = sources_[static_cast<size_t>(it->second.at(0).source)].input;
      gates_.push_back({input, out->source, it->second});
    } else if (op == "Mul" && b.count() == a.count() && all(a, [&](int s) { return sigmoids_.contains(s); })) {
      const int first = b.at(0).source;
      if (sources_[static_cast<size_t>(first)].kind == Source::kInput && all(b, [&](int s) { return s == first; })) gated_[out->source] = b;
    }
  }
}

bool Lowering::Matches(int input, const Val& output) const {
  const Val& in = *input_value_[static_cast<size_t>(input)];
  if (output.constant() || output.shape != in.shape || output.time >= 0) return false;
  for (const Claim& claim : claims_) {
    if (claim.input != input) continue;
    for (size_t k = 0; k < claim.at.size(); ++k) {
      if (!(output.at(claim.at[k]) == Element{claim.source, static_cast<int32_t>(k)})) return false;
    }
  }
  for (const Gate& gate : gates_) {
    if (gate.input != input) continue;
    for (int64_t k = 0; k < gate.elements.count(); ++k) {
      if (!(output.at(gate.elements.at(k).index) == Element{gate.source, static_cast<int32_t>(k)})) return false;
    }
  }
  return true;
}

absl::Status Lowering::PairStates() {
  const auto free = [&](size_t o) { return outputs_[o].input < 0; };
  const auto pair = [&](int input, size_t output) {
    reading_.next[input] = static_cast<int>(output);
    outputs_[output].input = input;
  };
  for (const auto& [input, output] : reading_.next) {
    if (input_value_[static_cast<size_t>(input)] == nullptr) continue;
    if (outputs_[static_cast<size_t>(output)].value->shape != input_value_[static_cast<size_t>(input)]->shape) {
      return Refuse(absl::StrCat("input ", Shown(inputs_[static_cast<size_t>(input)].declared.name), " is a state of shape ", ShapeString(input_value_[static_cast<size_t>(input)]->shape),
                                 ", its next value ", Shown(outputs_[static_cast<size_t>(output)].name), " has shape ", ShapeString(outputs_[static_cast<size_t>(output)].value->shape)));
    }
    outputs_[static_cast<size_t>(output)].input = input;
  }
  std::vector<int> open;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const ValPtr& in = input_value_[i];
    if (in == nullptr || !in->is_float || in->time >= 0 || inputs_[i].no_state || inputs_[i].look_back > 0 || reading_.next.contains(static_cast<int>(i))) continue;
    open.push_back(static_cast<int>(i));
  }
  // What cells and gates tell, then names, then shapes.
  for (int round = 0; round < 4; ++round) {
    for (int i : open) {
      if (reading_.next.contains(i)) continue;
      const bool told = std::any_of(claims_.begin(), claims_.end(), [&](const Claim& c) { return c.input == i; }) ||
                        std::any_of(gates_.begin(), gates_.end(), [&](const Gate& g) { return g.input == i; });
      std::vector<size_t> candidates;
      for (size_t o = 0; o < outputs_.size(); ++o) {
        if (!free(o)) continue;
        if (round == 0 && told && Matches(i, *outputs_[o].value)) candidates.push_back(o);
        const bool by_name = round == 1 || round == 2, numbers = round == 1;
        const std::string stem = StateStem(inputs_[static_cast<size_t>(i)].declared.name, numbers);
        if (by_name && !stem.empty() && stem == StateStem(outputs_[o].name, numbers) && outputs_[o].value->shape == input_value_[static_cast<size_t>(i)]->shape) candidates.push_back(o);
        if (round == 3 && reading_.states.contains(i) && outputs_[o].value->shape == input_value_[static_cast<size_t>(i)]->shape && outputs_[o].value->time < 0) candidates.push_back(o);
      }
      if (candidates.size() != 1) continue;
      pair(i, candidates[0]);
    }
  }
  bool learnt = false;
  for (const auto& [input, output] : reading_.next) learnt = reading_.states.insert(input).second || learnt;
  if (learnt) return absl::AbortedError("a state was found");
  bool timed = false;
  std::vector<int> data;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (input_value_[i] == nullptr || reading_.states.contains(static_cast<int>(i))) continue;
    timed = timed || input_value_[i]->time >= 0;
    data.push_back(static_cast<int>(i));
  }
  for (int i : data) {
    if (timed || data.size() < 2 || inputs_[static_cast<size_t>(i)].no_state || !input_value_[static_cast<size_t>(i)]->is_float) continue;
    for (const Output& output : outputs_) {
      if (output.input >= 0 || output.value->constant() || output.value->shape != input_value_[static_cast<size_t>(i)]->shape || output.value->count() < 2) continue;
      const std::string_view name = inputs_[static_cast<size_t>(i)].declared.name;
      return Refuse(absl::StrCat("input ", Shown(name), " may be a state whose next value is output ", Shown(output.name), ", or data. The manifest can say which: ",
                                 ManifestLine(name, absl::StrCat("state: ", Shown(output.name))), ", or state: '' for data"));
    }
  }
  return absl::OkStatus();
}

bool Lowering::UsedByNode(ValueId value) {
  const auto& nodes = builder().model().nodes;
  return std::any_of(nodes.begin(), nodes.end(), [&](const Node& n) { return std::find(n.inputs.begin(), n.inputs.end(), value) != n.inputs.end(); });
}

absl::Status Lowering::WriteState(int input, const Val& next) {
  node_name_ = inputs_[static_cast<size_t>(input)].declared.name;
  const StateId state = read_states_[input];
  LSTM_ASSIGN_OR_RETURN(const ValueId id, Use(next, input_value_[static_cast<size_t>(input)]->shape));
  return Add("after", StateWriteOp{state}, {id}).status();
}

absl::Status Lowering::FinishStates() {
  for (const Claim& claim : claims_) {
    const auto next = reading_.next.find(claim.input);
    const bool carried = next != reading_.next.end();
    if (!carried && claim.step_axis == -2) continue;
    // Nobody carries it: then its graph is of whole sequences, of one step as it happens.
    if (!carried && MakeTime(claim.step_axis)) return absl::AbortedError("time was found");
    if (!carried || !Matches(claim.input, *outputs_[static_cast<size_t>(next->second)].value)) {
      if (carried && reading_.explicit_states.insert(claim.input).second) return absl::AbortedError("a state is more than a cell's");
      const std::string_view name = inputs_[static_cast<size_t>(claim.input)].declared.name;
      return Refuse(absl::StrCat("input ", Shown(name), " is the state of a recurrent layer, but no one output is surely its next value. The manifest can say which: ", ManifestLine(name, "state: ...")));
    }
  }
  // Outputs first: using them may show that a state is read by itself.
  std::vector<std::pair<Port, const Output*>> ports;
  for (bool all : {false, true}) {
    for (const Output& output : outputs_) {
      if (output.input >= 0 && !all) continue;
      if (!ports.empty() && all) break;
      Shape shape;
      for (int64_t n : output.value->shape) {
        if (n != 1) shape.push_back(n);
      }
      if (shape.empty()) shape = {1};
      if (output.value->constant()) continue;
      if (!output.value->is_float) {  // a length that is only passed on, say: nobody needs to send it
        const Source& source = sources_[static_cast<size_t>(output.value->at(0).source)];
        GraphInput* in = source.kind == Source::kInput ? &inputs_[static_cast<size_t>(source.input)] : nullptr;
        if (in == nullptr) return Refuse(absl::StrCat("output ", Shown(output.name), " has integers, expected floats"));
        if (source.value >= 0 && UsedByNode(source.value)) continue;
        if (!in->constant) in->constant = std::make_shared<const Tensor>(Tensor{false, source.shape, {}, std::vector<int64_t>(static_cast<size_t>(CheckedElementCount(source.shape)), 0)});
        if (reading_.constants.insert(source.input).second) return absl::AbortedError("integers are only passed on");
        continue;
      }
      if (output.value->tail != 0) return LooksAhead(absl::StrCat("output ", Shown(output.name), " is longer than the sequence by ", output.value->tail, " frames of padding: it looks ahead, or is not cut"));
      node_name_ = output.name;
      auto id = Use(*output.value, shape);
      if (!id.ok()) return id.status();
      ports.push_back({{.name = output.name, .value = *id}, &output});
    }
  }
  size_t written = 0;
  std::set<int> done;
  while (written < read_states_.size()) {
    for (const auto& [input, state] : std::map<int, StateId>(read_states_)) {
      if (!done.insert(input).second) continue;
      ++written;
      const auto next = reading_.next.find(input);
      if (next == reading_.next.end()) {
        const std::string_view name = inputs_[static_cast<size_t>(input)].declared.name;
        return Refuse(absl::StrCat("input ", Shown(name), " is a state, but no one output is surely its next value. The manifest can say which: ", ManifestLine(name, "state: ...")));
      }
      LSTM_RETURN_IF_ERROR(WriteState(input, *outputs_[static_cast<size_t>(next->second)].value));
    }
  }
  std::set<std::string> taken;
  for (auto& [port, output] : ports) {
    std::string clean;
    for (char c : port.name.substr(0, 190)) {
      const bool good = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '/' || c == ':' || c == '-';
      clean.push_back(good ? c : '_');
    }
    for (int k = 2; clean.empty() || !taken.insert(clean).second; ++k) clean = absl::StrCat(clean, ".", k);
    port.name = clean;
    LSTM_RETURN_IF_ERROR(builder().AddOutput(port));
  }
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
