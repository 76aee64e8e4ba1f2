// SPDX-License-Identifier: MIT
#include "tests/sim/sim_session.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/cpp/error.h"

namespace lstm::testing {

bool SimTurn::poison() const { return std::find(inputs.begin(), inputs.end(), HashProgram::kPoison) != inputs.end(); }

v1::Step SimTurn::ToStep() const {
  v1::Step step;
  step.set_reset_before(reset);
  step.set_discard(discard);
  step.set_deadline_us(deadline_us);
  if (inputs.empty()) return step;
  step.set_steps(static_cast<uint32_t>(inputs.size()));
  for (const int32_t x : inputs) (step.inputs_size() > 0 ? step.mutable_inputs(0) : step.add_inputs())->add_ints(x);
  return step;
}

std::string Truth::Check(uint64_t seq, const SimTurn& turn, const v1::Result& result) {
  const std::string got = result.outputs_size() > 0 ? result.outputs(0).data() : "";
  if (const auto it = seen_.find(seq); it != seen_.end()) {
    return got == it->second.second ? "" : absl::StrCat("turn ", seq, " was answered before, and otherwise");
  }
  if (seq != known_ + 1) return absl::StrCat("turn ", seq, " is answered where ", known_ + 1, " was due");
  HashProgram::State state = turn.reset ? HashProgram::State{} : state_;
  std::string expected;
  for (const int32_t x : turn.inputs) {
    const HashProgram::Output y = HashProgram::Apply(state, x);
    expected.append(reinterpret_cast<const char*>(y.data()), sizeof(y));
  }
  if (!turn.discard) state_ = state;
  ++known_;
  seen_[seq] = {turn, got};
  return got == expected ? "" : absl::StrCat("the answer to turn ", seq, " is not that of an undisturbed run");
}

bool SimSession::SendNext(client::SessionLog::Actions& out) {
  if (plan_.empty() || !log.room() || !redo_.empty()) return false;
  const SimTurn turn = plan_.front();
  plan_.pop_front();
  const uint64_t seq = log.Send(turn.ToStep(), out);
  sent[seq] = history[seq] = turn;
  return true;
}

void SimSession::Answered(client::SessionLog::Answer& answer, const std::map<uint64_t, SimTurn>* turns_before) {
  if (answer.missed) {
    if (!answer.result.ok()) return;  // the session ended before it came
    const auto it = turns_before == nullptr ? decltype(turns_before->end()){} : turns_before->find(answer.seq);
    if (turns_before == nullptr || it == turns_before->end()) return Fail("an answer to a turn that nobody sent");
    return Fail(truth->Check(answer.seq, it->second, *answer.result));
  }
  const auto it = sent.find(answer.seq);
  if (it == sent.end()) return Fail(absl::StrCat("turn ", answer.seq, " is answered twice, or was never sent"));
  if (it != sent.begin()) return Fail(absl::StrCat("turn ", answer.seq, " is answered before one that was sent earlier"));
  const SimTurn turn = it->second;
  sent.erase(it);
  if (answer.result.ok()) {
    if (turn.poison()) Fail("a turn whose numbers are not finite was answered");
    const v1::Result& result = *answer.result;
    if (!result.replayed() && result.has_timings() && turn.deadline_us > 0 && result.timings().queue_us() > turn.deadline_us) {
      Fail("R10: a turn was begun after its deadline");
    }
    return Fail(truth->Check(answer.seq, turn, result));
  }
  const auto refusal = client::RefusalOf(answer.result.status());
  const v1::Reason reason = refusal ? refusal->reason : v1::REASON_UNSPECIFIED;
  const bool behind = answer.result.status().code() == absl::StatusCode::kAborted && !log.over();
  if (reason == v1::NON_FINITE && turn.poison()) {
    // it has had its answer
  } else if ((reason == v1::DEADLINE && turn.deadline_us > 0) || behind) {
    redo_.push_back(turn);
    redo_.back().deadline_us = 0;
  } else if (!(log.over() && may_be_fenced)) {
    Fail(absl::StrCat("turn ", answer.seq, " failed: ", answer.result.status().message()));
  }
  if (sent.empty()) {
    plan_.insert(plan_.begin(), redo_.begin(), redo_.end());
    redo_.clear();
  }
}

}  // namespace lstm::testing
