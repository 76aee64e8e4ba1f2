// SPDX-License-Identifier: MIT
// Ops that give the same elements another shape or order, and shapes that a graph computes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

absl::Status Lowering::LowerShape(Call& call) {
  const Shape full = FullShape(call[0]);
  const auto rank = static_cast<int64_t>(full.size());
  const auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank); };
  const int64_t begin = clamp(call.node.Int("start", 0)), end = clamp(call.node.Int("end", rank));
  Tensor out;
  out.is_float = false;
  for (int64_t a = begin; a < end; ++a) out.ints.push_back(full[static_cast<size_t>(a)]);
  out.shape = {static_cast<int64_t>(out.ints.size())};
  call.out[0] = MakeConstantVal(std::move(out));
  return absl::OkStatus();
}

int64_t Lowering::FixedTime(int rate) const {
  for (const auto& [input, axis] : reading_.time) {
    const int64_t size = inputs_[static_cast<size_t>(input)].declared.shape[static_cast<size_t>(axis)].size;
    if (size > 1) return rate < 0 ? size : size < lengths_[static_cast<size_t>(rate)].least ? 0 : lengths_[static_cast<size_t>(rate)].Of(size);
  }
  return 0;
}

absl::Status Lowering::LowerReshape(Call& call, const std::vector<int64_t>& target, bool zero_copies) {
  const Val& x = call[0];
  const Shape full = FullShape(x);
  Shape shape(target.begin(), target.end());
  if (shape.size() > 16) return Refuse(absl::StrCat("gives ", shape.size(), " dimensions, expected at most 16"));
  int64_t known = 1, infer = -1;
  for (size_t a = 0; a < shape.size(); ++a) {
    if (shape[a] == 0 && zero_copies && a < full.size()) shape[a] = full[a];
    if (shape[a] == -1) {
      if (infer >= 0) return Refuse("its shape has -1 twice");
      infer = static_cast<int64_t>(a);
      continue;
    }
    if (shape[a] < 0) return Refuse(absl::StrCat("its shape has ", shape[a]));
    LSTM_RETURN_IF_ERROR(ElementCount({known, shape[a]}).status());
    known *= shape[a];
  }
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(full));
  if (infer >= 0) {
    if (known == 0 || count % known != 0) return Refuse(absl::StrCat("shape ", ShapeString(full), " does not become ", ShapeString(shape)));
    shape[static_cast<size_t>(infer)] = count / known;
  } else if (known != count) {
    // A fixed length or a fixed batch may be written into the graph: the sizes of one item of one step are what is left.
    const int64_t fixed = x.time >= 0 ? FixedTime(RateOf(x)) : 0;
    for (size_t a = 0; a < shape.size() && fixed > 0; ++a) {
      if (shape[a] == 0 || shape[a] % fixed != 0) continue;
      Shape any = shape;
      any[a] = any[a] / fixed * full[static_cast<size_t>(x.time)];
      if (ElementCount(any).ok() && CheckedElementCount(any) == count) return LowerReshape(call, {any.begin(), any.end()}, false);
    }
    const int64_t own = x.count();
    int64_t rest = 1;
    for (int64_t n : shape) rest *= n;
    if (x.time >= 0 || rest == 0 || rest % std::max<int64_t>(own, 1) != 0 || reading_.single.empty()) {
      return Refuse(absl::StrCat("shape ", ShapeString(full), " (one session", x.time >= 0 ? absl::StrCat(", ", kTime, " for any number of steps") : "", ") does not become ", ShapeString(shape)));
    }
    for (int64_t& n : shape) {
      if (n > 1 && n == rest / own) {
        n = 1;
        break;
      }
    }
    if (CheckedElementCount(shape) != own) return Refuse(absl::StrCat("shape ", ShapeString(full), " does not become ", ShapeString(shape)));
  }
  int time = -1;
  if (x.time >= 0) {
    int64_t before = 1, wanted = 1;
    for (int a = 0; a < x.time; ++a) wanted *= full[static_cast<size_t>(a)];
    for (size_t a = 0; a < shape.size() && time < 0; ++a) {
      if (shape[a] == full[static_cast<size_t>(x.time)] && before == wanted) {
        time = static_cast<int>(a);
      } else {
        before *= shape[a];
      }
    }
    if (time < 0) return Refuse(absl::StrCat("mixes time, axis ", x.time, " of ", ShapeString(full), ", with other axes: ", ShapeString(shape)));
    shape[static_cast<size_t>(time)] = 1;
  }
  auto out = std::make_shared<Val>(*Reshaped(x, shape));
  out->time = time;
  if (time >= 0) out->labels[static_cast<size_t>(time)] = x.labels[static_cast<size_t>(x.time)];
  for (size_t a = 0; a < shape.size() && a < x.shape.size() && x.shape[a] == shape[a]; ++a) {
    out->labels[a] = x.labels[a];
    // Past an axis of one item it is a guess which is which, a good one while the rest of the shape is the same too.
  }
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerTranspose(Call& call) {
  const Val& x = call[0];
  const size_t rank = x.shape.size();
  std::vector<int64_t> perm;
  if (const Attribute* a = call.node.Find("perm")) {
    perm = a->ints;
  } else {
    for (size_t i = rank; i > 0; --i) perm.push_back(static_cast<int64_t>(i) - 1);
  }
  std::vector<bool> seen(rank, false);
  for (int64_t axis : perm) {
    if (axis < 0 || axis >= static_cast<int64_t>(rank) || seen[static_cast<size_t>(axis)]) return Refuse("perm is no permutation of its axes");
    seen[static_cast<size_t>(axis)] = true;
  }
  if (perm.size() != rank) return Refuse(absl::StrCat("perm has ", perm.size(), " axes, expected ", rank));
  Shape shape;
  std::vector<int> labels;
  int time = -1;
  size_t moved = 0;
  std::vector<int64_t> wide;  // axes of more than one item: where their order stays, no element moves
  for (int64_t axis : perm) {
    const auto a = static_cast<size_t>(axis);
    if (x.time == static_cast<int>(a)) time = static_cast<int>(shape.size());
    shape.push_back(x.shape[a]);
    labels.push_back(x.labels[a]);
    if (x.shape[a] != 1) wide.push_back(axis);
  }
  moved = std::is_sorted(wide.begin(), wide.end()) ? 0 : 1;
  ValPtr arranged;
  if (moved == 0) {
    arranged = Reshaped(x, shape);
  } else {
    LSTM_ASSIGN_OR_RETURN(arranged, Arranged(x, Transposed(x.shape, perm), shape));
  }
  auto out = std::make_shared<Val>(*arranged);
  out->labels = labels;
  out->time = time;
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

absl::Status Lowering::LowerExpand(Call& call, Shape target) {
  const Val& x = call[0];
  for (int64_t n : target) {
    if (n < 0) return Refuse("its shape has a negative size");
  }
  LSTM_ASSIGN_OR_RETURN(Shape full, BroadcastShape(FullShape(x), target));
  const int shift = static_cast<int>(full.size() - x.shape.size());
  const int time = x.time < 0 ? -1 : x.time + shift;
  if (time >= 0) full[static_cast<size_t>(time)] = 1;
  for (int64_t n : full) {
    if (IsTimeLength(n) && !whole_) return LooksAhead("spreads a value over time, which no step knows the length of");
  }
  int spread = -1;  // a value that is the same in every step
  for (size_t a = 0; a < full.size(); ++a) {
    const std::optional<int> rate = RateOfSize(full[a]);
    if (!IsTimeLength(full[a]) && !rate) continue;
    if (!rate || spread >= 0 || time >= 0 || x.constant()) return LooksAhead("spreads a value over time");
    spread = static_cast<int>(a);
    full[a] = 1;
    if (*rate == stages_[static_cast<size_t>(stage_)]->rate) continue;
    NewStage(-1, *rate);
    call.in[0] = Bring(*call.in[0], {-1, SequenceRead::kAfter});
    return LowerExpand(call, std::move(target));
  }
  if (spread >= 0 && x.last && Here(x)) {  // the end, known when its stage has ended
    LSTM_ASSIGN_OR_RETURN(call.in[0], Anew(call.in[0], {-1, SequenceRead::kAfter}));
    return LowerExpand(call, std::move(target));
  }
  LSTM_RETURN_IF_ERROR(ElementCount(full).status());
  LSTM_RETURN_IF_ERROR(Spend(CheckedElementCount(full)));
  LSTM_ASSIGN_OR_RETURN(const Arrangement arrangement, Broadcast(x.shape, full));
  LSTM_ASSIGN_OR_RETURN(const ValPtr arranged, Arranged(x, arrangement, full));
  auto out = std::make_shared<Val>(*arranged);
  out->time = spread >= 0 ? spread : time;
  for (size_t a = 0; a < x.shape.size(); ++a) out->labels[a + static_cast<size_t>(shift)] = x.labels[a];
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
