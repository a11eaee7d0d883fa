#include "engram/store/import/import.h"

#include "engram/core/fields.h"

namespace engram::import {
Status check_num_rows(const EngramConfig& config, const std::vector<int64_t>& num_rows, const std::string& where) {
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<int64_t> wanted, count_rows(config));
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (num_rows[i] != wanted[i])
      return invalid_argument("{}: layer {} has {} rows, wanted {}, the sum of its {} primes", where,
                              config.layer_ids[i], num_rows[i], wanted[i], config.rows_per_token());
  }
  return {};
}

Result<RowFileHash> make_hash(const EngramConfig& config, const TokenMap& map, const std::vector<int64_t>& num_rows,
                              const std::string& where) {
  ENGRAM_RETURN_IF_ERROR(check_num_rows(config, num_rows, where));
  if (map.compressed_vocab_size() != config.compressed_vocab_size)
    return invalid_argument(
        "{}: compressed_vocab_size is {}, but the tokenizer's {} ids give {}: its rows would all be wrong", where,
        config.compressed_vocab_size, map.vocab_size(), map.compressed_vocab_size());
  const Result<EngramLayout> layout = EngramLayout::create(config, map);
  if (!layout.ok()) return layout.status().with_context(where);
  return RowFileHash{config, layout->compressed_pad_id(), map.sha256()};
}

RowFileHash make_raw_hash(const EngramConfig& config) {
  return {config, config.pad_token_id, TokenMap::identity(config.compressed_vocab_size).sha256()};
}

Result<int> read_eos(const nlohmann::json& config, const std::string& where) {
  std::vector<int> ids;
  Fields fields(config, where);
  fields.need("eos_token_id", ids, 0);
  if (fields.status().ok() && ids.empty()) fields.fail("eos_token_id", "got an empty list, wanted an id");
  ENGRAM_RETURN_IF_ERROR(fields.status());
  return ids[0];
}

}  // namespace engram::import
