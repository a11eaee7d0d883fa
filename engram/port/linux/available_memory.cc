#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include "engram/port/memory.h"

namespace engram::port {
namespace {

// The number after `key` and white space in a file of "key number" lines ("MemAvailable:  123 kB").
std::optional<int64_t> read_field(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string name;
    int64_t value = 0;
    if (fields >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

// The number that a file holds; none for "max" (no limit) or where there is no such file.
std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t value = 0;
  if (!(file >> text)) return std::nullopt;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

// The names that one version of control groups gives to the same three things.
struct GroupFiles {
  const char *limit, *used;
  const char* reclaimable[3];  // fields of memory.stat: what the kernel takes back before it refuses memory
};
constexpr GroupFiles kVersion2 = {
    "/memory.max", "/memory.current", {"inactive_file", "active_file", "slab_reclaimable"}};
constexpr GroupFiles kVersion1 = {
    "/memory.limit_in_bytes", "/memory.usage_in_bytes", {"total_inactive_file", "total_active_file", ""}};

// What is left in one group; none where it has no limit.
std::optional<int64_t> left_in_group(const std::string& folder, const GroupFiles& files) {
  const auto limit = read_number(folder + files.limit), used = read_number(folder + files.used);
  if (!limit || !used) return std::nullopt;
  int64_t reclaimable = 0;
  for (const char* field : files.reclaimable) reclaimable += read_field(folder + "/memory.stat", field).value_or(0);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, *used - reclaimable));
}

// The least that is left in a group and in those around it. A container may see its own group as the mount's root and
// still be told its path outside: folders that are not there say nothing, and the root is always asked.
int64_t left_in_groups(const std::string& mount, std::string group, const GroupFiles& files) {
  int64_t left = INT64_MAX;
  while (true) {
    while (!group.empty() && group.back() == '/') group.pop_back();
    left = std::min(left, left_in_group(mount + group, files).value_or(INT64_MAX));
    if (group.empty()) return left;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

}  // namespace

int64_t available_memory_bytes(const std::string& root) {
  int64_t left = INT64_MAX;
  if (const auto kib = read_field(root + "/proc/meminfo", "MemAvailable:"); kib && *kib >= 0 && *kib < INT64_MAX / 1024)
    left = *kib * 1024;
  // Lines "id:controllers:path"; version 2 has id 0 and no controllers.
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers(1, ',');
    controllers.append(line, first + 1, second - first - 1).append(1, ',');
    const std::string path = line.substr(second + 1);
    if (controllers == ",,")
      left = std::min(left, left_in_groups(root + "/sys/fs/cgroup", path, kVersion2));
    else if (controllers.find(",memory,") != std::string::npos)
      left = std::min(left, left_in_groups(root + "/sys/fs/cgroup/memory", path, kVersion1));
  }
  return left;
}

}  // namespace engram::port
