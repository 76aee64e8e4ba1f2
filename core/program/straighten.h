// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/model.h"

namespace lstm::core {

// Where the elements of a value lie: element i at (*order)[i]. Null: at i.
using Order = std::shared_ptr<const std::vector<int32_t>>;

struct Straight {
  std::vector<Node> nodes;    // in place of the model's, one for one; shapes are as they were
  std::vector<Order> orders;  // by ValueId
};

// What computes the same values as the model, some of them in another order of their elements: one in which selections copy runs of
// elements that lie side by side, and do not pick them one by one. A convolution over a window of the step, for example, comes out of an
// importer as [channels, frames], while its product makes frame after frame. Functions of single elements take any order;
// products and cells take one that is the same in every row, with the columns of their weights moved. What enters the program, leaves
// it, or is state stays as it is.
Straight Straighten(const Model& model);

}  // namespace lstm::core
