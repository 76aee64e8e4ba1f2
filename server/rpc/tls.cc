// SPDX-License-Identifier: MIT
#include "server/rpc/tls.h"

#include <fcntl.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::server {
namespace {

constexpr unsigned kLookEverySeconds = 1;

template <typename T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* p) const { kFree(p); }
};
void FreeBio(BIO* bio) { BIO_free(bio); }
using Bio = std::unique_ptr<BIO, Freed<BIO, FreeBio>>;
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;

Bio Over(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }
Certificate FirstOf(const std::string& text) { return Certificate(PEM_read_bio_X509(Over(text).get(), nullptr, nullptr, nullptr)); }
Key KeyOf(const std::string& text) {
  const auto no_password = [](char*, int, int, void*) { return -1; };  // else the terminal is asked
  return Key(PEM_read_bio_PrivateKey(Over(text).get(), nullptr, no_password, nullptr));
}

absl::StatusOr<std::string> ReadFile(const std::string& path, const char* option) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("--", option, ": '", path, "' cannot be read"));
  return text.str();
}

absl::Status Check(const std::string& cert, const std::string& key) {
  const Certificate certificate = FirstOf(cert);
  if (certificate == nullptr) return absl::InvalidArgumentError("--tls-cert: there is no certificate in it, expected PEM");
  const Key own = KeyOf(key);
  if (own == nullptr) return absl::InvalidArgumentError("--tls-key: there is no key in it, expected PEM without a password");
  if (X509_check_private_key(certificate.get(), own.get()) != 1) return absl::InvalidArgumentError("--tls-key is not the key of the certificate in --tls-cert");
  return absl::OkStatus();
}

// The descriptor's file is another one at once, for whoever opens it from now on.
absl::Status Put(const std::string& text, int* descriptor) {
  const int fd = memfd_create("lstm-tls", MFD_CLOEXEC);
  size_t written = 0;
  while (fd >= 0 && written < text.size()) {
    const ssize_t n = write(fd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    written += static_cast<size_t>(n);
  }
  const bool done = fd >= 0 && written == text.size() && (*descriptor < 0 || dup3(fd, *descriptor, O_CLOEXEC) >= 0);
  const int error = errno;
  if (done && *descriptor < 0) {
    *descriptor = fd;
  } else if (fd >= 0) {
    close(fd);
  }
  return done ? absl::OkStatus() : absl::InternalError(absl::StrCat("certificates can not be kept in memory: ", std::strerror(error)));
}

std::string PathOf(int descriptor) { return descriptor < 0 ? "" : absl::StrCat("/proc/self/fd/", descriptor); }

}  // namespace

absl::StatusOr<std::shared_ptr<Tls>> Tls::Open(const Files& files) {
  std::shared_ptr<Tls> self(new Tls(files));
  LSTM_RETURN_IF_ERROR(self->Read());
  return self;
}

Tls::~Tls() {
  for (const int fd : {identity_, roots_}) {
    if (fd >= 0) close(fd);
  }
}

absl::Status Tls::Read() {
  LSTM_ASSIGN_OR_RETURN(const std::string cert, ReadFile(files_.cert, "tls-cert"));
  LSTM_ASSIGN_OR_RETURN(std::string key, ReadFile(files_.key, "tls-key"));
  std::string roots;
  if (!files_.client_ca.empty()) {
    LSTM_ASSIGN_OR_RETURN(roots, ReadFile(files_.client_ca, "tls-client-ca"));
  }
  absl::Status good = Check(cert, key);
  if (good.ok() && !files_.client_ca.empty() && FirstOf(roots) == nullptr) good = absl::InvalidArgumentError("--tls-client-ca: there is no certificate in it, expected PEM");
  ERR_clear_error();
  // Key and certificate in one, so that nobody ever reads two that do not belong together.
  std::string identity = absl::StrCat(key, "\n", cert);
  if (good.ok()) good = Put(identity, &identity_);
  if (good.ok() && !roots.empty()) good = Put(roots, &roots_);
  OPENSSL_cleanse(key.data(), key.size());
  OPENSSL_cleanse(identity.data(), identity.size());
  return good;
}

std::shared_ptr<grpc::ServerCredentials> Tls::credentials() const {
  const std::string identity = PathOf(identity_);
  auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(identity, identity, PathOf(roots_), kLookEverySeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (roots_ >= 0) options.watch_root_certs();
  options.set_cert_request_type(roots_ >= 0 ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace lstm::server
