// SPDX-License-Identifier: MIT
#include "server/log/log.h"

#include <openssl/sha.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace lstm::server {
namespace {

std::atomic<bool> set_up{false};
// Of the event that this thread is writing: the logger formats on the thread that logs.
thread_local std::span<const LogField> fields_now;

// A JSON string of ASCII alone: what is not UTF-8 becomes U+FFFD.
std::string Quoted(std::string_view text) {
  const std::string json = nlohmann::json(std::string(text)).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return absl::StrReplaceAll(json, {{"\x7f", "\\u007f"}});  // the one control character that JSON lets through
}

// The same for a person: without the quotes around it, and those inside as they are.
std::string Shown(std::string_view text) {
  const std::string json = Quoted(text);
  std::string out;
  for (size_t i = 1; i + 1 < json.size(); ++i) {
    if (json[i] == '\\' && json[i + 1] == '"') ++i;
    else if (json[i] == '\\') out += json[i++];  // with what it escapes
    out += json[i];
  }
  return out;
}

bool IsWord(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-' || c == '.' || c == ':' || c == '/'; });
}

class Payload : public spdlog::custom_flag_formatter {
 public:
  explicit Payload(LogFormat format) : format_(format) {}
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const std::string text = FormatEvent(format_, {message.payload.data(), message.payload.size()}, fields_now);
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<Payload>(format_); }

 private:
  const LogFormat format_;
};

spdlog::level::level_enum LevelOf(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: break;
  }
  return spdlog::level::err;
}

}  // namespace

std::string FormatEvent(LogFormat format, std::string_view message, std::span<const LogField> fields) {
  const bool json = format == LogFormat::kJson;
  std::string out = json ? Quoted(message) : Shown(message);
  for (const LogField& field : fields) {
    if (field.text.empty()) continue;
    if (json) absl::StrAppend(&out, ",\"", field.key, "\":", field.number ? field.text : Quoted(field.text));
    else absl::StrAppend(&out, " ", field.key, "=", IsWord(field.text) ? field.text : Quoted(field.text));
  }
  return out;
}

void SetUpLog(LogFormat format, const std::string& level) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<Payload>('*', format);
  formatter->set_pattern(format == LogFormat::kJson ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","message":%*})" : "%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %*");
  auto logger = std::make_shared<spdlog::logger>("server", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_formatter(std::move(formatter));
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  set_up = true;
}

bool Logs(LogLevel level) { return set_up.load(std::memory_order_relaxed) && spdlog::default_logger_raw()->should_log(LevelOf(level)); }

void LogEvent(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (!Logs(level)) return;
  fields_now = {fields.begin(), fields.size()};
  spdlog::default_logger_raw()->log(LevelOf(level), spdlog::string_view_t(message.data(), message.size()));
  fields_now = {};
}

std::string LogId(std::span<const uint8_t> id) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest;
  SHA256(id.data(), id.size(), digest.data());
  return absl::BytesToHexString(std::string(digest.begin(), digest.begin() + 8));
}

}  // namespace lstm::server
