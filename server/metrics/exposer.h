// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/metrics/families.h"

namespace lstm::server {

// Answers GET /metrics over HTTP with what `sources` count, summed up when it is asked for: nothing is done in between. It has
// threads of its own. Start and the end are for one thread.
class Exposer {
 public:
  // `address`: an IPv4 address, [IPv6] or localhost, and :PORT; 0: any free one. INVALID_ARGUMENT where it is none,
  // FAILED_PRECONDITION where it can not be had. What the sources name must outlive the exposer.
  static absl::StatusOr<std::unique_ptr<Exposer>> Start(const std::string& address, const MetricSources& sources);
  ~Exposer();

  int port() const;

  // True where `address` can be understood and is of this machine alone.
  static bool IsLocal(const std::string& address);
  static absl::Status Check(const std::string& address);

 private:
  struct Http;
  explicit Exposer(std::unique_ptr<Http> http);
  const std::unique_ptr<Http> http_;
};

}  // namespace lstm::server
