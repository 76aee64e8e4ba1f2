// SPDX-License-Identifier: MIT
#include "server/app/caller_file.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/auth/token.h"

namespace lstm::server {
namespace {

constexpr off_t kMostBytes = 64 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<CallerFile>> CallerFile::Open(const std::string& path) {
  if (path.empty()) return std::unique_ptr<CallerFile>();
  std::unique_ptr<CallerFile> self(new CallerFile(path));
  LSTM_RETURN_IF_ERROR(self->Read());
  return self;
}

absl::Status CallerFile::Read() {
  struct stat now {};
  if (stat(path_.c_str(), &now) != 0) return absl::NotFoundError(absl::StrCat("--token-file: '", path_, "' cannot be read"));
  if (!S_ISREG(now.st_mode) || now.st_size > kMostBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--token-file: '", path_, "' is no file, or has more than ", kMostBytes, " bytes"));
  }
  std::ifstream file(path_);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("--token-file: '", path_, "' cannot be read, or is empty"));
  LSTM_RETURN_IF_ERROR(callers_->Read(text.str()));
  spdlog::info("callers must be known: {} of them in '{}'", callers_->size(), path_);
  return absl::OkStatus();
}

void CallerFile::Look(bool now) {
  if (!watch_.Changed() && !now) return;
  watch_.Know();
  const absl::Status read = Read();
  if (!read.ok()) spdlog::error("{}; the callers that were known before stay", std::string(read.message()));
}

int PrintNewToken(const std::string& name) {
  const std::string token = NewToken();
  const std::string lines = absl::StrCat("caller { name: \"", name, "\" token_sha256: \"", ToHex(HashOf(token)), "\" }");
  if (const absl::Status good = Callers().Read(lines); !good.ok()) {
    std::cerr << "--new-token: " << good.message() << "\n";
    return 2;
  }
  std::cerr << "The token, shown this once, for its caller; and the line for --token-file:\n";
  std::cout << token << "\n" << lines << "\n" << std::flush;
  return std::cout ? 0 : 1;
}

}  // namespace lstm::server
