#include "engram/serve/api_keys.h"

#include <algorithm>

#include "engram/core/lines.h"
#include "engram/core/sha256.h"

namespace engram {
namespace {

constexpr size_t kShortestKey = 8;

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

Result<std::vector<std::string>> read_api_keys(Env& env, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, env.read_file(path, {.max_bytes = 1 << 20, .pipes = true}));
  std::vector<std::string> keys;
  int number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = take_line(rest);
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    // The key itself stays out of the message: messages go to logs.
    if (line.size() < kShortestKey) {
      return invalid_argument("{}: line {}: a key of {} characters, wanted {} or more", path, number, line.size(),
                              kShortestKey);
    }
    if (std::any_of(line.begin(), line.end(), [](char c) { return c < '!' || c > '~'; })) {
      return invalid_argument("{}: line {}: wanted a key of printable ASCII without spaces", path, number);
    }
    keys.emplace_back(line);
  }
  if (keys.empty()) return invalid_argument("{}: no key in the file, wanted one a line", path);
  return keys;
}

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(sha256_hex(key));
}

bool ApiKeys::accepts(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size()) return false;
  for (size_t i = 0; i < kScheme.size(); ++i) {
    const char c = authorization[i];
    if ((c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c) != kScheme[i]) return false;
  }
  authorization.remove_prefix(std::min(authorization.find_first_not_of(' ', kScheme.size()), authorization.size()));
  const std::string digest = sha256_hex(authorization);
  bool found = false;
  for (const std::string& known : digests_) found |= equal_in_constant_time(digest, known);
  return found;
}

}  // namespace engram
