// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

// A step allocates nothing: counted at operator new, through which all of it goes.
namespace {

std::atomic<size_t> allocations{0};

void* Counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  ++allocations;
  return p;
}

}  // namespace

// Not inlined, or g++ takes malloc and delete for a mismatch.
#define LSTM_NOINLINE __attribute__((noinline))
LSTM_NOINLINE void* operator new(size_t n) { return Counted(std::malloc(n)); }
LSTM_NOINLINE void* operator new(size_t n, std::align_val_t a) {
  const auto alignment = static_cast<size_t>(a);
  return Counted(std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment));
}
LSTM_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
LSTM_NOINLINE void operator delete(void* p, size_t) noexcept { std::free(p); }
LSTM_NOINLINE void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
LSTM_NOINLINE void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace lstm::core {
namespace {

class StepAllocationTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, StepAllocationTest, ::testing::ValuesIn(testing::LayerKinds()), [](const auto& i) { return i.param; });

TEST_P(StepAllocationTest, AStepOfAnyBatchAllocatesNothing) {
  const auto program = testing::MustCompile(testing::OneLayer(GetParam(), 40, 70, 1), 200, Engine::kFused);
  const auto scratch = program->MakeScratch();
  std::vector<std::unique_ptr<testing::Row>> sessions;
  std::vector<StepRow> rows;
  for (int i = 0; i < 200; ++i) rows.push_back(sessions.emplace_back(std::make_unique<testing::Row>(*program))->row());
  const size_t before = allocations;
  EXPECT_GT(before, 0u);
  for (size_t n = 1; n <= rows.size(); ++n) {  // the first step of each size too
    const bool ran = program->Run({rows.data(), n}, *scratch).ok();
    ASSERT_TRUE(ran);
    ASSERT_EQ(allocations, before) << "batch " << n;
  }
}

TEST_P(StepAllocationTest, ABlockOfStepsAllocatesNothing) {
  const auto program = testing::MustCompile(testing::OneLayer(GetParam(), 40, 70, 1), 64, Engine::kFused);
  const auto block = program->MakeBlock();
  ASSERT_NE(block, nullptr);
  std::vector<std::unique_ptr<testing::Row>> sessions;
  std::vector<StepRow> rows;
  for (int i = 0; i < 60; ++i) rows.push_back(sessions.emplace_back(std::make_unique<testing::Row>(*program))->row());
  const size_t before = allocations;
  block->Begin(rows, 4);
  bool all = false;
  while (!all) all = block->Continue().value();
  EXPECT_EQ(allocations, before);
}

}  // namespace
}  // namespace lstm::core
