// SPDX-License-Identifier: MIT
#include "core/kernels/onednn_ladder.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

using dnnl::memory;

void OneThread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

void ZeroRows(void* base, int64_t width, int begin, int end) {
  if (width > 0) {
    std::memset(static_cast<float*>(base) + begin * width, 0, static_cast<size_t>((end - begin) * width) * sizeof(float));
  }
}

}  // namespace

const dnnl::engine& OneDnnEngine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

absl::Status OneDnnGuarded(const std::function<void()>& body) {
  try {
    OneThread();
    body();
    return absl::OkStatus();
  } catch (const dnnl::error& e) {
    std::string text = absl::StrCat("oneDNN: ", e.what(), " (status ", static_cast<int>(e.status), ")");
    if (e.status == dnnl_out_of_memory) return absl::ResourceExhaustedError(text);
    return absl::InternalError(text);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("oneDNN: out of memory");
  }
}

class OneDnnOp::Bound {
 public:
  struct Call {
    std::vector<memory> memories;  // own what `args` names
    std::vector<dnnl_exec_arg_t> args;
  };
  Buffers buffers;
  memory scratchpad;
  AlignedBuffer<float> h_new;  // oneDNN insists on a second copy of the new h
  dnnl::stream stream{OneDnnEngine()};
  std::vector<std::vector<Call>> calls;  // [offset / top][rung]
};

void OneDnnOp::BoundDeleter::operator()(Bound* bound) const { delete bound; }

const Rung& OneDnnOp::Impl::Smallest(int rows) const {
  return *std::find_if(rungs.begin(), rungs.end(), [&](const Rung& r) { return r.rows >= rows; });
}

OneDnnOp::BoundPtr OneDnnOp::Impl::Bind(const Buffers& buffers) const {
  OneThread();
  BoundPtr bound(new Bound);
  bound->buffers = buffers;
  bound->h_new = AlignedBuffer<float>(static_cast<size_t>(room() * recurrent));
  size_t scratchpad_bytes = 1;
  for (const Rung& rung : rungs) scratchpad_bytes = std::max(scratchpad_bytes, rung.scratchpad.get_size());
  bound->scratchpad = memory({{static_cast<int64_t>(scratchpad_bytes)}, memory::data_type::u8, memory::format_tag::a},
                             OneDnnEngine());
  const bool is_cell = recurrent > 0;
  for (int offset = 0; offset < max_batch; offset += top()) {
    std::vector<Bound::Call>& row = bound->calls.emplace_back();
    for (const Rung& rung : rungs) {
      Bound::Call& call = row.emplace_back();
      auto add = [&](int arg, const memory::desc& desc, void* base, int64_t width) {
        call.memories.emplace_back(desc, OneDnnEngine(), static_cast<float*>(base) + offset * width);
        call.args.push_back({arg, call.memories.back().get()});
      };
      add(is_cell ? DNNL_ARG_SRC_LAYER : DNNL_ARG_SRC, rung.x, buffers.x, in);
      add(is_cell ? DNNL_ARG_DST_LAYER : DNNL_ARG_DST, rung.y, buffers.y, out);
      if (is_cell) {
        add(DNNL_ARG_SRC_ITER, rung.h, buffers.h, recurrent);
        add(DNNL_ARG_DST_ITER, rung.h_new, bound->h_new.data(), recurrent);
      }
      if (cell > 0) {
        add(DNNL_ARG_SRC_ITER_C, rung.c, buffers.c, cell);
        add(DNNL_ARG_DST_ITER_C, rung.c_new, buffers.c_new, cell);
      }
      for (const auto& [arg, constant] : rung.constants) call.args.push_back({arg, constant.get()});
      if (rung.scratchpad.get_size() > 0) {
        call.memories.emplace_back(rung.scratchpad, OneDnnEngine(), bound->scratchpad.get_data_handle());
        call.args.push_back({DNNL_ARG_SCRATCHPAD, call.memories.back().get()});
      }
    }
  }
  return bound;
}

absl::Status OneDnnOp::Impl::Run(int rows, Bound& bound) const {
  OneThread();
  for (int offset = 0; offset < rows; offset += top()) {
    const Rung& rung = Smallest(std::min(rows - offset, top()));
    const int end = offset + rung.rows;
    if (end > rows) {
      ZeroRows(bound.buffers.x, in, rows, end);
      ZeroRows(bound.buffers.h, recurrent, rows, end);
      ZeroRows(bound.buffers.c, cell, rows, end);
    }
    const auto index = static_cast<size_t>(&rung - rungs.data());
    const Bound::Call& call = bound.calls[static_cast<size_t>(offset / top())][index];
    // The C call: the C++ one builds a hash map of the arguments on every step.
    const dnnl_status_t status = dnnl_primitive_execute(rung.primitive.get(), bound.stream.get(),
                                                        static_cast<int>(call.args.size()), call.args.data());
    if (status != dnnl_success) {
      return absl::InternalError(absl::StrCat("oneDNN: a step failed with status ", static_cast<int>(status)));
    }
  }
  return absl::OkStatus();
}

}  // namespace lstm::core
