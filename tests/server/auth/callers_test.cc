// SPDX-License-Identifier: MIT
#include "server/auth/callers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/auth/token.h"

namespace lstm::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Line(const std::string& name, const std::string& token, const std::string& more = "") {
  return absl::StrCat("caller { name: '", name, "' token_sha256: '", ToHex(HashOf(token)), "' ", more, " }\n");
}
Callers::Shown Bearer(const std::string& header) {
  Callers::Shown shown;
  shown.authorization.emplace_back(header);
  return shown;
}
absl::StatusOr<Caller> FindToken(const Callers& callers, const std::string& token) {
  const std::string header = absl::StrCat("Bearer ", token);
  return callers.Find(Bearer(header));
}
absl::StatusOr<Caller> FindCertificate(const Callers& callers, std::vector<std::string> names) {
  return callers.Find({.authorization = {}, .certificate = std::move(names)});
}

TEST(CallersTest, WithoutAFileEverybodyMayCallAndIsWhoTheirCertificateSays) {
  const Callers callers;
  const auto anonymous = FindCertificate(callers, {});
  ASSERT_TRUE(anonymous.ok());
  EXPECT_EQ(anonymous->principal, "");
  EXPECT_TRUE(anonymous->admin) << "nobody can be told from others: all sessions are everybody's";
  const auto one = FindCertificate(callers, {"a", "b"}), other = FindCertificate(callers, {"ab"});
  EXPECT_EQ(one->principal.size(), 32u);
  EXPECT_NE(one->principal, other->principal);
  EXPECT_FALSE(one->admin);
  EXPECT_TRUE(FindCertificate(Callers(true), {"a"})->admin);
  EXPECT_TRUE(FindToken(callers, "whatever").ok()) << "a token that nobody asked for";
}

TEST(CallersTest, WithAFileOnlyThoseWhoProveThemselvesMayCall) {
  Callers callers;
  ASSERT_TRUE(callers.Read(Line("a", "token-a") + Line("b", "token-b", "admin: true certificate: 'b.example'")).ok());
  EXPECT_EQ(callers.size(), 2u);
  const auto a = FindToken(callers, "token-a"), b = FindToken(callers, "token-b");
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->principal, Callers::PrincipalOf("a"));
  EXPECT_FALSE(a->admin);
  EXPECT_TRUE(b->admin);
  EXPECT_EQ(callers.Find(Bearer("bEARER token-a"))->principal, a->principal) << "the scheme has no case";
  EXPECT_EQ(FindCertificate(callers, {"x", "b.example"})->principal, b->principal);

  EXPECT_THAT(std::string(FindCertificate(callers, {}).status().message()), HasSubstr("a token is missing, expected 'authorization: Bearer TOKEN'"));
  EXPECT_TRUE(absl::IsUnauthenticated(FindCertificate(callers, {"a"}).status())) << "the name of a caller is no certificate of it";
  for (const std::string header : {"Bearer ", "Bearer", "", "token-a", "Basic token-a", "Bearer  token-a", "Bearer token-a ", "Bearer token-A", "Bearer token-ab", "Bearer token-"}) {
    const auto found = callers.Find(Bearer(header));
    EXPECT_TRUE(absl::IsUnauthenticated(found.status())) << header;
    EXPECT_THAT(std::string(found.status().message()), Not(HasSubstr("token-"))) << "what was sent is not repeated";
  }
  EXPECT_TRUE(absl::IsUnauthenticated(FindToken(callers, std::string(1 << 20, 'x')).status()));
  EXPECT_TRUE(absl::IsUnauthenticated(FindToken(callers, ToHex(HashOf("token-a"))).status())) << "the file does not give tokens away";
  EXPECT_TRUE(absl::IsUnauthenticated(callers.Find({.authorization = {"Bearer token-a", "Bearer token-a"}, .certificate = {}}).status())) << "twice";
  EXPECT_EQ(callers.refusals().missing, 2u);
  EXPECT_EQ(callers.refusals().unknown, 13u);
}

TEST(CallersTest, AFileThatIsWrongChangesNothingAndSaysWhatIsWrong) {
  Callers callers;
  ASSERT_TRUE(callers.Read(Line("a", "1")).ok());
  const struct {
    std::string text, message;
  } cases[] = {
      {"", "there is no caller in it"},
      {"caller {", "token file: line 1, column 9"},
      {"\ncaller { nam: 'a' }", "line 2, column"},
      {Line("", "2"), "name of caller 1 has other than 1 to 64 letters"},
      {Line("a b", "2"), "name of caller 1"},
      {Line(std::string(65, 'a'), "2"), "name of caller 1"},
      {Line("b\\n", "2"), "name of caller 1"},
      {Line("b", "2") + "caller { name: 'c' }", "caller 'c': it has neither token_sha256 nor certificate"},
      {Line("b", "2") + Line("b", "3"), "caller 'b': it is there twice"},
      {Line("b", "2") + Line("c", "2"), "caller 'c': a token_sha256 is there twice, the first time of caller 'b'"},
      {Line("b", "2", "certificate: 'x'") + Line("c", "3", "certificate: 'x'"), "caller 'c': certificate 'x' is there twice"},
      {Line("b", "2", "certificate: ''"), "caller 'b': a certificate is an empty text"},
      {"caller { name: 'b' token_sha256: 'abc' }", "caller 'b': a token_sha256 has 3 characters, expected 64"},
      {absl::StrCat("caller { name: 'b' token_sha256: '", std::string(64, 'g'), "' }"), "expected 64 hexadecimal digits"},
      {Line("b", "2", "limits { sessions: 0 }"), "caller 'b': limits: sessions and session_bytes are at least 1"},
      {Line("b", "2", "limits { session_bytes: 0 }"), "at least 1"},
      {Line("b", "2") + "limits { steps_per_second: 0 }", "limits: steps_per_second is 0, expected 0.001 to 1e12"},
      {Line("b", "2") + "limits { steps_per_second: nan }", "limits: steps_per_second is nan"},
      {Line("b", "2") + "limits { steps_per_second: inf }", "limits: steps_per_second is inf"},
  };
  for (const auto& c : cases) {
    const absl::Status read = callers.Read(c.text);
    EXPECT_TRUE(absl::IsInvalidArgument(read)) << c.text;
    EXPECT_THAT(std::string(read.message()), HasSubstr(c.message)) << c.text;
    EXPECT_TRUE(FindToken(callers, "1").ok());
    EXPECT_FALSE(FindToken(callers, "2").ok());
  }
}

TEST(CallersTest, ATokenThatIsWithdrawnIsToldFromOneThatStays) {
  Callers callers;
  ASSERT_TRUE(callers.Read(Line("a", "old") + Line("b", "b", "certificate: 'b.example'")).ok());
  const Caller a = *FindToken(callers, "old"), b = *FindToken(callers, "b"), shown = *FindCertificate(callers, {"b.example"});
  ASSERT_TRUE(callers.Read(absl::StrCat("caller { name: 'a' token_sha256: '", ToHex(HashOf("old")), "' token_sha256: '", ToHex(HashOf("new")), "' }\n", Line("b", "b"))).ok());
  EXPECT_FALSE(a.withdrawn());
  EXPECT_FALSE(b.withdrawn());
  EXPECT_TRUE(shown.withdrawn());
  EXPECT_EQ(FindToken(callers, "new")->principal, a.principal) << "its sessions are the caller's";
  ASSERT_TRUE(callers.Read(Line("a", "new") + Line("c", "b")).ok());
  EXPECT_TRUE(a.withdrawn());
  EXPECT_TRUE(b.withdrawn()) << "the token is another caller's now";
  EXPECT_NE(FindToken(callers, "b")->principal, b.principal);
  EXPECT_FALSE(FindToken(callers, "old").ok());
  EXPECT_FALSE(callers.Read("caller { }").ok());
  EXPECT_FALSE(FindToken(callers, "new")->withdrawn());
}

TEST(CallersTest, AccountsOutliveTheFileThatMadeThem) {
  Callers callers;
  ASSERT_TRUE(callers.Read("limits { sessions: 2 session_bytes: 100 }" + Line("a", "a") + Line("b", "b", "limits { sessions: 5 }")).ok());
  const std::string principal = Callers::PrincipalOf("a");
  auto account = callers.AccountOf(principal);
  EXPECT_TRUE(account->TakeSession(60).ok());
  const absl::Status bytes = account->TakeSession(60);
  EXPECT_THAT(std::string(bytes.message()), HasSubstr("the sessions of 'a' would have 120 bytes, at most 100"));
  EXPECT_EQ(account->session_bytes(), 60u) << "what was refused counts for nothing";
  EXPECT_TRUE(account->TakeSession(40).ok());
  EXPECT_THAT(std::string(account->HasRoom(0).message()), HasSubstr("'a' has its 2 sessions; close one, or ask the operator"));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(callers.AccountOf(Callers::PrincipalOf("b"))->TakeSession(1).ok(), true) << i;
  EXPECT_FALSE(callers.AccountOf(Callers::PrincipalOf("b"))->TakeSession(1).ok());

  ASSERT_TRUE(callers.Read(Line("b", "b")).ok());
  ASSERT_TRUE(callers.Read("limits { sessions: 3 }" + Line("a", "a")).ok());
  EXPECT_EQ(callers.AccountOf(principal), account) << "a caller that comes back has what it had";
  EXPECT_TRUE(account->TakeSession(1000).ok()) << "and the limits of the new file";
  EXPECT_FALSE(account->TakeSession(0).ok());
  EXPECT_EQ(callers.AccountOf(""), nullptr);
  EXPECT_EQ(callers.AccountOf("somebody"), nullptr);
}

// Whatever is asked for, and when: in no time are there more steps than the rate gives, what a pause saves, and one turn.
TEST(AccountTest, StepsKeepToTheirRateAndNobodyIsStarved) {
  std::mt19937_64 random(7);
  for (const double rate : {0.5, 10.0, 1000.0, 1e6}) {
    Account account("a");
    account.SetLimits({.sessions = 0, .session_bytes = 0, .steps_per_second = rate});
    uint64_t now = 1'000'000'000, begin = now, taken = 0, largest = 0;
    for (int i = 0; i < 20'000; ++i) {
      const uint64_t steps = random() % 4 == 0 ? 0 : 1 + random() % (random() % 50 == 0 ? 5000 : 16);
      const uint64_t wait = account.TakeSteps(steps, now);
      if (wait == 0) {
        taken += steps;
        largest = std::max(largest, steps);
        now += random() % 3 == 0 ? random() % 100'000 : 0;
      } else {
        EXPECT_EQ(account.TakeSteps(1, now + wait - 1) == 0, false) << "not before the time that was said";
        now += wait;
        const uint64_t again = account.TakeSteps(steps, now);
        EXPECT_EQ(again, 0u) << "but then";
        taken += steps;
        largest = std::max(largest, steps);
      }
      const double seconds = static_cast<double>(now - begin) / 1e6;
      ASSERT_LE(static_cast<double>(taken), rate * (seconds + 1) + static_cast<double>(largest) + 1) << rate;
    }
  }
  Account free("b");
  EXPECT_EQ(free.TakeSteps(UINT64_MAX / 2, 0), 0u);
  EXPECT_EQ(free.TakeSteps(UINT64_MAX / 2, 0), 0u);
}

TEST(AccountTest, AHugeTurnIsPaidForAndNothingOverflows) {
  Account account("a");
  account.SetLimits({.sessions = 0, .session_bytes = 0, .steps_per_second = 0.001});
  EXPECT_EQ(account.TakeSteps(UINT64_MAX, 1), 0u);
  const uint64_t wait = account.TakeSteps(1, 1);
  EXPECT_GT(wait, uint64_t{86'400} * 1'000'000);
  EXPECT_EQ(account.TakeSteps(0, 1), 0u) << "a turn without a step costs nothing";
  account.SetLimits({});
  EXPECT_EQ(account.TakeSteps(1, 1), 0u);
}

TEST(AccountTest, ThreadsShareOneAllowance) {
  Account account("a");
  account.SetLimits({.sessions = 100, .session_bytes = 0, .steps_per_second = 1000});
  std::atomic<uint64_t> steps{0}, sessions{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        if (account.TakeSteps(1, 50'000'000) == 0) ++steps;  // one instant: what was saved
        if (account.TakeSession(1).ok()) ++sessions;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_GE(steps.load(), 1000u);
  EXPECT_LE(steps.load(), 1001u);
  EXPECT_EQ(sessions.load(), 100u);
  EXPECT_EQ(account.sessions(), 100u);
}

TEST(TokenTest, NewOnesAreLongAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(NewToken());
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_EQ(seen.begin()->size(), 5u + 64u);
  EXPECT_EQ(*FromHex(ToHex(HashOf("x"))), HashOf("x"));
  EXPECT_EQ(ToHex(HashOf("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") << "FIPS 180-2";
  EXPECT_FALSE(FromHex(std::string(63, '0')));
}

}  // namespace
}  // namespace lstm::server
