// What the importers behind open_table_source() share. Nothing here is for other rooms.
#pragma once
#include <algorithm>
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

// The hash of a rule of raw ids; at most kMaxRawVocabulary of them, since their map is made for its digest.
inline constexpr int64_t kMaxRawVocabulary = 1 << 26;
RowFileHash make_raw_hash(const EngramConfig& config);
// eos_token_id of a config.json, the first of a list. kInvalidArgument names it.
Result<int> read_eos(const nlohmann::json& config, const std::string& where);

// `config` is the parsed config.json at `config_path`; `tokenizer` as in open_table_source().
Result<std::unique_ptr<TableSource>> open_deepseek(Env& env, const std::string& directory, const nlohmann::json& config,
                                                   const std::string& config_path, const std::string& tokenizer);
Result<std::unique_ptr<TableSource>> open_ple(Env& env, const std::string& directory, const nlohmann::json& config,
                                              const std::string& config_path);
bool is_longcat(const nlohmann::json& config);
Result<std::unique_ptr<TableSource>> open_longcat(Env& env, const std::string& directory, const nlohmann::json& config,
                                                  const std::string& config_path);
Result<std::unique_ptr<TableSource>> open_checkpoint(Env& env, const std::string& directory,
                                                     const nlohmann::json& config, const std::string& config_path);
Result<std::unique_ptr<TableSource>> open_gguf(Env& env, const std::string& path);

// Rows [first, first + count) of pieces that follow each other: visit(piece, its first row, rows).
template <typename Piece, typename Rows, typename Visit>
void visit_pieces(const std::vector<Piece>& pieces, int64_t first, int64_t count, Rows rows_of, Visit visit) {
  for (const Piece& piece : pieces) {
    const int64_t rows = rows_of(piece), here = std::min(count, rows - first);
    if (here > 0) visit(piece, first, here);
    first = std::max<int64_t>(0, first - rows);
    count -= std::max<int64_t>(0, here);
  }
}

}  // namespace engram::import
