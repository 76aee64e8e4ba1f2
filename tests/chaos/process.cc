// SPDX-License-Identifier: MIT
#include "tests/chaos/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace lstm::testing {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const char* what) { throw std::runtime_error(std::string(what) + ": " + std::strerror(errno)); }

}  // namespace

uint64_t Setting(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TempDirectory::TempDirectory() {
  path_ = ::testing::TempDir() + "lstm-chaos-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) Die("mkdtemp");
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

bool TempDirectory::in_memory() const {
  struct statfs fs;
  return statfs(path_.c_str(), &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

HeldPort::HeldPort() {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  if (bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof(at)) != 0) Die("bind");
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size) != 0) Die("getsockname");
  port_ = ntohs(at.sin_port);
}

HeldPort::~HeldPort() { close(fd_); }

Child::Child(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment) {
  // All of it is ready before the fork: this process has other threads, one of which may hold malloc's lock.
  std::vector<std::string> variables;
  for (char** v = environ; *v != nullptr; ++v) {
    if (!environment.contains(std::string(*v).substr(0, std::string(*v).find('=')))) variables.emplace_back(*v);
  }
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  std::vector<char*> argv, envp;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  for (const std::string& variable : variables) envp.push_back(const_cast<char*>(variable.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) Die("pipe");
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) Die("fork");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  close(ends[1]);
  pipe_ = ends[0];
}

Child::~Child() {
  if (!Ended()) {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pipe_);
}

void Child::Signal(int signal) const {
  if (!status_) kill(pid_, signal);
}

// False at the end of the pipe.
bool Child::Read(std::chrono::milliseconds wait) {
  pollfd one{pipe_, POLLIN, 0};
  if (poll(&one, 1, static_cast<int>(wait.count())) <= 0) return true;
  char bytes[4096];
  const ssize_t n = read(pipe_, bytes, sizeof(bytes));
  if (n > 0) said_.append(bytes, static_cast<size_t>(n));
  return n > 0 || (n < 0 && errno == EINTR);
}

std::optional<std::string> Child::WaitForLine(const std::function<bool(const std::string&)>& wanted) {
  const auto until = Clock::now() + kPatience;
  for (bool more = true; true;) {
    for (size_t end; (end = said_.find('\n', line_)) != std::string::npos;) {
      const std::string line = said_.substr(line_, end - line_);
      line_ = end + 1;
      if (wanted(line)) return line;
    }
    if (!more || Clock::now() >= until) return std::nullopt;
    more = Read(std::chrono::milliseconds(100));
  }
}

std::optional<std::string> Child::WaitForText(const std::string& text) {
  return WaitForLine([&](const std::string& line) { return line.find(text) != std::string::npos; });
}

bool Child::Ended() {
  int status = 0;
  if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
  return status_.has_value();
}

int Child::Wait() {
  const auto until = Clock::now() + kPatience;
  for (bool more = true; more && Clock::now() < until;) more = Read(std::chrono::milliseconds(100));  // its end closes the pipe
  while (!Ended() && Clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (!status_) {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    status_ = -1;
  }
  return *status_;
}

Server::Server(std::string binary, std::string state_dir, std::map<std::string, std::string> environment, std::vector<std::string> more)
    : binary_(std::move(binary)), state_dir_(std::move(state_dir)), environment_(std::move(environment)), more_(std::move(more)) {}

void Server::Launch(const std::map<std::string, std::string>& environment) {
  if (process_) before_ = process_->said();
  std::vector<std::string> command = {binary_, "--listen", address(), "--models", "models/repository", "--shards", "2", "--pin-shards", "false"};
  if (!state_dir_.empty()) command.insert(command.end(), {"--state-dir", state_dir_});
  command.insert(command.end(), more_.begin(), more_.end());
  std::map<std::string, std::string> all = environment;  // wins
  all.insert(environment_.begin(), environment_.end());
  process_ = std::make_unique<Child>(command, all);
}

bool Server::Start(const std::map<std::string, std::string>& environment) {
  Launch(environment);
  return process_->WaitForText(kListening).has_value();
}

void Server::Kill() {
  process_->Signal(SIGKILL);
  process_->Wait();
}

int Server::Terminate() {
  process_->Signal(SIGTERM);
  const int status = process_->Wait();
  return status >= 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string Server::log() const {
  const std::string all = before_ + "--- the last process:\n" + (process_ ? process_->said() : "");
  return all.size() > 4000 ? all.substr(all.size() - 4000) : all;
}

}  // namespace lstm::testing
