// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/import/layer_import.h"

// Private to core/import: the tensors of LSTM, GRU and RNN layers as each framework has them.
namespace lstm::core {

// Where each canonical gate's block lies in the file, as -1 where the file has none.
using Order = std::vector<int>;

// Input weights [G*H, I], recurrent weights [G*H, R] and biases as they lie in the file, in its gate order.
struct Raw {
  ConstantPtr weight, recurrent;
  ConstantPtr bias;            // null: none
  ConstantPtr recurrent_bias;  // null: one or none
  int64_t hidden = 0;
};

// Tensor names of one layer of a PyTorch stack: "weight_ih_l0".
std::string Name(const char* name, uint32_t k, manifest::v1::Convention convention);

// `usual`: the form of bias that the convention has; `gates` of them; `width`: of what the layer reads.
absl::StatusOr<Raw> ReadRaw(LayerImport& in, manifest::v1::Convention convention, manifest::v1::BiasForm bias, manifest::v1::BiasForm usual, uint32_t k,
                            int64_t gates, int64_t width);

// The blocks of `rows` rows each, picked in `order`; a block of -1 is zeros. `from` null: all zeros. `columns` 0: a vector.
std::shared_ptr<Constant> Reorder(const ConstantPtr& from, const Order& order, int64_t rows, int64_t columns);

std::shared_ptr<Constant> SummedBias(const Raw& raw, const Order& order);

}  // namespace lstm::core
