// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/kernels/onednn_ladder.h"

namespace lstm::core {
namespace {

// Small, reproducible and without structure: enough to tell two orders of summation apart.
class Noise {
 public:
  float Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 32)) * (1.0f / 2147483648.0f);
  }
  void Fill(float* p, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = Next();
  }

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15u;
};

constexpr int kProbeRows = 16;

class BatchProof {
 public:
  explicit BatchProof(OneDnnOp::Impl& impl) : impl_(impl) {
    for (auto [buffer, width] : {std::pair{&x_, impl.in}, {&h_, impl.recurrent}, {&c_, impl.cell}, {&y_, impl.out},
                                 {&c_new_, impl.cell}}) {
      *buffer = AlignedBuffer<float>(static_cast<size_t>(impl.room() * width));
    }
    Noise noise;
    for (auto [probe, width] : {std::pair{&px_, impl.in}, {&ph_, impl.recurrent}, {&pc_, impl.cell}}) {
      probe->resize(static_cast<size_t>(kProbeRows * width));
      noise.Fill(probe->data(), kProbeRows * width);
    }
  }

  absl::Status Run() {
    std::vector<Rung> all = std::move(impl_.rungs);
    LSTM_ASSIGN_OR_RETURN(const std::vector<float> alone, Alone(all.front()));
    std::vector<Rung> kept;
    for (const Rung& rung : all) {
      LSTM_ASSIGN_OR_RETURN(const bool same, Holds(rung, alone));
      if (same) kept.push_back(rung);
    }
    if (kept.size() == all.size()) {
      impl_.note = absl::StrCat("batches of 1 to ", kLadder[std::size(kLadder) - 1]);
    } else if (kept.back().rows >= 4) {
      impl_.note = absl::StrCat("batches of up to ", kept.back().rows, " in ", kept.size(), " of ", all.size(),
                                " sizes (the others change bits)");
    } else {
      LSTM_RETURN_IF_ERROR(FindFixed(all, kept));
    }
    impl_.rungs = std::move(kept);
    return absl::OkStatus();
  }

 private:
  // Puts probe row (place * stride + shift) at each place of the batch and returns the outputs, row after row.
  absl::StatusOr<std::vector<float>> Try(const Rung& rung, int stride, int shift) {
    impl_.rungs = {rung};
    if (bound_rows_ != rung.rows) {
      bound_ = impl_.Bind({x_.data(), h_.data(), c_.data(), y_.data(), c_new_.data()});
      bound_rows_ = rung.rows;
    }
    for (int place = 0; place < rung.rows; ++place) {
      const int row = (place * stride + shift) % kProbeRows;
      Copy(px_, row, x_, place, impl_.in);
      Copy(ph_, row, h_, place, impl_.recurrent);
      Copy(pc_, row, c_, place, impl_.cell);
    }
    LSTM_RETURN_IF_ERROR(impl_.Run(rung.rows, *bound_));
    std::vector<float> out;
    for (int place = 0; place < rung.rows; ++place) {
      out.insert(out.end(), y_.data() + place * impl_.out, y_.data() + (place + 1) * impl_.out);
      out.insert(out.end(), c_new_.data() + place * impl_.cell, c_new_.data() + (place + 1) * impl_.cell);
    }
    return out;
  }

  absl::StatusOr<std::vector<float>> Alone(const Rung& one) {
    std::vector<float> all;
    for (int row = 0; row < kProbeRows; ++row) {
      LSTM_ASSIGN_OR_RETURN(const std::vector<float> out, Try(one, 1, row));
      all.insert(all.end(), out.begin(), out.begin() + Width());
    }
    return all;
  }

  absl::StatusOr<bool> Holds(const Rung& rung, const std::vector<float>& expected) {
    for (auto [stride, shift] : {std::pair{1, 0}, {7, 5}, {3, 11}}) {
      LSTM_ASSIGN_OR_RETURN(const std::vector<float> out, Try(rung, stride, shift));
      for (int place = 0; place < rung.rows; ++place) {
        const int row = (place * stride + shift) % kProbeRows;
        if (std::memcmp(out.data() + place * Width(), expected.data() + row * Width(),
                        static_cast<size_t>(Width()) * sizeof(float)) != 0) {
          return false;
        }
      }
    }
    return true;
  }

  // A size that need not agree with a row alone, only with itself at every place; 8 costs a lone session least for what
  // it gives a full batch, so the search begins there.
  absl::Status FindFixed(const std::vector<Rung>& all, std::vector<Rung>& kept) {
    for (int rows : {8, 6, 12, 4, 16, 3, 2, 1}) {
      const auto rung = std::find_if(all.begin(), all.end(), [&](const Rung& r) { return r.rows == rows; });
      if (rung == all.end()) continue;
      std::vector<float> expected;
      for (int row = 0; row < kProbeRows; ++row) {
        LSTM_ASSIGN_OR_RETURN(const std::vector<float> out, Try(*rung, 1, row));
        expected.insert(expected.end(), out.begin(), out.begin() + Width());
      }
      LSTM_ASSIGN_OR_RETURN(const bool same, Holds(*rung, expected));
      if (same) {
        kept = {*rung};
        impl_.note = absl::StrCat("always in batches of ", rows, " (other sizes change bits)");
        return absl::OkStatus();
      }
    }
    return absl::InternalError("no batch size gives a row the same bits twice");
  }

  int64_t Width() const { return impl_.out + impl_.cell; }
  static void Copy(const std::vector<float>& from, int row, AlignedBuffer<float>& to, int place, int64_t width) {
    std::copy_n(from.data() + row * width, width, to.data() + place * width);
  }

  OneDnnOp::Impl& impl_;
  OneDnnOp::BoundPtr bound_;
  int bound_rows_ = 0;
  AlignedBuffer<float> x_, h_, c_, y_, c_new_;
  std::vector<float> px_, ph_, pc_;
};

}  // namespace

absl::Status ProveBatches(OneDnnOp::Impl& impl) { return BatchProof(impl).Run(); }

}  // namespace lstm::core
