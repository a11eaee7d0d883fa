// Seen: a table larger than a container's memory limit was loaded until the kernel killed the container, because only
// the machine's MemAvailable was asked. Right: the smaller of the machine's memory and of every group's limit around
// the process.
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engram/core/machine.h"

namespace engram {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// A made-up /proc and /sys.
class Machine {
 public:
  Machine() : root_(::testing::TempDir() + "machine-" + std::to_string(::getpid())) {
    std::filesystem::remove_all(root_);
    write("/proc/meminfo", "MemTotal:       8388608 kB\nMemFree: 100 kB\nMemAvailable:    4194304 kB\n");
  }
  ~Machine() { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  void write_group(const std::string& group, const std::string& limit, int64_t used, int64_t cached = 0) const {
    write("/sys/fs/cgroup" + group + "/memory.max", limit + "\n");
    write("/sys/fs/cgroup" + group + "/memory.current", std::to_string(used) + "\n");
    write("/sys/fs/cgroup" + group + "/memory.stat", "anon 5\ninactive_file " + std::to_string(cached) + "\nfile 7\n");
  }
  int64_t available() const { return available_memory_bytes(root_); }

 private:
  const std::string root_;
};

TEST(ContainerKilledForMemory, NoGroupsIsTheMachine) {
  const Machine machine;
  EXPECT_EQ(machine.available(), 4096 * kMiB);
  machine.write("/proc/self/cgroup", "0::/user.slice\n");
  machine.write_group("/user.slice", "max", 77 * kMiB);
  EXPECT_EQ(machine.available(), 4096 * kMiB);
  machine.write_group("/user.slice", "9000000000000", 77 * kMiB);
  EXPECT_EQ(machine.available(), 4096 * kMiB);
}

TEST(ContainerKilledForMemory, OwnGroupOfVersion2) {
  const Machine machine;
  machine.write("/proc/self/cgroup", "0::/a/b\n");
  machine.write_group("/a/b", std::to_string(1024 * kMiB), 1000 * kMiB);
  EXPECT_EQ(machine.available(), 24 * kMiB);
  machine.write_group("/a/b", std::to_string(1024 * kMiB), 1000 * kMiB, 300 * kMiB);  // page cache gives way
  EXPECT_EQ(machine.available(), 324 * kMiB);
  machine.write_group("/a/b", std::to_string(1024 * kMiB), 1100 * kMiB);  // lowered below what is in use
  EXPECT_EQ(machine.available(), 0);
}

TEST(ContainerKilledForMemory, EnclosingGroupOfVersion2) {
  const Machine machine;
  machine.write("/proc/self/cgroup", "0::/a/b/c\n");
  machine.write_group("/a/b/c", "max", 10 * kMiB);
  machine.write_group("/a/b", std::to_string(900 * kMiB), 100 * kMiB);
  machine.write_group("/a", std::to_string(500 * kMiB), 200 * kMiB);
  EXPECT_EQ(machine.available(), 300 * kMiB);
}

// Docker: the group's own files are at the mount's root, under whichever path /proc/self/cgroup names.
TEST(ContainerKilledForMemory, ContainerWithItsGroupAsRoot) {
  const Machine machine;
  machine.write_group("", std::to_string(512 * kMiB), 12 * kMiB);
  machine.write("/proc/self/cgroup", "0::/\n");
  EXPECT_EQ(machine.available(), 500 * kMiB);
  machine.write("/proc/self/cgroup", "0::/docker/0123456789abcdef\n");
  EXPECT_EQ(machine.available(), 500 * kMiB);
}

TEST(ContainerKilledForMemory, GroupOfVersion1) {
  const Machine machine;
  machine.write("/proc/self/cgroup", "9:name=systemd:/x\n4:cpu,memory:/jobs/7\n0::/\n");
  const std::string memory = "/sys/fs/cgroup/memory";
  machine.write(memory + "/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write(memory + "/memory.usage_in_bytes", "1234567\n");
  EXPECT_EQ(machine.available(), 4096 * kMiB);
  machine.write(memory + "/jobs/7/memory.limit_in_bytes", std::to_string(256 * kMiB) + "\n");
  machine.write(memory + "/jobs/7/memory.usage_in_bytes", std::to_string(200 * kMiB) + "\n");
  machine.write(memory + "/jobs/7/memory.stat",
                "cache 1\ninactive_file 1\ntotal_inactive_file " + std::to_string(50 * kMiB) + "\n");
  EXPECT_EQ(machine.available(), 106 * kMiB);
}

TEST(ContainerKilledForMemory, HereThereIsSome) {
  EXPECT_GT(available_memory_bytes(), 0);
  EXPECT_EQ(available_memory_bytes("/no/such/root"), INT64_MAX);
}

}  // namespace
}  // namespace engram
