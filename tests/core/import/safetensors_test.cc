// SPDX-License-Identifier: MIT
#include "core/import/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"

namespace lstm::core {
namespace {

using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes, char fill = 0) {
  const uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  return out + header + std::string(data_bytes, fill);
}

absl::StatusOr<Safetensors> Parse(const std::string& file) { return Safetensors::Parse(std::as_bytes(std::span(file))); }

std::string Refusal(const std::string& file) {
  const auto parsed = Parse(file);
  if (parsed.ok()) return "accepted";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

const char kTwo[] = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                    R"("b":{"dtype":"F16","shape":[4],"data_offsets":[24,32]}})";

TEST(SafetensorsTest, ReadsAWellFormedFile) {
  const std::string file = File(kTwo, 32);
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->entries().at("a").shape, (Shape{2, 3}));
  EXPECT_EQ((*parsed->Load("b"))->values.size(), 4u);
  EXPECT_EQ(parsed->Load("c").status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, ConvertsEveryType) {
  std::string file = File(R"({"h":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[6,8]},)"
                          R"("d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]}})", 0);
  const uint16_t half[] = {0x3c00, 0xc100, 0x0001}, brain = 0x4049;
  const double pi = 3.25;
  file.append(reinterpret_cast<const char*>(half), 6).append(reinterpret_cast<const char*>(&brain), 2).append(reinterpret_cast<const char*>(&pi), 8);
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto h = *parsed->Load("h");
  EXPECT_EQ(h->values[0], 1.0f);
  EXPECT_EQ(h->values[1], -2.5f);
  EXPECT_EQ(h->values[2], 0x1p-24f);
  EXPECT_EQ((*parsed->Load("b"))->values[0], 3.140625f);
  EXPECT_EQ((*parsed->Load("d"))->values[0], 3.25f);
}

TEST(SafetensorsTest, RefusesEveryTruncationAndEveryExtraByte) {
  const std::string whole = File(kTwo, 32);
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_NE(Refusal(whole.substr(0, n)), "accepted") << n;
  EXPECT_THAT(Refusal(whole + "x"), HasSubstr("1 bytes behind its last tensor"));
}

TEST(SafetensorsTest, RefusesLyingHeaders) {
  const auto with = [](const std::string& header) { return Refusal(File(header, 32)); };
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})"), HasSubstr("'b'"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[24,32]}})"), HasSubstr("'b'"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[9],"data_offsets":[0,32]}})"), HasSubstr("expected 36 bytes"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[32,0]}})"), HasSubstr("'a'"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,32]}})"), HasSubstr("elements"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[-8],"data_offsets":[0,32]}})"), HasSubstr("negative"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,32]}})"), HasSubstr("fraction"));
  EXPECT_THAT(with(R"({"a":{"dtype":"I8","shape":[32],"data_offsets":[0,32]}})"), HasSubstr("expected F32"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}})"), HasSubstr("twice"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[[8]],"data_offsets":[0,32]}})"), HasSubstr("array"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32],"more":1}})"), HasSubstr("unknown field"));
  EXPECT_THAT(with(R"({"a":{"dtype":"F32","shape":[8]}})"), HasSubstr("data_offsets"));
  EXPECT_THAT(with(R"([1,2])"), HasSubstr("array"));
  EXPECT_THAT(with("{"), HasSubstr("not JSON"));
  EXPECT_THAT(with(std::string(100'000, '[')), HasSubstr("array"));
  EXPECT_THAT(with(R"({"__metadata__":{"a":{"b":{}}}})"), HasSubstr("object"));
  EXPECT_THAT(Refusal(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + "{}"), HasSubstr("limit"));
}

TEST(SafetensorsTest, RefusesTooManyTensorsWithoutKeepingThem) {
  std::string header = "{";
  for (int i = 0; i < 1'000'000; ++i) absl::StrAppend(&header, i ? "," : "", "\"", i, R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})");
  EXPECT_THAT(Refusal(File(header + "}", 0)), HasSubstr("more than 100000"));
}

TEST(SafetensorsTest, RefusesNumbersThatAreNotFinite) {
  for (const uint32_t bits : {0x7fc00000u, 0x7f800000u, 0xff800000u}) {
    for (const size_t at : {0, 3, 7}) {
      std::string file = File(R"({"w":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}})", 32);
      std::memcpy(file.data() + file.size() - 32 + at * 4, &bits, 4);
      EXPECT_THAT(std::string(Parse(file)->Load("w").status().message()), HasSubstr(absl::StrCat("element ", at)));
    }
  }
}

TEST(SafetensorsTest, MutatedFilesNeverCrash) {
  const std::string whole = File(kTwo, 32);
  std::mt19937 random(1);
  size_t accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string file = whole;
    for (int k = static_cast<int>(random() % 4); k >= 0; --k) {
      const size_t at = random() % file.size();
      switch (random() % 3) {
        case 0: file[at] = static_cast<char>(random()); break;
        case 1: file.erase(at, 1 + random() % 5); break;
        default: file.insert(at, file.substr(random() % file.size(), random() % 9)); break;
      }
      if (file.empty()) file = "x";
    }
    const auto parsed = Parse(file);
    if (!parsed.ok()) continue;
    ++accepted;
    for (const auto& [name, entry] : parsed->entries()) parsed->Load(name).IgnoreError();
  }
  EXPECT_LT(accepted, 20'000u);
}

}  // namespace
}  // namespace lstm::core
