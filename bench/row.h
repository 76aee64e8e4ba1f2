// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace lstm::bench {

// What a program measured, for bench/run: a JSON object a line, with "row" saying what kind of row it is.
using Row = nlohmann::ordered_json;

// As JSON, or as "row: name value, name value".
inline void Emit(const Row& row, bool json) {
  std::string line;
  if (json) {
    line = row.dump();
  } else {
    for (const auto& [name, value] : row.items()) {
      if (name == "row") {
        line = value.get<std::string>() + ":";
        continue;
      }
      if (line.back() != ':') line += ",";
      char number[32];
      if (value.is_number_float()) std::snprintf(number, sizeof(number), "%.4g", value.get<double>());
      line += " " + name + " " + (value.is_number_float() ? number : value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace lstm::bench
