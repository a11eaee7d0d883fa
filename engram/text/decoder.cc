#include "engram/text/decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/text/byte_alphabet.h"
#include "engram/text/replacement.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr size_t kMostSteps = 256;

// "<0x0A>" -> 10.
std::optional<char> byte_of(std::string_view token) {
  unsigned value = 0;
  const bool form = token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
  if (!form || std::from_chars(token.data() + 3, token.data() + 5, value, 16).ptr != token.data() + 5)
    return std::nullopt;
  return static_cast<char>(value);
}

size_t most_bytes(size_t text_bytes) { return 64 * text_bytes + 1024; }

size_t total(const std::vector<std::string>& tokens) {
  size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  return bytes;
}

std::string joined(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

Status byte_level_of(std::vector<std::string>& tokens, size_t) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += byte_level_decode(token).value_or(token);
  tokens = {utf8_lossy(bytes)};
  return Status();
}

Status join_bytes(std::vector<std::string>& tokens, size_t) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == std::string_view::npos) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\uFFFD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const std::optional<char> byte = byte_of(token)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens.swap(out);
  return Status();
}

// As many of the first `start` and the last `stop` characters as are `content`.
std::string strip(std::string_view token, std::string_view content, size_t start, size_t stop) {
  for (; start > 0 && token.starts_with(content); --start) token.remove_prefix(content.size());
  for (; stop > 0 && token.ends_with(content); --stop) token.remove_suffix(content.size());
  return std::string(token);
}

std::string replaced(std::string_view text, std::string_view old, std::string_view now) {
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text.find(old, at)) != std::string_view::npos; at = found + old.size())
    out.append(text.substr(at, found - at)).append(now);
  return out.append(text.substr(at));
}

}  // namespace

Result<Decoder> Decoder::parse(const nlohmann::json& value, const std::string& where) {
  Decoder decoder;
  if (!value.is_null()) {
    ENGRAM_RETURN_IF_ERROR(decoder.add(value, where));
  } else {
    const auto blank_before = [](std::string_view token, const Place& place) {
      return std::string(place.index > 0, ' ').append(token);
    };
    decoder.add_each(blank_before, false);
  }
  return decoder;
}

void Decoder::add_each(std::function<Result<std::string>(std::string_view, const Place&)> change, bool inside) {
  Step step;
  step.all = [change](std::vector<std::string>& tokens, size_t limit) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      ENGRAM_ASSIGN_OR_RETURN(tokens[i], change(tokens[i], {i, tokens.size(), limit}));
      limit -= std::min(limit, tokens[i].size());
    }
    return Status();
  };
  if (inside) {
    step.one = [change](std::string& token) {
      if (Result<std::string> out = change(token, {1, 3, most_bytes(token.size())}); out.ok()) token = std::move(*out);
      return false;
    };
  }
  steps_.push_back(std::move(step));
}

Status Decoder::add(const nlohmann::json& value, const std::string& where) {
  if (steps_.size() >= kMostSteps) return invalid_argument("{}: more than {} decoders", where, kMostSteps);
  ENGRAM_ASSIGN_OR_RETURN(const std::string type, read_field<std::string>(value, "type", where));
  if (type == "ByteLevel") {
    steps_.push_back({byte_level_of, [](std::string& token) {
                        token = byte_level_decode(token).value_or(token);
                        return true;
                      }});
  } else if (type == "ByteFallback") {
    steps_.push_back({join_bytes, [](std::string& token) {
                        const std::optional<char> byte = byte_of(token);
                        if (byte) token.assign(1, *byte);
                        return byte.has_value();
                      }});
  } else if (type == "Fuse") {
    steps_.push_back({[](std::vector<std::string>& tokens, size_t) {
                        tokens = {joined(tokens)};
                        return Status();
                      },
                      nullptr});
  } else if (type == "Sequence") {
    const nlohmann::json* parts = json_find(value, "decoders");
    if (parts == nullptr || !parts->is_array()) return invalid_argument("{}: no \"decoders\" array", where);
    for (const nlohmann::json& part : *parts) ENGRAM_RETURN_IF_ERROR(add(part, where));
  } else if (type == "Replace") {
    ENGRAM_ASSIGN_OR_RETURN(const Replacement replacement, Replacement::parse(value, where));
    add_each([=](std::string_view token, const Place& place) { return replacement.apply(token, place.limit); }, true);
  } else {
    return add_with_text(type, value, where);
  }
  return Status();
}

// Those that look for a text, which is not empty.
Status Decoder::add_with_text(const std::string& type, const nlohmann::json& value, const std::string& where) {
  std::string text, scheme = "always";
  bool add_prefix_space = true;
  size_t start = 0, stop = 0;
  Fields fields(value, where);
  if (type == "Metaspace") {
    fields.need("replacement", text);
    fields("prepend_scheme", scheme);
    fields("add_prefix_space", add_prefix_space);
    const bool prefixed = add_prefix_space && scheme != "never";
    add_each([=](std::string_view token,
                 const Place& place) { return replaced(token, text, prefixed && place.index == 0 ? "" : " "); },
             true);
  } else if (type == "Strip") {
    fields.need("content", text);
    fields.need("start", start, 0, INT32_MAX);
    fields.need("stop", stop, 0, INT32_MAX);
    add_each([=](std::string_view token, const Place&) { return strip(token, text, start, stop); }, false);
  } else if (type == "BPEDecoder") {
    fields.need("suffix", text);
    add_each([=](std::string_view token,
                 const Place& place) { return replaced(token, text, place.index + 1 == place.count ? "" : " "); },
             true);
  } else {
    return invalid_argument("{}: type {} is not supported", where, quote_text(type));
  }
  ENGRAM_RETURN_IF_ERROR(fields.status());
  return text.empty() ? invalid_argument("{}: {} of an empty text", where, type) : Status();
}

Result<std::string> Decoder::decode(std::vector<std::string> tokens) const {
  const size_t bytes = total(tokens), limit = most_bytes(bytes);
  for (const Step& step : steps_) {
    ENGRAM_RETURN_IF_ERROR(step.all(tokens, limit));
    if (total(tokens) > limit)
      return make_status(StatusCode::kResourceExhausted,
                         "the tokenizer's decoder makes more than {} bytes of tokens of {}", limit, bytes);
  }
  return joined(tokens);
}

std::string Decoder::token_bytes(std::string token) const {
  for (const Step& step : steps_)
    if (step.one && step.one(token)) break;
  return token;
}

}  // namespace engram
