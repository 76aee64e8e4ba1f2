// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "tests/core/kernels/fused_world.h"

// A million rows in random batches, at random places, beside hostile ones, on every instruction set, in one run, in parts, or input and
// recurrent part apart: none differs from the same row alone by a bit.
namespace lstm::core {
namespace {

using testing::FusedLayer;
using testing::Random;
using testing::Set;

constexpr size_t kPool = 96, kMostRows = 200, kFewRows = 30;
constexpr float kHostile[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1e38f, 1e38f, 1e-42f, -0.0f};

// Rows without guard pages: there are many.
struct Row {
  Row(const FusedLayer& layer, uint64_t seed, bool hostile) : x(layer.in), h(layer.back), c(layer.cell), alone(layer.out + layer.cell) {
    Random random(seed);
    for (auto* part : {&x, &h, &c}) {
      for (float& v : *part) v = hostile ? kHostile[random.Below(6)] : random.Uniform();
    }
  }
  std::vector<float> x, h, c, alone;  // alone: out, then the new c
};

class Batch {
 public:
  explicit Batch(const FusedLayer& layer) : out_(kMostRows, std::vector<float>(layer.out + layer.cell)), cell_at_(layer.out) {}

  void Run(const FusedOp& op, FusedOp::Scratch& scratch, const std::vector<const Row*>& rows, bool apart, size_t parts = 1) {
    x_.clear(), h_.clear(), c_.clear(), to_.clear(), c_new_.clear();
    for (size_t r = 0; r < rows.size(); ++r) {
      x_.push_back(rows[r]->x.data()), h_.push_back(rows[r]->h.data()), c_.push_back(rows[r]->c.data());
      to_.push_back(out_[r].data()), c_new_.push_back(out_[r].data() + cell_at_);
    }
    const FusedOp::Rows all{x_.data(), h_.data(), c_.data(), to_.data(), nullptr, c_new_.data()};
    if (!apart && parts == 1) return op.Run(rows.size(), all, scratch);
    for (size_t part = 0; !apart && part < parts; ++part) op.RunPart(part, parts, rows.size(), all, scratch);
    if (!apart) return;
    op.RunInput(rows.size(), x_.data(), scratch);
    op.RunRecurrent(0, rows.size(), all, scratch);
  }
  const std::vector<float>& out(size_t r) const { return out_[r]; }

 private:
  std::vector<const float*> x_, h_, c_;
  std::vector<float*> to_, c_new_;
  std::vector<std::vector<float>> out_;
  size_t cell_at_;
};

TEST(FusedRowsTest, OfAMillionRowsNoneDiffersFromTheRowAlone) {
  Random random(1);
  size_t compared = 0, differ = 0, layers = 0;
  while (compared < 1'000'000) {
    const std::vector<std::string> kinds = testing::FusedKinds();
    const std::string& kind = kinds[layers++ % kinds.size()];
    const FusedLayer layer(kind, static_cast<int64_t>(1 + random.Below(90)), static_cast<int64_t>(1 + random.Below(90)), layers);
    std::vector<Row> pool;
    for (size_t i = 0; i < kPool; ++i) pool.emplace_back(layer, i, i % 4 == 3);
    Batch batch(layer);
    const auto portable = layer.Make(Set::kPortable);
    const auto portable_scratch = portable->MakeScratch(1);
    for (Row& row : pool) {
      batch.Run(*portable, *portable_scratch, {&row}, false);
      row.alone = batch.out(0);
    }
    for (const Set set : {Set::kAvx2, Set::kAvx512}) {
      if (!FusedOp::Supported(set)) continue;
      // Every other layer as if its weights were small. Of bytes the sums are others.
      const auto op = layer.Make(set, layers % 2 == 0 && !kind.ends_with(testing::kInt8) ? FusedOp::Large::kBySize : FusedOp::Large::kAlways);
      const auto scratch = op->MakeScratch(kMostRows, layer.back > 0);
      for (int round = 0; round < 60; ++round) {
        const bool apart = layer.back > 0 && round % 3 == 0;
        std::vector<const Row*> rows(1 + random.Below(round % 2 == 0 ? kFewRows : apart ? FusedOp::kMaxManyRows : kMostRows));
        for (const Row*& row : rows) row = &pool[random.Below(kPool)];
        batch.Run(*op, *scratch, rows, apart, round % 3 == 1 ? 2 + random.Below(5) : 1);
        for (size_t r = 0; r < rows.size(); ++r) {
          if ((rows[r] - pool.data()) % 4 == 3) continue;  // the bits of a NaN are nobody's
          ++compared;
          differ += std::memcmp(batch.out(r).data(), rows[r]->alone.data(), rows[r]->alone.size() * sizeof(float)) != 0 ? 1 : 0;
        }
      }
    }
    if (!FusedOp::Supported(Set::kAvx2) && !FusedOp::Supported(Set::kAvx512)) GTEST_SKIP() << "this machine has neither AVX2 nor AVX-512";
  }
  EXPECT_EQ(differ, 0u) << "of " << compared;
  RecordProperty("rows", static_cast<int>(compared));
}

}  // namespace
}  // namespace lstm::core
