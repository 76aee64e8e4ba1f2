// SPDX-License-Identifier: MIT
#include "core/model/round_weights.h"

#include <bit>
#include <cstdint>
#include <map>
#include <memory>

#include "core/model/sequence.h"

namespace lstm::core {
namespace {

// Up to where the next number up is infinity: what is as large is left as it is.
float Rounded(float f) {
  const auto bits = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  return (rounded & 0x7f800000u) == 0x7f800000u ? f : std::bit_cast<float>(rounded);
}

class Rounding {
 public:
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
      for (size_t i = 0; i < constant->values.size(); ++i) copy->values.data()[i] = Rounded(constant->values.data()[i]);
      made = std::move(copy);
    }
    constant = made;
  }
  std::map<ConstantPtr, ConstantPtr> made_;
};

}  // namespace

void RoundWeightsToBfloat16(Model& model) { Rounding().Apply(model); }

}  // namespace lstm::core
