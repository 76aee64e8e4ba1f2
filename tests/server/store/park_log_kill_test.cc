// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <map>

#include "tests/server/store/park_now.h"

// A process that parks sessions and takes them back, with segments so small that there is always something to move, killed
// with SIGKILL again and again: what it had sealed is there with every byte, what it had removed is gone.
// Instead of the C library's, for all of this executable: a kill takes nothing from the page cache.
extern "C" int fdatasync(int) { return 0; }
extern "C" int fsync(int) { return 0; }

namespace lstm::server {
namespace {

constexpr uint64_t kSegment = 16u << 10, kNumbers = 24;

int Rounds() {
  const char* rounds = std::getenv("LSTM_KILLS");
  return rounds != nullptr ? std::atoi(rounds) : 200;
}

enum class Way { kKillAtRandom, kKillAtFailPoints, kAnswerBeforeSeal };

// What the child says through the pipe before and after all that it does.
struct Word {
  enum Kind : uint64_t { kParks, kParked, kRemoves, kRemoved } kind;
  uint64_t number, serial;
};

std::atomic<int> fail_points_left;
void DieThere(const char*) {
  if (--fail_points_left == 0) kill(getpid(), SIGKILL);
}

[[noreturn]] void Child(const std::string& directory, uint64_t seed, Way way, int pipe_end) {
  Random random(seed);
  if (way == Way::kKillAtFailPoints) {
    fail_points_left = static_cast<int>(1 + random() % 400);
    core::fail_point_hook = DieThere;
  }
  auto log = ParkLog::Open({.directory = directory, .instance = kParkInstance, .segment_bytes = kSegment});
  if (!log.ok()) _exit(2);
  const auto say = [&](Word::Kind kind, uint64_t number, uint64_t serial) {
    const Word word{kind, number, serial};
    if (write(pipe_end, &word, sizeof(word)) != sizeof(word)) _exit(3);
  };
  struct Living {
    ParkLog::Key key;
    uint64_t serial;
  };
  std::map<uint64_t, Living> living;
  for (const auto& [key, about] : (*log)->TakeFound()) living[NumberOf(about.id)] = {key, about.serial};
  for (uint64_t turn = 0; turn < 1000; ++turn) {
    const uint64_t number = random() % kNumbers;
    const auto it = living.find(number);
    if (it != living.end()) {
      const auto bytes = ReadNow(**log, it->second.key);
      if (!bytes.ok() || *bytes != PayloadOf(number, it->second.serial)) _exit(4);
    }
    const bool newer_first = random() % 2 == 0;  // parked anew before the old one is removed
    const Living old = it != living.end() ? it->second : Living{};
    const auto remove_old = [&](bool ends) {
      if (ends) say(Word::kRemoves, number, old.serial);
      (*log)->Remove(old.key);
      if (ends) say(Word::kRemoved, number, old.serial);
      living.erase(number);
    };
    if (it != living.end() && (!newer_first || random() % 2 == 0)) {
      remove_old(true);
      continue;
    }
    const uint64_t serial = seed << 20 | turn;
    say(Word::kParks, number, serial);
    const auto key = AppendNow(**log, AboutOf(number, serial), PayloadOf(number, serial));
    if (!key.ok()) _exit(5);
    if (way == Way::kAnswerBeforeSeal) say(Word::kParked, number, serial);
    if (random() % 8 == 0) {  // thought better of it
      if (way == Way::kAnswerBeforeSeal) continue;
      (*log)->Remove(*key);
      continue;
    }
    if (!(*log)->Seal(*key).ok()) _exit(6);
    if (way != Way::kAnswerBeforeSeal) say(Word::kParked, number, serial);
    if (it != living.end()) remove_old(false);
    living[number] = {*key, serial};
  }
  _exit(0);
}

// What the parent knows of a session from the child's words.
struct Known {
  uint64_t parked = 0, parks = 0;  // serials; 0: none
  bool removing = false;
};

struct Found {
  int lost = 0, wrong = 0;
  uint64_t parked = 0, removed = 0;
  std::string first{};
};

void Check(const std::string& directory, std::map<uint64_t, Known>& known, Found& found) {
  const auto note = [&](int& count, const std::string& what) {
    if (count++ == 0 && found.first.empty()) found.first = what;
  };
  const auto log = OpenLog(directory, kSegment);
  std::map<uint64_t, Known> next;
  for (const auto& [key, about] : log->TakeFound()) {
    const uint64_t number = NumberOf(about.id);
    const Known k = known[number];
    known.erase(number);
    const auto bytes = ReadNow(*log, key);
    if (about.serial != k.parked && about.serial != k.parks) {
      note(found.wrong, absl::StrCat(number, "/", about.serial, " came back; parked was ", k.parked, ", begun ", k.parks));
    } else if (!SameAbout(about, AboutOf(number, about.serial)) || !bytes.ok() || *bytes != PayloadOf(number, about.serial)) {
      note(found.wrong, absl::StrCat(number, "/", about.serial, " is not what was written: ", bytes.status().ToString()));
    }
    next[number] = {.parked = about.serial};
  }
  for (const auto& [number, k] : known) {
    if (k.parked != 0 && !k.removing) note(found.lost, absl::StrCat(number, "/", k.parked, " is gone"));
  }
  known = std::move(next);
}

Found KillAgainAndAgain(Way way, int rounds) {
  Found found;
  std::optional<TempDir> dir;
  std::map<uint64_t, Known> known;
  Random random(static_cast<uint64_t>(way));
  for (int round = 0; round < rounds; ++round) {
    if (round % 20 == 0) {
      dir.emplace();
      known.clear();
    }
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      Child(dir->path(), static_cast<uint64_t>(round) + 1, way, ends[1]);
    }
    close(ends[1]);
    uint64_t left = way == Way::kKillAtFailPoints ? UINT64_MAX : 1 + random() % 200;
    Word word;
    while (read(ends[0], &word, sizeof(word)) == sizeof(word)) {
      Known& k = known[word.number];
      if (word.kind == Word::kParks) k.parks = word.serial;
      if (word.kind == Word::kParked) k = {.parked = word.serial}, ++found.parked;
      if (word.kind == Word::kRemoves) k.removing = true;
      if (word.kind == Word::kRemoved) known.erase(word.number), ++found.removed;
      if (--left == 0) {
        for (volatile uint64_t spin = random() % 60000; spin > 0;) spin = spin - 1;  // some instant within what follows
        kill(child, SIGKILL);
      }
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) != 0) << "the child gave up with " << WEXITSTATUS(status) << " in round " << round;
    Check(dir->path(), known, found);
    if (testing::Test::HasFailure()) break;
  }
  return found;
}

TEST(ParkLogKillTest, ASigkillAtAnyInstantLosesNothingThatWasSealed) {
  const Found found = KillAgainAndAgain(Way::kKillAtRandom, Rounds());
  EXPECT_EQ(found.lost, 0) << found.first;
  EXPECT_EQ(found.wrong, 0) << found.first;
  EXPECT_GT(found.parked, 1000u);
  EXPECT_GT(found.removed, 1000u);
}

TEST(ParkLogKillTest, ASigkillAtAFailPointLosesNothingThatWasSealed) {
  const Found found = KillAgainAndAgain(Way::kKillAtFailPoints, Rounds());
  EXPECT_EQ(found.lost, 0) << found.first;
  EXPECT_EQ(found.wrong, 0) << found.first;
  EXPECT_GT(found.parked, 1000u);
}

// The test can fail: a session that is called parked before it is sealed is not there after a kill.
TEST(ParkLogKillControlTest, LossIsFoundWhereTheAnswerLeavesBeforeTheSeal) {
  const Found found = KillAgainAndAgain(Way::kAnswerBeforeSeal, 100);
  EXPECT_GT(found.lost + found.wrong, 3) << "of " << found.parked;
}

// Each instant by its name, so that none is left out when another comes.
std::string die_at;
std::atomic<int> die_after;
void DieAtName(const char* name) {
  if (name == die_at && --die_after == 0) kill(getpid(), SIGKILL);
}

class ParkLogKillAtTest : public testing::TestWithParam<const char*> {};

TEST_P(ParkLogKillAtTest, IsReachedAndLosesNothing) {
  for (int after = 1; after <= 3; ++after) {
    TempDir dir;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      die_at = GetParam();
      die_after = after;
      core::fail_point_hook = DieAtName;
      Child(dir.path(), static_cast<uint64_t>(after), Way::kKillAtRandom, ends[1]);
    }
    close(ends[1]);
    std::map<uint64_t, Known> known;
    Word word;
    while (read(ends[0], &word, sizeof(word)) == sizeof(word)) {
      Known& k = known[word.number];
      if (word.kind == Word::kParks) k.parks = word.serial;
      if (word.kind == Word::kParked) k = {.parked = word.serial};
      if (word.kind == Word::kRemoves) k.removing = true;
      if (word.kind == Word::kRemoved) known.erase(word.number);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << GetParam() << " was not reached";
    Found found;
    Check(dir.path(), known, found);
    EXPECT_EQ(found.lost + found.wrong, 0) << found.first;
  }
}

INSTANTIATE_TEST_SUITE_P(Points, ParkLogKillAtTest,
                         testing::Values("park.before_header", "park.after_header", "park.after_append", "park.before_seal", "park.after_seal",
                                         "park.before_remove", "park.after_remove", "park.after_copy", "park.after_move", "park.before_unlink"));

}  // namespace
}  // namespace lstm::server
