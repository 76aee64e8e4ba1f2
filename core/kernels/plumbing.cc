// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "core/kernels/kernel.h"

// Ops that move numbers about, and small ones over a row: every row takes the same path, so its bits cannot depend on the batch.
namespace lstm::core {
namespace {

struct RowView {
  const float* const* in;  // per input, the row's first element
  float* out;
  const float* state_in;
  float* state_out;
};
using RowFunction = std::function<void(const RowView&)>;

class PlumbingKernel : public Kernel {
 public:
  PlumbingKernel(std::vector<size_t> widths, size_t out, RowFunction row) : widths_(std::move(widths)), out_(out), row_(std::move(row)) {}

  std::unique_ptr<KernelScratch> Bind(const KernelBuffers& buffers) const override {
    auto scratch = std::make_unique<Scratch>();
    scratch->buffers = buffers;
    scratch->rows.resize(buffers.inputs.size());
    return scratch;
  }

  absl::Status Run(int first, int rows, const float* const* state_in, float* const* state_out, KernelScratch& scratch_base) const override {
    auto& scratch = static_cast<Scratch&>(scratch_base);
    for (auto r = static_cast<size_t>(first); r < static_cast<size_t>(first + rows); ++r) {
      for (size_t i = 0; i < widths_.size(); ++i) scratch.rows[i] = static_cast<const float*>(scratch.buffers.inputs[i]) + r * widths_[i];
      row_({scratch.rows.data(), static_cast<float*>(scratch.buffers.output) + r * out_, state_in[r], state_out[r]});
    }
    return absl::OkStatus();
  }

  bool AnyRows() const override { return true; }
  ManySteps many_steps() const override { return ManySteps::kRun; }
  std::string Describe() const override { return "row by row"; }

 private:
  struct Scratch : KernelScratch {
    KernelBuffers buffers;
    std::vector<const float*> rows;
  };
  std::vector<size_t> widths_;
  size_t out_;
  RowFunction row_;
};

// A selection of scattered elements, or of runs too short for a call each.
RowFunction Gather(const std::vector<int32_t>& index, const std::vector<size_t>& widths) {
  if (widths.size() == 1) {
    return [index](const RowView& row) {
      const float* const x = row.in[0];
      for (size_t i = 0; i < index.size(); ++i) row.out[i] = x[index[i]];
    };
  }
  struct Element {
    uint32_t input, at;
  };
  std::vector<Element> elements;
  for (int32_t i : index) {
    Element e{0, static_cast<uint32_t>(i)};
    while (e.at >= widths[e.input]) e.at -= static_cast<uint32_t>(widths[e.input++]);
    elements.push_back(e);
  }
  return [elements](const RowView& row) {
    float* out = row.out;
    for (const Element& e : elements) *out++ = row.in[e.input][e.at];
  };
}

// Elements of one input that lie side by side in the output, and so many elements apart in the input: 1, -1, or 0 where it is one again and again.
struct Piece {
  size_t input, begin, count;
  int step;
};

std::vector<Piece> Pieces(const std::vector<int32_t>& index, const std::vector<size_t>& widths) {
  std::vector<Piece> pieces;
  for (int32_t i : index) {
    size_t input = 0, at = static_cast<size_t>(i);
    while (at >= widths[input]) at -= widths[input++];
    Piece* const last = pieces.empty() || pieces.back().input != input ? nullptr : &pieces.back();
    const auto apart = last == nullptr ? 0 : static_cast<int64_t>(at) - static_cast<int64_t>(last->begin) - static_cast<int64_t>(last->count - 1) * last->step;
    if (last != nullptr && apart >= -1 && apart <= 1 && (last->count == 1 || apart == last->step)) {
      last->step = static_cast<int>(apart);
      ++last->count;
    } else {
      pieces.push_back({input, at, 1, 1});
    }
  }
  return pieces;
}

// A selection as pieces, where they are not too short.
RowFunction Select(const SelectOp& op, const std::vector<size_t>& widths) {
  constexpr size_t kShort = 6;
  const std::vector<Piece> pieces = Pieces(*op.index, widths);
  if (pieces.size() * kShort > op.index->size()) return Gather(*op.index, widths);
  return [pieces](const RowView& row) {
    float* out = row.out;
    for (const Piece& piece : pieces) {
      const float* const from = row.in[piece.input] + piece.begin;
      if (piece.step == 1) {
        std::copy_n(from, piece.count, out);
      } else if (piece.step == 0) {
        std::fill_n(out, piece.count, *from);
      } else {
        std::reverse_copy(from + 1 - piece.count, from + 1, out);
      }
      out += piece.count;
    }
  };
}

RowFunction Reduce(ReduceKind kind, size_t rows, size_t n) {
  return [=](const RowView& row) {
    for (size_t r = 0; r < rows; ++r) {
      const float* x = row.in[0] + r * n;
      double sum = x[0];
      for (size_t i = 1; i < n; ++i) {
        switch (kind) {
          case ReduceKind::kMean: case ReduceKind::kSum: sum += x[i]; break;
          case ReduceKind::kMaximum: sum = std::max(sum, static_cast<double>(x[i])); break;
          case ReduceKind::kMinimum: sum = std::min(sum, static_cast<double>(x[i])); break;
          case ReduceKind::kProduct: sum *= x[i]; break;
        }
      }
      row.out[r] = static_cast<float>(kind == ReduceKind::kMean ? sum / static_cast<double>(n) : sum);
    }
  };
}

RowFunction MatMul(const Shape& a, const Shape& b) {
  const size_t rank = a.size();
  const auto rows = static_cast<size_t>(a[rank - 2]), inner = static_cast<size_t>(a[rank - 1]), columns = static_cast<size_t>(b[rank - 1]);
  const auto outer = static_cast<size_t>(CheckedElementCount(a)) / (rows * inner);
  return [=](const RowView& row) {
    std::fill_n(row.out, outer * rows * columns, 0.0f);
    for (size_t o = 0; o < outer; ++o) {
      for (size_t i = 0; i < rows; ++i) {
        float* y = row.out + (o * rows + i) * columns;
        for (size_t k = 0; k < inner; ++k) {
          const float x = row.in[0][(o * rows + i) * inner + k];
          const float* w = row.in[1] + (o * inner + k) * columns;
          for (size_t j = 0; j < columns; ++j) y[j] += x * w[j];
        }
      }
    }
  };
}

}  // namespace

bool IsPlumbing(const Op& op) {
  return std::holds_alternative<StateReadOp>(op) || std::holds_alternative<StateWriteOp>(op) || std::holds_alternative<ConstantOp>(op) ||
         std::holds_alternative<SelectOp>(op) || std::holds_alternative<ReduceOp>(op) || std::holds_alternative<MatMulOp>(op);
}

absl::StatusOr<std::unique_ptr<const Kernel>> MakePlumbingKernel(const KernelContext& context) {
  const Node& node = *context.node;
  const auto shape_of = [&](ValueId id) -> const Shape& { return context.model->values[static_cast<size_t>(id)].shape; };
  std::vector<size_t> widths;
  for (ValueId id : node.inputs) widths.push_back(static_cast<size_t>(CheckedElementCount(shape_of(id))));
  const auto out = static_cast<size_t>(CheckedElementCount(shape_of(node.output)));
  RowFunction row;
  if (const auto* read = std::get_if<StateReadOp>(&node.op)) {
    row = [offset = (*context.state_offsets)[static_cast<size_t>(read->state)], out](const RowView& r) { std::copy_n(r.state_in + offset, out, r.out); };
  } else if (const auto* write = std::get_if<StateWriteOp>(&node.op)) {
    row = [offset = (*context.state_offsets)[static_cast<size_t>(write->state)], out](const RowView& r) {
      std::copy_n(r.in[0], out, r.out);
      std::copy_n(r.in[0], out, r.state_out + offset);
    };
  } else if (const auto* constant = std::get_if<ConstantOp>(&node.op)) {
    row = [value = constant->value, out](const RowView& r) { std::copy_n(value->values.data(), out, r.out); };
  } else if (const auto* select = std::get_if<SelectOp>(&node.op)) {
    row = Select(*select, widths);
  } else if (const auto* reduce = std::get_if<ReduceOp>(&node.op)) {
    row = Reduce(reduce->kind, out, widths[0] / out);
  } else {
    row = MatMul(shape_of(node.inputs[0]), shape_of(node.inputs[1]));
  }
  return std::make_unique<const PlumbingKernel>(std::move(widths), out, std::move(row));
}

}  // namespace lstm::core
