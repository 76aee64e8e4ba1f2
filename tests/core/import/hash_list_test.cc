// SPDX-License-Identifier: MIT
#include "core/import/hash_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/import/manifest_import.h"
#include "tests/support/model_directory.h"

namespace lstm::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kOfAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";  // FIPS 180-2

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(HashListTest, IsWhatSha256sumWritesAndReads) {
  EXPECT_EQ(Sha256Hex(Bytes("abc")), kOfAbc);
  auto list = HashList::Parse(absl::StrCat(kOfAbc, "  model.onnx\n",
                                           "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
                                           " *with space.txt\n\n"));
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->Check("model.onnx", Bytes("abc")).ok());
  EXPECT_TRUE(list->Check("with space.txt", Bytes("abc")).ok());
  EXPECT_THAT(std::string(list->Check("model.onnx", Bytes("abd")).message()),
              HasSubstr(absl::StrCat("in SHA256SUMS it is ", kOfAbc)));
  EXPECT_THAT(std::string(list->Check("other", Bytes("abc")).message()), HasSubstr("'other' is not in SHA256SUMS"));
}

TEST(HashListTest, NoListAllowsAnything) { EXPECT_TRUE(HashList().Check("model.onnx", Bytes("abc")).ok()); }

TEST(HashListTest, AListThatIsNoneIsRefusedByLine) {
  const std::string hash = kOfAbc;
  for (const std::string& line :
       {std::string("x"), hash, hash + "  ", hash + " a", hash + "   ../a", hash + "  a/b", hash + "  /a",
        hash + "  .hidden", hash + "  SHA256SUMS", hash.substr(1) + "   a", "g" + hash.substr(1) + "  a",
        hash + "  a" + std::string(1, '\0') + "b", "\\" + hash + "  a"}) {
    const auto list = HashList::Parse(absl::StrCat(hash, "  good\n", line, "\n"));
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("SHA256SUMS line 2")) << line;
  }
  EXPECT_THAT(std::string(HashList::Parse(absl::StrCat(hash, "  a\n", hash, "  a\n")).status().message()),
              HasSubstr("named before"));
}

class PackedVersionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    files_.Put("telemetry", "m", 1);
    std::string list;
    for (const char* name : {"model.textproto", "model.safetensors"})
      absl::StrAppend(&list, Sha256Hex(Bytes(Read(name))), "  ", name, "\n");
    Write("SHA256SUMS", list);
  }
  std::string Path(const std::string& name) const { return (files_.At("m", 1) / name).string(); }
  std::string Read(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::string Load(ImportNotes* notes = nullptr) const {
    const auto model = LoadModelDirectory(files_.At("m", 1).string(), "m", "1", notes);
    return model.ok() ? "" : std::string(model.status().message());
  }

  testing::ModelDirectory files_;
};

TEST_F(PackedVersionTest, IsLoadedAsItIs) {
  ImportNotes notes;
  EXPECT_EQ(Load(&notes), "");
  EXPECT_THAT(notes.files, ElementsAre("model.textproto", "model.safetensors"));
}

TEST_F(PackedVersionTest, IsRefusedWhereOneBitOfAFileChanged) {
  for (const char* name : {"model.textproto", "model.safetensors"}) {
    const std::string before = Read(name);
    std::string bad = before;
    bad.back() = static_cast<char>(bad.back() ^ 1);
    Write(name, bad);
    EXPECT_THAT(Load(), HasSubstr(absl::StrCat("'", name, "' is not what it was when the version was packed")));
    Write(name, before);
  }
  EXPECT_EQ(Load(), "");
}

TEST_F(PackedVersionTest, IsRefusedWhereAFileOfTheListIsGoneOrOneThatIsReadIsNotInIt) {
  const std::string list = Read("SHA256SUMS");
  Write("SHA256SUMS", absl::StrCat(list, kOfAbc, "  quality.json\n"));
  EXPECT_THAT(Load(), HasSubstr("'quality.json' is in SHA256SUMS, but:"));
  Write("quality.json", "abd");
  EXPECT_THAT(Load(), HasSubstr("'quality.json' is not what it was"));
  Write("quality.json", "abc");
  EXPECT_EQ(Load(), "");
  Write("SHA256SUMS", list.substr(0, list.find('\n') + 1));
  EXPECT_THAT(Load(), HasSubstr("'model.safetensors' is not in SHA256SUMS"));
  Write("SHA256SUMS", std::string(100'000, 'a'));
  EXPECT_THAT(Load(), ::testing::Not(IsEmpty()));
}

}  // namespace
}  // namespace lstm::core
