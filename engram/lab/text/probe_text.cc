#include "engram/lab/text/probe_text.h"

#include <algorithm>

#include "engram/core/file_kind.h"
#include "engram/data/token_shard.h"
#include "engram/model/windows.h"
#include "engram/train/recipe.h"

namespace engram {

Result<ProbeText> read_plain_text(Env& env, const std::string& path, const Tokenizer& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, read_text_file(env, path));
  Result<std::vector<int32_t>> ids = tokenizer.encode(text);
  if (!ids.ok()) return ids.status().with_context(path);
  if (ids->size() < 2) return invalid_argument("{}: got {} tokens, wanted at least 2", path, ids->size());
  return ProbeText{path, std::move(ids).value(), {0}, static_cast<int64_t>(text.size())};
}

Result<ProbeText> read_shard_text(Env& env, const std::string& path, const Tokenizer& tokenizer) {
  ENGRAM_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::open(env, path));
  if (shard.info().vocabulary_digest != tokenizer.vocabulary_digest()) {
    return invalid_argument("{}: got tokens of the vocabulary {}, wanted the checkpoint's {}", path,
                            shard.info().vocabulary_digest, tokenizer.vocabulary_digest());
  }
  if (shard.info().num_tokens < 2) {
    return invalid_argument("{}: got {} tokens, wanted at least 2", path, shard.info().num_tokens);
  }
  TokenText text = read_shards({&shard, 1});
  return ProbeText{path, std::move(text.token_ids), std::move(text.document_starts), text.bytes,
                   std::move(text.targets)};
}

Result<ProbeText> read_probe_text(Env& env, const std::string& path, const Tokenizer& tokenizer) {
  return path.ends_with(".tokens") ? read_shard_text(env, path, tokenizer) : read_plain_text(env, path, tokenizer);
}

Result<std::string> text_of_recipe(Env& env, const LoadedModel& model, TextRole role) {
  const bool training = role == TextRole::kTraining;
  const char* field = training ? "train_text" : "text";
  const std::string path = join_path(model.directory, "recipe.toml");
  if (!env.file_exists(path)) return not_found("{}: no such file: name one as {}", path, field);
  ENGRAM_ASSIGN_OR_RETURN(const Recipe recipe, Recipe::load(env, path, {}));
  std::string file;
  if (recipe.data.synthetic_documents > 0) {  // made under the training output, beside the step directories
    const std::string data = join_path(parent_path(model.directory), "data");
    file = join_path(data, training ? "train.tokens" : "validation.tokens");
  } else {
    const auto files = training ? recipe.data.train_files() : recipe.data.validation;
    if (!files.empty()) file = files.front();
  }
  if (file.empty() || !env.file_exists(file)) {
    return not_found("{}: its {} text is {}: name one as {}", path, training ? "training" : "validation",
                     file.empty() ? "empty" : fmt::format("not there ({})", file), field);
  }
  return file;
}

void shorten(ProbeText& text, int64_t max_tokens) {
  if (max_tokens <= 0 || static_cast<int64_t>(text.tokens.size()) <= max_tokens) return;
  text.tokens.resize(static_cast<size_t>(max_tokens));
  while (!text.document_starts.empty() && text.document_starts.back() >= max_tokens) text.document_starts.pop_back();
}

void spread(ProbeText& text, int64_t max_tokens, int64_t window) {
  const int64_t all = (static_cast<int64_t>(text.tokens.size()) - 1) / window;  // each with a token behind it
  const int64_t count = max_tokens > 0 ? std::clamp<int64_t>(max_tokens / window, 1, std::max<int64_t>(1, all)) : all;
  if (all < 2) return shorten(text, max_tokens);
  std::vector<int32_t> tokens;
  std::vector<int64_t> starts;
  auto next = text.document_starts.begin();
  int64_t end = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * all / count * window;
    end = begin + window;
    const auto moved = static_cast<int64_t>(tokens.size()) - begin;
    starts.push_back(begin + moved);
    next = std::upper_bound(next, text.document_starts.end(), begin);
    for (; next != text.document_starts.end() && *next < end; ++next) starts.push_back(*next + moved);
    tokens.insert(tokens.end(), text.tokens.begin() + begin, text.tokens.begin() + end);
  }
  tokens.push_back(text.tokens[static_cast<size_t>(end)]);
  text.tokens = std::move(tokens);
  text.document_starts = std::move(starts);
  text.piece = window;
}

TokenBytes token_bytes_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  TokenBytes out;
  out.ends.reserve(tokens.size());
  for (int32_t token : tokens) {
    out.bytes += tokenizer.token_bytes(token);
    out.ends.push_back(out.bytes.size());
  }
  return out;
}

torch::Tensor target_nats(const torch::Tensor& logits, const torch::Tensor& targets) {
  return logits.logsumexp(-1) - logits.gather(-1, targets.to(logits.device()).unsqueeze(-1)).squeeze(-1);
}

std::vector<float> token_losses(const LoadedModel& model, const ProbeText& text, bool memory_off) {
  torch::InferenceMode inference;
  const Transformer& transformer = model.model;
  std::vector<float> losses;
  for_each_window(text.tokens, text.document_starts, model.config.max_position_embeddings,
                  windows_per_batch(model.config, model.config.max_position_embeddings), [&](const WindowBatch& batch) {
                    const ForwardInput input =
                        model.prepare_input(batch.tokens, batch.count, batch.length, batch.starts, memory_off);
                    const torch::Tensor logits = transformer->logits(transformer->forward(input));
                    const torch::Tensor nats = target_nats(logits, batch.targets).to(torch::kCPU).contiguous();
                    const float* values = nats.const_data_ptr<float>();
                    losses.insert(losses.end(), values, values + nats.numel());
                    return true;
                  });
  return losses;
}

int64_t windows_per_batch(const ModelConfig& config, int64_t window) {
  const int64_t logits = int64_t{config.vocab_size} * window;
  return std::clamp<int64_t>((int64_t{1} << 22) / logits, 1, 16);
}

}  // namespace engram
