// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "bench/measure.h"
#include "core/kernels/kernel.h"
#include "tests/support/random_model.h"

namespace lstm::bench {

// One engine's kernel with its buffers: `rows` sessions, their states apart from each other.
class Contender {
 public:
  Contender(const core::Model& model, core::Engine engine, int rows) : rows_(rows) {
    size_t floats = 0;
    for (const auto& state : model.state) {
      offsets_.push_back(floats);
      floats += (static_cast<size_t>(core::CheckedElementCount(state.shape)) + 15) / 16 * 16;
    }
    kernel_ = Must(core::MakeKernel({&model, &model.nodes[0], rows, &offsets_, engine, &products_}));
    const auto count = [&](core::ValueId id) { return static_cast<size_t>(core::CheckedElementCount(model.values[static_cast<size_t>(id)].shape)); };
    const auto room = static_cast<size_t>(rows + core::kPaddingRows);
    x_ = core::AlignedBuffer<float>(room * count(model.nodes[0].inputs[0]));
    y_ = core::AlignedBuffer<float>(room * count(model.nodes[0].output));
    testing::Random random(1);
    for (float& v : x_.span()) v = random.Uniform();
    for (int r = 0; r < rows; ++r) {
      for (auto* states : {&old_, &new_}) states->emplace_back(floats + 1);
      for (float& v : old_.back().span()) v = random.Uniform();
      in_.push_back(old_.back().data());
      out_.push_back(new_.back().data());
    }
    scratch_ = kernel_->Bind({{x_.data()}, y_.data(), false});
  }
  void Step() { Must(kernel_->Run(0, rows_, in_.data(), out_.data(), *scratch_)); }

 private:
  int rows_;
  core::SharedProducts products_;
  std::vector<size_t> offsets_;
  std::unique_ptr<const core::Kernel> kernel_;
  core::AlignedBuffer<float> x_, y_;
  std::vector<core::AlignedBuffer<float>> old_, new_;
  std::vector<const float*> in_;
  std::vector<float*> out_;
  std::unique_ptr<core::KernelScratch> scratch_;
};

}  // namespace lstm::bench
