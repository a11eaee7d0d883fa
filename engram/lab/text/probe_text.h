// ProbeText: the text that a probe reads, as tokens of the checkpoint's vocabulary.
//
// PATH.tokens is a token shard of `engram data prepare`; any other path is UTF-8 text, read as one document.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/model/io/checkpoint.h"
#include "engram/text/tokenizer.h"

namespace engram {

struct ProbeText {
  std::string path;
  std::vector<int32_t> tokens;
  std::vector<int64_t> document_starts;  // ascending, the first is 0
  int64_t bytes = 0;                     // UTF-8 bytes of the text that counts
  std::vector<int32_t> targets;          // of a shard: the tokens, -1 where one does not count
  int64_t piece = 0;                     // spread(): tokens that were neighbours in the text; 0: all
};

// kInvalidArgument: a shard of another vocabulary (both digests are named), fewer than 2 tokens. kNotFound, kDataLoss.
Result<ProbeText> read_shard_text(Env& env, const std::string& path, const Tokenizer& tokenizer);
Result<ProbeText> read_plain_text(Env& env, const std::string& path, const Tokenizer& tokenizer);
Result<ProbeText> read_probe_text(Env& env, const std::string& path, const Tokenizer& tokenizer);

// Where the checkpoint's own recipe keeps its text: the first validation or training shard. kNotFound, with what to
// name instead: a checkpoint without recipe.toml, or a recipe without such a shard.
enum class TextRole { kTraining, kValidation };
Result<std::string> text_of_recipe(Env& env, const LoadedModel& model, TextRole role);

// Keeps the first max_tokens tokens; 0 keeps all. bytes and targets stay those of the whole text.
void shorten(ProbeText& text, int64_t max_tokens);
// Keeps windows of `window` tokens, max_tokens in all (0: as many as there are), spread evenly over the text, and one
// token behind the last. Each window begins as a document does; what follows its last token stands elsewhere in the
// text. A text that is shorter than two windows is shortened. bytes and targets stay those of the whole text.
void spread(ProbeText& text, int64_t max_tokens, int64_t window);

// The text's bytes, and for each token the index after its last byte: which token a place in the text belongs to.
struct TokenBytes {
  std::string bytes;
  std::vector<size_t> ends;  // [tokens], ascending
};
TokenBytes token_bytes_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens);

// -log p of targets [..] int64 under logits [.., V]: nats, [..].
torch::Tensor target_nats(const torch::Tensor& logits, const torch::Tensor& targets);
// Nats of every token after the first, in windows of the model's length (model/windows.h): [tokens - 1].
std::vector<float> token_losses(const LoadedModel& model, const ProbeText& text, bool memory_off);

// Windows of `window` tokens per forward pass such that logits over all of them stay near 16 MB: larger ones are
// fetched from the system and given back at every step, which takes longer than the arithmetic.
int64_t windows_per_batch(const ModelConfig& config, int64_t window);

}  // namespace engram
