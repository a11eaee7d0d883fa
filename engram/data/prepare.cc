#include "engram/data/prepare.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <unordered_map>

#include "engram/core/exceptions.h"
#include "engram/core/file_kind.h"
#include "engram/core/json.h"
#include "engram/core/output_lock.h"
#include "engram/core/progress.h"
#include "engram/core/sha256.h"
#include "engram/data/documents.h"
#include "engram/data/json_lines.h"
#include "engram/data/text_files.h"
#include "engram/data/token_files.h"

namespace engram {
namespace {

struct Document {
  std::string_view text;
  std::span<const int32_t> ids;  // of a token file, instead of a text
  const std::string* file;
  int64_t answer = 0;  // the byte from which on it counts
  bool validation = false;
  bool repeated = false;  // an earlier one is equal

  bool equals(const Document& other) const {
    return text == other.text && answer == other.answer && std::ranges::equal(ids, other.ids);
  }
};
// The part of a document that one thread tokenises.
struct Piece {
  std::string_view text;
  size_t document;
  bool last;  // of its document
};

// Calls produce(i), a Result, for i in [0, count) on worker threads and consume(i, result) in order on this one;
// workers stay at most `window` ahead. The first error, in order, ends it and is returned; exceptions are errors.
template <typename Produce, typename Consume>
class OrderedParallel {
 public:
  using Value = std::invoke_result_t<Produce, size_t>;

  OrderedParallel(size_t count, size_t window, const Produce& produce, const Consume& consume)
      : count_(count), window_(window), produce_(produce), consume_(consume) {}
  ~OrderedParallel() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    claimable_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  Status run(int threads) {
    return catch_exceptions([&]() -> Status {
      for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
      while (consumed_ < count_) ENGRAM_RETURN_IF_ERROR(consume_next());
      return Status();
    });
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      claimable_.wait(lock, [&] { return stopping_ || claimed_ == count_ || claimed_ < consumed_ + window_; });
      if (stopping_ || claimed_ == count_) return;
      const size_t item = claimed_++;
      lock.unlock();
      Value value = catch_exceptions([&] { return produce_(item); });
      lock.lock();
      results_[item % window_] = std::move(value);
      if (item == consumed_) done_.notify_one();
    }
  }

  Status consume_next() {
    std::unique_lock lock(mutex_);
    std::optional<Value>& result = results_[consumed_ % window_];
    done_.wait(lock, [&] { return result.has_value(); });
    Value value = std::move(*result);
    result.reset();
    const size_t item = consumed_++;
    lock.unlock();
    claimable_.notify_all();
    return consume_(item, std::move(value));
  }

  const size_t count_, window_;
  const Produce& produce_;
  const Consume& consume_;
  std::mutex mutex_;
  std::condition_variable claimable_, done_;
  // Guarded by mutex_. Item i of [consumed_, claimed_) has its place at i % window_, made once.
  std::vector<std::optional<Value>> results_ = std::vector<std::optional<Value>>(window_);
  size_t claimed_ = 0, consumed_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;  // last: they use everything above
};

struct Texts {
  std::vector<MappedText> files;
  std::vector<std::vector<JsonDocument>> json_lines;
  std::vector<std::vector<std::vector<int32_t>>> token_files;
  std::vector<Document> documents;  // views into these
  std::vector<Piece> pieces;
  std::optional<TextCuts> cuts;  // made for the first document that is long
};

// A text of which a part counts stays in one piece.
void add_document(const Tokenizer& tokenizer, const PrepareOptions& options, const Document& document, Texts& texts) {
  if (document.text.size() <= options.piece_bytes || document.answer > 0) {
    texts.pieces.push_back({document.text, texts.documents.size(), false});
  } else {
    if (!texts.cuts) texts.cuts.emplace(tokenizer);
    for (std::string_view piece : split_pieces(document.text, options.piece_bytes, *texts.cuts))
      texts.pieces.push_back({piece, texts.documents.size(), false});
  }
  texts.pieces.back().last = true;
  texts.documents.push_back(document);
}

Status add_file(Env& env, const Tokenizer& tokenizer, const std::string& path, const PrepareOptions& options,
                int32_t end_of_text, Texts& texts) {
  if (is_token_file_name(path)) {
    ENGRAM_ASSIGN_OR_RETURN(auto documents, read_token_file(env, path, tokenizer.vocab_size(), end_of_text));
    for (const std::vector<int32_t>& ids : texts.token_files.emplace_back(std::move(documents)))
      add_document(tokenizer, options, {{}, ids, &path}, texts);
    return {};
  }
  if (is_json_lines_name(path)) {
    ENGRAM_ASSIGN_OR_RETURN(const MappedText lines, map_unpacked(env, path));
    ENGRAM_RETURN_IF_ERROR(check_not_foreign(std::as_bytes(std::span(lines.text)), path));
    ENGRAM_ASSIGN_OR_RETURN(auto documents, read_json_lines(lines.text, path, options.text_field));
    if (lines.file) ENGRAM_RETURN_IF_ERROR(lines.file->readable());
    for (const JsonDocument& document : texts.json_lines.emplace_back(std::move(documents)))
      add_document(tokenizer, options, {document.text, {}, &path, document.answer}, texts);
    return {};
  }
  ENGRAM_ASSIGN_OR_RETURN(MappedText mapped, map_text_file(env, path));
  for (std::string_view document : split_documents(mapped.text, options.document_separator))
    add_document(tokenizer, options, {document, {}, &path}, texts);
  texts.files.push_back(std::move(mapped));
  return {};
}

Result<Texts> read_texts(Env& env, const Tokenizer& tokenizer, const PrepareOptions& options, int32_t end_of_text) {
  Texts texts;
  for (const std::string& path : options.files)
    ENGRAM_RETURN_IF_ERROR(add_file(env, tokenizer, path, options, end_of_text, texts));
  if (texts.pieces.empty())
    return invalid_argument("no text: {} hold{} nothing but white space and separators", fmt::join(options.files, ", "),
                            options.files.size() == 1 ? "s" : "");
  return texts;
}

uint64_t document_hash(std::string_view document) {
  return std::stoull(sha256_hex(document).substr(0, 16), nullptr, 16);
}
// In [0, 1), equally likely everywhere.
double unit_interval(uint64_t hash) { return static_cast<double>(hash >> 11) * 0x1p-53; }

// What the ids say, special tokens left out.
std::string text_of(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids)
    if (!tokenizer.is_special(id)) text += tokenizer.token_bytes(id);
  return text;
}

// Of every document's text.
Result<std::vector<uint64_t>> hash_documents(const Tokenizer& tokenizer, const PrepareOptions& options,
                                             const std::vector<Document>& documents) {
  std::vector<uint64_t> hashes;
  const auto hash = [&](size_t i) -> Result<uint64_t> {
    const Document& document = documents[i];
    return document_hash(document.ids.empty() ? document.text : text_of(tokenizer, document.ids));
  };
  const auto keep = [&](size_t, const Result<uint64_t>& result) -> Status {
    ENGRAM_RETURN_IF_ERROR(result.status());
    hashes.push_back(*result);
    return {};
  };
  const size_t window = static_cast<size_t>(options.threads) * 64;
  ENGRAM_RETURN_IF_ERROR(OrderedParallel(documents.size(), window, hash, keep).run(options.threads));
  return hashes;
}

void mark_repeated(const std::vector<uint64_t>& hashes, std::vector<Document>& documents) {
  std::unordered_map<uint64_t, size_t> first;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto [place, is_new] = first.emplace(hashes[i], i);
    documents[i].repeated = !is_new && documents[i].equals(documents[place->second]);
  }
}

// Who goes to validation: the documents below the fraction, and where there is none, that of the smallest hash.
Status choose_validation(const PrepareOptions& options, const std::vector<uint64_t>& hash_bits,
                         std::vector<Document>& documents) {
  const double fraction = options.validation_fraction;
  if (fraction == 0) return {};
  std::vector<double> hashes;
  for (const uint64_t hash : hash_bits) hashes.push_back(unit_interval(hash));
  const auto [smallest, largest] = std::minmax_element(hashes.begin(), hashes.end());
  if (*largest < fraction)
    return invalid_argument(
        "no text for training: every document fell into validation; give more documents, or a "
        "validation fraction below {}",
        fraction);
  if (*smallest == *largest)
    return invalid_argument(
        "no text for validation: there is one document only ({}); give another, part the text by lines <|endoftext|>, "
        "or train without validation (a validation fraction of 0)",
        *documents[0].file);
  for (size_t i = 0; i < documents.size(); ++i)
    documents[i].validation = hashes[i] < fraction || hashes[i] == *smallest;
  return {};
}

Status check_options(const PrepareOptions& options) {
  if (options.files.empty()) return invalid_argument("no text: no file is given");
  if (!(options.validation_fraction >= 0.0 && options.validation_fraction < 1.0))
    return invalid_argument("validation_fraction is {}, wanted 0 to below 1", options.validation_fraction);
  if (options.threads < 1 || options.threads > 1024)
    return invalid_argument("threads is {}, wanted 1 to 1024", options.threads);
  if (options.document_separator.empty())
    return invalid_argument("document_separator is empty, wanted auto, blank-line, none or the text of a line");
  return {};
}

struct Tokens {
  std::vector<int32_t> ids;
  int64_t first_counted = 0;
  int64_t bytes = 0;  // of the text
};

int64_t bytes_of(const Tokenizer& tokenizer, const Piece& piece, const Document& document) {
  return document.ids.empty() ? std::ssize(piece.text) : std::ssize(text_of(tokenizer, document.ids));
}

// Prompt and answer are one text. What the prompt alone gives too does not count; a token that spans both does.
Result<Tokens> tokenise(const Tokenizer& tokenizer, const Piece& piece, const Document& document) {
  Tokens tokens;
  tokens.bytes = bytes_of(tokenizer, piece, document);
  if (!document.ids.empty()) {
    tokens.ids.assign(document.ids.begin(), document.ids.end());
    return tokens;
  }
  ENGRAM_ASSIGN_OR_RETURN(tokens.ids, tokenizer.encode(piece.text));
  if (document.answer == 0) return tokens;
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt,
                          tokenizer.encode(document.text.substr(0, static_cast<size_t>(document.answer))));
  tokens.first_counted = std::ranges::mismatch(prompt, tokens.ids).in2 - tokens.ids.begin();
  if (tokens.first_counted < std::ssize(tokens.ids)) return tokens;
  return invalid_argument("got an answer without tokens, {}, wanted some to learn",
                          quote_text(document.text.substr(static_cast<size_t>(document.answer))));
}

Result<int32_t> end_of_text_id(const Tokenizer& tokenizer, const PrepareOptions& options) {
  if (options.end_of_text_token.empty()) return find_end_of_text_token(tokenizer);
  if (options.end_of_text_token == kNoEndOfText) return int32_t{-1};
  const int32_t id = tokenizer.token_id(options.end_of_text_token);
  if (id < 0) return invalid_argument("the tokenizer has no token \"{}\"", options.end_of_text_token);
  return id;
}

nlohmann::ordered_json shard_json(const TokenShardInfo& info) {
  nlohmann::ordered_json json = {
      {"documents", info.num_documents}, {"tokens", info.num_tokens}, {"raw_bytes", info.raw_bytes}};
  if (info.masked) json.update({{"counted_tokens", info.counted_tokens}, {"counted_bytes", info.counted_bytes}});
  return json;
}

}  // namespace

int32_t find_end_of_text_token(const Tokenizer& tokenizer) {
  for (const char* token :
       {"<|endoftext|>", "<|end_of_text|>", "<\uFF5Cend\u2581of\u2581sentence\uFF5C>", "</s>", "<eos>", "[EOS]"}) {
    const int32_t id = tokenizer.token_id(token);
    if (id >= 0 && tokenizer.is_special(id)) return id;
  }
  return -1;
}

bool is_validation_document(std::string_view document, double fraction) {
  return unit_interval(document_hash(document)) < fraction;
}

Result<PrepareSummary> prepare_shards(Env& env, const Tokenizer& tokenizer, const PrepareOptions& options) {
  ENGRAM_RETURN_IF_ERROR(check_options(options));
  PrepareSummary summary;
  ENGRAM_ASSIGN_OR_RETURN(summary.end_of_text_id, end_of_text_id(tokenizer, options));
  ENGRAM_ASSIGN_OR_RETURN(Texts texts, read_texts(env, tokenizer, options, summary.end_of_text_id));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<uint64_t> hashes, hash_documents(tokenizer, options, texts.documents));
  mark_repeated(hashes, texts.documents);
  ENGRAM_RETURN_IF_ERROR(choose_validation(options, hashes, texts.documents));

  // Lock and writers before the work, so that a folder that cannot be written is reported at once.
  ENGRAM_ASSIGN_OR_RETURN(const OutputLock lock, OutputLock::folder(env, options.output_directory, {}));
  const auto writer_for = [&](const char* name, bool of_validation) {
    const bool masked = std::ranges::any_of(
        texts.documents, [&](const Document& one) { return one.validation == of_validation && one.answer > 0; });
    return TokenShardWriter::create(env, join_path(options.output_directory, name), tokenizer.vocab_size(),
                                    tokenizer.vocabulary_digest(), masked);
  };
  ENGRAM_ASSIGN_OR_RETURN(const auto train, writer_for("train.tokens", false));
  ENGRAM_ASSIGN_OR_RETURN(const auto validation, writer_for("validation.tokens", true));

  const auto produce = [&](size_t i) -> Result<Tokens> {
    const Document& document = texts.documents[texts.pieces[i].document];
    if (options.deduplicate && document.repeated) return Tokens{{}, 0, bytes_of(tokenizer, texts.pieces[i], document)};
    return tokenise(tokenizer, texts.pieces[i], document);
  };
  std::optional<Progress> progress;
  if (options.show_progress) progress.emplace("tokenise", std::ssize(texts.pieces), "texts");
  std::vector<int32_t> ids;  // of the document so far
  int64_t bytes = 0;
  const auto append = [&](size_t i, const Result<Tokens>& result) -> Status {
    const Piece& piece = texts.pieces[i];
    const Document& document = texts.documents[piece.document];
    if (!result.ok()) return result.status().with_context(*document.file);
    if (options.stop != nullptr && *options.stop)
      return make_status(StatusCode::kCancelled, "interrupted: nothing was written");
    ids.insert(ids.end(), result->ids.begin(), result->ids.end());
    bytes += result->bytes;
    if (progress) progress->advance(1);
    if (!piece.last) return {};
    Status status;
    if (document.repeated) {
      ++summary.repeated_documents;
      summary.repeated_bytes += bytes;
    }
    if (!document.repeated || !options.deduplicate) {
      if (summary.end_of_text_id >= 0) ids.push_back(summary.end_of_text_id);
      TokenShardWriter& writer = document.validation ? *validation : *train;
      status = writer.append_document(ids, bytes, result->first_counted, bytes - document.answer);
    }
    ids.clear();
    bytes = 0;
    return status;
  };
  const size_t window = static_cast<size_t>(options.threads) * 16;
  ENGRAM_RETURN_IF_ERROR(OrderedParallel(texts.pieces.size(), window, produce, append).run(options.threads));
  for (const MappedText& text : texts.files)  // none was cut meanwhile
    if (text.file) ENGRAM_RETURN_IF_ERROR(text.file->readable());
  ENGRAM_ASSIGN_OR_RETURN(summary.train, train->finish());
  ENGRAM_ASSIGN_OR_RETURN(summary.validation, validation->finish());
  ENGRAM_RETURN_IF_ERROR(write_file_atomic(env, join_path(options.output_directory, "prepare.json"),
                                           format_prepare_summary(options, summary)));
  return summary;
}

std::string format_prepare_summary(const PrepareOptions& options, const PrepareSummary& summary) {
  nlohmann::ordered_json json;
  json["vocab_size"] = summary.train.vocab_size;
  json["vocabulary_digest"] = summary.train.vocabulary_digest;
  json["end_of_text_id"] = summary.end_of_text_id;
  json["document_separator"] = options.document_separator;
  json["validation_fraction"] = options.validation_fraction;
  json["train"] = shard_json(summary.train);
  json["validation"] = shard_json(summary.validation);
  json["repeated"] = {
      {"documents", summary.repeated_documents}, {"bytes", summary.repeated_bytes}, {"left_out", options.deduplicate}};
  // A separator from the command line may be any bytes.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace engram
