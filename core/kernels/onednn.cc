// SPDX-License-Identifier: MIT
#include "core/kernels/onednn.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/kernels/onednn_ladder.h"

// The operations and what differs between oneDNN 2.6 and 3.x: 2.6 makes a primitive descriptor from an operation
// descriptor, 3.x directly.
#if DNNL_VERSION_MAJOR >= 3
#define LSTM_DNNL_PRIMITIVE_DESC(kind, attr, ...) dnnl::kind::primitive_desc(OneDnnEngine(), __VA_ARGS__, attr)
#else
#define LSTM_DNNL_PRIMITIVE_DESC(kind, attr, ...) dnnl::kind::primitive_desc({__VA_ARGS__}, attr, OneDnnEngine())
#endif

namespace lstm::core {
namespace {

using dnnl::memory;
using Desc = memory::desc;
using Tag = memory::format_tag;
constexpr auto kF32 = memory::data_type::f32;
constexpr auto kInference = dnnl::prop_kind::forward_inference;
constexpr auto kForward = dnnl::rnn_direction::unidirectional_left2right;

// [gates * H, in] as the description has it, to [in, gates * H]: oneDNN's ldigo and ldio.
std::vector<float> Transposed(const Constant& constant) {
  const int64_t rows = constant.shape[0], columns = constant.shape[1];
  std::vector<float> out(static_cast<size_t>(rows * columns));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out[static_cast<size_t>(c * rows + r)] = constant.values.data()[r * columns + c];
  }
  return out;
}

memory Copied(const Desc& desc, const float* values) {
  memory m(desc, OneDnnEngine());
  std::memcpy(m.get_data_handle(), values, desc.get_size());
  return m;
}

// A weight in the layouts that the primitives of a ladder ask for: as a rule one.
class PackedWeight {
 public:
  PackedWeight() = default;
  PackedWeight(const Desc& plain, const float* values) : plain_(Copied(plain, values)) {}
  memory For(const Desc& wanted) {
    for (const memory& m : packed_) {
      if (m.get_desc() == wanted) return m;
    }
    memory m(wanted, OneDnnEngine());
    dnnl::stream stream(OneDnnEngine());
    dnnl::reorder(plain_, m).execute(stream, plain_, m);
    stream.wait();
    packed_.push_back(m);
    return m;
  }

 private:
  memory plain_;
  std::vector<memory> packed_;
};

dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // else a primitive belongs to the thread that made it
  return attr;
}

// What the three recurrent primitives share: descriptors of x, h and y, and packed weights.
struct CellParts {
  CellParts(const Constant& weight, const Constant& recurrent, const Constant& bias_values, int64_t gates, int64_t hidden)
      : in(weight.shape[1]),
        back(recurrent.shape[1]),
        wl_any({1, 1, in, gates, hidden}, kF32, Tag::any),
        wi_any({1, 1, back, gates, hidden}, kF32, Tag::any),
        bias_desc({1, 1, static_cast<int64_t>(bias_values.values.size()) / hidden, hidden}, kF32, Tag::ldgo),
        layer({{1, 1, in, gates, hidden}, kF32, Tag::ldigo}, Transposed(weight).data()),
        iter({{1, 1, back, gates, hidden}, kF32, Tag::ldigo}, Transposed(recurrent).data()),
        bias(Copied(bias_desc, bias_values.values.data())) {}

  Rung MakeRung(int rows) const {
    Rung rung;
    rung.rows = rows;
    rung.x = Desc({1, rows, in}, kF32, Tag::tnc);
    rung.h = rung.h_new = Desc({1, 1, rows, back}, kF32, Tag::ldnc);
    rung.y = Desc({1, rows, back}, kF32, Tag::tnc);
    return rung;
  }

  template <typename PrimitiveDesc>
  void Finish(const PrimitiveDesc& pd, Rung& rung) {
    rung.constants = {{DNNL_ARG_WEIGHTS_LAYER, layer.For(pd.weights_layer_desc())},
                      {DNNL_ARG_WEIGHTS_ITER, iter.For(pd.weights_iter_desc())},
                      {DNNL_ARG_BIAS, bias}};
    rung.scratchpad = pd.scratchpad_desc();
  }

  int64_t in, back;
  Desc wl_any, wi_any, bias_desc;
  PackedWeight layer, iter;
  memory bias;
};

// True where each output is one chain of additions whatever the batch, so that the proof has only details to find. The
// others go through a general GEMM whose blocking follows the batch: trying cannot show them safe, since a layer of a few
// units gives other bits in one row of hundreds.
bool SumsInFixedOrder(const std::string& implementation) { return implementation.starts_with("brgemm"); }

// Makes the ladder with `make(rows)` and proves it.
template <typename Make>
absl::StatusOr<std::unique_ptr<OneDnnOp::Impl>> Ladder(int max_batch, std::unique_ptr<OneDnnOp::Impl> impl, Make make) {
  impl->max_batch = max_batch;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded([&] {
    // All of them, whatever max_batch: what the proof keeps, and so the bits, must not depend on it.
    for (int rows : kLadder) impl->rungs.push_back(make(rows));
  }));
  if (!SumsInFixedOrder(impl->rungs.back().implementation)) {
    impl->rungs.resize(1);
    impl->note = "one row at a time (its order of summation follows the batch)";
    return impl;
  }
  absl::Status proof;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded([&] { proof = ProveBatches(*impl); }));
  LSTM_RETURN_IF_ERROR(proof);
  return impl;
}

}  // namespace

OneDnnOp::OneDnnOp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
OneDnnOp::~OneDnnOp() = default;
OneDnnOp::BoundPtr OneDnnOp::Bind(const Buffers& buffers) const { return impl_->Bind(buffers); }
absl::Status OneDnnOp::Run(int rows, Bound& bound) const { return impl_->Run(rows, bound); }

absl::StatusOr<std::unique_ptr<const OneDnnOp>> OneDnnOp::Lstm(const LstmOp& op, int max_batch) {
  const int64_t hidden = op.weight->shape[0] / 4;
  auto impl = std::make_unique<Impl>();
  impl->in = op.weight->shape[1];
  impl->recurrent = impl->out = op.recurrent->shape[1];
  impl->cell = hidden;
  std::unique_ptr<CellParts> parts;
  PackedWeight projection;
  memory peephole;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded([&] {
    parts = std::make_unique<CellParts>(*op.weight, *op.recurrent, *op.bias, 4, hidden);
    if (op.peephole) peephole = Copied({{1, 1, 3, hidden}, kF32, Tag::ldgo}, op.peephole->values.data());
    if (op.projection) {
      projection = PackedWeight({{1, 1, hidden, parts->back}, kF32, Tag::ldio}, Transposed(*op.projection).data());
    }
  }));
  auto made = Ladder(max_batch, std::move(impl), [&](int rows) {
    Rung rung = parts->MakeRung(rows);
    rung.c = rung.c_new = Desc({1, 1, rows, hidden}, kF32, Tag::ldnc);
    const Desc peephole_desc = op.peephole ? peephole.get_desc() : Desc();
    const Desc projection_desc = op.projection ? Desc({1, 1, hidden, parts->back}, kF32, Tag::any) : Desc();
    auto pd = LSTM_DNNL_PRIMITIVE_DESC(lstm_forward, Attributes(), kInference, kForward, rung.x, rung.h, rung.c,
                                       parts->wl_any, parts->wi_any, peephole_desc, projection_desc, parts->bias_desc,
                                       rung.y, rung.h, rung.c);
    parts->Finish(pd, rung);
    if (op.peephole) rung.constants.emplace_back(DNNL_ARG_WEIGHTS_PEEPHOLE, peephole);
    if (op.projection) {
      rung.constants.emplace_back(DNNL_ARG_WEIGHTS_PROJECTION, projection.For(pd.weights_projection_desc()));
    }
    rung.primitive = dnnl::lstm_forward(pd);
    rung.implementation = pd.impl_info_str();
    return rung;
  });
  if (!made.ok()) return made.status();
  return std::unique_ptr<const OneDnnOp>(new OneDnnOp(*std::move(made)));
}

absl::StatusOr<std::unique_ptr<const OneDnnOp>> OneDnnOp::Gru(const GruOp& op, int max_batch) {
  auto impl = std::make_unique<Impl>();
  const int64_t hidden = op.recurrent->shape[1];
  impl->in = op.weight->shape[1];
  impl->recurrent = impl->out = hidden;
  std::unique_ptr<CellParts> parts;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded(
      [&] { parts = std::make_unique<CellParts>(*op.weight, *op.recurrent, *op.bias, 3, hidden); }));
  auto made = Ladder(max_batch, std::move(impl), [&](int rows) {
    Rung rung = parts->MakeRung(rows);
    auto finish = [&](const auto& pd) {
      parts->Finish(pd, rung);
      rung.implementation = pd.impl_info_str();
    };
    if (op.reset_after) {
      auto pd = LSTM_DNNL_PRIMITIVE_DESC(lbr_gru_forward, Attributes(), kInference, kForward, rung.x, rung.h,
                                         parts->wl_any, parts->wi_any, parts->bias_desc, rung.y, rung.h);
      finish(pd);
      rung.primitive = dnnl::lbr_gru_forward(pd);
    } else {
      auto pd = LSTM_DNNL_PRIMITIVE_DESC(gru_forward, Attributes(), kInference, kForward, rung.x, rung.h,
                                         parts->wl_any, parts->wi_any, parts->bias_desc, rung.y, rung.h);
      finish(pd);
      rung.primitive = dnnl::gru_forward(pd);
    }
    return rung;
  });
  if (!made.ok()) return made.status();
  return std::unique_ptr<const OneDnnOp>(new OneDnnOp(*std::move(made)));
}

absl::StatusOr<std::unique_ptr<const OneDnnOp>> OneDnnOp::Rnn(const RnnOp& op, int max_batch) {
  auto impl = std::make_unique<Impl>();
  const int64_t hidden = op.recurrent->shape[1];
  impl->in = op.weight->shape[1];
  impl->recurrent = impl->out = hidden;
  std::unique_ptr<CellParts> parts;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded(
      [&] { parts = std::make_unique<CellParts>(*op.weight, *op.recurrent, *op.bias, 1, hidden); }));
  const auto activation = op.relu ? dnnl::algorithm::eltwise_relu : dnnl::algorithm::eltwise_tanh;
  auto made = Ladder(max_batch, std::move(impl), [&](int rows) {
    Rung rung = parts->MakeRung(rows);
    auto pd = LSTM_DNNL_PRIMITIVE_DESC(vanilla_rnn_forward, Attributes(), kInference, activation, kForward, rung.x,
                                       rung.h, parts->wl_any, parts->wi_any, parts->bias_desc, rung.y, rung.h);
    parts->Finish(pd, rung);
    rung.primitive = dnnl::vanilla_rnn_forward(pd);
    rung.implementation = pd.impl_info_str();
    return rung;
  });
  if (!made.ok()) return made.status();
  return std::unique_ptr<const OneDnnOp>(new OneDnnOp(*std::move(made)));
}

absl::StatusOr<std::unique_ptr<const OneDnnOp>> OneDnnOp::Linear(const float* weight, const float* bias, int64_t out,
                                                                 int64_t in, int max_batch) {
  auto impl = std::make_unique<Impl>();
  impl->in = in;
  impl->out = out;
  PackedWeight packed;
  memory bias_memory;
  LSTM_RETURN_IF_ERROR(OneDnnGuarded([&] {
    packed = PackedWeight({{out, in}, kF32, Tag::oi}, weight);
    const std::vector<float> zeros(static_cast<size_t>(out));
    bias_memory = Copied({{out}, kF32, Tag::a}, bias != nullptr ? bias : zeros.data());
  }));
  auto made = Ladder(max_batch, std::move(impl), [&](int rows) {
    Rung rung;
    rung.rows = rows;
    rung.x = Desc({rows, in}, kF32, Tag::nc);
    rung.y = Desc({rows, out}, kF32, Tag::nc);
    auto pd = LSTM_DNNL_PRIMITIVE_DESC(inner_product_forward, Attributes(), kInference, rung.x,
                                       Desc({out, in}, kF32, Tag::any), bias_memory.get_desc(), rung.y);
    rung.constants = {{DNNL_ARG_WEIGHTS, packed.For(pd.weights_desc())}, {DNNL_ARG_BIAS, bias_memory}};
    rung.scratchpad = pd.scratchpad_desc();
    rung.primitive = dnnl::inner_product_forward(pd);
    rung.implementation = pd.impl_info_str();
    return rung;
  });
  if (!made.ok()) return made.status();
  return std::unique_ptr<const OneDnnOp>(new OneDnnOp(*std::move(made)));
}

std::string OneDnnOp::Describe() const {
  return absl::StrCat("oneDNN ", impl_->rungs.back().implementation, ", ", impl_->note);
}

std::string OneDnnOp::Id() {
  const dnnl_version_t* version = dnnl_version();
  const char* isa = "other";
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41: isa = "sse41"; break;
    case dnnl::cpu_isa::avx: isa = "avx"; break;
    case dnnl::cpu_isa::avx2: isa = "avx2"; break;
    case dnnl::cpu_isa::avx512_core: isa = "avx512"; break;
    case dnnl::cpu_isa::avx512_core_vnni: isa = "avx512-vnni"; break;
    case dnnl::cpu_isa::avx512_core_bf16: isa = "avx512-bf16"; break;
    case dnnl::cpu_isa::avx512_core_amx: isa = "amx"; break;
    default: break;
  }
  return absl::StrCat("onednn-", version->major, ".", version->minor, ".", version->patch, "/", isa);
}

}  // namespace lstm::core
