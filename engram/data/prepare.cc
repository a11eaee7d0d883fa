#include "engram/data/prepare.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "engram/core/file_kind.h"
#include "engram/core/sha256.h"
#include "engram/core/unicode.h"
#include "engram/data/documents.h"

namespace engram {
namespace {

// The part of a document that one thread tokenises.
struct Piece {
  std::string_view text, document;
  const std::string* file;
  bool last;  // of its document
};
struct TokenisedPiece {
  std::vector<int32_t> ids;
  bool validation = false;  // set on a document's last piece
};

// Calls produce(i) for i in [0, count) on worker threads and consume(i, result) in order on this one; workers stay at
// most `window` ahead. The first error, in order, ends it and is returned.
template <typename Produce, typename Consume>
Status ordered_parallel(size_t count, int threads, size_t window, const Produce& produce, const Consume& consume) {
  using Value = decltype(produce(size_t{0}));
  std::mutex mutex;
  std::condition_variable claimable, done;
  std::deque<std::optional<Value>> results;  // of items [consumed, claimed)
  size_t claimed = 0, consumed = 0;
  bool stopping = false;

  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (true) {
      claimable.wait(lock, [&] { return stopping || claimed == count || claimed < consumed + window; });
      if (stopping || claimed == count) return;
      const size_t item = claimed++;
      results.emplace_back();
      lock.unlock();
      Value value = produce(item);
      lock.lock();
      results[item - consumed] = std::move(value);
      if (item == consumed) done.notify_one();
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(work);

  Status status;
  std::unique_lock lock(mutex);
  while (status.ok() && consumed < count) {
    done.wait(lock, [&] { return !results.empty() && results.front().has_value(); });
    Value value = std::move(*results.front());
    results.pop_front();
    const size_t item = consumed++;
    lock.unlock();
    claimable.notify_all();
    status = consume(item, std::move(value));
    lock.lock();
  }
  stopping = true;
  lock.unlock();
  claimable.notify_all();
  for (std::thread& worker : workers) worker.join();
  return status;
}

struct Texts {
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<Piece> pieces;  // views into the files
};

Status add_file(Env& env, const std::string& path, const PrepareOptions& options, Texts& texts) {
  ENGRAM_ASSIGN_OR_RETURN(auto file, env.map_file(path));
  const std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  texts.files.push_back(std::move(file));
  ENGRAM_RETURN_IF_ERROR(check_text(text, path));
  if (const size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    return invalid_argument("{}: not UTF-8 at byte {} (0x{:02x}); convert the file first, for example with iconv", path,
                            at, static_cast<unsigned char>(text[at]));
  for (std::string_view document : split_documents(text, options.document_separator)) {
    for (std::string_view piece : split_pieces(document, options.piece_bytes))
      texts.pieces.push_back({piece, document, &path, false});
    texts.pieces.back().last = true;
  }
  return {};
}

Result<Texts> read_texts(Env& env, const PrepareOptions& options) {
  Texts texts;
  for (const std::string& path : options.files) ENGRAM_RETURN_IF_ERROR(add_file(env, path, options, texts));
  if (texts.pieces.empty())
    return invalid_argument("no text: {} hold{} nothing but white space and separators", fmt::join(options.files, ", "),
                            options.files.size() == 1 ? "s" : "");
  return texts;
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

Result<int32_t> end_of_text_id(const Tokenizer& tokenizer, const PrepareOptions& options) {
  if (options.end_of_text_token.empty()) return find_end_of_text_token(tokenizer);
  const int32_t id = tokenizer.token_id(options.end_of_text_token);
  if (id < 0) return invalid_argument("the tokenizer has no token \"{}\"", options.end_of_text_token);
  return id;
}

nlohmann::ordered_json shard_json(const TokenShardInfo& info) {
  return {{"documents", info.num_documents}, {"tokens", info.num_tokens}, {"raw_bytes", info.raw_bytes}};
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
  const uint64_t hash = std::stoull(sha256_hex(document).substr(0, 16), nullptr, 16);
  return static_cast<double>(hash >> 11) * 0x1p-53 < fraction;
}

Result<int64_t> prepare_bytes(Env& env, const std::vector<std::string>& files) {
  int64_t total = 0;
  for (const std::string& path : files) {
    ENGRAM_ASSIGN_OR_RETURN(const int64_t bytes, env.file_size(path));
    total += bytes;
  }
  return total;
}

Result<PrepareSummary> prepare_shards(Env& env, const Tokenizer& tokenizer, const PrepareOptions& options,
                                      Progress* progress) {
  ENGRAM_RETURN_IF_ERROR(check_options(options));
  PrepareSummary summary;
  ENGRAM_ASSIGN_OR_RETURN(summary.end_of_text_id, end_of_text_id(tokenizer, options));
  ENGRAM_ASSIGN_OR_RETURN(const Texts texts, read_texts(env, options));

  // Both writers before the work, so that a folder that cannot be written is reported at once.
  ENGRAM_RETURN_IF_ERROR(env.create_directories(options.output_directory));
  const auto writer_for = [&](const char* name) {
    return TokenShardWriter::create(env, join_path(options.output_directory, name), tokenizer.vocab_size(),
                                    tokenizer.vocabulary_digest());
  };
  ENGRAM_ASSIGN_OR_RETURN(const auto train, writer_for("train.tokens"));
  ENGRAM_ASSIGN_OR_RETURN(const auto validation, writer_for("validation.tokens"));

  const auto tokenise = [&](size_t i) -> Result<TokenisedPiece> {
    const Piece& piece = texts.pieces[i];
    Result<std::vector<int32_t>> ids = tokenizer.encode(piece.text);
    if (!ids.ok()) return ids.status().with_context(*piece.file);
    const bool is_validation = piece.last && is_validation_document(piece.document, options.validation_fraction);
    return TokenisedPiece{std::move(*ids), is_validation};
  };
  std::vector<int32_t> document;
  bool has_train = false;
  const auto append = [&](size_t i, Result<TokenisedPiece> result) -> Status {
    ENGRAM_RETURN_IF_ERROR(result.status());
    const Piece& piece = texts.pieces[i];
    document.insert(document.end(), result->ids.begin(), result->ids.end());
    if (progress != nullptr) progress->advance(static_cast<int64_t>(piece.text.size()));
    if (!piece.last) return {};
    if (summary.end_of_text_id >= 0) document.push_back(summary.end_of_text_id);
    has_train = has_train || !result->validation;
    TokenShardWriter& writer = result->validation ? *validation : *train;
    const Status status = writer.append_document(document, static_cast<int64_t>(piece.document.size()));
    document.clear();
    return status;
  };
  const size_t window = static_cast<size_t>(options.threads) * 16;
  ENGRAM_RETURN_IF_ERROR(ordered_parallel(texts.pieces.size(), options.threads, window, tokenise, append));
  for (const auto& file : texts.files) ENGRAM_RETURN_IF_ERROR(file->readable());  // none was cut meanwhile
  if (!has_train)
    return invalid_argument(
        "no text for training: every document fell into validation; give more documents, or a "
        "validation fraction below {}",
        options.validation_fraction);
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
  // A separator from the command line may be any bytes.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace engram
