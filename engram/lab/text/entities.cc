#include "engram/lab/text/entities.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "engram/core/lines.h"
#include "engram/lab/pages/assets.h"

namespace engram {
namespace {

std::string_view first_word(std::string_view text) {
  size_t end = 0;
  while (end < text.size() && is_word_byte(text[end])) ++end;
  return text.substr(0, end);
}

}  // namespace

bool is_word_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

Result<std::vector<std::string>> read_entities(Env& env, const std::string& path) {
  std::string text(assets::entities_txt);
  if (!path.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(text, env.read_file(path));
  }
  std::vector<std::string> entities;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = take_line(rest);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && line[0] != '#') entities.emplace_back(line);
  }
  if (entities.empty()) return invalid_argument("{}: got no name, wanted one a line", path);
  return entities;
}

std::vector<EntityMatch> find_entities(const TokenBytes& text, const std::vector<std::string>& entities) {
  std::unordered_map<std::string_view, std::vector<size_t>> by_first_word;
  for (size_t i = 0; i < entities.size(); ++i) {
    const std::string_view word = first_word(entities[i]);
    if (!word.empty()) by_first_word[word].push_back(i);
  }
  for (auto& [word, candidates] : by_first_word) {
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](size_t a, size_t b) { return entities[a].size() > entities[b].size(); });
  }

  std::vector<EntityMatch> matches;
  const std::string_view bytes = text.bytes;
  for (size_t at = 0; at < bytes.size();) {
    if (!is_word_byte(bytes[at])) {
      ++at;
      continue;
    }
    const std::string_view word = first_word(bytes.substr(at));
    size_t next = at + word.size();
    if (const auto found = by_first_word.find(word); found != by_first_word.end()) {
      for (size_t candidate : found->second) {
        const std::string& name = entities[candidate];
        const size_t end = at + name.size();
        if (bytes.substr(at, name.size()) != name) continue;
        if (end < bytes.size() && is_word_byte(name.back()) && is_word_byte(bytes[end])) continue;
        const auto last = std::lower_bound(text.ends.begin(), text.ends.end(), end);
        if (last == text.ends.end() || *last != end) continue;
        const auto first = std::upper_bound(text.ends.begin(), text.ends.end(), at);
        matches.push_back({candidate, first - text.ends.begin(), last - text.ends.begin()});
        next = end;
        break;
      }
    }
    at = next;
  }
  return matches;
}

std::vector<bool> word_ends(const TokenBytes& text) {
  std::vector<bool> ends(text.ends.size(), false);
  for (size_t t = 0; t < text.ends.size(); ++t) {
    const size_t end = text.ends[t];
    if (end == 0) continue;
    ends[t] = is_word_byte(text.bytes[end - 1]) && (end == text.bytes.size() || !is_word_byte(text.bytes[end]));
  }
  return ends;
}

}  // namespace engram
