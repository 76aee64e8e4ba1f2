// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}

namespace lstm::server {

// Reads a text protobuf. INVALID_ARGUMENT gives `what` it is, line and column.
absl::Status ParseText(const std::string& text, const char* what, google::protobuf::Message* out);

}  // namespace lstm::server
