// SPDX-License-Identifier: MIT
#include "tests/chaos/plan.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::testing {

v1::Step Turns::Next() {
  v1::Step step;
  const uint64_t kind = Below(20);
  step.set_reset_before(kind < 2);
  if (kind == 0) return step;  // a reset alone
  step.set_discard(kind == 2 || kind == 3);
  const uint64_t steps = Below(2) == 0 ? 1 : 1 + Below(16);
  for (const v1::TensorSpec& input : model_.inputs()) {
    v1::Tensor* tensor = step.add_inputs();
    tensor->set_name(input.name());
    int64_t elements = 1;
    for (int64_t d : input.shape()) elements *= d;
    const int64_t limit = input.limit() > 0 ? input.limit() : model_.vocabulary().tokens_size() > 0 ? model_.vocabulary().tokens_size() : 60;
    for (uint64_t i = 0; i < steps * static_cast<uint64_t>(elements); ++i) {
      if (input.type() == v1::FLOAT32) {
        tensor->add_floats(static_cast<float>(Below(60'000)) / 1000);
      } else {
        tensor->add_ints(static_cast<int64_t>(Below(static_cast<uint64_t>(limit))));
      }
    }
  }
  return step;
}

std::string BitsOf(const v1::Result& result) {
  std::string bits = result.state_digest();
  for (const v1::Tensor& output : result.outputs()) bits += output.SerializeAsString();
  return bits;
}

std::string Unlike(const v1::Result& got, const std::string& bits, const Plan& plan, size_t at) {
  std::string what = absl::StrCat("not the bits of the undisturbed run", got.replayed() ? ", a replay" : "", ", epoch ", got.epoch());
  if (at >= plan.truth.size()) return what;
  const std::string& due = plan.truth[at];
  const size_t digest = got.state_digest().size();
  absl::StrAppend(&what, bits.compare(0, digest, due, 0, digest) == 0 ? "; the digest is right" : "; another digest");
  absl::StrAppend(&what, bits.size() > digest && bits.substr(digest) == due.substr(digest) ? ", the outputs are right" : ", other outputs");
  size_t unlike = 0, first = 0;
  for (size_t i = 0; i < std::min(bits.size(), due.size()); ++i) {
    if (bits[i] == due[i]) continue;
    if (unlike++ == 0) first = i;
  }
  absl::StrAppend(&what, ": ", unlike, " bytes from ", first, " on, of ", bits.size(), " where ", due.size(), " were due");
  for (size_t k = 0; k < plan.truth.size(); ++k) {
    if (plan.truth[k].compare(0, digest, bits, 0, digest) == 0) absl::StrAppend(&what, "; this is the digest of turn ", k + 1);
  }
  for (size_t k = at > 2 ? at - 2 : 0; k <= at; ++k) {
    const v1::Step& turn = plan.turns[k];
    absl::StrAppend(&what, k == at ? "; this turn" : "; before it", turn.reset_before() ? " reset" : "", turn.discard() ? " discard" : "", turn.inputs_size() > 0 ? absl::StrCat(" of ", turn.inputs(0).ints_size() + turn.inputs(0).floats_size(), " values") : "");
  }
  return what;
}

std::vector<Plan> RandomPlans(const std::vector<v1::ModelInfo>& models, size_t n, size_t most_turns, uint64_t seed) {
  std::vector<Plan> plans(n);
  for (size_t i = 0; i < n; ++i) {
    const v1::ModelInfo& model = models[i % models.size()];
    Turns turns(model, seed * 1'000'003 + i);
    plans[i].model = model.name();
    plans[i].window = static_cast<uint32_t>(1 + turns.Below(8));
    for (uint64_t k = 1 + turns.Below(most_turns); k > 0; --k) plans[i].turns.push_back(turns.Next());
  }
  return plans;
}

absl::StatusOr<std::vector<std::string>> Undisturbed(client::Stream& stream, const std::string& model, const std::vector<v1::Step>& turns) {
  v1::Open open;
  open.set_model(model);
  open.set_durability(v1::VOLATILE);
  LSTM_ASSIGN_OR_RETURN(const auto session, stream.Open(std::move(open), absl::Seconds(60)));
  std::vector<std::string> truth;
  absl::Status failed;
  for (const v1::Step& turn : turns) {
    LSTM_RETURN_IF_ERROR(session->Send(turn, [&](absl::StatusOr<v1::Result> result) {
      failed.Update(result.status());
      truth.push_back(result.ok() ? BitsOf(*result) : "");
    }));
  }
  LSTM_RETURN_IF_ERROR(session->Close());  // waits until all of them are answered
  LSTM_RETURN_IF_ERROR(failed);
  return truth;
}

}  // namespace lstm::testing
