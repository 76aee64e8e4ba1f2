// SPDX-License-Identifier: MIT
#include "server/auth/callers.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "lstm/config/v1/callers.pb.h"
#include "server/auth/text_proto.h"
#include "server/auth/token.h"

namespace lstm::server {
namespace {

constexpr char kWhat[] = "token file";
constexpr char kScheme[] = "bearer ";
constexpr size_t kMostName = 64, kMostToken = 4096;
constexpr double kLeastRate = 1e-3, kMostRate = 1e12;

std::string Bytes(const TokenHash& hash) { return {hash.begin(), hash.end()}; }

// What a map is searched by. A hash of a token that is not known gives nothing away, however long the search takes.
uint64_t First(const TokenHash& hash) {
  uint64_t out = 0;
  std::memcpy(&out, hash.data(), sizeof(out));
  return out;
}

bool IsName(const std::string& name) {
  const auto good = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' || c == '@'; };
  return !name.empty() && name.size() <= kMostName && std::all_of(name.begin(), name.end(), good);
}

absl::Status Wrong(const std::string& whose, const std::string& what) { return absl::InvalidArgumentError(absl::StrCat(kWhat, ": ", whose, what)); }

absl::Status Take(const config::v1::Limits& from, const std::string& whose, Account::Limits& to) {
  if (from.has_sessions()) to.sessions = from.sessions();
  if (from.has_session_bytes()) to.session_bytes = from.session_bytes();
  if (from.has_steps_per_second()) to.steps_per_second = from.steps_per_second();
  const bool zero = (from.has_sessions() && to.sessions == 0) || (from.has_session_bytes() && to.session_bytes == 0);
  if (zero) return Wrong(whose, "limits: sessions and session_bytes are at least 1; leave one out where there is no limit");
  if (from.has_steps_per_second() && !(to.steps_per_second >= kLeastRate && to.steps_per_second <= kMostRate)) {
    return Wrong(whose, absl::StrCat("limits: steps_per_second is ", to.steps_per_second, ", expected 0.001 to 1e12; leave it out where there is no limit"));
  }
  return absl::OkStatus();
}

}  // namespace

struct Callers::Table {
  struct Entry {
    std::string name;
    bool admin = false;
    std::shared_ptr<std::atomic<bool>> known;
  };
  struct Token {
    TokenHash hash;
    Entry entry;
  };
  size_t callers = 0;
  std::unordered_multimap<uint64_t, Token> tokens;  // by the first bytes of their hashes
  std::map<std::string, Entry> certificates;
  std::map<std::string, Account::Limits> limits;    // by principal

  const Entry* Find(const TokenHash& hash) const {
    const auto [begin, end] = tokens.equal_range(First(hash));
    for (auto it = begin; it != end; ++it) {
      if (SameInConstantTime(it->second.hash, hash)) return &it->second.entry;
    }
    return nullptr;
  }
  const Entry* Find(const std::string& certificate) const {
    const auto it = certificates.find(certificate);
    return it == certificates.end() ? nullptr : &it->second;
  }
  static Caller Of(const Entry& entry) { return {PrincipalOf(entry.name), entry.admin, entry.known}; }

  absl::Status Add(const config::v1::Caller& caller, const Account::Limits& common, const Table* before) {
    const std::string& name = caller.name();
    if (!IsName(name)) return Wrong("", absl::StrCat("name of caller ", callers + 1, " has other than 1 to 64 letters, digits, '.', '_', '-' and '@'"));
    const std::string whose = absl::StrCat("caller '", name, "': ");
    Account::Limits own = common;
    LSTM_RETURN_IF_ERROR(Take(caller.limits(), whose, own));
    if (!limits.emplace(PrincipalOf(name), own).second) return Wrong(whose, "it is there twice; one caller may have several token_sha256");
    if (caller.token_sha256().empty() && caller.certificate().empty()) return Wrong(whose, "it has neither token_sha256 nor certificate: nobody could be it");
    // The same proof of the same caller goes on, and with it what is open by it.
    const auto entry = [&](const Entry* was) {
      return Entry{name, caller.admin(), was != nullptr && was->name == name ? was->known : std::make_shared<std::atomic<bool>>(true)};
    };
    for (const std::string& digits : caller.token_sha256()) {
      const auto hash = FromHex(digits);
      if (!hash) return Wrong(whose, absl::StrCat("a token_sha256 has ", digits.size(), " characters, expected 64 hexadecimal digits: lstm-server --new-token makes it"));
      if (const Entry* other = Find(*hash)) return Wrong(whose, absl::StrCat("a token_sha256 is there twice, the first time of caller '", other->name, "'"));
      tokens.emplace(First(*hash), Token{*hash, entry(before != nullptr ? before->Find(*hash) : nullptr)});
    }
    for (const std::string& certificate : caller.certificate()) {
      if (certificate.empty()) return Wrong(whose, "a certificate is an empty text, expected a name in it");
      const bool added = certificates.emplace(certificate, entry(before != nullptr ? before->Find(certificate) : nullptr)).second;
      if (!added) return Wrong(whose, absl::StrCat("certificate '", certificate, "' is there twice"));
    }
    ++callers;
    return absl::OkStatus();
  }

  template <typename F>
  void ForEach(F f) const {
    for (const auto& [first, token] : tokens) f(token.entry);
    for (const auto& [name, entry] : certificates) f(entry);
  }
};

std::string Callers::PrincipalOf(std::string_view name) { return Bytes(HashOf(absl::StrCat("caller:", std::string(name)))); }

absl::Status Callers::Read(const std::string& text) {
  config::v1::CallerFile file;
  LSTM_RETURN_IF_ERROR(ParseText(text, kWhat, &file));
  if (file.caller().empty()) return Wrong("", "there is no caller in it");
  Account::Limits common;
  LSTM_RETURN_IF_ERROR(Take(file.limits(), "", common));
  const std::lock_guard<std::mutex> lock(mutex_);
  auto table = std::make_shared<Table>();
  for (const config::v1::Caller& caller : file.caller()) LSTM_RETURN_IF_ERROR(table->Add(caller, common, table_.get()));

  if (table_ != nullptr) {
    std::vector<const std::atomic<bool>*> still;
    table->ForEach([&](const Table::Entry& entry) { still.push_back(entry.known.get()); });
    std::sort(still.begin(), still.end());
    table_->ForEach([&](const Table::Entry& entry) {
      if (!std::binary_search(still.begin(), still.end(), entry.known.get())) entry.known->store(false, std::memory_order_relaxed);
    });
  }
  // Of one who may not call any more the account stays while it has something: it may come back.
  std::erase_if(accounts_, [&](const auto& entry) { return !table->limits.contains(entry.first) && entry.second.use_count() == 1; });
  for (const config::v1::Caller& caller : file.caller()) {
    const std::string principal = PrincipalOf(caller.name());
    std::shared_ptr<Account>& account = accounts_[principal];
    if (account == nullptr) account = std::make_shared<Account>(caller.name());
    account->SetLimits(table->limits.at(principal));
  }
  table_ = std::move(table);
  return absl::OkStatus();
}

absl::StatusOr<Caller> Callers::Find(const Shown& shown) const {
  const auto table = [this] {
    const std::lock_guard<std::mutex> lock(mutex_);
    return table_;
  }();
  if (table == nullptr) {
    std::string names;
    for (const std::string& name : shown.certificate) names.append(name).push_back('\0');  // ends as no principal of a file does
    return Caller{names.empty() ? "" : Bytes(HashOf(names)), names.empty() || admins_, nullptr};
  }
  if (shown.authorization.empty()) {
    for (const std::string& name : shown.certificate) {
      if (const Table::Entry* entry = table->Find(name)) return Table::Of(*entry);
    }
    missing_.fetch_add(1, std::memory_order_relaxed);
    return absl::UnauthenticatedError("a token is missing, expected 'authorization: Bearer TOKEN' (lstm-client --token); the operator of the server has them");
  }
  const std::string_view header = shown.authorization.front();
  const size_t scheme = std::strlen(kScheme);
  const Table::Entry* entry = nullptr;
  if (shown.authorization.size() == 1 && header.size() > scheme && header.size() <= kMostToken && absl::EqualsIgnoreCase(absl::string_view(header.data(), scheme), kScheme)) {
    entry = table->Find(HashOf(header.substr(scheme)));
  }
  if (entry != nullptr) return Table::Of(*entry);
  unknown_.fetch_add(1, std::memory_order_relaxed);
  return absl::UnauthenticatedError("the token is not known here, or is not one header 'authorization: Bearer TOKEN': it is mistyped or was withdrawn; ask the operator of the server");
}

std::shared_ptr<Account> Callers::AccountOf(const std::string& principal) const {
  if (principal.empty()) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = accounts_.find(principal);
  return it == accounts_.end() ? nullptr : it->second;
}

size_t Callers::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return table_ == nullptr ? 0 : table_->callers;
}

}  // namespace lstm::server
