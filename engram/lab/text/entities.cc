#include "engram/lab/text/entities.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <unordered_map>

#include "engram/core/json.h"
#include "engram/core/lines.h"
#include "engram/lab/pages/assets.h"

namespace engram {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  return text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

// Lines of the file, or of the built-in list, that are neither empty nor comments; take(line, its number from 1).
template <typename Take>
Status for_each_name(Env& env, const std::string& path, std::string_view built_in, Take&& take) {
  std::string text(built_in);
  if (!path.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(text, env.read_file(path));
  }
  bool any = false;
  int number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = take_line(rest);
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line[0] == '#') continue;
    any = true;
    ENGRAM_RETURN_IF_ERROR(take(line, number));
  }
  return any ? Status() : invalid_argument("{}: got no name, wanted one a line", path);
}

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
  std::vector<std::string> entities;
  ENGRAM_RETURN_IF_ERROR(for_each_name(env, path, assets::entities_txt, [&](std::string_view line, int) {
    entities.emplace_back(line);
    return Status();
  }));
  return entities;
}

Result<std::vector<KnownEntity>> read_known_entities(Env& env, const std::string& path) {
  std::vector<KnownEntity> entities;
  std::set<std::string> names;
  ENGRAM_RETURN_IF_ERROR(for_each_name(env, path, assets::known_entities_txt, [&](std::string_view line, int number) {
    const size_t bar = line.find('|');
    KnownEntity one{std::string(trimmed(line.substr(0, bar))), {}};
    for (std::string_view rest = bar == line.npos ? "" : line.substr(bar + 1); !rest.empty();) {
      const size_t comma = std::min(rest.find(','), rest.size());
      const std::string word(trimmed(rest.substr(0, comma)));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
      if (!word.empty()) one.words.push_back(word);
    }
    if (one.name.empty() || one.words.empty() || !names.insert(one.name).second ||
        holds_word(last_word(one.name), one.words)) {
      return invalid_argument("{}:{}: got {}, wanted NAME | WORD, WORD: a new name, and words that its last word lacks",
                              path, number, quote_text(line));
    }
    entities.push_back(std::move(one));
    return Status();
  }));
  return entities;
}

bool holds_word(std::string_view text, const std::vector<std::string>& words) {
  const auto same = [](char a, char b) { return lower(a) == lower(b); };
  return std::ranges::any_of(words, [&](const std::string& word) {
    for (auto at = text.begin();; ++at) {
      at = std::search(at, text.end(), word.begin(), word.end(), same);
      if (at == text.end()) return false;
      if (at == text.begin() || !is_word_byte(at[-1])) return true;
    }
  });
}

std::string_view last_word(std::string_view name) {
  size_t end = name.size();
  while (end > 0 && !is_word_byte(name[end - 1])) --end;
  size_t begin = end;
  while (begin > 0 && is_word_byte(name[begin - 1])) --begin;
  return name.substr(begin, end - begin);
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
