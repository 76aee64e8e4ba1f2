// SPDX-License-Identifier: MIT
#include "server/auth/text_proto.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  std::string text;
};

}  // namespace

absl::Status ParseText(const std::string& text, const char* what, google::protobuf::Message* out) {
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, out)) return absl::InvalidArgumentError(absl::StrCat(what, ": ", error.text));
  return absl::OkStatus();
}

}  // namespace lstm::server
