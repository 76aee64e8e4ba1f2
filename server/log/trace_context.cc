// SPDX-License-Identifier: MIT
#include "server/log/trace_context.h"

#include <algorithm>

namespace lstm::server {
namespace {

constexpr size_t kSize = 55;  // 00-<32>-<16>-<2>

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

}  // namespace

TraceContext ParseTraceparent(std::string_view header) {
  TraceContext out;
  if (header.size() < kSize || header[2] != '-' || header[35] != '-' || header[52] != '-') return out;
  const std::string_view version = header.substr(0, 2), trace = header.substr(3, 32), parent = header.substr(36, 16);
  if (!IsHex(version) || version == "ff" || !IsHex(trace) || IsZero(trace) || !IsHex(parent) || IsZero(parent) || !IsHex(header.substr(53, 2))) return out;
  // A version that is not known may say more behind a dash; version 00 may not.
  if (header.size() > kSize && (version == "00" || header[kSize] != '-')) return out;
  std::copy(trace.begin(), trace.end(), out.trace.begin());
  std::copy(parent.begin(), parent.end(), out.parent.begin());
  return out;
}

}  // namespace lstm::server
