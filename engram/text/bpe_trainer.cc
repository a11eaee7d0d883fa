#include "engram/text/bpe_trainer.h"

#include <algorithm>
#include <deque>
#include <nlohmann/json.hpp>

#include "engram/core/json.h"
#include "engram/text/byte_alphabet.h"
#include "engram/text/token_index.h"
#include "engram/text/tokenizer_file.h"
#include "engram/text/unicode.h"

namespace engram {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPatterns[] = {
    R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"};

Json pre_tokenizer_json() {
  Json parts = Json::array();
  for (const char* pattern : kPatterns) {
    parts.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  parts.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", parts}};
}

struct Pair {
  int32_t left, right;
  bool operator==(const Pair&) const = default;
  auto operator<=>(const Pair&) const = default;
};
struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t bits =
        static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 | static_cast<uint32_t>(pair.right);
    return static_cast<size_t>((bits * 0x9E3779B97F4A7C15u) ^ bits >> 31);
  }
};

// A pair that may be merged next. Its count may be old: it is looked up when the pair is taken.
struct Candidate {
  int64_t count;
  Pair pair;
  std::vector<uint32_t> words;                    // where it was seen since it last went into the queue, ascending
  bool operator<(const Candidate& other) const {  // std's heaps keep the largest on top
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

// The words of the text as symbols, and the merging of pairs in them. Follows BpeTrainer of `tokenizers` step by step,
// in two particulars that look like slips too: a pair's count is not lowered by its own merge, and a pair that
// appears again waits in the queue a second time, with its new words only.
class Merger {
 public:
  void add_word(std::vector<int32_t> symbols, int64_t count) {
    words_.push_back({std::move(symbols), count});
    const auto word = static_cast<uint32_t>(words_.size() - 1);
    const std::vector<int32_t>& added = words_.back().symbols;
    for (size_t i = 0; i + 1 < added.size(); ++i) change({added[i], added[i + 1]}, 1, word);
  }

  // The most frequent pair; false when there is none. Its words go into `where`.
  bool next(Pair& pair, std::vector<uint32_t>& where) {
    queue_new_pairs();
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      Candidate top = std::move(queue_.back());
      queue_.pop_back();
      const int64_t count = counts_[top.pair];
      if (count < 1) continue;
      if (count != top.count) {
        top.count = count;
        push(std::move(top));
        continue;
      }
      pair = top.pair;
      where = std::move(top.words);
      return true;
    }
    return false;
  }

  void merge(Pair pair, int32_t merged, const std::vector<uint32_t>& where) {
    for (const uint32_t word : where) merge_word(pair, merged, word);
  }

 private:
  struct Word {
    std::vector<int32_t> symbols;
    int64_t count;
  };

  void change(Pair pair, int64_t sign, uint32_t word) {
    counts_[pair] += sign * words_[word].count;
    if (sign < 0) return;
    std::vector<uint32_t>& seen = fresh_[pair];
    if (seen.empty() || seen.back() != word) seen.push_back(word);
  }

  void merge_word(Pair pair, int32_t merged, uint32_t word) {
    std::vector<int32_t>& symbols = words_[word].symbols;
    size_t out = 0;  // symbols[0, out) are done; in place, as merging only shortens
    for (size_t in = 0; in < symbols.size(); ++in) {
      if (symbols[in] != pair.left || in + 1 == symbols.size() || symbols[in + 1] != pair.right) {
        symbols[out++] = symbols[in];
        continue;
      }
      if (out > 0) {
        change({symbols[out - 1], pair.left}, -1, word);
        change({symbols[out - 1], merged}, 1, word);
      }
      ++in;
      if (in + 1 < symbols.size()) {
        change({pair.right, symbols[in + 1]}, -1, word);
        change({merged, symbols[in + 1]}, 1, word);
      }
      symbols[out++] = merged;
    }
    symbols.resize(out);
  }

  void push(Candidate candidate) {
    queue_.push_back(std::move(candidate));
    std::push_heap(queue_.begin(), queue_.end());
  }

  void queue_new_pairs() {
    for (auto& [pair, words] : fresh_) {
      if (const int64_t count = counts_[pair]; count > 0) push({count, pair, std::move(words)});
    }
    fresh_.clear();
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t, PairHash> counts_;
  std::unordered_map<Pair, std::vector<uint32_t>, PairHash> fresh_;  // pairs to queue, and their words
  std::vector<Candidate> queue_;                                     // a heap
};

// A pair that was merged twice (Merger) keeps its last rank.
std::vector<Pair> without_earlier_twins(const std::vector<Pair>& merges) {
  std::unordered_map<Pair, size_t, PairHash> last;
  for (size_t i = 0; i < merges.size(); ++i) last[merges[i]] = i;
  std::vector<Pair> kept;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (last[merges[i]] == i) kept.push_back(merges[i]);
  }
  return kept;
}

std::string file_text(const std::vector<std::string>& special_tokens, const TokenIndex& tokens,
                      const std::vector<Pair>& merges) {
  Json file = bpe_file_json();
  Json &vocab = file["model"]["vocab"], &merge_list = file["model"]["merges"];
  for (size_t i = 0; i < special_tokens.size(); ++i)
    file["added_tokens"].push_back(added_token_json(static_cast<int64_t>(i), special_tokens[i], /*special=*/true));
  // An ordered_json object looks every new key up in all it has: its list of pairs is filled directly.
  auto& entries = vocab.get_ref<Json::object_t&>();
  for (size_t i = 0; i < tokens.size(); ++i) entries.Container::emplace_back(tokens.strings()[i], i);
  for (const Pair& pair : merges) merge_list.push_back(Json::array({tokens[pair.left], tokens[pair.right]}));
  file["pre_tokenizer"] = pre_tokenizer_json();
  file["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  return file.dump(2);
}

}  // namespace

Result<BpeTrainer> BpeTrainer::create(std::vector<std::string> special_tokens, size_t max_words) {
  TokenIndex distinct;
  for (const std::string& token : special_tokens) {
    if (token.empty() || find_invalid_utf8(token) != std::string_view::npos || !distinct.add(token).second)
      return invalid_argument("special tokens: got {}, wanted distinct ones in UTF-8", quote_text(token));
  }
  ENGRAM_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::parse(pre_tokenizer_json(), "pre_tokenizer"));
  return BpeTrainer(std::move(special_tokens), std::move(pre_tokenizer), max_words);
}

BpeTrainer::BpeTrainer(std::vector<std::string> special_tokens, PreTokenizer pre_tokenizer, size_t max_words)
    : special_tokens_(std::move(special_tokens)), pre_tokenizer_(std::move(pre_tokenizer)), max_words_(max_words) {}

Status BpeTrainer::add(std::string_view document) {
  if (const size_t at = find_invalid_utf8(document); at != std::string_view::npos)
    return invalid_argument("text is not valid UTF-8 at byte {}", at);
  std::vector<std::string_view> words;
  std::deque<std::string> storage;
  ENGRAM_RETURN_IF_ERROR(pre_tokenizer_.split(document, true, words, storage));
  for (const std::string_view word : words) ++counts_[std::string(word)];
  if (counts_.size() > max_words_) forget_rare_words();
  return Status();
}

// Down to half of the limit, whole frequencies at a time, so that the result depends on the text alone.
void BpeTrainer::forget_rare_words() {
  const size_t before = counts_.size();
  for (int64_t rarest = 1; counts_.size() > max_words_ / 2; ++rarest)
    std::erase_if(counts_, [rarest](const auto& entry) { return entry.second <= rarest; });
  forgotten_ += static_cast<int64_t>(before - counts_.size());
}

Result<std::string> BpeTrainer::train(int vocab_size, const std::function<void(int)>& on_merge) const {
  TokenIndex tokens;
  for (const std::string& token : special_tokens_) tokens.add(token);
  int32_t byte_ids[256];
  std::vector<std::pair<std::string, int>> alphabet;  // in the order of code points, which UTF-8 keeps
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    alphabet.emplace_back(byte_level_encode(std::string_view(&raw, 1)), byte);
  }
  std::sort(alphabet.begin(), alphabet.end());
  for (const auto& [spelled, byte] : alphabet) byte_ids[byte] = tokens.add(spelled).first;
  if (vocab_size < static_cast<int>(tokens.size()))
    return invalid_argument("vocabulary size: got {}, wanted at least {} ({} special tokens and 256 bytes)", vocab_size,
                            tokens.size(), special_tokens_.size());

  Merger merger;
  std::vector<const std::pair<const std::string, int64_t>*> words;
  for (const auto& entry : counts_) words.push_back(&entry);
  std::sort(words.begin(), words.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
  for (const auto* word : words) {
    std::vector<int32_t> symbols;
    for (const char c : word->first) symbols.push_back(byte_ids[static_cast<unsigned char>(c)]);
    merger.add_word(std::move(symbols), word->second);
  }

  std::vector<Pair> merges;
  Pair pair{};
  std::vector<uint32_t> where;
  while (static_cast<int>(tokens.size()) < vocab_size && merger.next(pair, where)) {
    const int32_t merged = tokens.add(tokens[pair.left] + tokens[pair.right]).first;
    merges.push_back(pair);
    merger.merge(pair, merged, where);
    if (on_merge) on_merge(static_cast<int>(tokens.size()));
  }
  return file_text(special_tokens_, tokens, without_earlier_twins(merges));
}

}  // namespace engram
