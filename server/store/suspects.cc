// SPDX-License-Identifier: MIT
#include "server/store/suspects.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr size_t kEntries = 1024;
constexpr size_t kBytes = kEntries * sizeof(Suspects::Entry);
static_assert(sizeof(Suspects::Entry) == 32);

}  // namespace

absl::StatusOr<std::unique_ptr<Suspects>> Suspects::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("'", path, "'"));
  const int error = posix_fallocate(fd, 0, kBytes);
  void* memory = error == 0 ? mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  const int why = error != 0 ? error : errno;
  close(fd);
  if (memory == MAP_FAILED) return absl::ErrnoToStatus(why, absl::StrCat("'", path, "'"));
  return std::unique_ptr<Suspects>(new Suspects(static_cast<Entry*>(memory)));
}

Suspects::~Suspects() { munmap(entries_, kBytes); }

void Suspects::Note(const SessionId& id, uint64_t seq, int signal) {
  // No lock: in a handler. Two threads that die at once may lose a note, no more.
  Entry* free = nullptr;
  for (Entry& entry : std::span(entries_, kEntries)) {
    if (entry.crashes > 0 && entry.id == id) {
      entry.crashes = entry.seq == seq ? entry.crashes + 1 : 1;
      entry.seq = seq;
      entry.signal = signal;
      return;
    }
    if (entry.crashes == 0 && free == nullptr) free = &entry;
  }
  if (free == nullptr) return;
  free->id = id;
  free->seq = seq;
  free->signal = signal;
  free->crashes = 1;
}

std::optional<Suspects::Entry> Suspects::Find(const SessionId& id) const {
  const std::span<const Entry> all(entries_, kEntries);
  const auto it = std::find_if(all.begin(), all.end(), [&](const Entry& entry) { return entry.crashes > 0 && entry.id == id; });
  return it == all.end() ? std::nullopt : std::optional(*it);
}

void Suspects::Clear(const SessionId& id) {
  for (Entry& entry : std::span(entries_, kEntries)) {
    if (entry.crashes > 0 && entry.id == id) entry.crashes = 0;
  }
}

}  // namespace lstm::server
