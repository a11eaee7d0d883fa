#include "engram/core/markup.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "engram/core/status.h"

namespace engram {

std::string script_json(const nlohmann::ordered_json& data) {
  const std::string json = data.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string out;
  out.reserve(json.size());
  for (size_t at = 0; at < json.size(); ++at) {
    // "<" and these two characters stand in strings only: JSON itself has none of them.
    const std::string_view rest = std::string_view(json).substr(at);
    if (rest.front() == '<') {
      out += "\\u003c";
    } else if (rest.starts_with("\xE2\x80\xA8") || rest.starts_with("\xE2\x80\xA9")) {
      out += rest[2] == '\xA8' ? "\\u2028" : "\\u2029";
      at += 2;
    } else {
      out += rest.front();
    }
  }
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string escape_markdown(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n' || c == '\r') {
      out += ' ';
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      if (c == '\\' || c == '`' || c == '*' || c == '|') out += '\\';
      out += c;
    }
  }
  return out;
}

std::string fill_page(std::string_view page_template,
                      std::initializer_list<std::pair<std::string_view, std::string_view>> marks) {
  struct Place {
    size_t at, length;
    std::string_view text;
  };
  std::vector<Place> places;
  for (const auto& [mark, text] : marks) {
    const size_t at = page_template.find(mark);
    ENGRAM_CHECK(at != std::string_view::npos, "page template without {}", mark);
    places.push_back({at, mark.size(), text});
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.at < b.at; });
  std::string page;
  size_t copied = 0;
  for (const Place& place : places) {
    page.append(page_template, copied, place.at - copied).append(place.text);
    copied = place.at + place.length;
  }
  return page.append(page_template.substr(copied));
}

}  // namespace engram
