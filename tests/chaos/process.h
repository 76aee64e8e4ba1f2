// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lstm::testing {

// What a wait in these tests may take at most before it is a failure; never a measure.
constexpr std::chrono::seconds kPatience(120);

// A number from the environment (LSTM_KILLS, LSTM_ROUNDS, LSTM_SEED ...), or `otherwise`.
uint64_t Setting(const char* name, uint64_t otherwise);

inline const char* const kListening = "listening on ";  // as server/app/server.cc says it

// A fresh directory below ::testing::TempDir(), removed in the end.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // On a tmpfs, where durability HOST cannot be had.
  bool in_memory() const;

 private:
  std::string path_;
};

// A port of 127.0.0.1 that nobody else gets while its server is dead: bound, and never listened to. A server can bind it
// beside (both set SO_REUSEADDR); the kernel gives it to nobody who asks for any port.
class HeldPort {
 public:
  HeldPort();
  ~HeldPort();
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  uint16_t port() const { return port_; }

 private:
  int fd_ = -1;
  uint16_t port_ = 0;
};

// A child process; what it writes to stdout and stderr comes through one pipe. It dies with this object, and with the thread
// that made it. Confined to that thread.
class Child {
 public:
  explicit Child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment = {});
  ~Child();
  Child(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // Reads lines until one of them satisfies `wanted`: that line. Nothing if the process ended before, or kPatience passed.
  std::optional<std::string> WaitForLine(const std::function<bool(const std::string&)>& wanted);
  std::optional<std::string> WaitForText(const std::string& text);
  // True once it has ended; never waits.
  bool Ended();
  // Waits for its end. As waitpid says it; -1 if it did not end within kPatience (then it is killed).
  int Wait();
  // All that it wrote and we read.
  const std::string& said() const { return said_; }

 private:
  bool Read(std::chrono::milliseconds wait);

  pid_t pid_ = -1;
  int pipe_ = -1;
  std::optional<int> status_;
  std::string said_;
  size_t line_ = 0;  // where the next line begins
};

// chaos_server on a port of its own and a state directory.
class Server {
 public:
  // An empty `state_dir`: a server whose sessions are volatile, the undisturbed one.
  Server(std::string binary, std::string state_dir, std::map<std::string, std::string> environment = {}, std::vector<std::string> more = {});

  // Starts a process, and returns at once.
  void Launch(const std::map<std::string, std::string>& environment = {});
  // And waits until it listens; false where it died before.
  bool Start(const std::map<std::string, std::string>& environment = {});
  // SIGKILL; it is gone when this returns. Its last words are kept in log().
  void Kill();
  // SIGTERM, and waits: the exit code, or -1.
  int Terminate();

  Child& process() { return *process_; }
  std::string address() const { return port_.address(); }
  uint16_t port() const { return port_.port(); }
  // The end of what the processes so far said.
  std::string log() const;

 private:
  const std::string binary_, state_dir_;
  const std::map<std::string, std::string> environment_;
  const std::vector<std::string> more_;
  HeldPort port_;
  std::unique_ptr<Child> process_;
  std::string before_;  // what the last one said
};

}  // namespace lstm::testing
