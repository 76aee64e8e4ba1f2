// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <string_view>

namespace lstm::server {

// Which trace a call belongs to, as its client says in the W3C header `traceparent`: hexadecimal digits and nothing else, so
// that it may stand in a line as it is. Empty where the client said nothing, or what can not be understood.
struct TraceContext {
  std::array<char, 32> trace{};
  std::array<char, 16> parent{};

  std::string_view trace_id() const { return {trace.data(), trace[0] == 0 ? 0 : trace.size()}; }
  std::string_view parent_id() const { return {parent.data(), parent[0] == 0 ? 0 : parent.size()}; }
};

TraceContext ParseTraceparent(std::string_view header);

// Of a gRPC call's metadata.
template <typename Metadata>
TraceContext TraceOf(const Metadata& metadata) {
  const auto found = metadata.find("traceparent");
  return found == metadata.end() ? TraceContext() : ParseTraceparent({found->second.data(), found->second.size()});
}

}  // namespace lstm::server
