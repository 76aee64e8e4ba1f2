// SPDX-License-Identifier: MIT
#include "server/app/check_config.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/app/caller_file.h"
#include "server/app/cores.h"
#include "server/app/load_models.h"
#include "server/rpc/acceptor.h"

namespace lstm::server {
namespace {

using Faults = std::vector<std::string>;

std::string WhyOfTls() {
  const unsigned long code = ERR_peek_last_error();  // the last one says it best: the first is of the innermost function
  const char* const why = ERR_reason_error_string(code);
  ERR_clear_error();
  return why == nullptr ? "it is no PEM file of that kind" : why;
}

bool Readable(const char* option, const std::string& path, Faults& faults) {
  if (access(path.c_str(), R_OK) == 0) return true;
  faults.push_back(absl::StrCat("--", option, ": '", path, "' cannot be read: ", std::strerror(errno)));
  return false;
}

void CheckTime(const std::string& path, const X509* certificate, Faults& faults) {
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) faults.push_back(absl::StrCat("--tls-cert: '", path, "' is not valid yet"));
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) faults.push_back(absl::StrCat("--tls-cert: '", path, "' has expired"));
}

void CheckTls(const ServerOptions& o, Faults& faults) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  // A key with a passphrase is one that the server can not read: nobody is asked for it.
  SSL_CTX_set_default_passwd_cb(context.get(), [](char*, int, int, void*) { return 0; });
  ERR_clear_error();
  bool cert = false, key = false;
  if (!o.tls_cert.empty() && Readable("tls-cert", o.tls_cert, faults)) {
    cert = SSL_CTX_use_certificate_chain_file(context.get(), o.tls_cert.c_str()) == 1;
    if (!cert) faults.push_back(absl::StrCat("--tls-cert: '", o.tls_cert, "' is no certificate in PEM: ", WhyOfTls()));
    if (cert) CheckTime(o.tls_cert, SSL_CTX_get0_certificate(context.get()), faults);
  }
  if (!o.tls_key.empty() && Readable("tls-key", o.tls_key, faults)) {
    // It is held against the certificate as it is taken.
    key = SSL_CTX_use_PrivateKey_file(context.get(), o.tls_key.c_str(), SSL_FILETYPE_PEM) == 1;
    const bool other = !key && ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH;
    if (!key) faults.push_back(absl::StrCat("--tls-key: '", o.tls_key, other ? "' is not the key of --tls-cert: " : "' is no key in PEM: ", WhyOfTls()));
  }
  if (cert && key && SSL_CTX_check_private_key(context.get()) != 1) {
    faults.push_back(absl::StrCat("--tls-key: '", o.tls_key, "' is not the key of --tls-cert: ", WhyOfTls()));
  }
  if (!o.tls_client_ca.empty() && Readable("tls-client-ca", o.tls_client_ca, faults) && SSL_CTX_load_verify_file(context.get(), o.tls_client_ca.c_str()) != 1) {
    faults.push_back(absl::StrCat("--tls-client-ca: '", o.tls_client_ca, "' has no certificate in PEM: ", WhyOfTls()));
  }
}

void CheckAddresses(const ServerOptions& o, Faults& faults) {
  std::vector<std::string> seen;
  const auto check = [&](const char* option, const std::string& address) {
    const absl::Status good = Acceptor::Check(address);
    if (!good.ok()) faults.push_back(absl::StrCat("--", option, ": ", good.message()));
    const bool any = address.size() > 2 && address.substr(address.size() - 2) == ":0";
    if (!any && std::find(seen.begin(), seen.end(), address) != seen.end()) faults.push_back(absl::StrCat("--", option, ": ", address, " is named twice"));
    seen.push_back(address);
  };
  for (const std::string& address : o.listen) check("listen", address);
  if (o.ServesHttp() && !o.http_listen.empty()) check("http-listen", o.http_listen);
  if (!o.metrics_listen.empty()) check("metrics-listen", o.metrics_listen);
}

void CheckStateDirectory(const std::string& path, Faults& faults) {
  struct stat info;
  const auto fault = [&](const std::string& what) { faults.push_back(absl::StrCat("--state-dir: '", path, "' ", what)); };
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISDIR(info.st_mode)) return fault("is no directory");
    if (access(path.c_str(), R_OK | W_OK | X_OK) != 0) fault(absl::StrCat("cannot be written to: ", std::strerror(errno)));
    return;
  }
  if (errno != ENOENT) return fault(absl::StrCat("cannot be looked at: ", std::strerror(errno)));
  std::string parent = path;
  while (parent.size() > 1 && parent.back() == '/') parent.pop_back();
  const size_t slash = parent.rfind('/');
  parent = slash == std::string::npos ? "." : slash == 0 ? "/" : parent.substr(0, slash);
  if (access(parent.c_str(), W_OK | X_OK) != 0) fault(absl::StrCat("is not there and cannot be made: ", std::strerror(errno)));
}

void CheckModels(const ServerOptions& o, std::ostream& out, Faults& faults) {
  ModelKeeper::Notes notes;
  const auto keeper = LoadModels(o, notes);
  for (const ModelKeeper::Note& note : notes) {
    if (note.bad) faults.push_back(note.text);
    else out << note.text << "\n";
  }
  if (!keeper.ok()) faults.push_back(absl::StrCat("--models: ", keeper.status().message()));
}

}  // namespace

bool CheckConfig(const ServerOptions& o, std::ostream& out, std::ostream& to) {
  Faults faults;
  for (const absl::Status& status : o.Faults()) faults.push_back(std::string(status.message()));
  const size_t of_options = faults.size();
  CheckAddresses(o, faults);
  CheckTls(o, faults);
  if (const absl::Status callers = CallerFile::Open(o.token_file).status(); !callers.ok()) faults.push_back(std::string(callers.message()));
  if (!o.state_dir.empty()) CheckStateDirectory(o.state_dir, faults);
  // What cannot be understood is not tried with models.
  if (of_options == 0) CheckModels(o, out, faults);

  out << "gRPC on " << absl::StrJoin(o.listen, ", ") << ", " << (o.tls_cert.empty() ? "plain text" : o.tls_client_ca.empty() ? "TLS" : "TLS with client certificates") << "\n";
  out << "Open Inference Protocol over HTTP: " << (o.ServesHttp() ? o.http_listen : "none") << "\n";
  out << "metrics: " << (o.metrics_listen.empty() ? "none" : o.metrics_listen) << "\n";
  out << "sessions: " << (o.state_dir.empty() ? "volatile" : absl::StrCat("kept in '", o.state_dir, "'")) << ", at most " << o.max_sessions << " open, "
      << (o.shards > 0 ? o.shards : AllowedCores()) << " shards\n";
  for (const std::string& fault : faults) to << "fault: " << absl::StrReplaceAll(fault, {{"\n", "\n  "}}) << "\n";
  out << (faults.empty() ? "all of it is good" : absl::StrCat(faults.size(), faults.size() == 1 ? " fault" : " faults")) << "\n";
  return faults.empty();
}

}  // namespace lstm::server
