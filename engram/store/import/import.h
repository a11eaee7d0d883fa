// What the importers behind open_table_source() share. Nothing here is for other rooms.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engram/formats/shard_set.h"
#include "engram/hash/token_map.h"
#include "engram/store/import/table_source.h"

namespace engram::import {

// The hash of a model whose token map is known: compressed size and pad against the map, rows against the primes.
//   num_rows  [layers]  of config.layer_ids
Result<RowFileHash> make_hash(const EngramConfig& config, const TokenMap& map, const std::vector<int64_t>& num_rows,
                              const std::string& where);
// Rows against the primes alone, where there is no tokenizer.
Status check_num_rows(const EngramConfig& config, const std::vector<int64_t>& num_rows, const std::string& where);

// `config` is the parsed config.json at `config_path`; `tokenizer` as in open_table_source().
Result<std::unique_ptr<TableSource>> open_deepseek(Env& env, const std::string& directory, const nlohmann::json& config,
                                                   const std::string& config_path, const std::string& tokenizer);
Result<std::unique_ptr<TableSource>> open_ple(Env& env, const std::string& directory, const nlohmann::json& config,
                                              const std::string& config_path);
Result<std::unique_ptr<TableSource>> open_checkpoint(Env& env, const std::string& directory,
                                                     const nlohmann::json& config, const std::string& config_path);
Result<std::unique_ptr<TableSource>> open_gguf(Env& env, const std::string& path);

// Qwen4Exp's constants of one layer: `ordinal` counts PLE layers from 0.
std::vector<int64_t> ple_multipliers(int64_t seed, int64_t ordinal, int64_t vocab_size, int ngram_size);

}  // namespace engram::import
