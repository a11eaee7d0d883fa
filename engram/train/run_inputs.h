// RunInputs: everything that a recipe decides before the first step: tokenizer, shards, hashing, and the resolved
// recipe.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/data/data_loader.h"
#include "engram/data/token_shard.h"
#include "engram/model/io/checkpoint.h"
#include "engram/model/parameters.h"
#include "engram/text/tokenizer.h"
#include "engram/train/recipe.h"

namespace engram {

// Fills what the tokenizer decides where the recipe leaves it open: vocab_size; of a memory compressed_vocab_size and
// pad_token_id, under the rules of raw ids unigram_vocab_size and eos_token_id. kInvalidArgument: sizes that are named
// and that the tokenizer contradicts, a tokenizer without a token that ends a text.
Status fill_vocabulary(const Tokenizer& tokenizer, bool has_memory, ModelConfig& model);

// Fills what the tokenizer decides, solves [allocation], validates
// the model. The result has no [allocation]: its [model] is the solved one. kInvalidArgument: what
// fill_vocabulary() refuses, an allocation that cannot be paid, an invalid model.
Result<Recipe> resolve_recipe(const Recipe& recipe, const Tokenizer& tokenizer);

// The tokenizer of `path`. A model that exists may have more ids than its tokenizer: those are in no text.
Result<Tokenizer> load_run_tokenizer(Env& env, const Recipe& recipe, const std::string& path);

// The lists of files that a run reads, with data.seed in the place of "{seed}".
void fill_in_seed(DataRecipe& data);
std::vector<std::vector<std::string>*> file_lists(DataRecipe& data);

struct RunInputs {
  Recipe recipe;  // resolved
  ParameterCount parameters;
  std::shared_ptr<const Tokenizer> tokenizer;
  MemoryHasher hasher;
  std::vector<TokenShard> train, validation;
  std::vector<TokenText> validation_sets;  // as the recipe has them

  std::vector<DataSource> sources() const;  // of the training text
  static std::vector<const TokenShard*> pointers(const std::vector<TokenShard>& shards);
  int64_t train_tokens() const;
  int64_t validation_tokens() const;
};

// data_directory: where [data.synthetic] makes its files, when they are not there yet. kInvalidArgument: shards of
// another vocabulary.
Result<RunInputs> open_run_inputs(Env& env, const Recipe& recipe, const std::string& data_directory);

}  // namespace engram
