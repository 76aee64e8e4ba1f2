// SPDX-License-Identifier: MIT
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "server/metrics/families.h"

namespace lstm::server {
namespace {

using prometheus::MetricType;

double Seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

double ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  double all = 0, resident = 0;
  file >> all >> resident;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenDescriptors() {
  std::error_code error;
  std::filesystem::directory_iterator entries("/proc/self/fd", error);
  return error ? 0 : static_cast<double>(std::distance(begin(entries), end(entries)) - 1);  // one is the look itself
}

// Seconds since 1970: the 22nd field of stat has ticks since the machine started, the second may have blanks.
double StartTime() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  text.erase(0, text.rfind(')') + 1);
  double ticks = 0;
  size_t at = 0;
  for (int field = 3; field < 22 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  if (at != std::string::npos) ticks = std::strtod(text.c_str() + at, nullptr);
  timespec up{}, now{};
  clock_gettime(CLOCK_BOOTTIME, &up);
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec - up.tv_sec) + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessFamilies() {
  static const double start = StartTime();
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  return {
      Single("process_cpu_seconds_total", "CPU time of the process, user and system", MetricType::Counter, Seconds(used.ru_utime) + Seconds(used.ru_stime)),
      Single("process_resident_memory_bytes", "Memory of the process that is resident", MetricType::Gauge, ResidentBytes()),
      Single("process_open_fds", "Descriptors that are open", MetricType::Gauge, OpenDescriptors()),
      Single("process_max_fds", "Descriptors that may be open", MetricType::Gauge, static_cast<double>(files.rlim_cur)),
      Single("process_start_time_seconds", "When the process began, in seconds since 1970", MetricType::Gauge, start),
  };
}

}  // namespace lstm::server
