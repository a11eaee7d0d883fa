#include "engram/train/run_inputs.h"

#include "engram/data/synthetic_text.h"

namespace engram {
namespace {

// A special token made for padding, else the first special token, else id 0: any id does, as long as it stays.
int choose_pad_token(const Tokenizer& tokenizer) {
  int first_special = -1;
  for (int id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string& text = tokenizer.token_string(id);
    if (text.find("pad") != std::string::npos || text.find("PAD") != std::string::npos) return id;
    if (first_special < 0) first_special = id;
  }
  return first_special < 0 ? 0 : first_special;
}

// Sets `value` where the recipe left it open (0), else demands that it is `wanted`.
Status fill(const char* key, int wanted, int& value) {
  if (value == 0) value = wanted;
  if (value == wanted) return Status();
  return invalid_argument("{}: got {}, wanted {}: the tokenizer's (or leave the key out)", key, value, wanted);
}

Status open_shards(Env& env, const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                   std::vector<TokenShard>& shards) {
  for (const std::string& path : paths) {
    ENGRAM_ASSIGN_OR_RETURN(TokenShard shard, TokenShard::open(env, path));
    if (shard.info().vocabulary_digest != tokenizer.vocabulary_digest())
      return invalid_argument("{}: vocabulary digest: got {}, wanted {}: the shard was made with another tokenizer",
                              path, shard.info().vocabulary_digest, tokenizer.vocabulary_digest());
    shards.push_back(std::move(shard));
  }
  return Status();
}

int64_t tokens_of(const std::vector<TokenShard>& shards) {
  int64_t tokens = 0;
  for (const TokenShard& shard : shards) tokens += shard.info().num_tokens;
  return tokens;
}

}  // namespace

Status fill_vocabulary(const Tokenizer& tokenizer, bool has_memory, ModelConfig& model) {
  const bool is_engram = model.engram.rule == HashRule::kEngram;
  ENGRAM_RETURN_IF_ERROR(fill("model.vocab_size", tokenizer.vocab_size(), model.vocab_size));
  int& pad = model.engram.pad_token_id;
  if (pad == Recipe::kPadFromTokenizer)
    pad = is_engram ? choose_pad_token(tokenizer) : find_special_tokens(tokenizer).eos;
  if (!has_memory) return {};
  if (pad < 0)
    return invalid_argument("model.engram.eos_token_id: missing, and the tokenizer names no token that ends a text");
  ENGRAM_ASSIGN_OR_RETURN(const TokenMap map, model_token_map(model, tokenizer));
  return fill(is_engram ? "model.engram.compressed_vocab_size" : "model.engram.unigram_vocab_size",
              map.compressed_vocab_size(), model.engram.compressed_vocab_size);
}

Result<Recipe> resolve_recipe(const Recipe& recipe, const Tokenizer& tokenizer) {
  Recipe resolved = recipe;
  ModelConfig& model = resolved.model;
  const bool has_memory = model.memory != MemoryKind::kNone || recipe.allocation_rho;
  ENGRAM_RETURN_IF_ERROR(fill_vocabulary(tokenizer, has_memory, model));
  if (recipe.allocation_rho) {
    ENGRAM_ASSIGN_OR_RETURN(const Allocation allocation, solve_allocation(model, *recipe.allocation_rho));
    model = allocation.config;
    resolved.allocation_rho.reset();
  }
  ENGRAM_RETURN_IF_ERROR(model.validate().with_context("model"));
  if (recipe.lora.rank > 0) ENGRAM_RETURN_IF_ERROR(recipe.lora.validate(model));
  return resolved;
}

Result<Tokenizer> load_run_tokenizer(Env& env, const Recipe& recipe, const std::string& path) {
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::load(env, path));
  if (!recipe.train.start_from.empty() && recipe.model.vocab_size > tokenizer.vocab_size())
    tokenizer.fill_up(recipe.model.vocab_size);
  return tokenizer;
}

std::vector<std::vector<std::string>*> file_lists(DataRecipe& data) {
  std::vector<std::vector<std::string>*> lists = {&data.train, &data.validation};
  for (SourceRecipe& source : data.sources) lists.push_back(&source.files);
  for (ValidationSet& set : data.validation_sets) lists.push_back(&set.files);
  return lists;
}

void fill_in_seed(DataRecipe& data) {
  const std::string mark = "{seed}", seed = std::to_string(data.seed);
  for (std::vector<std::string>* files : file_lists(data))
    for (std::string& file : *files)
      for (size_t at; (at = file.find(mark)) != std::string::npos;) file.replace(at, mark.size(), seed);
}

std::vector<const TokenShard*> RunInputs::pointers(const std::vector<TokenShard>& shards) {
  std::vector<const TokenShard*> pointers;
  for (const TokenShard& shard : shards) pointers.push_back(&shard);
  return pointers;
}

std::vector<DataSource> RunInputs::sources() const {
  std::vector<const TokenShard*> shards = pointers(train);
  if (recipe.data.sources.empty()) return {{shards, 1}};
  std::vector<DataSource> sources;
  auto next = shards.begin();
  for (const SourceRecipe& source : recipe.data.sources) {
    const auto end = next + std::ssize(source.files);
    sources.push_back({{next, end}, source.share});
    next = end;
  }
  return sources;
}

int64_t RunInputs::train_tokens() const { return tokens_of(train); }
int64_t RunInputs::validation_tokens() const { return tokens_of(validation); }

Result<RunInputs> open_run_inputs(Env& env, const Recipe& recipe, const std::string& data_directory) {
  DataRecipe data = recipe.data;
  fill_in_seed(data);
  if (data.synthetic_documents > 0) {
    data.tokenizer = join_path(data_directory, "tokenizer.json");
    data.train = {join_path(data_directory, "train.tokens")};
    data.validation = {join_path(data_directory, "validation.tokens")};
    // A pure function of its two numbers, so an existing corpus is made again rather than trusted.
    ENGRAM_RETURN_IF_ERROR(make_synthetic_corpus(env, data_directory, data.synthetic_documents, data.synthetic_seed));
  }
  RunInputs inputs;
  ENGRAM_ASSIGN_OR_RETURN(Tokenizer tokenizer, load_run_tokenizer(env, recipe, data.tokenizer));
  inputs.tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(inputs.recipe, resolve_recipe(recipe, *inputs.tokenizer));
  ENGRAM_ASSIGN_OR_RETURN(inputs.parameters, count_parameters(inputs.recipe.model));
  ENGRAM_ASSIGN_OR_RETURN(inputs.hasher, make_memory_hasher(inputs.recipe.model, *inputs.tokenizer));
  ENGRAM_RETURN_IF_ERROR(open_shards(env, data.train_files(), *inputs.tokenizer, inputs.train));
  ENGRAM_RETURN_IF_ERROR(open_shards(env, data.validation, *inputs.tokenizer, inputs.validation));
  for (const ValidationSet& set : data.validation_sets) {
    std::vector<TokenShard> shards;
    ENGRAM_RETURN_IF_ERROR(open_shards(env, set.files, *inputs.tokenizer, shards));
    inputs.validation_sets.push_back(read_shards(shards));
    for (const TokenShard& shard : shards) ENGRAM_RETURN_IF_ERROR(shard.readable());
  }
  return inputs;
}

}  // namespace engram
