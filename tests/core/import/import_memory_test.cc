// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/import/manifest_import.h"

// A refused file costs at most twice its size and 16 MB beside it: counted at operator new, through which all of it goes.
namespace {

std::atomic<size_t> live{0}, peak{0};

void* Counted(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const size_t now = live += malloc_usable_size(p);
  size_t before = peak;
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
  return p;
}

void Uncounted(void* p) noexcept {
  if (p != nullptr) live -= malloc_usable_size(p);
  std::free(p);
}

}  // namespace

void* operator new(size_t n) { return Counted(std::malloc(n)); }
void* operator new(size_t n, std::align_val_t a) {
  const auto alignment = static_cast<size_t>(a);
  return Counted(std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment));
}
void operator delete(void* p) noexcept { Uncounted(p); }
void operator delete(void* p, size_t) noexcept { Uncounted(p); }
void operator delete(void* p, std::align_val_t) noexcept { Uncounted(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Uncounted(p); }

namespace lstm::core {
namespace {

std::string File(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\0');
}

std::string Tensor(const std::string& name, const std::string& shape, size_t from, size_t to) {
  return absl::StrCat("\"", name, R"(":{"dtype":"F32","shape":)", shape, R"(,"data_offsets":[)", from, ",", to, "]}");
}

void ExpectRefusedCheaply(const std::string& manifest, const std::string& file) {
  const size_t before = live;
  peak = before;
  const auto model = ImportManifest(manifest, std::as_bytes(std::span(file)));
  EXPECT_FALSE(model.ok());
  EXPECT_LT(peak - before, 2 * (file.size() + manifest.size()) + (16u << 20)) << model.status();
}

constexpr char kInput[] = "input { name: 'x' shape: 1000 } ";

TEST(ImportMemoryTest, HeadersOfMillions) {
  std::string many = "{", deep = "{\"__metadata__\":{", dims;
  for (int i = 0; i < 500'000; ++i) absl::StrAppend(&many, i ? "," : "", Tensor(absl::StrCat(i), "[0]", 0, 0));
  for (int i = 0; i < 500'000; ++i) absl::StrAppend(&deep, i ? "," : "", "\"", i, "\":\"", i, "\"");
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(many + "}", 0));
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(deep + "}}", 0));
  for (const std::string& endless : {std::string(50u << 20, ' '), "{\"" + std::string(50u << 20, 'a'), "{\"a\":{\"shape\":[" + std::string(50u << 20, '1')}) {
    ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File(endless, 0));
  }
}

TEST(ImportMemoryTest, SizesThatAreOnlyDeclared) {
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'l' linear { } }"), File("{" + Tensor("l.weight", "[1000000,1000000]", 0, 4'000'000'000'000) + "}", 0));
  ExpectRefusedCheaply("input { name: 'x' shape: [16777216] } layer { name: 'l' slice { begin: 0 end: 16777216 } } layer { name: 'k' linear { } }", File("{}", 0));
}

TEST(ImportMemoryTest, LargeWeightsOfEveryFormRefusedForASmallFault) {
  const size_t width = 1000, hidden = 1000, floats = (width + hidden) * 4 * hidden;
  const std::string one = File("{" + Tensor("c.kernel", "[2000,4000]", 0, floats * 4) + "}", floats * 4);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { convention: TENSORFLOW } }"), one);  // no bias
  const size_t half = width * 4 * hidden * 4;
  const std::string two = File("{" + Tensor("c.kernel", "[1000,4000]", 0, half) + "," + Tensor("c.recurrent_kernel", "[1000,4000]", half, 2 * half) + "}", 2 * half);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { convention: KERAS } }"), two);
  const std::string torch = File("{" + Tensor("c.weight_ih_l0", "[4000,1000]", 0, half) + "," + Tensor("c.weight_hh_l0", "[4000,1000]", half, 2 * half) + "}", 2 * half);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { } }"), torch);
  ExpectRefusedCheaply(absl::StrCat(kInput, "layer { name: 'c' lstm { bias: BIAS_NONE projection: true } }"), torch);
}

}  // namespace
}  // namespace lstm::core
