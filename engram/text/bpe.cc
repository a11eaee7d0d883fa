#include "engram/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <mutex>

#include "engram/core/fields.h"
#include "engram/core/json.h"
#include "engram/core/mix.h"
#include "engram/text/byte_alphabet.h"
#include "engram/text/unicode.h"

namespace engram {

// Words seen before and their ids. Full shards take nothing new, so memory stays bounded.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 48;

  bool find(std::string_view word, size_t hash, std::vector<int32_t>& ids) {
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    auto found = shard.words.find(word);
    if (found == shard.words.end()) return false;
    ids.insert(ids.end(), found->second.begin(), found->second.end());
    return true;
  }
  void insert(std::string_view word, size_t hash, const int32_t* ids, size_t count) {
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    if (shard.words.size() < kWordsPerShard) shard.words.try_emplace(std::string(word), ids, ids + count);
  }

 private:
  static constexpr size_t kShards = 64, kWordsPerShard = 4096;
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, TextHash, std::equal_to<>> words;
  };
  std::array<Shard, kShards> shards_;
};

Bpe::Bpe() : cache_(std::make_unique<WordCache>()) {}
Bpe::~Bpe() = default;
Bpe::Bpe(Bpe&&) noexcept = default;
Bpe& Bpe::operator=(Bpe&&) noexcept = default;

Status Bpe::read_options(const nlohmann::json& model, const std::string& where) {
  std::string type = "BPE", prefix, suffix;
  double dropout = 0;
  Fields fields(model, where);
  fields("type", type);
  fields("unk_token", unk_token_);
  fields("fuse_unk", fuse_unk_);
  fields("ignore_merges", ignore_merges_);
  fields("byte_fallback", byte_fallback_);
  fields("dropout", dropout);
  fields("continuing_subword_prefix", prefix);
  fields("end_of_word_suffix", suffix);
  fields.skip({"vocab", "merges"});
  ENGRAM_RETURN_IF_ERROR(fields.finish());
  if (type != "BPE") return invalid_argument("{}: type {} is not supported, wanted BPE", where, quote_text(type));
  if (dropout != 0) return invalid_argument("{}: dropout {} is not supported, wanted null", where, dropout);
  for (const auto& [key, affix] : {std::pair("continuing_subword_prefix", prefix), {"end_of_word_suffix", suffix}})
    if (!affix.empty()) return invalid_argument("{}: {} {} is not supported", where, key, quote_text(affix));
  return Status();
}

namespace {

// The lists from a DOM. Views into `model`.
Result<ModelLists> lists_of(const nlohmann::json& model, const std::string& where) {
  ModelLists lists;
  const nlohmann::json* vocab = json_find(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return invalid_argument("{}: no \"vocab\" object", where);
  for (auto entry = vocab->begin(); entry != vocab->end(); ++entry) {
    const bool integer = entry->is_number_unsigned();  // nlohmann reads every integer >= 0 as unsigned
    if (!integer || entry->get<uint64_t>() >= static_cast<uint64_t>(INT32_MAX)) {
      return invalid_argument("{}: vocab: token {} has the id {}, wanted an integer in 0 .. {}", where,
                              quote_text(entry.key()),
                              entry->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), INT32_MAX - 1);
    }
    lists.vocabulary.push_back({entry.key(), entry->get<int32_t>()});
  }
  const nlohmann::json* merges = json_find(model, "merges");
  if (merges == nullptr || !merges->is_array()) return invalid_argument("{}: no \"merges\" array", where);
  for (size_t i = 0; i < merges->size(); ++i) {
    const nlohmann::json& item = (*merges)[i];
    ModelLists::Merge merge{{}, {}, i};
    if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merge.left = item[0].get_ref<const std::string&>();
      merge.right = item[1].get_ref<const std::string&>();
    } else if (item.is_string() && is_merges_header(item.get_ref<const std::string&>())) {
      continue;
    } else if (!item.is_string() || !split_merge(item.get_ref<const std::string&>(), merge.left, merge.right)) {
      return invalid_argument("{}: merge {} is neither \"a b\" nor [\"a\", \"b\"]", where, i);
    }
    lists.merges.push_back(merge);
  }
  return lists;
}

// As in `tokenizers`, ids may have holes and a token that appears twice keeps its last id.
Status add_vocabulary(const ModelLists& lists, const std::string& where, TokenIndex& tokens) {
  const size_t most_ids = std::max<size_t>(4 * lists.vocabulary.size(), 1 << 20);
  for (const ModelLists::Token& token : lists.vocabulary) {
    if (static_cast<size_t>(token.id) >= most_ids) {
      return invalid_argument("{}: vocab: token {} has the id {}, wanted less than {} in a vocabulary of {}", where,
                              quote_text(token.text), token.id, most_ids, lists.vocabulary.size());
    }
  }
  tokens.reserve(lists.vocabulary.size());
  for (const ModelLists::Token& token : lists.vocabulary) {
    if (!tokens.set(token.text, token.id)) {
      return invalid_argument("{}: vocab: id {} stands for both {} and {}", where, token.id,
                              quote_text(tokens[token.id]), quote_text(token.text));
    }
  }
  return Status();
}

}  // namespace

Result<Bpe> Bpe::parse(const nlohmann::json& model, const ModelLists* lists, bool byte_level, const std::string& name,
                       TokenIndex& tokens) {
  const std::string where = name + ": model";
  if (!model.is_object()) return invalid_argument("{}: got {}, wanted an object", where, model.type_name());
  Bpe bpe;
  bpe.byte_level_ = byte_level;
  ENGRAM_RETURN_IF_ERROR(bpe.read_options(model, where));
  ModelLists of_model;
  if (lists == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(of_model, lists_of(model, where));
    lists = &of_model;
  }
  ENGRAM_RETURN_IF_ERROR(add_vocabulary(*lists, where, tokens));
  ENGRAM_RETURN_IF_ERROR(bpe.read_merges(*lists, tokens, where));
  ENGRAM_RETURN_IF_ERROR(bpe.set_symbols(tokens, where));
  return bpe;
}

Status Bpe::read_merges(const ModelLists& lists, const TokenIndex& tokens, const std::string& where) {
  merges_.assign(std::bit_ceil(2 * lists.merges.size() + 2), Merge{});
  uint32_t rank = 0;
  std::string merged;
  for (const ModelLists::Merge& merge : lists.merges) {
    merged.assign(merge.left).append(merge.right);
    int32_t ids[3];
    const std::string_view needed[3] = {merge.left, merge.right, merged};
    for (int i = 0; i < 3; ++i) {
      ids[i] = tokens.find(needed[i]);
      if (ids[i] >= 0) continue;
      return invalid_argument("{}: merge {} needs the token {}, which is not in the vocabulary", where, merge.index,
                              quote_text(needed[i]));
    }
    add_merge(ids[0], ids[1], rank++, ids[2]);
  }
  return Status();
}

Status Bpe::set_symbols(const TokenIndex& tokens, const std::string& where) {
  bool complete = byte_level_;
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    const std::string_view text(&raw, 1);
    int32_t& id = byte_ids_[static_cast<size_t>(byte)] = -1;
    if (byte_level_ || byte < 0x80) id = tokens.find(byte_level_ ? byte_level_encode(text) : text);
    fallback_[static_cast<size_t>(byte)] = byte_fallback_ ? tokens.find(fmt::format("<0x{:02X}>", byte)) : -1;
    complete &= id >= 0;
  }
  if (unk_token_) {
    unk_id_ = tokens.find(*unk_token_);
    if (unk_id_ < 0 && !complete) {
      return invalid_argument("{}: unk_token {} is not in the vocabulary, and neither are all 256 bytes", where,
                              quote_text(*unk_token_));
    }
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const std::string& token = tokens[id];
    if (token.empty()) continue;  // a hole
    size_t end = 0;
    if (!byte_level_ && (next_code_point(token, end), end == token.size())) characters_.emplace(token, id);
    if (!ignore_merges_) continue;
    if (std::optional<std::string> word = byte_level_ ? byte_level_decode(token) : token) {
      whole_words_.emplace(*std::move(word), id);
    }
  }
  return Status();
}

namespace {
uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
size_t slot_of(uint64_t pair, size_t slots) { return mix_bits(pair) & (slots - 1); }
}  // namespace

// A pair that appears twice keeps its last rank, as in `tokenizers`.
void Bpe::add_merge(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  const uint64_t pair = pair_of(left, right);
  size_t slot = slot_of(pair, merges_.size());
  while (merges_[slot].pair != kNoPair && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
  merges_[slot] = {pair, rank, merged};
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t slot = slot_of(pair, merges_.size());; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

void Bpe::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (auto found = whole_words_.find(word); found != whole_words_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  if (word.size() > WordCache::kMaxWordBytes) return merge_word(word, ids);
  const size_t hash = std::hash<std::string_view>{}(word);
  if (cache_->find(word, hash, ids)) return;
  const size_t before = ids.size();
  merge_word(word, ids);
  cache_->insert(word, hash, ids.data() + before, ids.size() - before);
}

std::vector<int32_t> Bpe::split_symbols(std::string_view word) const {
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  bool unknown_open = false;  // one unk_token that is not written yet: bytes may come before it
  const auto write_unknown = [&] {
    if (unknown_open) symbols.push_back(unk_id_);
    unknown_open = false;
  };
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    const auto lead = static_cast<unsigned char>(word[at]);
    if (byte_level_) {
      ++at;
    } else {
      next_code_point(word, at);
    }
    int32_t id = byte_ids_[lead];
    if (at - begin > 1) {
      const auto found = characters_.find(word.substr(begin, at - begin));
      if (found != characters_.end()) id = found->second;
    }
    if (id >= 0) {
      write_unknown();
      symbols.push_back(id);
      continue;
    }
    const std::string spelled =
        byte_level_ ? byte_level_encode(word.substr(begin, 1)) : std::string(word.substr(begin, at - begin));
    const auto byte_id = [this](char c) { return fallback_[static_cast<unsigned char>(c)]; };
    if (byte_fallback_ && std::all_of(spelled.begin(), spelled.end(), [&](char c) { return byte_id(c) >= 0; })) {
      for (const char c : spelled) symbols.push_back(byte_id(c));
    } else if (unk_id_ >= 0) {
      if (!fuse_unk_) write_unknown();
      unknown_open = true;
    }
  }
  write_unknown();
  return symbols;
}

void Bpe::merge_word(std::string_view word, std::vector<int32_t>& ids) const {
  struct Candidate {
    uint32_t rank;
    int32_t position, merged;
    bool operator<(const Candidate& other) const {  // std's heaps keep the largest on top
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  // Symbols form a list over the word; a merge writes into the left one and unlinks the right one.
  std::vector<int32_t> symbols = split_symbols(word);
  const auto count = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> next(symbols.size()), previous(symbols.size());
  std::vector<Candidate> heap;
  for (int32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
    if (i + 1 == count) break;
    if (const Merge* merge = find_merge(symbols[i], symbols[i + 1])) heap.push_back({merge->rank, i, merge->merged});
  }
  std::make_heap(heap.begin(), heap.end());
  constexpr int32_t kGone = -1;
  auto consider = [&](int32_t left, int32_t right) {
    if (const Merge* merge = find_merge(symbols[left], symbols[right])) {
      heap.push_back({merge->rank, left, merge->merged});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    const int32_t left = top.position;
    if (symbols[left] == kGone || next[left] == count) continue;
    const int32_t right = next[left];
    const Merge* merge = find_merge(symbols[left], symbols[right]);
    if (merge == nullptr || merge->merged != top.merged) continue;  // the pair changed since
    symbols[left] = top.merged;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[left] < count) previous[next[left]] = left;
    if (previous[left] >= 0) consider(previous[left], left);
    if (next[left] < count) consider(left, next[left]);
  }
  for (int32_t symbol : symbols) {
    if (symbol != kGone) ids.push_back(symbol);
  }
}

}  // namespace engram
