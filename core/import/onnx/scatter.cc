// SPDX-License-Identifier: MIT
// Values of which some elements are written over, as x[:, 1:] = y is exported: elements of two values, where nothing is computed.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/lowering.h"

namespace lstm::core::onnx {

// Where in the data each update goes, those of one item of ScatterND one behind the other.
absl::StatusOr<std::vector<int64_t>> Lowering::ScatterPlaces(const Call& call) {
  const Val &data = call[0], &updates = call[2];
  const bool nd = call.node.op == "ScatterND";
  const size_t rank = data.shape.size();
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> index, IntsOf(call, 1, "indices"));
  const Shape& shape = call[1].shape;
  const absl::Status unfit = absl::InvalidArgumentError(absl::StrCat("its data of shape ", ShapeString(data.shape), ", indices of shape ", ShapeString(shape), " and updates of shape ", ShapeString(updates.shape), " do not fit"));
  if (rank == 0 || shape.empty()) return unfit;
  const auto strides = Strides(shape), to = Strides(data.shape);
  const auto place = [&](int64_t item, size_t a) -> absl::StatusOr<int64_t> {
    if (item < 0) item += data.shape[a];
    if (data.time == static_cast<int>(a) && item != 0) return LooksAhead("writes single steps of the sequence");
    if (item < 0 || item >= data.shape[a]) return absl::InvalidArgumentError(absl::StrCat("writes item ", item, " of axis ", a, " of shape ", ShapeString(data.shape)));
    return item * to[a];
  };
  std::vector<int64_t> out;
  if (!nd) {
    LSTM_ASSIGN_OR_RETURN(const size_t axis, Axis(call.node.Int("axis", 0), rank));
    if (shape.size() != rank || updates.shape != shape) return unfit;
    for (size_t i = 0; i < index.size(); ++i) {
      int64_t at = 0;
      for (size_t a = 0; a < rank; ++a) {
        LSTM_ASSIGN_OR_RETURN(const int64_t part, place(a == axis ? index[i] : static_cast<int64_t>(i) / strides[a] % shape[a], a));
        at += part;
      }
      out.push_back(at);
    }
    return out;
  }
  const auto depth = static_cast<size_t>(shape.back());
  if (depth < 1 || depth > rank) return unfit;
  Shape expected(shape.begin(), shape.end() - 1);
  expected.insert(expected.end(), data.shape.begin() + static_cast<long>(depth), data.shape.end());
  if (updates.shape != expected) return unfit;
  const int64_t slice = to[depth - 1];
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount({static_cast<int64_t>(index.size() / depth), slice}));
  LSTM_RETURN_IF_ERROR(Affordable(count));
  for (size_t i = 0; i < index.size(); i += depth) {
    int64_t at = 0;
    for (size_t a = 0; a < depth; ++a) {
      LSTM_ASSIGN_OR_RETURN(const int64_t part, place(index[i + a], a));
      at += part;
    }
    for (int64_t k = 0; k < slice; ++k) out.push_back(at + k);
  }
  return out;
}

absl::Status Lowering::LowerScatter(Call& call) {
  if (!call.has(1) || !call.has(2)) return Refuse("expected data, indices and updates");
  const Val &data = call[0], &updates = call[2];
  if (call.node.Text("reduction", "none") != "none") return Refuse("its reduction is not supported");
  if (data.is_float != updates.is_float) return Refuse("writes floats among integers, or integers among floats");
  LSTM_ASSIGN_OR_RETURN(const std::vector<int64_t> places, ScatterPlaces(call));
  if (data.constant() && updates.constant()) {
    LSTM_ASSIGN_OR_RETURN(const TensorPtr from, Constant(data));
    LSTM_ASSIGN_OR_RETURN(const TensorPtr with, Constant(updates));
    Tensor out = *from;
    for (size_t i = 0; i < places.size(); ++i) {
      if (out.is_float) out.floats[static_cast<size_t>(places[i])] = with->floats[i];
      if (!out.is_float) out.ints[static_cast<size_t>(places[i])] = with->ints[i];
    }
    call.out[0] = MakeConstantVal(std::move(out));
    return absl::OkStatus();
  }
  // Time may flow through an axis that is written as a whole, the same of both.
  const Val& lead = data.time >= 0 || updates.time < 0 ? data : updates;
  const int moved = static_cast<int>(updates.shape.size()) - static_cast<int>(data.shape.size());  // ScatterND: axes behind those that are indexed
  const int time = data.time >= 0 ? data.time : updates.time < 0 ? -1 : updates.time - moved;
  if (time >= 0) {
    const bool aside = call.node.op == "ScatterND" ? time >= static_cast<int>(call[1].shape.back()) : false;
    if (!aside || (updates.time >= 0 && updates.time - moved != time)) return LooksAhead("writes into a sequence along more than one axis, or side by side with another");
    if (data.time >= 0 && updates.time >= 0 && (data.head != updates.head || data.tail != updates.tail)) return Refuse("joins values whose time does not run side by side");
    if (data.last || updates.last) return LooksAhead("joins the end of the sequence to every step of it: it looks ahead");
  }
  LSTM_RETURN_IF_ERROR(Spend(data.count()));
  LSTM_ASSIGN_OR_RETURN(const ValPtr from, AsComputed(call.in[0]));
  LSTM_ASSIGN_OR_RETURN(const ValPtr with, AsComputed(call.in[2]));
  auto elements = std::make_shared<std::vector<Element>>();
  for (int64_t i = 0; i < data.count(); ++i) elements->push_back(from->at(i));
  for (size_t i = 0; i < places.size(); ++i) (*elements)[static_cast<size_t>(places[i])] = with->at(static_cast<int64_t>(i));
  auto out = std::make_shared<Val>();
  out->is_float = data.is_float;
  out->shape = data.shape;
  out->labels = from->labels;
  out->time = time;
  out->head = lead.head;
  out->tail = lead.tail;
  out->last = data.last || updates.last;
  out->elements = std::move(elements);
  call.out[0] = std::move(out);
  return absl::OkStatus();
}

}  // namespace lstm::core::onnx
