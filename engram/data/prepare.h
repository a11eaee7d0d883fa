// Prepare: text files, JSON lines and other trainers' token files -> train.tokens, validation.tokens and prepare.json.
//
// Whole documents go to validation, by a hash of their text: a text that occurs twice stays on one side, and adding
// files moves no other document. Where no hash is below the fraction, the document of the smallest goes there. Within a
// shard documents keep the order of the files. An end-of-text token follows each document if the tokenizer has one.
// Output bytes depend on the text, the tokenizer and the options, never on paths, threads or time.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/data/token_shard.h"
#include "engram/text/tokenizer.h"

namespace engram {

inline constexpr const char* kNoEndOfText = "none";  // for PrepareOptions::end_of_text_token

struct PrepareOptions {
  std::vector<std::string> files;     // UTF-8 text, JSON lines (json_lines.h), token files (token_files.h); see below
  std::string output_directory;       // made when it does not exist
  double validation_fraction = 0.01;  // of the documents, 0 to below 1
  std::string document_separator = "auto";  // see split_documents()
  std::string end_of_text_token;            // "" finds the tokenizer's own; "none", or one of its tokens
  std::string text_field = "text";          // of JSON lines
  bool deduplicate = false;                 // of documents that are equal to the byte the first stays
  bool show_progress = false;               // on stderr
  int threads = 1;                          // 1 to 1024
  size_t piece_bytes = size_t{1} << 20;     // longer documents are tokenised in pieces of at least this many bytes
  const std::atomic<bool>* stop = nullptr;  // set (by a signal handler) to stop; nothing is written then
};

struct PrepareSummary {
  TokenShardInfo train, validation;
  int64_t repeated_documents = 0, repeated_bytes = 0;  // those that an earlier one is equal to; read, whatever is done
  int32_t end_of_text_id = -1;                         // -1: documents end without a token
};

// The id of the first of <|endoftext|>, <|end_of_text|>, DeepSeek's end of sentence, </s>, <eos>, [EOS] that is a
// special token of the vocabulary; -1 when there is none.
int32_t find_end_of_text_token(const Tokenizer& tokenizer);

// True when the document's hash sends it to validation.
bool is_validation_document(std::string_view document, double fraction);

// A file's name decides what it is: .jsonl, .bin and .idx (of a pair of these one is to be named), else text; .gz and
// .zst behind .jsonl and text are unpacked into memory. Ids of token files stay what they are. kInvalidArgument: an
// option out of range, no text, text that is not UTF-8 (file and byte offset), a bad JSON line (kDataLoss where it is
// not JSON; file and line), an answer without tokens, no document left for training or, with a fraction above 0, for
// validation. kFailedPrecondition: another process writes to the folder. kCancelled: stopped. Existing outputs are
// replaced only when the whole text was tokenised.
Result<PrepareSummary> prepare_shards(Env& env, const Tokenizer& tokenizer, const PrepareOptions& options);

// What prepare.json holds.
std::string format_prepare_summary(const PrepareOptions& options, const PrepareSummary& summary);

}  // namespace engram
