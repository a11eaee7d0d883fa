// Token files of other trainers, read and written.
//   llm.c        one .bin: 256 int32 (magic 20240520 and version 1 for uint16 ids, 20240801 and 7 for uint32; then
//   their
//                number), ids. A document begins with the end-of-text token.
//   Megatron-LM  .bin with ids alone, .idx beside it ("MMIDIDX", version 1): their type, the sequences' lengths and
//                byte offsets, the documents' first sequences. A document ends with the end-of-text token, or with
//                none.
// As of llm.c's dev/data/data_common.py and Megatron-LM's core/datasets/indexed_dataset.py. Both are little-endian.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/core/env.h"
#include "engram/core/status.h"
#include "engram/data/token_shard.h"

namespace engram {

bool is_token_file_name(std::string_view path);  // ends in .bin or .idx

// The documents of one file, without end-of-text tokens around them; empty ones are left out. `path` names the .bin, or
// the .idx of a pair. end_of_text: -1: a file of llm.c's is one document.
// kNotFound; kInvalidArgument: neither format, an id of another vocabulary; kDataLoss: counts against the file's size.
Result<std::vector<std::vector<int32_t>>> read_token_file(Env& env, const std::string& path, int32_t vocab_size,
                                                          int32_t end_of_text);

// The same of bytes in memory: of Megatron's where there is an index. `name` is that of the file which errors are
// about.
Result<std::vector<std::vector<int32_t>>> parse_token_file(std::span<const std::byte> ids,
                                                           std::optional<std::span<const std::byte>> index,
                                                           const std::string& name, int32_t vocab_size,
                                                           int32_t end_of_text);

enum class TokenFileFormat { kLlmC, kMegatron };
// Writes a shard's documents, each ending where the shard has it, to `path` (llm.c), or to PATH.bin and PATH.idx. Of
// llm.c's the end-of-text token moves to where a document begins. A file appears whole; the .idx, with which readers
// begin, comes last. kInvalidArgument: a shard with a mask, which neither format can hold; too many tokens for the
// format's counts.
Status write_token_file(Env& env, const TokenShard& shard, TokenFileFormat format, int32_t end_of_text,
                        const std::string& path);

}  // namespace engram
