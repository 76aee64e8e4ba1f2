// SPDX-License-Identifier: MIT
#include "core/base/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lstm::core {
namespace {

absl::StatusOr<NpyArray> Parse(const std::string& bytes) { return ParseNpy(std::as_bytes(std::span(bytes))); }

TEST(NpyTest, WhatWasFormattedIsParsed) {
  const std::vector<float> values = {1, -2, 3.5f, 4, 5, 6};
  const auto array = Parse(FormatNpy({3, 2}, values));
  ASSERT_TRUE(array.ok()) << array.status();
  EXPECT_EQ(array->shape, (Shape{3, 2}));
  EXPECT_EQ(array->ToFloats(), values);
}

TEST(NpyTest, OneDimensionKeepsItsComma) {
  const auto array = Parse(FormatNpy({4}, std::vector<float>{1, 2, 3, 4}));
  ASSERT_TRUE(array.ok()) << array.status();
  EXPECT_EQ(array->shape, (Shape{4}));
}

TEST(NpyTest, EveryTruncationIsRefused) {
  const std::string whole = FormatNpy({3, 2}, std::vector<float>(6));
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(Parse(whole.substr(0, n)).ok()) << n;
  EXPECT_FALSE(Parse(whole + "x").ok());
}

TEST(NpyTest, HostileHeadersAreRefused) {
  const std::string whole = FormatNpy({3, 2}, std::vector<float>(6));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = whole;
    changed.replace(changed.find(from), from.size(), to);
    return Parse(changed).status();
  };
  EXPECT_EQ(with("<f4", ">f4").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(with("(3, 2)", "(9, 9)").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(with("(3, 2)", "(-3,2)").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(with("(3, 2)", "(x, 2)").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(with("False", "True ").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(with("'shape'", "'shope'").code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lstm::core
