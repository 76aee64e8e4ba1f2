// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpc {
class ServerCredentials;
}

namespace lstm::server {

// The certificates of the listeners, in files that may be replaced while the server runs: connections that are made later get the new
// ones, those that there are keep theirs. For one thread.
class Tls {
 public:
  struct Files {
    std::string cert, key;  // PEM; the certificate may be followed by those that lead to its CA
    std::string client_ca;  // empty: clients need show no certificate
  };
  // NOT_FOUND or INVALID_ARGUMENT says which option's file it is, and what is wrong with it.
  static absl::StatusOr<std::shared_ptr<Tls>> Open(const Files& files);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // Takes what the files hold now, which counts within a second or two. An error: the old ones stay.
  absl::Status Read();

  std::shared_ptr<grpc::ServerCredentials> credentials() const;

 private:
  explicit Tls(Files files) : files_(std::move(files)) {}

  const Files files_;
  // gRPC looks for itself at files, and takes whatever it finds there: it is given files in memory that hold what was checked.
  int identity_ = -1, roots_ = -1;
};

}  // namespace lstm::server
