// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "server/log/trace_context.h"

namespace lstm::server {

enum class LogFormat { kText, kJson };
enum class LogLevel { kDebug, kInfo, kWarning, kError };

// From here on spdlog's default logger writes to standard error, one line an event: as text, or as a JSON object of `time`,
// `level`, `message` and the fields of the event. Whatever an event says is escaped here, and nowhere else: no text, be it a
// client's or a file's, can begin another line, speak to a terminal, or end a JSON string. `level`: spdlog's name of it.
void SetUpLog(LogFormat format, const std::string& level);

// A value with its name. Text may be anybody's.
struct LogField {
  LogField(const char* k, std::string_view v) : key(k), text(v) {}
  LogField(const char* k, std::integral auto v) : key(k), text(std::to_string(v)), number(true) {}
  const char* key;
  std::string text;  // empty: left out
  bool number = false;
};

// Writes one event; before SetUpLog nothing, so that what only links a shard is quiet. For what happens per stream or per error,
// never per step. Thread-safe.
void LogEvent(LogLevel level, std::string_view message, std::initializer_list<LogField> fields);
// Whether it would write: to spare the making of fields.
bool Logs(LogLevel level);

// How a session is named in lines: its id is what its owner proves himself with, so it is hashed (SHA-256, the first 8 bytes
// in hexadecimal).
std::string LogId(std::span<const uint8_t> id);

// The event as it is written, without time and level; for tests and for the logger itself.
std::string FormatEvent(LogFormat format, std::string_view message, std::span<const LogField> fields);

}  // namespace lstm::server
