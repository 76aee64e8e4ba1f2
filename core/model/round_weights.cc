// SPDX-License-Identifier: MIT
#include "core/model/round_weights.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/model/sequence.h"

namespace lstm::core {
namespace {

// Up to where the next number up is infinity: what is as large is left as it is.
float ToBfloat16(float f) {
  const auto bits = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  return (rounded & 0x7f800000u) == 0x7f800000u ? f : std::bit_cast<float>(rounded);
}

void RowToBfloat16(std::span<float> row, const float*) {
  for (float& f : row) f = ToBfloat16(f);
}

// `given`: its scale; null: that of least squares.
void RowToInt8(std::span<float> row, const float* given) {
  if (!CanBeInt8(row)) return;
  const float scale = given != nullptr ? *given : LeastSquaresScale(row);
  for (float& f : row) f = ToInt8(f, scale) + 0.0f;  // no zero keeps a sign
}

// Calls `each` with every matrix of the op that is rounded and the end of its name.
template <typename AnyOp, typename F>
void EachMatrix(AnyOp& op, F each) {
  const auto some = [&](auto& matrix, const char* part) {
    if (matrix != nullptr) each(matrix, part);
  };
  std::visit(
      [&](auto& typed) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(typed)>, EmbeddingOp>) {
          if constexpr (requires { typed.weight; }) some(typed.weight, "weight");
          if constexpr (requires { typed.recurrent; }) some(typed.recurrent, "recurrent");
          if constexpr (requires { typed.projection; }) some(typed.projection, "projection");
        }
      },
      op);
}

std::string MatrixName(const Node& node, const char* part) { return absl::StrCat(node.name, ".", part); }

class Rounding {
 public:
  explicit Rounding(void (*row)(std::span<float>, const float*)) : row_(row) {}
  // `scales`: of all matrices, or null.
  void Apply(Model& model, const RowScales* scales) {
    for (Node& node : model.nodes) {
      EachMatrix(node.op, [&](ConstantPtr& matrix, const char* part) {
        Apply(matrix, scales != nullptr ? scales->at(MatrixName(node, part)) : std::vector<float>());
      });
    }
    if (model.sequence == nullptr) return;
    auto sequence = std::make_shared<SequenceModel>(*model.sequence);
    for (SequenceStage& stage : sequence->stages) {
      auto own = std::make_shared<Model>(*stage.model);
      Apply(*own, nullptr);
      stage.model = std::move(own);
    }
    model.sequence = std::move(sequence);
  }

 private:
  // What several layers share they go on sharing, where it is rounded alike.
  void Apply(ConstantPtr& constant, const std::vector<float>& scales) {
    ConstantPtr& made = made_[{constant, scales}];
    if (made == nullptr) {
      auto copy = std::make_shared<Constant>();
      copy->shape = constant->shape;
      copy->values = AlignedBuffer<float>(constant->values.size());
      std::copy_n(constant->values.data(), constant->values.size(), copy->values.data());
      const auto rows = static_cast<size_t>(constant->shape[0]), width = constant->values.size() / std::max<size_t>(rows, 1);
      for (size_t r = 0; r < rows; ++r) row_(copy->values.span().subspan(r * width, width), scales.empty() ? nullptr : &scales[r]);
      made = std::move(copy);
    }
    constant = made;
  }
  void (*const row_)(std::span<float>, const float*);
  std::map<std::pair<ConstantPtr, std::vector<float>>, ConstantPtr> made_;
};

absl::Status CheckScales(const RoundedMatrix& matrix, const RowScales& scales) {
  const auto it = scales.find(matrix.name);
  if (it == scales.end()) return absl::InvalidArgumentError(absl::StrCat("tensor '", matrix.name, "' is missing, expected shape [", matrix.rows(), "], a scale for each row"));
  if (static_cast<int64_t>(it->second.size()) != matrix.rows()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", matrix.name, "' has shape [", it->second.size(), "], expected [", matrix.rows(), "], a scale for each row"));
  }
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    const absl::Status status = CheckScale(matrix.row(r), it->second[static_cast<size_t>(r)]);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("tensor '", matrix.name, "', row ", r, ": ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<RoundedMatrix> RoundedMatrices(const Model& model) {
  std::vector<RoundedMatrix> out;
  for (size_t n = 0; n < model.nodes.size(); ++n) {
    EachMatrix(model.nodes[n].op, [&](const ConstantPtr& matrix, const char* part) { out.push_back({MatrixName(model.nodes[n], part), n, matrix}); });
  }
  return out;
}

void RoundWeightsToBfloat16(Model& model) { Rounding(RowToBfloat16).Apply(model, nullptr); }
void RoundWeightsToInt8(Model& model) { Rounding(RowToInt8).Apply(model, nullptr); }

absl::Status RoundWeightsToInt8(Model& model, const RowScales& scales) {
  std::set<std::string> known;
  for (const RoundedMatrix& matrix : RoundedMatrices(model)) {
    LSTM_RETURN_IF_ERROR(CheckScales(matrix, scales));
    known.insert(matrix.name);
  }
  for (const auto& [name, unused] : scales) {
    if (!known.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", absl::CHexEscape(name.substr(0, 100)), "' is of no matrix of the steps, expected the ", known.size(), " that are rounded and nothing else"));
    }
  }
  Rounding(RowToInt8).Apply(model, &scales);
  return absl::OkStatus();
}

}  // namespace lstm::core
