// SPDX-License-Identifier: MIT
#include "core/model/round_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>

#include "core/model/sequence.h"

namespace lstm::core {
namespace {

// Up to where the next number up is infinity: what is as large is left as it is.
float ToBfloat16(float f) {
  const auto bits = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  return (rounded & 0x7f800000u) == 0x7f800000u ? f : std::bit_cast<float>(rounded);
}

void RowToBfloat16(std::span<float> row) {
  for (float& f : row) f = ToBfloat16(f);
}

float ToInt8(float f, float scale) { return std::clamp(std::nearbyint(f / scale), -127.0f, 127.0f) * scale; }

void RowToInt8(std::span<float> row) {
  constexpr float kOfTheLargest[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f, 0.7f, 0.6f, 0.5f};
  constexpr float kSmallest = 1e-9f;  // well within what is packed in bytes (core/kernels/fused/pack.cc)
  float most = 0;
  bool finite = true;
  for (const float f : row) {
    most = std::max(most, std::fabs(f));
    finite = finite && std::isfinite(f);
  }
  if (!finite || most < kSmallest || most > 1 / kSmallest) return;
  float best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (const float part : kOfTheLargest) {
    // Seven bits less than a float has: the products are exact, so that the whole numbers are found again.
    const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(most * part / 127) + 0x7fu) & ~0x7fu);
    double lost = 0;
    for (const float f : row) lost += std::pow(static_cast<double>(f) - static_cast<double>(ToInt8(f, scale)), 2);
    if (lost < least) {
      least = lost;
      best = scale;
    }
  }
  for (float& f : row) f = ToInt8(f, best) + 0.0f;  // no zero keeps a sign
}

class Rounding {
 public:
  explicit Rounding(void (*row)(std::span<float>)) : row_(row) {}
  void Apply(Model& model) {
    for (Node& node : model.nodes) {
      if (auto* lstm = std::get_if<LstmOp>(&node.op)) {
        for (ConstantPtr* c : {&lstm->weight, &lstm->recurrent, &lstm->projection}) Apply(*c);
      } else if (auto* gru = std::get_if<GruOp>(&node.op)) {
        for (ConstantPtr* c : {&gru->weight, &gru->recurrent}) Apply(*c);
      } else if (auto* rnn = std::get_if<RnnOp>(&node.op)) {
        for (ConstantPtr* c : {&rnn->weight, &rnn->recurrent}) Apply(*c);
      } else if (auto* linear = std::get_if<LinearOp>(&node.op)) {
        Apply(linear->weight);
      } else if (auto* conv = std::get_if<Conv1dOp>(&node.op)) {
        Apply(conv->weight);
      }
    }
    if (model.sequence == nullptr) return;
    auto sequence = std::make_shared<SequenceModel>(*model.sequence);
    for (SequenceStage& stage : sequence->stages) {
      auto own = std::make_shared<Model>(*stage.model);
      Apply(*own);
      stage.model = std::move(own);
    }
    model.sequence = std::move(sequence);
  }

 private:
  // What several layers share they go on sharing.
  void Apply(ConstantPtr& constant) {
    if (constant == nullptr) return;
    ConstantPtr& made = made_[constant];
    if (made == nullptr) {
      auto copy = std::make_shared<Constant>();
      copy->shape = constant->shape;
      copy->values = AlignedBuffer<float>(constant->values.size());
      std::copy_n(constant->values.data(), constant->values.size(), copy->values.data());
      const auto rows = static_cast<size_t>(constant->shape[0]), width = constant->values.size() / std::max<size_t>(rows, 1);
      for (size_t r = 0; r < rows; ++r) row_(copy->values.span().subspan(r * width, width));
      made = std::move(copy);
    }
    constant = made;
  }
  void (*const row_)(std::span<float>);
  std::map<ConstantPtr, ConstantPtr> made_;
};

}  // namespace

void RoundWeightsToBfloat16(Model& model) { Rounding(RowToBfloat16).Apply(model); }
void RoundWeightsToInt8(Model& model) { Rounding(RowToInt8).Apply(model); }

}  // namespace lstm::core
