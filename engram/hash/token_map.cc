#include "engram/hash/token_map.h"

#include <numeric>
#include <unordered_map>

#include "engram/core/sha256.h"
#include "engram/text/tokenizer.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

std::string join_white_space_runs(std::string_view text) {
  std::string out;
  bool in_run = false;
  for (char c : text) {
    const bool white = c == ' ' || c == '\t' || c == '\r' || c == '\n';
    if (!white || !in_run) out.push_back(white ? ' ' : c);
    in_run = white;
  }
  return out;
}

std::string normalize_token(std::string_view text) {
  std::string folded = normalize(normalize(text, NormalForm::kNfkc), NormalForm::kNfd);
  folded = join_white_space_runs(lowercase(strip_marks(folded)));
  if (folded == " ") return folded;
  // The oracle shields a lone space by U+E000 and turns every U+E000 into a space behind the strip.
  std::string key;
  std::string_view inner = strip_white_space(folded);
  for (size_t at = 0; at < inner.size();) {
    char32_t code_point = next_code_point(inner, at);
    append_utf8(key, code_point == 0xE000 ? U' ' : code_point);
  }
  return key;
}

}  // namespace

Result<TokenMap> TokenMap::from_tokenizer(const Tokenizer& tokenizer) {
  std::unordered_map<std::string, int32_t> canonical;
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ENGRAM_ASSIGN_OR_RETURN(std::string key, tokenizer.decode({&id, 1}));
    if (key.find(kReplacementCharacter) != std::string::npos) {
      key = tokenizer.token_string(id);  // a piece of a UTF-8 sequence
    } else if (std::string normal = normalize_token(key); !normal.empty()) {
      key = std::move(normal);
    }
    auto entry = canonical.emplace(std::move(key), static_cast<int32_t>(canonical.size())).first;
    ids.push_back(entry->second);
  }
  return from_ids(std::move(ids), static_cast<int>(canonical.size()));
}

TokenMap TokenMap::identity(int vocab_size) {
  ENGRAM_CHECK(vocab_size >= 0, "vocab_size={}", vocab_size);
  std::vector<int32_t> ids(static_cast<size_t>(vocab_size));
  std::iota(ids.begin(), ids.end(), 0);
  TokenMap map;
  map.ids_ = std::make_shared<const std::vector<int32_t>>(std::move(ids));
  map.compressed_vocab_size_ = vocab_size;
  return map;
}

Result<TokenMap> TokenMap::from_ids(std::vector<int32_t> canonical_ids, int compressed_vocab_size) {
  for (size_t i = 0; i < canonical_ids.size(); ++i) {
    if (canonical_ids[i] < 0 || canonical_ids[i] >= compressed_vocab_size) {
      return invalid_argument("token map: id {} has the canonical id {}, wanted 0 .. {}", i, canonical_ids[i],
                              compressed_vocab_size - 1);
    }
  }
  TokenMap map;
  map.ids_ = std::make_shared<const std::vector<int32_t>>(std::move(canonical_ids));
  map.compressed_vocab_size_ = compressed_vocab_size;
  return map;
}

std::string TokenMap::sha256() const {
  std::string bytes;
  bytes.reserve(ids_->size() * 4);
  for (int32_t id : *ids_) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> shift));
  }
  return sha256_hex(bytes);
}

}  // namespace engram
