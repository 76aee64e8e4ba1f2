// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "core/model/model.h"

// oneDNN's LSTM as its users call it: one primitive for the whole batch, weights in the layout it asks for. Faster than
// what the server makes of it where that must take one row at a time, but then a row's bits depend on its batch.
namespace lstm::bench {

#if DNNL_VERSION_MAJOR >= 3
#define LSTM_BENCH_DESC(kind, ...) dnnl::kind::primitive_desc(engine_, __VA_ARGS__)
#else
#define LSTM_BENCH_DESC(kind, ...) dnnl::kind::primitive_desc({__VA_ARGS__}, engine_)
#endif

class RawOneDnnLstm {
 public:
  // Null where the op is no plain LSTM.
  static std::unique_ptr<RawOneDnnLstm> Make(const core::Op& op, int rows) {
    const auto* lstm = std::get_if<core::LstmOp>(&op);
    if (lstm == nullptr || lstm->peephole || lstm->projection) return nullptr;
    return std::unique_ptr<RawOneDnnLstm>(new RawOneDnnLstm(*lstm, rows));
  }

  void Step() {
    dnnl_primitive_execute(primitive_.get(), stream_.get(), static_cast<int>(args_.size()), args_.data());
  }

 private:
  using memory = dnnl::memory;
  using Tag = memory::format_tag;

  RawOneDnnLstm(const core::LstmOp& op, int64_t rows) {
    const int64_t in = op.weight->shape[1], hidden = op.recurrent->shape[1];
    const auto f32 = memory::data_type::f32;
    const memory::desc x({1, rows, in}, f32, Tag::tnc), y({1, rows, hidden}, f32, Tag::tnc), s({1, 1, rows, hidden}, f32, Tag::ldnc),
        wx({1, 1, in, 4, hidden}, f32, Tag::any), wh({1, 1, hidden, 4, hidden}, f32, Tag::any), b({1, 1, 4, hidden}, f32, Tag::ldgo);
    const auto pd = LSTM_BENCH_DESC(lstm_forward, dnnl::prop_kind::forward_inference, dnnl::rnn_direction::unidirectional_left2right, x,
                                    s, s, wx, wh, b, y, s, s);
    primitive_ = dnnl::lstm_forward(pd);
    Add(DNNL_ARG_SRC_LAYER, x);
    Add(DNNL_ARG_SRC_ITER, s);
    Add(DNNL_ARG_SRC_ITER_C, s);
    Add(DNNL_ARG_DST_LAYER, y);
    Add(DNNL_ARG_DST_ITER, s);
    Add(DNNL_ARG_DST_ITER_C, s);
    Add(DNNL_ARG_BIAS, b);
    Pack(DNNL_ARG_WEIGHTS_LAYER, *op.weight, pd.weights_layer_desc());
    Pack(DNNL_ARG_WEIGHTS_ITER, *op.recurrent, pd.weights_iter_desc());
    for (auto& m : memories_) args_.push_back({m.first, m.second.get()});
  }

  memory& Add(int arg, const memory::desc& desc) {
    memory& m = memories_.emplace_back(arg, memory(desc, engine_)).second;
    auto* p = static_cast<unsigned char*>(m.get_data_handle());
    std::fill(p, p + desc.get_size(), static_cast<unsigned char>(0));
    return m;
  }
  void Pack(int arg, const core::Constant& weight, const memory::desc& wanted) {
    const int64_t hidden = weight.shape[0] / 4, in = weight.shape[1];
    // [4H, in] row-major: gate and unit before the input.
    memory plain({{1, 1, in, 4, hidden}, memory::data_type::f32, memory::dims{4 * hidden * in, 4 * hidden * in, 1, hidden * in, in}}, engine_);
    std::copy(weight.values.data(), weight.values.data() + weight.values.size(), static_cast<float*>(plain.get_data_handle()));
    memory& packed = Add(arg, wanted);
    dnnl::reorder(plain, packed).execute(stream_, plain, packed);
    stream_.wait();
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::primitive primitive_;
  std::vector<std::pair<int, memory>> memories_;
  std::vector<dnnl_exec_arg_t> args_;
};

}  // namespace lstm::bench
