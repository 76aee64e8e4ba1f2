// SPDX-License-Identifier: MIT
#include "server/log/log.h"

#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>
#include <algorithm>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace lstm::server {
namespace {

// What somebody may send, or call a file.
std::vector<std::string> Hostile() {
  std::vector<std::string> out = {"", "plain", "a\nb", "a\r\nlevel=error forged", "\x1b[2J\x1b]0;title\x07", "\"},{\"level\":\"critical\"", "\\\"", "back\\slash\\",
                                  "%s%n{}{0}%v", std::string("nul\0inside", 10), "\x7f\xc2\x9b" "31m", "\xff\xfe\xc0\x80", "caf\xc3\xa9", "\xe2\x80\xae" "gnp.exe\xe2\x80\xa8" "line", "a=b \"c\" d='e'"};
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    out.push_back(bytes);
  }
  return out;
}

bool OneLineOfAscii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

TEST(LogTest, NoTextBreaksALineOfJson) {
  for (const std::string& text : Hostile()) {
    const std::vector<LogField> fields = {{"model", text}, {"steps", 7}, {"why", text}};
    const std::string line = "{\"message\":" + FormatEvent(LogFormat::kJson, text, fields) + "}";
    EXPECT_TRUE(OneLineOfAscii(line)) << line;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_FALSE(json.is_discarded()) << line;
    EXPECT_EQ(json.size(), text.empty() ? 2u : 4u) << line;  // an empty value is left out
    EXPECT_EQ(json["steps"], 7);
    if (text == "caf\xc3\xa9" || text == "a\nb" || text == std::string("nul\0inside", 10)) {
      EXPECT_EQ(json["message"], text);  // what is UTF-8 comes back as it was
    }
  }
}

TEST(LogTest, NoTextBreaksALineOfText) {
  for (const std::string& text : Hostile()) {
    const std::vector<LogField> fields = {{"model", text}, {"steps", 7}};
    const std::string line = FormatEvent(LogFormat::kText, text, fields);
    EXPECT_TRUE(OneLineOfAscii(line)) << line;
    EXPECT_TRUE(line.ends_with(" steps=7")) << line;
  }
  EXPECT_EQ(FormatEvent(LogFormat::kText, "model 'x': \"y\" \\", {}), "model 'x': \"y\" \\\\");
  EXPECT_EQ(FormatEvent(LogFormat::kText, "m", std::vector<LogField>{{"peer", "ipv4:1.2.3.4:5"}, {"why", "a b\n=\""}}), "m peer=ipv4:1.2.3.4:5 why=\"a b\\n=\\\"\"");
}

TEST(LogTest, WhatIsLoggedByAnyWayIsEscaped) {
  ::testing::internal::CaptureStderr();
  LogEvent(LogLevel::kError, "before it is set up nothing is written", {});
  SetUpLog(LogFormat::kJson, "info");
  spdlog::warn("{}", "forged\n{\"level\":\"critical\"}");
  LogEvent(LogLevel::kError, "event", {{"session", LogId(std::vector<uint8_t>(16, 1))}});
  LogEvent(LogLevel::kDebug, "not at this level", {});
  spdlog::info("no fields are left over");
  spdlog::default_logger_raw()->flush();
  std::istringstream lines(::testing::internal::GetCapturedStderr());
  std::vector<nlohmann::json> events;
  for (std::string line; std::getline(lines, line);) {
    events.push_back(nlohmann::json::parse(line, nullptr, false));
    ASSERT_FALSE(events.back().is_discarded()) << line;
  }
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0]["message"], "forged\n{\"level\":\"critical\"}");
  EXPECT_EQ(events[0]["level"], "warning");
  EXPECT_EQ(events[1]["session"], "cc8cd41cef907c4d");  // sha256sum of its bytes, cut
  EXPECT_EQ(events[2].size(), 3u) << events[2];
}

TEST(TraceContextTest, TakesWhatW3CSays) {
  const std::string good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  EXPECT_EQ(ParseTraceparent(good).trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(ParseTraceparent(good).parent_id(), "00f067aa0ba902b7");
  EXPECT_EQ(ParseTraceparent("42" + good.substr(2) + "-more").trace_id().size(), 32u);
  EXPECT_EQ(ParseTraceparent("42" + good.substr(2)).trace_id().size(), 32u);
}

TEST(TraceContextTest, AnythingElseIsNoTrace) {
  const std::string good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  std::vector<std::string> bad = Hostile();
  bad.insert(bad.end(), {good + "-more", good + " ", "ff" + good.substr(2), "42" + good.substr(2) + "more", "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                         "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"});
  for (size_t i = 0; i < good.size(); ++i) {
    bad.push_back(good.substr(0, i));
    for (const char c : {'\n', '"', 'g', 'A', '\0', '\\'}) {
      bad.push_back(good);
      bad.back()[i] = c;
    }
  }
  for (const std::string& text : bad) {
    EXPECT_EQ(ParseTraceparent(text).trace_id(), "") << text;
    EXPECT_EQ(ParseTraceparent(text).parent_id(), "") << text;
  }
}

}  // namespace
}  // namespace lstm::server
