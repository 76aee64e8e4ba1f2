// SPDX-License-Identifier: MIT
#include "server/app/cores.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "tests/server/store/temp_dir.h"

namespace lstm::server {
namespace {

class CoresTest : public ::testing::Test {
 protected:
  void Write(const std::string& file, const std::string& text) {
    const std::filesystem::path path(directory_.path() + "/" + file);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text << "\n";
  }
  uint32_t Cores() { return AllowedCores(directory_.path() + "/own", directory_.path() + "/groups"); }
  TempDir directory_;
};

TEST_F(CoresTest, ThoseThatTheProcessMayRunOn) {
  uint32_t all = 0, one = 0;
  std::thread([&] {  // a mask is the thread's
    all = Cores();
    cpu_set_t allowed, first;
    ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    EXPECT_EQ(all, static_cast<uint32_t>(CPU_COUNT(&allowed)));
    CPU_ZERO(&first);
    for (size_t cpu = 0; CPU_COUNT(&first) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &first);
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof(first), &first), 0);
    one = Cores();
  }).join();
  EXPECT_EQ(one, 1u);
}

TEST_F(CoresTest, AndNoMoreThanTheQuotaOfTheGroupsLeaves) {
  const uint32_t all = Cores();
  Write("own", "1:name=systemd:/other\n0::/slice/service");
  Write("groups/slice/service/cpu.max", "max 100000");
  EXPECT_EQ(Cores(), all);
  for (const char* of_one : {"50000 100000", "100000 100000", "1 100000"}) {
    Write("groups/slice/service/cpu.max", of_one);
    EXPECT_EQ(Cores(), 1u) << of_one;
  }
  Write("groups/slice/service/cpu.max", "150000 100000");
  EXPECT_EQ(Cores(), std::min(all, 2u));
  Write("groups/slice/cpu.max", "100000 100000");
  EXPECT_EQ(Cores(), 1u) << "of the group above";
  for (const char* nothing : {"", "rubbish", "0 0", "100000", "100000 0", "-1 100000"}) {
    Write("groups/slice/cpu.max", nothing);
    Write("groups/slice/service/cpu.max", nothing);
    EXPECT_EQ(Cores(), all) << nothing;
  }
  Write("own", "0::/");  // as in a container
  Write("groups/cpu.max", "100000 100000");
  EXPECT_EQ(Cores(), 1u);
}

}  // namespace
}  // namespace lstm::server
